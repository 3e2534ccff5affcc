"""Where light from afar reaches a surface: shadow maps of parallel light, drawn by the rasterizer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.rasterize import rasterize

MAP_PX = 192
"""Pixels a side of a shadow map, which the whole mesh fills."""
BEHIND_M = 0.02
"""What lies further behind the first surface is in its shadow: less than a limb's width."""
AFAR_M = 50.0
"""Distance from which shadow maps look: parallel light in all but name."""


@torch.no_grad()
def reached(directions: Tensor, casters: Tensor, faces: Tensor, points: Tensor) -> Tensor:
    """Share of parallel light that reaches points, 0 in full shadow, soft over a pixel of the shadow map, ``[B, P]``.

    Args:
        directions: Towards the light, unit, ``[B, 3]``.
        casters: Positions [m] of the mesh that casts the shadows, ``[B, C, 3]``.
        faces: Its vertex indices, ``[F, 3]``.
        points: On or near that mesh [m], ``[B, P, 3]``.

    Raises:
        ValueError: A shape disagrees.

    Source: shadow maps, Williams 1978; comparing before averaging, Reeves et al. 1987.
    """
    require_shapes(
        directions=(directions, "B 3"), casters=(casters, "B C 3"), faces=(faces, "F 3"), points=(points, "B P 3")
    )
    axes = _axes(directions.to(casters))
    seen, asked = (positions @ axes.transpose(1, 2) for positions in (casters, points))
    low, high = seen.amin(1, keepdim=True), seen.amax(1, keepdim=True)
    scale = (MAP_PX - 1) / (high - low)[..., :2].amax(-1, keepdim=True).clamp_min(1e-6)

    def placed(positions: Tensor) -> Tensor:
        return torch.cat(((positions[..., :2] - low[..., :2]) * scale, AFAR_M + high[..., 2:] - positions[..., 2:]), -1)

    depth = rasterize(placed(seen).contiguous(), faces, MAP_PX, MAP_PX).depth.flatten(1)
    depth = torch.where(depth > 0, depth, torch.inf)
    u, v, z = placed(asked).unbind(-1)
    column, row = u.floor(), v.floor()
    total = torch.zeros_like(z)
    for down in (0, 1):
        for right in (0, 1):
            index = (row.long() + down).clamp(0, MAP_PX - 1) * MAP_PX + (column.long() + right).clamp(0, MAP_PX - 1)
            share = (1 - (u - column - right).abs()) * (1 - (v - row - down).abs())
            total += share * (depth.gather(1, index) > z - BEHIND_M)
    return total


def _axes(directions: Tensor) -> Tensor:
    """Orthonormal axes whose third is the direction, as rows, ``[B, 3, 3]``."""
    aside = torch.where(
        directions[:, :1].abs() < 0.7, directions.new_tensor([1.0, 0, 0]), directions.new_tensor([0, 1.0, 0])
    )
    first = normalize(torch.linalg.cross(aside, directions), dim=-1)
    return torch.stack((first, torch.linalg.cross(directions, first), directions), 1)
