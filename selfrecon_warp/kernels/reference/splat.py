"""Plain-torch twin of point splatting: every point against every pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from selfrecon_warp.kernels.rasterize import NEAR
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


def composite_alpha(alphas: Tensor, point_index: Tensor, features: Tensor, ends: Tensor | None = None) -> Tensor:
    """Blend features front to back: ``sum_k alpha_k f_k prod_{j<k} (1 - alpha_j)``."""
    alphas, point_index = _padded(alphas, point_index, ends)
    through = (1.0 - alphas).cumprod(-1).roll(1, -1)
    through = torch.cat([torch.ones_like(through[..., :1]), through[..., 1:]], -1)
    return composite_weighted(alphas * through, point_index, features)


def composite_weighted(alphas: Tensor, point_index: Tensor, features: Tensor, ends: Tensor | None = None) -> Tensor:
    """Blend features as if nothing hid anything: ``sum_k alpha_k f_k``."""
    alphas, point_index = _padded(alphas, point_index, ends)
    features = features.expand(len(alphas), *features.shape[-2:])
    chosen = torch.stack([frame[index] for frame, index in zip(features, point_index.clamp_min(0).long(), strict=True)])
    return (alphas[..., None] * chosen).sum(-2)


def _padded(alphas: Tensor, point_index: Tensor, ends: Tensor | None) -> tuple[Tensor, Tensor]:
    """Alphas, zero where there is no point, and indices, both ``[B, H, W, K]``."""
    if ends is None:
        return alphas.masked_fill(point_index < 0, 0.0), point_index
    flat = ends.flatten().long()
    counts = flat.diff(prepend=flat.new_zeros(1))
    slots = torch.arange(int(counts.max()) + 1, device=alphas.device)
    inside = slots < counts[:, None]
    source = torch.where(inside, (flat - counts)[:, None] + slots, 0)
    shape = (*ends.shape, len(slots))
    lists = alphas[source].masked_fill(~inside, 0.0), point_index[source].masked_fill(~inside, -1)
    return _padded(lists[0].view(shape), lists[1].view(shape), None)
