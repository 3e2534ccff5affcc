"""Videos from pictures: H.264 in MP4, which every browser plays, through PyAV."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np

from selfrecon_warp.errors import RunError

ENCODERS = (
    ("libx264", {"crf": "18", "preset": "medium"}),
    ("libopenh264", {"b": "6000000"}),
    ("libvpx-vp9", {"crf": "24", "b": "0", "cpu-used": "4"}),
    ("mpeg4", {"qscale": "3"}),
)
"""What is tried in this order, with its quality settings; all but the last play in a browser."""


def write_video(
    path: Path, frames: Iterable[np.ndarray], fps: int = 30, progress: Callable[[int], None] | None = None
) -> str:
    """Encode pictures as they come; the file appears whole or not at all.

    Args:
        path: The file, ending in ``.mp4``.
        frames: RGB, ``[H, W, 3]`` uint8, all of one size; odd sizes gain a repeated last row or column.
        fps: Frames a second.
        progress: Told the number of frames done after each.

    Returns:
        The encoder that was used.

    Raises:
        ValueError: There are no frames, or one is no picture or of another size.
        RunError: The file cannot be written or no encoder is available.
    """
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            encoder = _encode(partial, frames, fps, progress)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, av.error.FFmpegError) as error:
        raise RunError(f"{path}: cannot be written ({error.strerror or error})") from error
    return encoder


def read_video(path: Path) -> list[np.ndarray]:
    """Every frame as RGB, ``[H, W, 3]`` uint8.

    Raises:
        RunError: The file is missing or damaged.
    """
    try:
        with av.open(str(path)) as container:
            return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (OSError, av.error.FFmpegError, IndexError) as error:
        raise RunError(f"{path} cannot be read as a video: {error}") from error


def _encode(path: Path, frames: Iterable[np.ndarray], fps: int, progress: Callable[[int], None] | None) -> str:
    source = iter(frames)
    picture = next(source, None)
    if picture is None:
        raise ValueError("frames must hold at least one picture, got none")
    shape = picture.shape
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream, encoder = _open_stream(container, fps, _even(picture, shape))
        done = 0
        while picture is not None:
            frame = av.VideoFrame.from_ndarray(_even(picture, shape), format="rgb24")
            frame.pts = done
            for packet in stream.encode(frame):
                container.mux(packet)
            done += 1
            if progress is not None:
                progress(done)
            picture = next(source, None)
        for packet in stream.encode():
            container.mux(packet)
    return encoder


def _open_stream(container: Any, fps: int, picture: np.ndarray) -> tuple[Any, str]:
    for encoder, options in ENCODERS:
        try:
            av.codec.Codec(encoder, "w")
        except ValueError:  # PyAV was built without it
            continue
        stream = container.add_stream(encoder, rate=fps, options=options)
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = "yuv420p"
        return stream, encoder
    tried = ", ".join(name for name, _ in ENCODERS)
    raise RunError(f"PyAV {av.__version__} has no video encoder ({tried}); reinstall av")


def _even(picture: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The picture with even height and width, which the pixel format needs."""
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or picture.shape != shape:
        raise ValueError(f"frames must all be uint8 of shape {list(shape)}, got {picture.dtype} {list(picture.shape)}")
    height, width = shape[:2]
    padded = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(padded)
