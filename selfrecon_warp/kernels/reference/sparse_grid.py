"""Plain-torch twin of `selfrecon_warp.kernels.sparse_grid`: asks for every node."""

from __future__ import annotations

import torch
from torch import Tensor

from selfrecon_warp.kernels.internal.lattice import CAP, smallest_spacing
from selfrecon_warp.kernels.sparse_grid import Sdf, SparseGrid


def evaluate_sparse(
    sdf: Sdf, lower: Tensor, upper: Tensor, resolution: tuple[int, int, int], *, level: float = 0.0
) -> SparseGrid:
    """Evaluate a signed distance at every node and list the cells its surface crosses."""
    spacing = (upper - lower) / (torch.tensor(resolution, device=lower.device) - 1)
    axes = [torch.arange(n, device=lower.device) for n in resolution]
    index = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    with torch.no_grad():
        values = sdf((lower + index * spacing).reshape(-1, 3)).reshape(resolution)
    last = torch.tensor(resolution, device=lower.device) - 1
    border = ((index == 0) | (index == last)).any(-1) & (values < level)
    values = values.masked_fill(border, level + CAP * smallest_spacing(lower, upper, resolution))
    inside = (values < level).float()[None, None]
    most, least = (torch.nn.functional.max_pool3d(sign * inside, 2, 1)[0, 0] for sign in (1, -1))
    crossed = torch.zeros(resolution, dtype=torch.bool, device=lower.device)
    crossed[:-1, :-1, :-1] = most + least > 0
    cells = crossed.reshape(-1).nonzero()[:, 0].int()
    stamps = torch.ones(resolution, dtype=torch.int32, device=lower.device)
    return SparseGrid(values, stamps, 1, cells, lower, upper, level, values.numel(), 1, int(border.sum()))
