"""Plain-torch twin of the skinning weight volume."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def build_weight_field(
    vertices: Tensor,
    weights: Tensor,
    lower: Tensor,
    upper: Tensor,
    resolution: Sequence[int],
    neighbours: int = 30,
    smoothing: int = 30,
) -> Tensor:
    """Spread a body's skinning weights into a volume, measuring every voxel against every vertex."""
    axes = [(torch.arange(cells).to(vertices) + 0.5) / cells for cells in resolution]
    unit = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)
    centres = lower.to(vertices) + unit * (upper - lower).to(vertices)
    fields = []
    for chunk in centres.split(4096):
        squared = (chunk[:, None] - vertices[None]).square().sum(-1)
        nearest = squared.topk(min(neighbours, len(vertices)), largest=False)
        shares = 1.0 / nearest.values.sqrt().clamp(1e-4, 1.0)
        fields.append(torch.einsum("pk,pkj->pj", shares / shares.sum(-1, keepdim=True), weights[nearest.indices]))
    field = torch.cat(fields).view(*resolution, -1)
    for _ in range(smoothing):
        total = field[:-2, 1:-1, 1:-1] + field[2:, 1:-1, 1:-1]
        total = total + field[1:-1, :-2, 1:-1] + field[1:-1, 2:, 1:-1]
        mean = (total + field[1:-1, 1:-1, :-2] + field[1:-1, 1:-1, 2:]) / 6.0
        smoothed = mean + 0.7 * (field[1:-1, 1:-1, 1:-1] - mean)
        field = field.clone()
        field[1:-1, 1:-1, 1:-1] = smoothed / smoothed.sum(-1, keepdim=True)
    return field / field.sum(-1, keepdim=True)
