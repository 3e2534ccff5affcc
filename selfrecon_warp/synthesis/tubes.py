"""Cross-sections of limbs and torso as tables of radii: what cloth hangs from."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from selfrecon_warp.synthesis.mesh_tools import Array

ANGLES = 72
STEP = 0.01  # metres along the axis


class Tube:
    """Convex cross-sections of a point set along an axis, allowed to hang.

    Each slice is replaced by its convex hull, as cloth bridges hollows; going down the axis the cloth may come back to
    the body by no more than ``slack`` metres a metre.

    Args:
        along: Axis coordinate of the points, growing in the direction the cloth hangs [m], ``[P]``.
        across: The two coordinates perpendicular to the axis [m], ``[P, 2]``.
        start: First slice [m].
        stop: Last slice [m]; slices without points repeat the last that had some.
        slack: How fast the hull may shrink again; ``None`` follows the body everywhere.
    """

    def __init__(self, along: Array, across: Array, start: float, stop: float, slack: float | None = None) -> None:
        count = max(int(np.ceil((stop - start) / STEP)) + 1, 3)
        self.start = start
        slices = np.round((along - start) / STEP).astype(int)
        inside = (slices >= -1) & (slices <= count)
        slices, across = slices[inside], across[inside]
        middle = np.full((count, 2), np.nan)
        members = [across[abs(slices - i) <= 1] for i in range(count)]
        for i, points in enumerate(members):
            if len(points) >= 6:
                middle[i] = (points.max(0) + points.min(0)) / 2
        for axis in (0, 1):
            good = np.isfinite(middle[:, axis])
            middle[:, axis] = np.interp(np.arange(count), np.flatnonzero(good), middle[good, axis])
        self.middle = gaussian_filter(middle, (2.5, 0), mode="nearest")
        angle = np.arange(ANGLES) / ANGLES * 2 * np.pi
        direction = np.stack((np.cos(angle), np.sin(angle)), 1)
        support = np.full((count, ANGLES), np.nan)
        for i, points in enumerate(members):
            if len(points) >= 6:
                support[i] = ((points - self.middle[i]) @ direction.T).max(0)
        for i in range(count):
            if np.isnan(support[i, 0]):
                previous = support[i - 1] if i else support[np.flatnonzero(np.isfinite(support[:, 0]))[0]]
                support[i] = previous
        if slack is not None:
            for i in range(1, count):
                shift = (self.middle[i - 1] - self.middle[i]) @ direction.T
                support[i] = np.maximum(support[i], support[i - 1] + shift - slack * STEP)
        facing = np.cos(angle[:, None] - angle[None])
        reach = np.where(facing > 0.05, support[:, None, :] / np.maximum(facing, 0.05), np.inf).min(2)
        self.radius = gaussian_filter(reach, (1.5, 1.0), mode=("nearest", "wrap"))

    def centre(self, along: Array) -> Array:
        """Where the axis runs [m], ``[P, 2]``."""
        row = (along - self.start) / STEP
        return np.stack([np.interp(row, np.arange(len(self.middle)), self.middle[:, k]) for k in (0, 1)], 1)

    def polar(self, along: Array, across: Array) -> tuple[Array, Array, Array]:
        """Distance from the axis [m], angle [rad] and the table's radius there [m], each ``[P]``."""
        row = np.clip((along - self.start) / STEP, 0, len(self.radius) - 1)
        offset = across - self.centre(along)
        angle = np.arctan2(offset[:, 1], offset[:, 0])
        column = angle / (2 * np.pi) * ANGLES % ANGLES
        radius = map_coordinates(self.radius, (row, column), order=1, mode="grid-wrap")
        return np.linalg.norm(offset, axis=1), angle, radius


def smooth_min(a: Array, b: Array, width: float) -> Array:
    """Union of two fields with a fillet of about ``width`` metres."""
    blend = np.clip(0.5 + 0.5 * (b - a) / width, 0, 1)
    return np.asarray(b + (a - b) * blend - width * blend * (1 - blend), np.float32)


def smooth_max(a: Array, b: Array, width: float) -> Array:
    """Intersection of two fields with a rounded edge of about ``width`` metres."""
    return -smooth_min(-a, -b, width)


def fade(past: Array, rate: float = 1.5, soft: float = 0.06) -> Array:
    """Lets a tube end without a step: what to add to its field ``past`` metres beyond its range."""
    past = np.clip(past, 0, None)
    return np.asarray(rate * past**2 / (past + soft), np.float32)
