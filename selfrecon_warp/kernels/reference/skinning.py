"""Plain-torch twin of linear blend skinning."""

from __future__ import annotations

import torch
from torch import Tensor


def skin_points(points: Tensor, weights: Tensor, bones: Tensor) -> Tensor:
    """Carry canonical points into every posed body by linear blend skinning."""
    weights = weights.expand(len(bones), *weights.shape[-2:])
    points = points.expand(len(bones), *points.shape[-2:])
    blended = torch.einsum("bpj,bjmn->bpmn", weights, bones)
    return torch.einsum("bpmn,bpn->bpm", blended[..., :3, :3], points) + blended[..., :3, 3]


def skin_points_jacobian(
    points: Tensor, weights: Tensor, weight_gradients: Tensor | None, bones: Tensor
) -> tuple[Tensor, Tensor]:
    """Skin canonical points and differentiate the posed position along the canonical one."""
    posed = skin_points(points, weights, bones)
    weights = weights.expand(len(bones), *weights.shape[-2:])
    jacobian = torch.einsum("bpj,bjmn->bpmn", weights, bones[..., :3, :3])
    if weight_gradients is None:
        return posed, jacobian
    points = points.expand(len(bones), *points.shape[-2:])
    weight_gradients = weight_gradients.expand(len(bones), *weight_gradients.shape[-3:])
    moved = torch.einsum("bjmn,bpn->bpjm", bones[..., :3, :3], points) + bones[:, None, :, :3, 3]
    return posed, jacobian + torch.einsum("bpjm,bpjn->bpmn", moved, weight_gradients)
