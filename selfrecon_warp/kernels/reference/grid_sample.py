"""Plain-torch twin of the trilinear lookup."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample as torch_grid_sample


def grid_sample(volume: Tensor, points: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Look up a volume by trilinear interpolation, as the Warp operation does."""
    box = (2.0 * (points - lower) / (upper - lower) - 1.0).flip(-1)
    channels_first = volume.permute(3, 0, 1, 2)[None]
    values = torch_grid_sample(channels_first, box[None, None, None], padding_mode="border", align_corners=False)
    return values[0, :, 0, 0].T


def grid_sample_jacobian(volume: Tensor, points: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Look up a volume and its spatial derivatives, one backward pass a channel."""
    moving = points if points.requires_grad else points.detach().requires_grad_()
    values = grid_sample(volume, moving, lower, upper)
    rows = [torch.autograd.grad(column.sum(), moving, create_graph=True)[0] for column in values.unbind(-1)]
    return values, torch.stack(rows, dim=1)
