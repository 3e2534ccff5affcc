"""Videos and pictures with the oddities of real cameras."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np


def gradient(index: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A smooth picture that tells its orientation and its index, RGB."""
    height, width = size
    v, u = np.mgrid[0:height, 0:width]
    red, green = 40 + 160 * u / width, 40 + 160 * v / height
    return np.stack((red, green, np.full(size, 20.0 + 20 * index)), -1).astype(np.uint8)


def write_clip(path: Path, pictures, times=None, turn: int = 0) -> Path:
    """An H.264 clip; ``times`` in milliseconds make the frame rate vary, ``turn`` is stored as metadata [degrees]."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "8"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv444p"
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    if turn:
        _turn_track(path, turn)
    return path


def _turn_track(path: Path, degrees: int) -> None:
    """Write the display matrix of the track header, as phones do."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 4 + 20 + 16  # flags; times, identity, duration; reserved, layer, volume
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    struct.pack_into(">9i", data, matrix, cosine << 16, sine << 16, 0, -sine << 16, cosine << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def jpeg_with_orientation(picture: np.ndarray, orientation: int) -> bytes:
    """A JPEG whose EXIF block asks for a turn (6: a quarter clockwise)."""
    data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    block = b"Exif\0\0" + b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 1) + entry + struct.pack("<I", 0)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]
