"""Plain-torch twin of the multiresolution feature grid."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from selfrecon_warp.kernels.encode import GridLayout


def encode_grid(points: Tensor, table: Tensor, layout: GridLayout, level_weights: Tensor | None = None) -> Tensor:
    """Interpolate the features of every level at every point, corner by corner."""
    factors = torch.ones(layout.levels).to(points) if level_weights is None else level_weights.to(points)
    features = []
    for factor, resolution, offset, hashed in zip(
        factors, layout.resolutions, layout.offsets, layout.hashed, strict=True
    ):
        last = torch.tensor(resolution, device=points.device)
        position = torch.minimum((points * last).clamp(min=0.0), last.to(points))
        cell = torch.minimum(position.detach().floor().long(), last - 1)
        t = position - cell
        total = torch.zeros_like(table[:1])
        for corner in product((0, 1), repeat=3):
            x, y, z = (cell + cell.new_tensor(corner)).unbind(-1)
            if hashed:
                row = (x ^ (y * 2654435761) ^ (z * 805459861)) % 2**layout.log2_size
            else:
                row = (x * (resolution[1] + 1) + y) * (resolution[2] + 1) + z
            shares = torch.where(cell.new_tensor(corner).bool(), t, 1.0 - t)
            total = total + shares.prod(dim=-1, keepdim=True) * table[offset + row]
        features.append(factor * total)
    return torch.cat(features, dim=-1)


def encode_grid_jacobian(
    points: Tensor, table: Tensor, layout: GridLayout, level_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Interpolate features and their spatial derivatives, one backward pass a channel."""
    moving = points if points.requires_grad else points.detach().requires_grad_()
    features = encode_grid(moving, table, layout, level_weights)
    rows = [torch.autograd.grad(column.sum(), moving, create_graph=True)[0] for column in features.unbind(-1)]
    return features, torch.stack(rows, dim=1)
