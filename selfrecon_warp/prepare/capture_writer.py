"""A capture written frame by frame, which appears whole or not at all.

Everything goes into a hidden folder beside the capture's place and is renamed into it at the end. A process that is
killed leaves that folder behind; the same work started again takes it over and skips the frames that are already there.
Work that fails removes it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from selfrecon_warp.capture.camera import Camera, write_camera
from selfrecon_warp.capture.dataset import JOINT_COUNT, SHAPE_COUNT, Capture, read_capture
from selfrecon_warp.errors import PrepareError, SelfReconError

JPEG_QUALITY = 95
PARTS = ("imgs", "masks", "normals")
_RECIPE = ".recipe.json"


class CaptureFolder:
    """A new capture; use as a context manager, then fill it in any order.

    Args:
        out: Where the capture shall be.
        overwrite: Replace what ``out`` holds.
        recipe: Everything that decides the result (files, options). A folder that a killed process left is continued
            when its recipe is equal, otherwise discarded. ``None``: never continued.

    Raises:
        PrepareError: ``out`` exists already, cannot be written, or another process writes it.
    """

    def __init__(self, out: Path, *, overwrite: bool = False, recipe: Mapping[str, Any] | None = None) -> None:
        self.out, self._overwrite = out, overwrite
        self.require_available(out, overwrite=overwrite)
        self.folder = out.parent / f".{out.name}.partial"
        self._recipe = None if recipe is None else json.dumps(recipe, sort_keys=True, default=str)
        self._lock = -1
        self.size: tuple[int, int] | None = None
        self.continued = False
        """Whether a killed process had left frames."""

    @staticmethod
    def require_available(out: Path, *, overwrite: bool = False) -> None:
        """Refuse a place that holds something else, before any work.

        Raises:
            PrepareError: ``out`` is a file, or holds something and ``overwrite`` is False.
        """
        if out.exists() and not out.is_dir():
            raise PrepareError(f"{out} is a file; give a folder for the capture")
        if out.is_dir() and any(out.iterdir()) and not overwrite:
            raise PrepareError(
                f"{out} exists and is not empty; choose another folder or pass --overwrite to replace it"
            )

    def __enter__(self) -> CaptureFolder:
        """Open the hidden folder, or the one that was left behind."""
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(exist_ok=True)
            self._lock = os.open(self.folder, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise PrepareError(
                f"{self.out} is being written by another process; wait for it or choose another"
            ) from error
        except OSError as error:
            raise self._unwritable(error) from error
        recipe = self.folder / _RECIPE
        self.continued = self._recipe is not None and recipe.is_file() and recipe.read_text() == self._recipe
        if not self.continued:
            for left in self.folder.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        for part in PARTS:
            (self.folder / part).mkdir(exist_ok=True)
        if self._recipe is not None:
            recipe.write_text(self._recipe)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Check the capture as a reader would and move it into place; leave nothing behind when that fails."""
        try:
            if kind is None:
                self._finish()
            elif self._recipe is None or not issubclass(kind, KeyboardInterrupt):
                shutil.rmtree(self.folder, ignore_errors=True)
        except SelfReconError as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise type(error)(str(error).replace(str(self.folder), str(self.out))) from error
        except OSError as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise self._unwritable(error) from error
        finally:
            os.close(self._lock)
        if isinstance(value, OSError):
            raise self._unwritable(value) from value

    def has(self, part: str, frame: int) -> bool:
        """Whether ``imgs``, ``masks`` or ``normals`` of a frame is there from an earlier, killed process."""
        return self.continued and any(self.folder.joinpath(part).glob(f"{frame:06d}.*"))

    def image(self, frame: int, image: np.ndarray | bytes, suffix: str = ".jpg") -> None:
        """Store a photograph: RGB ``[H, W, 3]`` uint8, encoded as the suffix says, or an encoded file as it is."""
        if isinstance(image, bytes):
            self.write(f"imgs/{frame:06d}{suffix}", image)
            return
        self._sized(image)
        options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if suffix == ".jpg" else []
        self.write(f"imgs/{frame:06d}{suffix}", encoded(image, suffix, options))

    def mask(self, frame: int, mask: np.ndarray) -> None:
        """Store a mask ``[H, W]`` bool, True on the person."""
        self._sized(mask)
        self.write(f"masks/{frame:06d}.png", encoded(mask.astype(np.uint8) * np.uint8(255)))

    def normals(self, frame: int, normals: np.ndarray, valid: np.ndarray) -> None:
        """Store normals.

        Args:
            frame: Frame index.
            normals: Viewer frame (right, up, towards the camera), any positive length, ``[H, W, 3]``.
            valid: Where they mean something, ``[H, W]`` bool; the rest is stored as black, which readers take as none.
        """
        self._sized(valid)
        self.write(f"normals/{frame:06d}.png", encoded(encode_normals(normals, valid)))

    def camera(self, camera: Camera) -> None:
        """Store the camera of all frames."""
        write_camera(self.folder / "camera.npz", camera)

    def body(
        self,
        poses: np.ndarray,
        trans: np.ndarray,
        betas: np.ndarray,
        gender: str = "neutral",
        clip_ends: Sequence[int] = (),
    ) -> None:
        """Store the body.

        Args:
            poses: Axis-angle [rad], ``[N, 24, 3]``.
            trans: Translation in the world [m], ``[N, 3]``.
            betas: Shape, ``[10]``; fewer count as followed by zeros, more are dropped.
            gender: ``neutral``, ``female`` or ``male``.
            clip_ends: Where each clip ends (exclusive), the last one included; empty for one clip.
        """
        count = len(poses)
        shape = np.zeros(SHAPE_COUNT, np.float32)
        shape[: min(len(betas), SHAPE_COUNT)] = np.asarray(betas)[:SHAPE_COUNT]
        more = {"vid_seg_indices": np.asarray(clip_ends, np.int64)} if len(clip_ends) > 1 else {}
        np.savez(
            self.folder / "smpl_rec.npz",
            poses=np.asarray(poses, np.float32).reshape(count, JOINT_COUNT, 3),
            trans=np.asarray(trans, np.float32).reshape(count, 3),
            shape=shape,
            gender=gender,
            allow_pickle=False,
            **more,
        )

    def note(self, record: Mapping[str, Any]) -> None:
        """Store where the capture came from, for people: ``prepared.json``."""
        self.write("prepared.json", (json.dumps(record, indent=1, default=str) + "\n").encode())

    def write(self, name: str, content: bytes) -> None:
        """Store a file of the capture, whole or not at all."""
        path = self.folder / name
        partial = path.with_name(f".{path.name}")
        partial.write_bytes(content)
        partial.replace(path)

    def read(self) -> Capture:
        """What has been written so far, checked."""
        return read_capture(self.folder)

    def _finish(self) -> None:
        self.folder.joinpath(_RECIPE).unlink(missing_ok=True)
        normals = self.folder / "normals"
        if not any(normals.iterdir()):
            normals.rmdir()
        self.read()
        if self.out.is_dir():
            self.require_available(self.out, overwrite=self._overwrite)
            shutil.rmtree(self.out)
        self.folder.rename(self.out)

    def _sized(self, picture: np.ndarray) -> None:
        """All pictures have the size of the first."""
        size = (picture.shape[0], picture.shape[1])
        self.size = self.size or size
        if size != self.size:
            raise ValueError(f"pictures must be {self.size[1]}x{self.size[0]} like the first, got {size[1]}x{size[0]}")

    def _unwritable(self, error: OSError) -> PrepareError:
        reason = error.strerror or error
        return PrepareError(f"{self.out} cannot be written ({reason}); free some space or choose another folder")


def encode_normals(normals: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Viewer-frame normals ``[H, W, 3]`` of any positive length as RGB ``127.5 (n + 1)``; black where not valid."""
    lengths = np.linalg.norm(normals, axis=-1, keepdims=True)
    unit = np.divide(normals, lengths, out=np.zeros_like(normals, np.float64), where=lengths > 0)
    return np.where(valid[..., None], np.rint(127.5 * (unit + 1)), 0).astype(np.uint8)


def encoded(picture: np.ndarray, suffix: str = ".png", options: Sequence[int] = ()) -> bytes:
    """A file of an RGB ``[H, W, 3]`` or grey ``[H, W]`` uint8 picture."""
    blue_first = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
    done, data = cv2.imencode(suffix, blue_first, list(options))
    if not done:
        raise ValueError(f"OpenCV cannot write {suffix} pictures")
    return bytes(data.tobytes())


def fingerprint(path: Path) -> str:
    """What tells a file or folder from another without reading it all: names, sizes and times of change."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        status = file.stat()
        total.update(f"{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return total.hexdigest()
