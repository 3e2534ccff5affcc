"""Cameras in the forms that users and estimators have them; pixel centres are integer coordinates everywhere here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.errors import PrepareError
from selfrecon_warp.prepare.rotations import finite
from selfrecon_warp.prepare.safe_pickle import read_numpy, read_pickle

SAME_FOCAL = 1e-3
SAME_CENTRE = 1.0  # pixel
NO_DISTORTION = 1e-6


@dataclass(frozen=True)
class Intrinsics:
    """Focal lengths and principal point [px]."""

    fx: float
    fy: float
    cx: float
    cy: float

    @classmethod
    def centred(cls, focal: float, size: tuple[int, int]) -> Intrinsics:
        """One focal length [px], principal point in the middle of a picture of (height, width)."""
        return cls(focal, focal, 0.5 * (size[1] - 1), 0.5 * (size[0] - 1))

    @classmethod
    def diagonal(cls, size: tuple[int, int]) -> Intrinsics:
        """As long as the picture's diagonal, 53 degrees: what CLIFF, WHAM and GVHMR take for an unknown camera."""
        return cls.centred(float(np.hypot(*size)), size)

    @classmethod
    def of(cls, camera: Camera) -> Intrinsics:
        """Those of a capture's camera."""
        return cls(*(float(value) for value in (*camera.focal.tolist(), *camera.principal.tolist())))

    def near(self, other: Intrinsics) -> bool:
        """Whether two cameras are the same for placing a body."""
        return (
            abs(self.fx / other.fx - 1) < SAME_FOCAL
            and abs(self.fy / other.fy - 1) < SAME_FOCAL
            and abs(self.cx - other.cx) < SAME_CENTRE
            and abs(self.cy - other.cy) < SAME_CENTRE
        )

    def camera(self, size: tuple[int, int]) -> Camera:
        """A camera whose world is its own OpenCV frame: x right, y down, z forward."""
        return Camera((self.fx, self.fy), (self.cx, self.cy), height=size[0], width=size[1])


def read_camera_file(path: Path, size: tuple[int, int]) -> Camera:
    """Read a camera from any of these.

    * ``camera.npz`` of a capture: fx, fy, cx, cy, quat, T;
    * ``camera.pkl`` of PeopleSnapshot: camera_f, camera_c;
    * ``camera.npy`` of TRAM: img_focal, img_center;
    * ``.npy`` with one or many matrices ``[3, 3]``, of which the first counts;
    * ``.json`` with fx, fy, cx, cy, or focal alone, or K (a matrix);
    * ``.txt`` with nine numbers (a matrix) or four to nine (fx fy cx cy and distortion, which must be zero).

    Args:
        path: The file.
        size: (height, width) of the pictures [px].

    Returns:
        Its pose is that of ``camera.npz``, otherwise the world is the camera's OpenCV frame.

    Raises:
        PrepareError: Missing, damaged, unknown keys, implausible numbers, or lens distortion.
    """
    readers = {".npz": read_numpy, ".npy": read_numpy, ".pkl": read_pickle, ".json": _read_json, ".txt": _read_text}
    if path.suffix.lower() not in readers:
        raise PrepareError(f"{path}: cameras are read from {', '.join(readers)} files")
    if not path.is_file():
        raise PrepareError(f"{path} does not exist; give a camera file or --focal PX")
    content = readers[path.suffix.lower()](path)
    if isinstance(content, Mapping):
        return _from_keys(path, content, size)
    return _plausible(path, _from_numbers(path, finite(content, str(path)), size), size).camera(size)


def _from_keys(path: Path, content: Mapping[str, Any], size: tuple[int, int]) -> Camera:
    def numbers(key: str) -> np.ndarray:
        return finite(np.asarray(content[key]), f"{path}: {key}").ravel()

    if "fx" in content:
        fx, fy = (float(numbers(key)[0]) for key in ("fx", "fy" if "fy" in content else "fx"))
        middle = Intrinsics.centred(fx, size)
        cx = float(numbers("cx")[0]) if "cx" in content else middle.cx
        cy = float(numbers("cy")[0]) if "cy" in content else middle.cy
        camera = _plausible(path, Intrinsics(fx, fy, cx, cy), size).camera(size)
        if "quat" in content and "T" in content:
            quat, T = numbers("quat"), numbers("T")
            if quat.shape != (4,) or T.shape != (3,) or np.linalg.norm(quat) < 1e-6:
                raise PrepareError(f"{path}: quat must be 4 numbers, not all zero, and T 3 numbers")
            return Camera((fx, fy), (cx, cy), quat.tolist(), T.tolist(), height=size[0], width=size[1])
        return camera
    if "camera_f" in content and "camera_c" in content:
        (fx, fy), (cx, cy) = np.broadcast_to(numbers("camera_f"), 2), np.broadcast_to(numbers("camera_c"), 2)
        return _plausible(path, Intrinsics(float(fx), float(fy), float(cx), float(cy)), size).camera(size)
    if "img_focal" in content:
        focal = float(numbers("img_focal")[0])
        middle = Intrinsics.centred(focal, size)
        if "img_center" in content:
            cx, cy = (float(value) for value in numbers("img_center")[:2])
            middle = Intrinsics(focal, focal, cx, cy)
        return _plausible(path, middle, size).camera(size)
    for key in ("K", "K_fullimg", "intrinsics", "camera_matrix"):
        if key in content:
            stored = finite(np.asarray(content[key]), f"{path}: {key}")
            return _plausible(path, _from_numbers(path, stored, size), size).camera(size)
    for key in ("focal", "focal_length"):
        if key in content:
            return _plausible(path, Intrinsics.centred(float(numbers(key)[0]), size), size).camera(size)
    raise PrepareError(
        f"{path}: no camera in it; expected fx, fy, cx, cy or K or focal, found "
        f"{', '.join(map(str, content)) or 'nothing'}"
    )


def _from_numbers(path: Path, numbers: np.ndarray, size: tuple[int, int]) -> Intrinsics:
    if numbers.ndim >= 2 and numbers.shape[-2:] == (3, 3):
        numbers = numbers.reshape(-1, 9)[0]
    flat = numbers.ravel()
    if flat.size == 9 and flat[8] == 1 and flat[6] == flat[7] == 0:
        return Intrinsics(float(flat[0]), float(flat[4]), float(flat[2]), float(flat[5]))
    if flat.size == 1:
        return Intrinsics.centred(float(flat[0]), size)
    if 4 <= flat.size <= 9:
        if np.abs(flat[4:]).max(initial=0.0) > NO_DISTORTION:
            raise PrepareError(f"{path}: it tells of lens distortion {flat[4:].tolist()}; undistort the pictures first")
        return Intrinsics(*(float(value) for value in flat[:4]))
    raise PrepareError(f"{path}: expected fx fy cx cy or a matrix of 9 numbers, got {flat.size} numbers")


def _plausible(path: Path, intrinsics: Intrinsics, size: tuple[int, int]) -> Intrinsics:
    """Focal lengths in pixels of this picture."""
    height, width = size
    longest = max(size)
    if min(intrinsics.fx, intrinsics.fy) < 0.2 * longest:
        raise PrepareError(
            f"{path}: focal lengths {intrinsics.fx:g}, {intrinsics.fy:g} are no pixels of a {width}x{height} picture; "
            "millimetres? Multiply by the picture's width in pixels over the sensor's width in millimetres"
        )
    if not (0 <= intrinsics.cx <= width and 0 <= intrinsics.cy <= height):
        raise PrepareError(
            f"{path}: the principal point ({intrinsics.cx:g}, {intrinsics.cy:g}) lies outside a {width}x{height} "
            "picture; "
            "the camera belongs to another resolution"
        )
    return intrinsics


def _read_json(path: Path) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PrepareError(f"{path} is no JSON file: {error}") from error
    return content if isinstance(content, dict) else np.asarray(content)


def _read_text(path: Path) -> np.ndarray:
    try:
        words = path.read_text(encoding="utf-8").replace(",", " ").split()
        return np.array([float(word) for word in words])
    except (OSError, ValueError) as error:
        raise PrepareError(f"{path} must hold numbers alone: {error}") from error
