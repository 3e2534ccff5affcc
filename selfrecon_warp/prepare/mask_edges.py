"""A network's coarse mask made to follow the edges of the picture."""

from __future__ import annotations

import cv2
import numpy as np

SMOOTHING = 1e-4
"""Variance of colours (0 to 1) below which a neighbourhood counts as flat."""
REACH = 0.02
"""Radius of the neighbourhood over the person's height."""
LEAST_PART = 0.02
"""Area over that of the largest part from which another part of a mask is kept: a hand behind the back."""


def sharpened(probability: np.ndarray, picture: np.ndarray, height: float) -> np.ndarray:
    """The guided filter: probability that is linear in colour within every neighbourhood.

    Args:
        probability: That a pixel shows the person, ``[H, W]`` float, 0 to 1.
        picture: RGB, ``[H, W, 3]`` uint8.
        height: The person's height [px], which the size of a neighbourhood follows.

    Returns:
        ``[H, W]`` float32, about 0 to 1.

    Source: He, Sun, Tang: Guided Image Filtering, TPAMI 2013, colour guide.
    """
    rows, columns = np.flatnonzero((probability > 0.01).any(1)), np.flatnonzero((probability > 0.01).any(0))
    result = np.zeros(probability.shape, np.float32)
    if len(rows) == 0:
        return result
    radius = max(round(REACH * height), 1)
    pad = 2 * radius
    window = np.s_[
        max(rows[0] - pad, 0) : rows[-1] + pad + 1,
        max(columns[0] - pad, 0) : columns[-1] + pad + 1,
    ]
    result[window] = _guided(probability[window].astype(np.float32), picture[window].astype(np.float32) / 255, radius)
    return result


def person_mask(probability: np.ndarray) -> np.ndarray:
    """``[H, W]`` bool: the largest part above one half, and others that are not much smaller."""
    mask = (probability > 0.5).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    kept = areas >= max(LEAST_PART * areas.max(), 1) if count > 1 else np.zeros(1, bool)
    return np.asarray(kept[labels])


def _guided(values: np.ndarray, guide: np.ndarray, radius: int) -> np.ndarray:
    def mean(picture: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.blur(picture, (2 * radius + 1, 2 * radius + 1)))

    middle, level = mean(guide), mean(values)
    covariance = mean(guide * values[..., None]) - middle * level[..., None]
    rr, gr, br = (mean(guide[..., 0] * guide[..., c]) - middle[..., 0] * middle[..., c] for c in range(3))
    gg, bg = (mean(guide[..., 1] * guide[..., c]) - middle[..., 1] * middle[..., c] for c in (1, 2))
    bb = mean(guide[..., 2] ** 2) - middle[..., 2] ** 2
    rr, gg, bb = rr + SMOOTHING, gg + SMOOTHING, bb + SMOOTHING
    # The inverse of a symmetric 3x3 matrix by cofactors, for all pixels at once.
    irr, igr, ibr = gg * bb - bg * bg, br * bg - gr * bb, gr * bg - br * gg
    igg, ibg, ibb = rr * bb - br * br, gr * br - rr * bg, rr * gg - gr * gr
    determinant = rr * irr + gr * igr + br * ibr
    inverse = np.stack((irr, igr, ibr, igr, igg, ibg, ibr, ibg, ibb), -1).reshape(*values.shape, 3, 3)
    slope = np.einsum("hwij,hwj->hwi", inverse, covariance) / determinant[..., None]
    offset = level - (slope * middle).sum(-1)
    return np.asarray((mean(slope) * guide).sum(-1) + mean(offset), np.float32)
