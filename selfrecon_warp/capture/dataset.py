"""A capture folder in the reference layout: checked when opened, tensors on demand.

``imgs/<stem>.jpg|png``, ``masks/<stem>.png``, optional ``normals/<stem>.png``, ``camera.npz`` and ``smpl_rec.npz``.
Stems are integers that count 0 to N-1, zero-padded or not. Everything is read as published captures store it; nothing
is ever unpickled.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from selfrecon_warp.capture.camera import Camera, read_arrays, read_camera
from selfrecon_warp.capture.image_file import probe_image, read_image, read_mask
from selfrecon_warp.errors import CaptureError
from selfrecon_warp.model.body import GENDERS

JOINT_COUNT = 24
SHAPE_COUNT = 10
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
NORMAL_LENGTHS = (0.5, 1.5)  # a stored normal outside this range is none
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class CaptureTensors:
    """Pixels of some frames, as stored.

    Attributes:
        frames: Frame index of each row, ``[N]`` int64.
        images: RGB, ``[N, H, W, 3]`` uint8.
        masks: True on the person, ``[N, H, W]`` bool.
        normals: Encoded viewer-frame normals, ``[N, H, W, 3]`` uint8, see :func:`decode_normals`; ``None`` where the
            capture has no normals at all.
        normals_valid: Where ``normals`` may be used, ``[N, H, W]`` bool; all False in a frame without normals.
    """

    frames: Tensor
    images: Tensor
    masks: Tensor
    normals: Tensor | None
    normals_valid: Tensor


@dataclass(frozen=True)
class Capture:
    """One opened capture folder.

    Attributes:
        root: The folder.
        names: File stem of every frame, in frame order, ``N`` of them.
        image_size: (H, W) [px].
        camera: The capture's camera, nothing optimised.
        poses: Body poses, axis-angle [rad], ``[N, 24, 3]`` float32.
        trans: Body translations in the world [m], ``[N, 3]`` float32.
        betas: Body shape, ``[10]`` float32.
        gender: ``neutral``, ``female`` or ``male``.
        clips: Half-open frame ranges that were filmed in one go.
        has_normals: Which frames have a normal image, ``[N]`` bool.
        image_files: The image of every frame.
    """

    root: Path
    names: tuple[str, ...]
    image_size: tuple[int, int]
    camera: Camera
    poses: Tensor
    trans: Tensor
    betas: Tensor
    gender: str
    clips: tuple[tuple[int, int], ...]
    has_normals: np.ndarray
    image_files: tuple[Path, ...]

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.names)

    def mask_file(self, frame: int) -> Path:
        """The mask of one frame."""
        return self.root / "masks" / f"{self.names[frame]}.png"

    def normals_file(self, frame: int) -> Path:
        """The normal image of one frame, whether or not it exists."""
        return self.root / "normals" / f"{self.names[frame]}.png"

    def load_image(self, frame: int) -> np.ndarray:
        """RGB, ``[H, W, 3]`` uint8.

        Raises:
            CaptureError: The file is damaged or of another size.
        """
        return self._sized(read_image(self.image_files[frame]), self.image_files[frame])

    def load_mask(self, frame: int) -> np.ndarray:
        """True on the person, ``[H, W]`` bool: any channel above zero.

        Raises:
            CaptureError: The file is damaged or of another size.
        """
        return self._sized(read_mask(self.mask_file(frame)), self.mask_file(frame))

    def load_normals(self, frame: int) -> np.ndarray:
        """Encoded viewer-frame normals as stored, RGB, ``[H, W, 3]`` uint8; zeros for a frame without normals.

        Raises:
            CaptureError: The file is damaged or of another size.
        """
        if not self.has_normals[frame]:
            return np.zeros((*self.image_size, 3), np.uint8)
        return self._sized(read_image(self.normals_file(frame)), self.normals_file(frame))

    def load_all(self, frames: Sequence[int] | None = None) -> CaptureTensors:
        """Decode the given frames, or every frame, into memory (7 bytes a pixel, 4 without normals).

        Raises:
            CaptureError: A file is damaged or of another size.
        """
        chosen = list(range(len(self)) if frames is None else frames)
        any_normals = bool(self.has_normals.any())
        images = torch.zeros(len(chosen), *self.image_size, 3, dtype=torch.uint8)
        masks = torch.zeros(len(chosen), *self.image_size, dtype=torch.bool)
        normals, valid = torch.zeros_like(images) if any_normals else None, torch.zeros_like(masks)

        def load(row: int) -> None:
            images[row] = torch.from_numpy(self.load_image(chosen[row]))
            masks[row] = torch.from_numpy(self.load_mask(chosen[row]))
            if normals is not None:
                normals[row] = torch.from_numpy(self.load_normals(chosen[row]))
                valid[row] = valid_normals(normals[row], masks[row])

        parallel(load, range(len(chosen)))
        return CaptureTensors(torch.tensor(chosen), images, masks, normals, valid)

    def fingerprint(self) -> str:
        """SHA-256 over the names and bytes of every file that belongs to the capture."""
        files = [self.root / "camera.npz", self.root / "smpl_rec.npz"]
        for frame, image in enumerate(self.image_files):
            files += [image, self.mask_file(frame)]
            files += [self.normals_file(frame)] if self.has_normals[frame] else []
        digests = parallel(lambda file: hashlib.sha256(file.read_bytes()).digest(), files)
        total = hashlib.sha256()
        for file, digest in zip(files, digests, strict=True):
            total.update(file.relative_to(self.root).as_posix().encode() + b"\0" + digest)
        return total.hexdigest()

    def _sized(self, image: np.ndarray, file: Path) -> np.ndarray:
        _require_size(file, image.shape[:2], self.image_size)
        return image


def decode_normals(encoded: Tensor, rotation: Tensor) -> Tensor:
    """Unit normals in the world from the stored viewer-frame encoding ``rgb = 127.5 (n + 1)``.

    Args:
        encoded: RGB, ``[..., 3]`` uint8; viewer axes are x right, y up, z towards the camera.
        rotation: Camera-to-world rotation, ``[3, 3]``.

    Returns:
        ``[..., 3]`` in the rotation's precision; meaningless where :func:`valid_normals` is False.
    """
    viewer = encoded.to(rotation.dtype) / 127.5 - 1
    camera: Tensor = viewer * viewer.new_tensor((-1.0, 1.0, -1.0))
    return torch.nn.functional.normalize(camera, dim=-1) @ rotation.T


def valid_normals(encoded: Tensor, mask: Tensor) -> Tensor:
    """Where a stored normal may be used: on the person, not background black, of about unit length.

    Args:
        encoded: RGB, ``[..., 3]`` uint8.
        mask: True on the person, ``[...]`` bool.

    Returns:
        ``[...]`` bool.
    """
    valid = mask.clone()
    foreground = encoded[mask]
    length = (foreground.float() / 127.5 - 1).norm(dim=-1)
    valid[mask] = (foreground > 0).any(-1) & (length > NORMAL_LENGTHS[0]) & (length < NORMAL_LENGTHS[1])
    return valid


def read_capture(folder: Path) -> Capture:
    """Open a capture folder and check that it is whole and consistent.

    Image and normal files are walked for truncation and size, masks are decoded. See
    :func:`selfrecon_warp.capture.check.check_capture` for what only shows against the body model.

    Args:
        folder: Capture folder in the reference layout.

    Raises:
        CaptureError: Anything missing, damaged, miscounted, of the wrong shape or size, NaN, or an all-black mask.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CaptureError(f"{folder} is no folder; give a capture folder with imgs, masks, camera.npz, smpl_rec.npz")
    image_files = _find_frames(folder / "imgs")
    names = tuple(file.stem for file in image_files)
    mask_files = _require_masks(folder / "masks", names)
    image_size = probe_image(mask_files[0])
    camera = read_camera(folder / "camera.npz", *image_size)
    poses, trans, betas, gender, clips = _read_body_parameters(folder / "smpl_rec.npz", len(names))
    normal_files = [folder / "normals" / f"{name}.png" for name in names]
    has_normals = np.array([file.is_file() for file in normal_files])
    pixels = [*image_files, *(file for file in normal_files if file.is_file())]
    for file, size in zip(pixels, parallel(probe_image, pixels), strict=True):
        turned = size != image_size and size == image_size[::-1]  # an EXIF orientation may undo it
        _require_size(file, read_image(file).shape[:2] if turned else size, image_size)
    for file, mask in zip(mask_files, parallel(read_mask, mask_files), strict=True):
        _require_size(file, mask.shape, image_size)
        if not mask.any():
            raise CaptureError(
                f"{file} is all black; every mask must show the person (any channel > 0), or drop the frame"
            )
    return Capture(
        folder, names, image_size, camera, poses, trans, betas, gender, clips, has_normals, tuple(image_files)
    )


def parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Map file work over a few threads, in order; decoding and hashing release the interpreter lock."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))


def _find_frames(folder: Path) -> list[Path]:
    """Image files in frame order."""
    if not folder.is_dir():
        raise CaptureError(f"{folder} is missing; a capture keeps its frames there as 000000.jpg or .png, 000001...")
    files: dict[int, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() not in IMAGE_SUFFIXES or file.name.startswith("."):
            continue
        if not (file.stem.isascii() and file.stem.isdigit()):
            raise CaptureError(
                f"{file}: frames are named by integers (000000.jpg), got {file.stem!r}; rename or remove it"
            )
        index = int(file.stem)
        if index in files:
            raise CaptureError(f"{file} and {files[index].name} are both frame {index}; remove one")
        files[index] = file
    if not files:
        raise CaptureError(f"{folder} holds no .jpg or .png frames")
    missing = sorted(set(range(len(files))) - set(files))
    if missing:
        raise CaptureError(
            f"{folder}: frames must count 0 to {len(files) - 1} without gaps, {listed(missing)} missing; "
            "renumber images, masks and normals alike"
        )
    return [files[index] for index in range(len(files))]


def _require_masks(folder: Path, names: Sequence[str]) -> list[Path]:
    """The mask of every frame."""
    if not folder.is_dir():
        raise CaptureError(f"{folder} is missing; a capture keeps one mask per image there, <stem>.png")
    files = [folder / f"{name}.png" for name in names]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CaptureError(
            f"{folder}: {len(names)} images but {len(names) - len(missing)} masks with their names, "
            f"{listed(missing)} missing; write one .png mask per image"
        )
    return files


def _read_body_parameters(path: Path, count: int) -> tuple[Tensor, Tensor, Tensor, str, tuple[tuple[int, int], ...]]:
    """Poses ``[N, 24, 3]``, trans ``[N, 3]``, betas ``[10]``, gender and clips of ``smpl_rec.npz``."""
    arrays = read_arrays(path, required=("poses", "trans", "shape"))
    poses, trans, betas = arrays["poses"], arrays["trans"], arrays["shape"]
    if poses.ndim == 2 and poses.shape[1] == 3 * JOINT_COUNT:
        poses = poses.reshape(-1, JOINT_COUNT, 3)
    if betas.ndim == 2 and betas.shape[0] == 1:
        betas = betas[0]
    shapes = (("poses", poses, (JOINT_COUNT, 3)), ("trans", trans, (3,)))
    for name, array, tail in shapes:
        if array.ndim != 1 + len(tail) or array.shape[1:] != tail:
            expected = ", ".join(map(str, tail))
            raise CaptureError(f"{path}: {name} must have shape (frames, {expected}), got {arrays[name].shape}")
        if len(array) < count:
            raise CaptureError(
                f"{path}: {name} covers {len(array)} frames but imgs holds {count}; "
                "remove the surplus images or estimate the missing poses"
            )
    if betas.shape != (SHAPE_COUNT,):
        raise CaptureError(f"{path}: shape must have shape ({SHAPE_COUNT},), got {arrays['shape'].shape}")
    tensors = []
    for name, array in (("poses", poses[:count]), ("trans", trans[:count]), ("shape", betas)):
        if array.dtype.kind not in "fiu":
            raise CaptureError(f"{path}: {name} must hold numbers, got {array.dtype}")
        if not np.isfinite(array).all():
            where = "" if name == "shape" else f" first in frame {int(np.argwhere(~np.isfinite(array))[0][0])}"
            raise CaptureError(f"{path}: {name} holds NaN or infinity{where}; estimate the body again")
        tensors.append(torch.from_numpy(array.astype(np.float32)))
    gender = _read_gender(path, arrays.get("gender"))
    return tensors[0], tensors[1], tensors[2], gender, _read_clips(path, arrays.get("vid_seg_indices"), count)


def _read_gender(path: Path, stored: np.ndarray | None) -> str:
    if stored is None:
        return "neutral"
    value = stored.reshape(-1)[0] if stored.size == 1 else stored
    gender = (value.decode("latin1") if isinstance(value, bytes) else str(value)).strip().lower()
    if gender not in GENDERS:
        raise CaptureError(f"{path}: gender must be one of {', '.join(GENDERS)}, got {gender!r}")
    return gender


def _read_clips(path: Path, stored: np.ndarray | None, count: int) -> tuple[tuple[int, int], ...]:
    """Frame ranges from clip end indices; the last end is the capture's own, whatever is stored."""
    if stored is None or stored.size < 2:
        return ((0, count),)
    if stored.dtype.kind not in "fiu":
        raise CaptureError(f"{path}: vid_seg_indices must hold frame indices, got {stored.dtype}")
    ends = [int(end) for end in stored.reshape(-1)[:-1]]
    if any(end <= start for start, end in pairwise([0, *ends])):
        raise CaptureError(f"{path}: vid_seg_indices must be increasing clip ends, got {stored.reshape(-1).tolist()}")
    inner = [end for end in ends if end < count]
    return tuple(zip([0, *inner], [*inner, count], strict=True))


def _require_size(file: Path, found: Sequence[int], expected: tuple[int, int]) -> None:
    if tuple(found) != expected:
        raise CaptureError(
            f"{file} is {found[1]}x{found[0]} pixels, the first mask is {expected[1]}x{expected[0]}; "
            "images, masks and normals must all have one size"
        )


def listed(items: Sequence[object], most: int = 5) -> str:
    """The first few items, and how many more there are."""
    shown = ", ".join(str(item) for item in items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"
