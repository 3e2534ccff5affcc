"""Plain-torch twin of `selfrecon_warp.kernels.marching_cubes`: one cell after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from selfrecon_warp.kernels.internal.cube_cases import case_triangles
from selfrecon_warp.kernels.internal.lattice import CAP, smallest_spacing
from selfrecon_warp.kernels.marching_cubes import MARGIN


def marching_cubes(
    values: Tensor, lower: Tensor, upper: Tensor, level: float = 0.0, cells: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Triangulate a level set; the vertices are those of the crossed edges in ascending order of their nodes."""
    X, Y, Z = values.shape
    spacing = (upper - lower) / (torch.tensor(values.shape, device=values.device) - 1)
    if cells is None:
        border = torch.ones_like(values, dtype=torch.bool)
        border[1:-1, 1:-1, 1:-1] = False
        values = values.masked_fill(border & (values < level), level + CAP * smallest_spacing(lower, upper, (X, Y, Z)))
        cells = torch.arange(X * Y * Z).reshape(X, Y, Z)[:-1, :-1, :-1].reshape(-1)
    flat = values.reshape(-1)
    inside = (flat.detach() < level).tolist()
    corner_offsets = [(k & 1) * Y * Z + (k >> 1 & 1) * Z + (k >> 2) for k in range(8)]
    ends = []
    for cell in cells.tolist():
        nodes = [cell + offset for offset in corner_offsets]
        for edge in (e for t in case_triangles(sum(inside[node] << k for k, node in enumerate(nodes))) for e in t):
            axis, place = divmod(edge, 4)
            start = (place & 1) << (axis + 1) % 3 | (place >> 1) << (axis + 2) % 3
            ends.append((nodes[start], nodes[start | 1 << axis]))
    pairs, faces = (
        torch.tensor(ends, dtype=torch.long, device=values.device).reshape(-1, 2).unique(dim=0, return_inverse=True)
    )
    a, b = pairs.unbind(1)
    t = ((level - flat[a]) / (flat[b] - flat[a])).clamp(MARGIN, 1 - MARGIN)[:, None]
    start, end = (torch.stack([n // (Y * Z), n // Z % Y, n % Z], dim=1).to(values) for n in (a, b))
    return lower + spacing * torch.lerp(start, end, t), faces.reshape(-1, 3).int()
