"""Plain-torch twin of the Laplacians."""

from __future__ import annotations

import torch
from torch import Tensor

from selfrecon_warp.kernels.reference.mesh import face_areas
from selfrecon_warp.kernels.reference.topology import edge_pairs, face_indices
from selfrecon_warp.kernels.topology import MeshTopology


def laplacian_uniform(vertices: Tensor, faces: Tensor | MeshTopology) -> Tensor:
    """Vector from each vertex to the centroid of its neighbours."""
    start, end = torch.cat([edge_pairs(faces), edge_pairs(faces).flip(1)]).T
    count = torch.bincount(start, minlength=vertices.shape[-2]).clamp(min=1)[:, None]
    differences = vertices[..., end, :] - vertices[..., start, :]
    return torch.zeros_like(vertices).index_add(-2, start, differences) / count


def laplacian_cotangent(
    vertices: Tensor, faces: Tensor | MeshTopology, curvature: bool = False, least_area: float = 1e-6
) -> Tensor:
    """Vector from each vertex to the weighted mean of its neighbours, or its mean curvature normal."""
    indices = face_indices(faces)
    area = face_areas(vertices.detach(), faces).clamp(min=least_area)
    total, weights, areas = torch.zeros_like(vertices), *(torch.zeros_like(vertices[..., 0].detach()) for _ in "wa")
    for k in range(3):
        apex, start, end = (indices[:, (k + m) % 3] for m in range(3))
        at, to, beside = (vertices[..., corner, :] for corner in (apex, start, end))
        cotangent = ((to - at) * (beside - at)).sum(-1).detach() / (2 * area)
        pull = cotangent[..., None] * (beside - to)
        total = total.index_add(-2, start, pull).index_add(-2, end, -pull)
        weights = weights.index_add(-1, start, cotangent).index_add(-1, end, cotangent)
        areas = areas.index_add(-1, apex, area)
    divisor = 4 * areas if curvature else weights
    return total * torch.where(divisor > 0, 1 / divisor, 0 * divisor)[..., None]


def loss_laplacian(
    vertices: Tensor, faces: Tensor | MeshTopology, method: str = "uniform", least_area: float = 1e-6
) -> Tensor:
    """Mean length of the vertices' Laplacian."""
    if method == "uniform":
        laplacian = laplacian_uniform(vertices, faces)
    else:
        laplacian = laplacian_cotangent(vertices, faces, method == "cotcurv", least_area)
    lengths = laplacian.norm(dim=-1)
    return lengths.sum() / max(1, lengths.numel())
