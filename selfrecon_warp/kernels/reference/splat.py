"""Plain-torch twin of point splatting: every point against every pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from selfrecon_warp.kernels.internal.triangle import NEAR
from selfrecon_warp.kernels.splat import SplatLists, Splats


def splat_points(
    points_pixel: Tensor, radius: float | Tensor, height: int, width: int, points_per_pixel: int = 8
) -> Splats:
    """Draw points as discs: the nearest points at every pixel centre, padded to the same number."""
    B, P, _ = points_pixel.shape
    u, v, z = points_pixel[:, None, None].unbind(-1)
    rows = torch.arange(height, device=points_pixel.device)[:, None, None]
    columns = torch.arange(width, device=points_pixel.device)[:, None]
    distance = (u - columns) ** 2 + (v - rows) ** 2
    radii = radius if isinstance(radius, Tensor) else points_pixel.new_full((1,), radius)
    radii = radii.expand(B, P)[:, None, None]
    usable = (points_pixel.isfinite().all(-1) & (points_pixel[..., 2] > NEAR))[:, None, None]
    covered = usable & (radii > 0) & (distance < radii**2)
    kept = min(points_per_pixel, P)
    order = torch.where(covered, z, torch.inf).argsort(dim=-1, stable=True)[..., :kept]
    empty = ~covered.gather(-1, order)
    padding = 0, points_per_pixel - kept
    index = torch.nn.functional.pad(order.masked_fill(empty, -1), padding, value=-1)
    depth, distance = (
        torch.nn.functional.pad(x.expand_as(covered).gather(-1, order).masked_fill(empty, 0.0), padding)
        for x in (z, distance)
    )
    return Splats(index.int(), depth, distance)


def splat_lists(
    points_pixel: Tensor, radius: float | Tensor, height: int, width: int, points_per_pixel: int = 8
) -> SplatLists:
    """Draw points as discs: the nearest points at every pixel centre, without padding."""
    splats = splat_points(points_pixel, radius, height, width, points_per_pixel)
    found = splats.point_index >= 0
    counts = found.sum(-1)
    ends = counts.flatten().cumsum(0).view_as(counts).int()
    return SplatLists(ends, *(x[found] for x in splats))
