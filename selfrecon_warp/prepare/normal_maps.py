"""Normal maps of other programs, brought into the frame and size of a capture.

A capture stores normals in the viewer's frame: x right, y up, z towards the camera. Where a map holds no normal (black,
transparent, grey, not a number, or not of about unit length) the pixel is marked invalid, and stays so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.capture.dataset import NORMAL_LENGTHS
from selfrecon_warp.capture.overlap import project_faces
from selfrecon_warp.errors import PrepareError
from selfrecon_warp.model.body import BodyModel
from selfrecon_warp.prepare.frames import (
    PICTURE_SUFFIXES,
    Frame,
    FrameSource,
    frame_number,
    natural_key,
    read_picture,
)
from selfrecon_warp.prepare.person_square import Square, put_back, read_squares, square_from_mask
from selfrecon_warp.prepare.safe_pickle import read_numpy

_SWAP = np.eye(3)[::-1]
_TURN = np.diag((1.0, -1.0, -1.0))
AXES = {"viewer": np.eye(3), "camera": _TURN, "viewer-bgr": _SWAP, "camera-bgr": _TURN @ _SWAP}
"""Viewer frame from stored components: ``viewer`` x right, y up, z towards the camera (PIFuHD, ICON, ECON, Sapiens);
``camera`` x right, y down, z forward (OpenCV); ``-bgr`` with the channels stored in the opposite order."""
CROPS = ("full", "square")
LEAST_AGREEMENT = 0.5  # mean cosine with the body's normals
CLEAR_GAIN = 0.2
LARGEST_STRETCH = 0.01
SHORTEST = 1e-4


@dataclass(frozen=True)
class _Map:
    """Stored components ``[h, w, 3]`` and where they are normals ``[h, w]``."""

    vectors: np.ndarray
    valid: np.ndarray


class NormalSource:
    """Normal maps of a folder, one a frame; a frame without one has no valid normals.

    Args:
        path: Folder of pictures (``127.5 (n + 1)``, or the same share of 16 bits) or ``.npy`` arrays ``[h, w, 3]``.
        frames: The frames they belong to.
        axes: One of :data:`AXES`, or ``auto``: the one that agrees with the body, see :meth:`settle`.
        crop: ``full``: a map shows the whole picture, in any resolution; ``square``: the person's square, which
            ``<stem>_rect.txt`` beside the picture names, or else the one about the mask.

    Raises:
        PrepareError: There are no maps, or they cannot be paired with the frames.
    """

    def __init__(self, path: Path, frames: FrameSource, axes: str = "auto", crop: str = "full") -> None:
        if axes != "auto" and axes not in AXES:
            raise PrepareError(f"--normals-frame must be auto or one of {', '.join(AXES)}, got {axes!r}")
        if crop not in CROPS:
            raise PrepareError(f"--normals-crop must be one of {', '.join(CROPS)}, got {crop!r}")
        if not path.is_dir():
            raise PrepareError(f"{path} is no folder; give a folder of normal maps (.png or .npy)")
        self.path, self.axes, self._crop, self._folder = path, axes, crop, frames.path
        suffixes = (*PICTURE_SUFFIXES, ".npy")
        files = [file for file in path.iterdir() if file.suffix.lower() in suffixes and file.name[0] != "."]
        if not files:
            raise PrepareError(f"{path} holds no normal maps; expected {', '.join(suffixes)} files")
        self._files = _paired(sorted(files, key=lambda file: natural_key(file.stem)), frames, path)

    def read(self, frame: Frame, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Viewer-frame normals ``[H, W, 3]`` of unit length and where they are valid ``[H, W]`` bool.

        Args:
            frame: The frame.
            mask: Its person, ``[H, W]`` bool; nothing is valid outside.

        Raises:
            PrepareError: The map is damaged, of a wrong shape, or :meth:`settle` has not found out its axes.
        """
        if self.axes == "auto":
            raise PrepareError(f"{self.path}: the axes of the normals are unknown; state them with --normals-frame")
        return self._read(frame, mask, AXES[self.axes])

    def settle(self, samples: Sequence[tuple[Frame, np.ndarray]], facing: np.ndarray) -> str:
        """Find out or verify the axes on some frames; returns what the user should know, or nothing.

        Args:
            samples: Frames and masks.
            facing: Viewer-frame normals of the body in them, zero beside it, ``[B, H, W, 3]``.

        Raises:
            PrepareError: The stated axes disagree with the body while others agree, or none agree under ``auto``.
        """
        scores = {name: self._agreement(samples, facing, axes) for name, axes in AXES.items()}
        best = max(scores, key=lambda name: scores[name])
        told = ", ".join(f"{name} {score:.2f}" for name, score in scores.items())
        if self.axes == "auto":
            if not scores[best] >= LEAST_AGREEMENT:
                raise PrepareError(
                    f"{self.path}: no known axes agree with the body's normals (mean cosine: {told}); check that "
                    "frames, "
                    "crop (--normals-crop) and poses belong together, or state --normals-frame"
                )
            self.axes = best
            return f"normals: {best} axes agree with the body best (mean cosine: {told})"
        stated = scores[self.axes]
        if stated < LEAST_AGREEMENT and scores[best] > stated + CLEAR_GAIN and scores[best] > LEAST_AGREEMENT:
            raise PrepareError(
                f"{self.path}: the normals disagree with the body read as {self.axes} (mean cosine: {told}); pass "
                f"--normals-frame {best}"
            )
        return "" if stated >= LEAST_AGREEMENT else f"normals: hardly agree with the body's (mean cosine: {told})"

    def _agreement(self, samples: Sequence[tuple[Frame, np.ndarray]], facing: np.ndarray, axes: np.ndarray) -> float:
        cosines = []
        for (frame, mask), body in zip(samples, facing, strict=True):
            normals, valid = self._read(frame, mask, axes)
            both = valid & body.any(-1)
            cosines.append((normals[both] * body[both]).sum(-1))
        together = np.concatenate(cosines)
        return float(together.mean()) if len(together) else float("nan")

    def _read(self, frame: Frame, mask: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        size = mask.shape[0], mask.shape[1]
        file = self._files[frame.index]
        if file is None:
            return np.zeros((*size, 3)), np.zeros(size, bool)
        stored = _load(file)
        square = self._square(file, stored, frame, mask)
        vectors = put_back(np.where(stored.valid[..., None], stored.vectors, 0), square, size) @ axes.T
        certain = put_back(stored.valid.astype(np.float32), square, size) > 0.5
        lengths = np.linalg.norm(vectors, axis=-1)
        valid = mask & certain & (lengths > SHORTEST)
        unit = np.divide(vectors, lengths[..., None], out=np.zeros_like(vectors), where=valid[..., None])
        return unit, valid

    def _square(self, file: Path, stored: _Map, frame: Frame, mask: np.ndarray) -> Square:
        (height, width), (h, w) = mask.shape, stored.valid.shape
        if self._crop == "square":
            beside = self._folder / f"{frame.name}_rect.txt"
            square = read_squares(beside) if beside.is_file() else square_from_mask(mask)
            return square.with_aspect(w / h)
        if abs(h * width / (w * height) - 1) > LARGEST_STRETCH:
            raise PrepareError(
                f"{file} is {w}x{h}, the picture {width}x{height}: it does not show the whole picture; pass "
                "--normals-crop "
                "square if it shows the person's square"
            )
        across, down = width / w, height / h  # pixels of the picture in one of the map, whose borders coincide
        return Square(0.5 * across - 0.5, 0.5 * down - 0.5, (w - 1) * across + 1, (h - 1) * down + 1)


@torch.no_grad()
def body_normals(vertices: Tensor, body: BodyModel, camera: Camera) -> np.ndarray:
    """Viewer-frame normals of posed bodies ``[B, V, 3]`` as a camera sees them, zero beside them, ``[B, H, W, 3]``."""
    corners = vertices[:, body.faces]
    world = torch.linalg.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])
    facing = torch.nn.functional.normalize(world, dim=-1) @ camera.rotation() * world.new_tensor((-1.0, 1.0, -1.0))
    seen = project_faces(vertices, body, camera)
    pictures = [normals.numpy()[faces] * (faces >= 0)[..., None] for normals, faces in zip(facing, seen, strict=True)]
    return np.stack(pictures)


def usable(vectors: np.ndarray) -> np.ndarray:
    """Where vectors ``[..., 3]`` are finite and of about unit length, as captures count them, ``[...]`` bool."""
    lengths = np.linalg.norm(np.nan_to_num(vectors, nan=np.inf), axis=-1)
    return np.asarray(np.isfinite(vectors).all(-1) & (lengths > NORMAL_LENGTHS[0]) & (lengths < NORMAL_LENGTHS[1]))


def _paired(files: list[Path], frames: FrameSource, path: Path) -> list[Path | None]:
    """The map of every frame: by name, else by number, else, with equal counts, by order."""
    by_name = {file.stem: file for file in files}
    found = [by_name.get(name) for name in frames.names]
    if any(found):
        return found
    if len(files) == len(frames.names):
        return list(files)
    by_number = {frame_number(file.stem): file for file in files}
    found = [by_number.get(frame_number(name)) for name in frames.names]
    if not any(found):
        raise PrepareError(
            f"{path}: {len(files)} maps whose names fit none of the {len(frames.names)} frames; rename them"
        )
    return found


def _load(file: Path) -> _Map:
    if file.suffix.lower() == ".npy":
        vectors = np.asarray(read_numpy(file))
        if vectors.ndim == 3 and vectors.shape[0] == 3 and vectors.shape[2] != 3:
            vectors = vectors.transpose(1, 2, 0)
        if vectors.ndim != 3 or vectors.shape[2] != 3 or vectors.dtype.kind != "f":
            raise PrepareError(f"{file} must hold normals of shape (h, w, 3), got {vectors.dtype} {vectors.shape}")
        vectors = vectors.astype(np.float32)
        return _Map(vectors, usable(vectors))
    stored = read_picture(file)
    if stored.ndim != 3:
        raise PrepareError(f"{file} is grey; normal maps have three channels")
    full = 1.0 if stored.dtype.kind == "f" else float(np.iinfo(stored.dtype).max)
    vectors = (stored[..., 2::-1].astype(np.float32) / full) * 2 - 1
    valid = usable(vectors) & stored[..., :3].any(-1)
    if stored.shape[2] == 4:
        valid &= stored[..., 3] >= full / 2
    return _Map(vectors, valid)
