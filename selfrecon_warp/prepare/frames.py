"""Frames of a video or of a folder of pictures, upright, as RGB.

A frame's index is its place in the order in which a video is decoded or a folder's names count. Rotations that the file
asks for (a phone held upright, EXIF) are carried out, frame times are ignored, 16 bits become 8, alpha is kept apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Protocol

import av
import cv2
import numpy as np

from selfrecon_warp.capture.image_file import probe_image
from selfrecon_warp.errors import CaptureError, PrepareError

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
USUAL_RATE = 30.0
"""Frames a second where nothing tells."""
_NUMBER = re.compile(r"\d+")
_EXIF = (b"Exif\0\0", b"eXIf")
_EXIF_WITHIN = 1 << 16


@dataclass(frozen=True)
class Frame:
    """One picture.

    Attributes:
        index: Its place in the source.
        name: File stem, or the index, for messages and for pairing with masks.
        pixels: RGB, ``[H, W, 3]`` uint8.
        alpha: ``[H, W]`` uint8 where the picture has transparency that varies, else ``None``.
        file: The file that holds just these pixels and may stand in a capture as it is, else ``None``.
    """

    index: int
    name: str
    pixels: np.ndarray
    alpha: np.ndarray | None = None
    file: Path | None = None


class FrameSource(Protocol):
    """Where frames come from."""

    @property
    def path(self) -> Path:
        """The video or folder."""

    @property
    def names(self) -> Sequence[str]:
        """Name of every frame, in order."""

    def read(self, indices: Sequence[int]) -> Iterator[Frame]:
        """The frames with these increasing indices.

        Raises:
            PrepareError: A frame is damaged or missing.
        """


class PictureFolder:
    """Pictures in a folder, ordered by the numbers in their names.

    Args:
        path: The folder.

    Raises:
        PrepareError: There is no picture in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        files = [file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES and file.name[0] != "."]
        if not files:
            raise PrepareError(f"{path} holds no pictures; expected {', '.join(PICTURE_SUFFIXES)} files")
        self.files = sorted(files, key=lambda file: natural_key(file.stem))
        self.names: Sequence[str] = [file.stem for file in self.files]
        for first, second in pairwise(self.files):
            if first.stem == second.stem:
                raise PrepareError(f"{first} and {second.name} are both frame {first.stem}; remove one")

    def read(self, indices: Sequence[int]) -> Iterator[Frame]:
        """Decode some pictures; see :class:`FrameSource`."""
        for index in indices:
            yield self._decode(index)

    def _decode(self, index: int) -> Frame:
        file = self.files[index]
        stored = read_picture(file)
        turned = any(mark in file.read_bytes()[:_EXIF_WITHIN] for mark in _EXIF)
        plain = stored.dtype == np.uint8 and stored.ndim == 3 and stored.shape[2] == 3 and not turned
        keep = plain and file.suffix.lower() in (".jpg", ".jpeg", ".png")
        alpha = to_bytes(stored[..., 3]) if stored.ndim == 3 and stored.shape[2] == 4 else None
        if alpha is not None and alpha.min() == alpha.max():
            alpha = None
        return Frame(index, file.stem, _rgb(to_bytes(stored)), alpha, file if keep else None)


class Video:
    """A video file. It is decoded once to count its frames, and again whenever frames are read.

    Args:
        path: The file.

    Raises:
        PrepareError: It is no video, damaged, or has no frames.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        count = 0
        times: list[float | None] = []
        try:
            with av.open(str(path)) as container:
                if not container.streams.video:
                    raise PrepareError(f"{path} has no picture track; give a video or a folder of pictures")
                container.streams.video[0].thread_type = "AUTO"
                for picture in container.decode(video=0):
                    times.append(picture.time)
                    count += 1
        except (OSError, av.error.FFmpegError) as error:
            reason = error.strerror or error
            if count == 0:
                raise PrepareError(f"{path} cannot be read as a video ({reason}); give a video or a folder") from error
            raise PrepareError(f"{path} is damaged after frame {count - 1} ({reason}); cut or copy it again") from error
        if count == 0:
            raise PrepareError(f"{path} holds no frames; record or copy it again")
        self.names: Sequence[str] = [str(index) for index in range(count)]
        self.times = _increasing(times)
        """When each frame was taken [s], increasing, ``[N]``."""

    def read(self, indices: Sequence[int]) -> Iterator[Frame]:
        """Decode some frames; see :class:`FrameSource`."""
        wanted = set(indices)
        last = max(wanted, default=-1)
        try:
            with av.open(str(self.path)) as container:
                container.streams.video[0].thread_type = "AUTO"
                for index, picture in enumerate(container.decode(video=0)):
                    if index in wanted:
                        yield Frame(index, str(index), upright(picture))
                    if index >= last:
                        break
        except (OSError, av.error.FFmpegError) as error:
            raise PrepareError(f"{self.path} cannot be decoded: {error.strerror or error}") from error


def open_frames(path: Path) -> FrameSource:
    """Open a video file or a folder of pictures.

    Raises:
        PrepareError: There is none.
    """
    if path.is_dir():
        return PictureFolder(path)
    if not path.is_file():
        raise PrepareError(f"{path} does not exist; give a video or a folder of pictures")
    return Video(path)


def upright(picture: av.VideoFrame) -> np.ndarray:
    """A decoded video frame as RGB ``[H, W, 3]`` uint8, turned as the file asks."""
    turns = round(picture.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(picture.to_ndarray(format="rgb24"), turns))


def read_picture(path: Path) -> np.ndarray:
    """A picture file as stored, ``[H, W]`` or ``[H, W, 3 or 4]`` in BGR(A) order, upright, any depth.

    Raises:
        PrepareError: Missing, damaged or no picture.
    """
    try:
        if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            probe_image(path)
        data = np.frombuffer(path.read_bytes(), np.uint8)
        stored = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
        if stored is not None and any(mark in data[:_EXIF_WITHIN].tobytes() for mark in _EXIF):
            stored = _oriented(stored, data)
    except CaptureError as error:
        raise PrepareError(str(error)) from error
    except (OSError, cv2.error) as error:
        raise PrepareError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if stored is None:
        raise PrepareError(f"{path} is no picture or is damaged; write it again")
    return np.asarray(stored)


def to_bytes(picture: np.ndarray) -> np.ndarray:
    """The picture in 8 bits: the full range of its own depth is mapped to 0..255, unless it uses no more than that."""
    if picture.dtype == np.uint8:
        return picture
    if picture.dtype.kind == "u" and picture.max(initial=0) <= 255:
        return picture.astype(np.uint8)
    if picture.dtype.kind == "u":
        return np.rint(picture / (np.iinfo(picture.dtype).max / 255)).astype(np.uint8)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def natural_key(name: str) -> tuple[tuple[int, ...], str]:
    """Sorts names by the numbers in them, the last counting first, then by name."""
    return tuple(int(number) for number in reversed(_NUMBER.findall(name))), name


def frame_number(name: str) -> int | None:
    """The last number in a name, ``None`` without one."""
    numbers = _NUMBER.findall(name)
    return int(numbers[-1]) if numbers else None


def _increasing(times: Sequence[float | None]) -> np.ndarray:
    """Times as the file tells them; those of a steady clock where it tells none or they do not increase."""
    told = np.array([np.nan if time is None else time for time in times])
    return told if bool((np.diff(told) > 0).all()) and np.isfinite(told).all() else np.arange(len(times)) / USUAL_RATE


def _rgb(stored: np.ndarray) -> np.ndarray:
    if stored.ndim == 2:
        return np.asarray(cv2.cvtColor(stored, cv2.COLOR_GRAY2RGB))
    return np.ascontiguousarray(stored[..., 2::-1])


def _oriented(stored: np.ndarray, data: np.ndarray) -> np.ndarray:
    """``stored`` turned and mirrored as EXIF asks: like the colour picture, for which OpenCV heeds it."""
    raw = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    right = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if raw is None or right is None:
        return stored
    for turns, mirror in product(range(4), (False, True)):
        if np.array_equal(_moved(raw, turns, mirror), right):
            return np.ascontiguousarray(_moved(stored, turns, mirror))
    return stored


def _moved(picture: np.ndarray, turns: int, mirror: bool) -> np.ndarray:
    return np.rot90(picture[:, ::-1] if mirror else picture, turns)
