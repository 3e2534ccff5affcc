"""Outlines of masks, and where the body's outline lies against them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from selfrecon_warp.capture.dataset import parallel
from selfrecon_warp.capture.overlap import mask_box
from selfrecon_warp.train.contour_match import match_contours
from selfrecon_warp.train.observations import Observations, observe

OUTLINE_PIXELS = 260
"""Outlines are compared in pictures in which the person is so high [px]."""
OUTLINE_SAMPLES = 500
"""Places on the outline compared in one frame."""


def shrunk_outlines(masks: np.ndarray) -> tuple[Observations, float]:
    """Distances and contours of the masks in smaller pictures, and how much smaller."""
    boxes = np.array([mask_box(mask) for mask in masks])
    scale = min(1.0, OUTLINE_PIXELS / max(float(np.median(boxes[:, 3] - boxes[:, 1] + 1)), 1.0))
    N, H, W = masks.shape
    size = max(round(W * scale), 1), max(round(H * scale), 1)
    small = np.zeros((N, size[1], size[0]), bool)

    def shrink(frame: int) -> None:
        small[frame] = cv2.resize(masks[frame].astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5

    parallel(shrink, range(N))
    nothing = torch.zeros(N, 1, 1, 3, dtype=torch.int8)
    return observe(nothing.to(torch.uint8), torch.from_numpy(small), nothing, torch.device("cpu")), scale


@dataclass(frozen=True)
class OutlineMatch:
    """Places on the outlines of one frame.

    Attributes:
        residual: How far the body's outline lies outside the mask's [px], ``[P]``.
        share: Of the whole outline, ``[P]``.
        slope: Derivative of the residual by (u, v), ``[P, 2]``.
        ends: Vertices of the silhouette edge, ``[P, 2]``.
        uvz: Its middle, ``[P, 3]``.
    """

    residual: Tensor
    share: Tensor
    slope: Tensor
    ends: Tensor
    uvz: Tensor


def match_outline(
    observations: Observations, frame: int, pixel: Tensor, edges: Tensor, generator: torch.Generator
) -> OutlineMatch:
    """A random part of what silhouette ``edges [E, 2]`` of vertices ``pixel [V, 3]`` and a mask know of each other."""
    uvz = pixel[edges].mean(1)
    lengths = (pixel[edges[:, 0], :2] - pixel[edges[:, 1], :2]).norm(dim=-1)
    row = torch.zeros(len(edges), dtype=torch.long)
    match = match_contours(observations, row.new_tensor([frame]), row, uvz[:, :2])
    gap = match.contour_gaps(uvz[:, :2])
    residual = torch.cat([match.distance, gap])
    index = torch.cat([torch.arange(len(edges)), match.edge])
    of_contour = torch.full_like(gap, 1.0 / max(match.contour_count, 1))
    share = torch.cat([lengths / lengths.sum().clamp_min(1e-6), of_contour])
    slope = torch.cat([match.slope, match.outward])
    keep = torch.randperm(len(residual), generator=generator)[:OUTLINE_SAMPLES]
    share = share[keep] * (len(residual) / len(keep))
    return OutlineMatch(residual[keep], share, slope[keep], edges[index[keep]].long(), uvz[index[keep]])
