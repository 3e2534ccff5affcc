"""The part of a video's picture that becomes a capture, and what that does to the camera."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from selfrecon_warp.prepare.camera_file import Intrinsics

MARGIN = 0.08
"""Room about the person over the longer side of all its boxes."""


@dataclass(frozen=True)
class Framing:
    """A window of the picture, resampled.

    Attributes:
        left: First column of the window [px of the video].
        top: First row.
        width: Columns.
        height: Rows.
        size: (height, width) of the result [px]; never larger than the window.
    """

    left: int
    top: int
    width: int
    height: int
    size: tuple[int, int]

    @classmethod
    def around(cls, boxes: np.ndarray, picture: tuple[int, int], resolution: int) -> Framing:
        """About all boxes (left, top, right, bottom) ``[N, 4]`` [px] with a margin, within a (height, width) picture.

        Args:
            boxes: Where the person is.
            picture: Size of the picture.
            resolution: Longer side of the result at most [px].
        """
        left, top = boxes[:, :2].min(0)
        right, bottom = boxes[:, 2:].max(0)
        margin = MARGIN * max(right - left, bottom - top)
        first_column, first_row = max(int(left - margin), 0), max(int(top - margin), 0)
        end_column = min(int(np.ceil(right + margin)) + 1, picture[1])
        end_row = min(int(np.ceil(bottom + margin)) + 1, picture[0])
        width, height = end_column - first_column, end_row - first_row
        scale = min(1.0, resolution / max(width, height))
        size = (max(round(height * scale), 1), max(round(width * scale), 1))
        return cls(first_column, first_row, width, height, size)

    @property
    def scale(self) -> np.ndarray:
        """Pixels of the result over those of the video, horizontally and vertically, ``[2]``."""
        return np.array([self.size[1] / self.width, self.size[0] / self.height])

    def cut(self, picture: np.ndarray) -> np.ndarray:
        """The window of a picture, averaged where it shrinks."""
        window = picture[self.top : self.top + self.height, self.left : self.left + self.width]
        if window.shape[:2] == self.size:
            return np.ascontiguousarray(window)
        return np.asarray(cv2.resize(window, self.size[::-1], interpolation=cv2.INTER_AREA))

    def sampled(self, field: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """The window of values ``[h, w]`` over a picture reduced by ``scale`` (across, down), at the result's size."""
        slope = scale / self.scale
        start = (np.array([self.left, self.top]) + 0.5 / self.scale) * scale - 0.5
        inward = np.column_stack((np.diag(slope), start))
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(field, inward, self.size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE))

    def points(self, points: np.ndarray) -> np.ndarray:
        """Points ``[..., 2]`` of the video's pixels in the result's; integers are pixel centres in both."""
        return (points - (self.left, self.top) + 0.5) * self.scale - 0.5

    def intrinsics(self, whole: Intrinsics) -> Intrinsics:
        """The camera of the result when ``whole`` is that of the video."""
        across, down = self.scale
        cx, cy = self.points(np.array([whole.cx, whole.cy]))
        return Intrinsics(whole.fx * across, whole.fy * down, float(cx), float(cy))
