"""Plain-torch twin of ``kernels/best_views.py``: every point in every picture, then the heaviest are picked."""

from __future__ import annotations

import torch
from torch import Tensor

from selfrecon_warp.kernels.best_views import LEAST_COSINE, BestViews
from selfrecon_warp.kernels.internal.triangle import NEAR


def best_views(
    vertices_pixel: Tensor,
    cosines: Tensor,
    faces: Tensor,
    face_index: Tensor,
    barycentrics: Tensor,
    depth: Tensor,
    trust: Tensor,
    count: int,
    *,
    sharpness: float = 4.0,
    tolerance: float = 5e-3,
    slope_tolerance: float = 2e-3,
) -> BestViews:
    """Weights, pictures and places of the best pictures; see the kernel's."""
    N, H, W = depth.shape
    corners = faces[face_index.long().clamp(min=0)].long()  # [T, 3]
    u, v, z = vertices_pixel[:, corners].unbind(-1)  # [N, T, 3] each
    depths = (z * barycentrics).sum(-1)
    columns, rows = ((x * z * barycentrics).sum(-1) / depths for x in (u, v))
    cosine = (cosines[:, corners] * barycentrics).sum(-1).clamp(max=1.0)
    counts = (z.amin(-1) > NEAR) & (cosine > LEAST_COSINE) & (face_index >= 0)
    slope = (1 - cosine.square()).clamp(min=0).sqrt() / cosine
    furthest = depths - tolerance - slope_tolerance * depths * slope
    trusted = torch.zeros_like(depths)
    picture = torch.arange(N, device=depth.device)[:, None]
    for row in (rows.floor(), rows.floor() + 1):
        for column in (columns.floor(), columns.floor() + 1):
            inside = (row >= 0) & (column >= 0) & (row < H) & (column < W)
            place = (picture, torch.where(inside, row, 0).long(), torch.where(inside, column, 0).long())
            seen = inside & (depth[place] > 0) & (depth[place] >= furthest)
            share = (1 - (columns - column).abs()) * (1 - (rows - row).abs())
            trusted += torch.where(seen, share * trust[place], 0)
    weight = torch.where(counts, cosine.clamp(min=0) ** sharpness / depths.square() * trusted, 0)
    weight, index = weight.T.sort(dim=1, descending=True, stable=True)
    weight, index = weight[:, :count], index[:, :count]
    pixel = torch.stack((columns.T.gather(1, index), rows.T.gather(1, index)), -1)
    missing = weight <= 0
    lacking = (0, count - weight.shape[1])
    return BestViews(
        torch.nn.functional.pad(weight.masked_fill(missing, 0), lacking),
        torch.nn.functional.pad(index.masked_fill(missing, -1).int(), lacking, value=-1),
        torch.nn.functional.pad(pixel.masked_fill(missing[..., None], 0), (0, 0, *lacking)),
    )
