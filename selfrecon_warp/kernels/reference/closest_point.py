"""Plain-torch twin of ``kernels/closest_point.py``: every point against every triangle."""

from __future__ import annotations

import torch
from torch import Tensor


def places_on_triangles(points: Tensor, corners: Tensor) -> Tensor:
    """Barycentrics ``[P, F, 3]`` of the place nearest to each point ``[P, 3]`` on each triangle ``[F, 3, 3]``.

    The nearest of four places: the foot on the triangle's plane where it lies inside, and the nearest on each of the
    three sides.
    """
    nothing = points.new_zeros(len(points), len(corners))
    candidates = []
    for k in range(3):
        start, end = corners[:, k], corners[:, (k + 1) % 3]
        along = end - start
        square = along.square().sum(-1)
        t = ((points[:, None] - start) * along).sum(-1) / torch.where(square > 0, square, 1)
        on_side = [nothing, nothing, nothing]
        on_side[k], on_side[(k + 1) % 3] = 1 - t.clamp(0, 1), t.clamp(0, 1)
        candidates.append(torch.stack(on_side, -1))
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    normal = torch.linalg.cross(first, second)
    square = normal.square().sum(-1)
    square = torch.where(square > 0, square, float("inf"))
    away = points[:, None] - corners[:, 0]
    beta = torch.linalg.cross(away, second.expand_as(away)).mul(normal).sum(-1) / square
    gamma = torch.linalg.cross(first.expand_as(away), away).mul(normal).sum(-1) / square
    foot = torch.stack([1 - beta - gamma, beta, gamma], -1)
    inside = (foot >= 0).all(-1, keepdim=True) & square.isfinite()[:, None]
    candidates.append(torch.where(inside, foot, candidates[0]))
    weights = torch.stack(candidates, 2)  # [P, F, 4, 3]
    distance = (points[:, None, None] - torch.einsum("pfsk,fkd->pfsd", weights, corners)).norm(dim=-1)
    chosen = distance.argmin(2)[..., None, None].expand(-1, -1, 1, 3)
    return weights.gather(2, chosen)[:, :, 0]


def closest_point(points: Tensor, vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distance ``[P]``, face ``[P]`` and barycentrics ``[P, 3]`` of the nearest place on the mesh."""
    corners = vertices[faces.long()]
    weights = places_on_triangles(points, corners)
    distance = (points[:, None] - torch.einsum("pfk,fkd->pfd", weights, corners)).norm(dim=-1)
    nearest, face_index = distance.min(1)
    return nearest, face_index, weights[torch.arange(len(points), device=points.device), face_index]
