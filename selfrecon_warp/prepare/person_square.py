"""The square about a person that normal networks are shown, and pictures cut to it and put back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from selfrecon_warp.errors import PrepareError

BOX_SHARE = 0.65
"""Half side over the longest side of the box about all joints."""
HIP_SHARE, HIP_SHIFT = 1.45, 0.05
"""Half side over the farthest joint's distance from the hips, and how far down the centre moves, in half sides."""
BLUR = 0.4
"""Standard deviation of the low-pass filter before shrinking, in pixels of the result."""


@dataclass(frozen=True)
class Square:
    """Part of a picture, which may reach beyond it: left, top, side [px]; a rectangle when ``height`` differs."""

    left: float
    top: float
    width: float
    height: float

    def with_aspect(self, aspect: float) -> Square:
        """The part of the same centre and height whose width is ``aspect`` times the height."""
        width = self.height * aspect
        return Square(self.left + 0.5 * (self.width - width), self.top, width, self.height)


def square_from_joints(joints: np.ndarray, seen: np.ndarray, size: tuple[int, int]) -> Square:
    """The square about a person, by the rules of the reference's preprocessing.

    With an ankle in sight: about the middle of the box of all joints in sight, half side 0.65 of its longest side.
    Else, with both hips in sight: about the middle of the hips, half side r = 1.45 of the farthest joint's distance,
    moved down by 0.05 r. Else: the whole picture, in a square about its middle.

    Args:
        joints: (u, v) of SMPL's 24 joints [px], ``[24, 2]``.
        seen: Which of them are in the picture, ``[24]`` bool.
        size: (height, width) of the picture [px].

    Source: SelfRecon's preprocessing (person boxes from keypoints).
    """
    visible = joints[seen]
    if seen[7] or seen[8]:
        low, high = visible.min(0), visible.max(0)
        return _about((low + high) / 2, BOX_SHARE * float((high - low).max()))
    if seen[1] and seen[2]:
        hips = (joints[1] + joints[2]) / 2
        reach = HIP_SHARE * float(np.linalg.norm(visible - hips, axis=1).max())
        return _about(hips + np.array([0.0, HIP_SHIFT * reach]), reach)
    height, width = size
    return _about(np.array([0.5 * (width - 1), 0.5 * (height - 1)]), 0.5 * max(size))


def square_from_mask(mask: np.ndarray) -> Square:
    """The same with the mask's box for that of the joints, ``[H, W]`` bool."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    low, high = np.array([columns[0], rows[0]], float), np.array([columns[-1], rows[-1]], float)
    return _about((low + high) / 2, BOX_SHARE * float((high - low).max()))


def read_squares(path: Path) -> Square:
    """The largest square of a ``_rect.txt`` file: one ``x y w h`` a line.

    Raises:
        PrepareError: It holds something else.
    """
    try:
        rows = [[float(word) for word in line.split()] for line in path.read_text().splitlines() if line.strip()]
        if not rows or any(len(row) != 4 or row[2] <= 0 or row[3] <= 0 for row in rows):
            raise ValueError("expected lines of x y w h with positive w and h")
    except (OSError, ValueError) as error:
        raise PrepareError(f"{path} holds no person squares ({error}); remove it or write it again") from error
    return Square(*max(rows, key=lambda row: row[2] * row[3]))


def square_line(square: Square) -> str:
    """One line of a ``_rect.txt`` file."""
    return f"{round(square.left)} {round(square.top)} {round(square.width)} {round(square.height)}\n"


def cut(picture: np.ndarray, square: Square, size: tuple[int, int]) -> np.ndarray:
    """The part of a picture, black beyond its borders, in another size, ``[h, w, C]`` float32.

    Corners fall on corners: the first and last pixel of the result are the first and last pixel of the part.

    Args:
        picture: ``[H, W, C]``.
        square: The part.
        size: (height, width) of the result.
    """
    height, width = size
    steps = (square.width - 1) / max(width - 1, 1), (square.height - 1) / max(height - 1, 1)
    smooth: np.ndarray = picture.astype(np.float32)
    if max(steps) > 1:
        smooth = cv2.GaussianBlur(smooth, (0, 0), BLUR * max(steps), borderType=cv2.BORDER_REPLICATE)
    u = (square.left + steps[0] * np.arange(width)).astype(np.float32)
    v = (square.top + steps[1] * np.arange(height)).astype(np.float32)
    return _sampled(smooth, u, v)


def put_back(part: np.ndarray, square: Square, size: tuple[int, int]) -> np.ndarray:
    """What :func:`cut` took, in its place in a picture of (height, width), 0 elsewhere; corners fall on corners."""
    height, width = size
    u = (np.arange(width) - square.left) * ((part.shape[1] - 1) / max(square.width - 1, 1))
    v = (np.arange(height) - square.top) * ((part.shape[0] - 1) / max(square.height - 1, 1))
    return _sampled(part.astype(np.float32), u.astype(np.float32), v.astype(np.float32))


def _about(centre: np.ndarray, half: float) -> Square:
    return Square(float(centre[0] - half), float(centre[1] - half), 2 * half, 2 * half)


def _sampled(picture: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    across, down = np.meshgrid(u, v)
    taken = cv2.remap(picture, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(taken)
