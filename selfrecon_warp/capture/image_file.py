"""Image files: whole or refused, decoded by OpenCV to RGB."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from selfrecon_warp.errors import CaptureError

PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8"
_JPEG_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")  # what may end a run of entropy-coded data
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def probe_image(path: Path) -> tuple[int, int]:
    """Height and width of a JPEG or PNG, after walking the whole container; nothing is decoded.

    Raises:
        CaptureError: Missing, neither JPEG nor PNG, truncated, or (PNG) a checksum is wrong.
    """
    return _walk(path, _read(path))


def read_image(path: Path) -> np.ndarray:
    """An image as RGB, ``[H, W, 3]`` uint8.

    Raises:
        CaptureError: The file is missing, truncated, damaged or no image.
    """
    return cv2.cvtColor(_decode(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def read_mask(path: Path) -> np.ndarray:
    """A mask, ``[H, W]`` bool: foreground where any colour channel is above zero (alpha does not count).

    Raises:
        CaptureError: The file is missing, truncated, damaged or no image.
    """
    return np.asarray(_decode(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH).any(-1))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CaptureError(f"{path} is missing") from None
    except OSError as error:
        raise CaptureError(f"{path} cannot be read: {error.strerror}") from error


def _decode(path: Path, flags: int) -> np.ndarray:
    data = _read(path)
    _walk(path, data)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise CaptureError(f"{path} cannot be decoded: {error.err}") from error
    if image is None:
        raise CaptureError(f"{path} cannot be decoded; write the frame again")
    return image


def _walk(path: Path, data: bytes) -> tuple[int, int]:
    """Size of a whole image; the path is for messages."""
    if data.startswith(PNG_START):
        size = _walk_png(data)
    elif data.startswith(JPEG_START):
        size = _walk_jpeg(data)
    else:
        raise CaptureError(f"{path} is neither a JPEG nor a PNG image; write the frame again")
    if size is None:
        raise CaptureError(f"{path} is truncated or damaged ({len(data)} bytes); write the frame again")
    return size


def _walk_png(data: bytes) -> tuple[int, int] | None:
    """Size from the header when every chunk up to the end marker is whole, else ``None``."""
    size, position = None, len(PNG_START)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data) or zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return None
        if kind == b"IHDR" and length >= 8:
            width, height = struct.unpack_from(">II", data, position + 8)
            size = (height, width)
        if kind == b"IEND":
            return size
        position = end
    return None


def _walk_jpeg(data: bytes) -> tuple[int, int] | None:
    """Size from the frame header when the end marker follows the scans, else ``None``."""
    size, position = None, len(JPEG_START)
    while position + 4 <= len(data) or data[position : position + 2] == b"\xff\xd9":
        if data[position] != 0xFF:
            return None
        kind = data[position + 1]
        if kind == 0xFF:  # fill byte
            position += 1
            continue
        if kind == 0xD9:
            return size
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if kind in _JPEG_FRAMES and position + 9 <= len(data):
            height, width = struct.unpack_from(">HH", data, position + 5)
            size = (height, width)
        position += 2 + length
        if kind == 0xDA:
            marker = _JPEG_MARKER.search(data, position)
            if marker is None:
                return None
            position = marker.start()
    return None
