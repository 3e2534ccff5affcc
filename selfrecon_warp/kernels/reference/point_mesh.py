"""Plain-torch twin of ``kernels/point_mesh.py``: every point against every triangle."""

from __future__ import annotations

import torch
from torch import Tensor

from selfrecon_warp.kernels.closest_point import MeshPlaces
from selfrecon_warp.kernels.internal.point_tree import Neighbours
from selfrecon_warp.kernels.reference.closest_point import places_on_triangles


def _pairs(points: Tensor, vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance of every point to every triangle ``[P, F]`` and where on it ``[P, F, 3]``."""
    corners = vertices[faces.long()]
    with torch.no_grad():
        weights = places_on_triangles(points, corners)
    squared = (points[:, None] - torch.einsum("pfk,fkd->pfd", weights, corners)).square().sum(-1)
    return torch.where(squared.isfinite(), squared, float("inf")), weights


def point_mesh_distance(
    points: Tensor, vertices: Tensor, faces: Tensor, point_lengths: Tensor | None = None
) -> MeshPlaces:
    """How far each point is from a mesh."""
    if points.dim() == 3:
        lengths = [points.shape[1]] * len(points) if point_lengths is None else point_lengths.tolist()
        rows = []
        for cloud, mesh, length in zip(points, vertices, lengths, strict=True):
            kept = (torch.arange(len(cloud), device=cloud.device) < length)[:, None]
            rows.append(point_mesh_distance(torch.where(kept, cloud, float("nan")), mesh, faces))
        return MeshPlaces(*(torch.stack(column) for column in zip(*rows, strict=True)))
    squared, weights = _pairs(points, vertices, faces)
    nearest, index = squared.min(1)
    found = nearest.isfinite()
    weights = weights[torch.arange(len(points), device=points.device), index]
    return MeshPlaces(nearest, torch.where(found, index, -1), torch.where(found[:, None], weights, 0))


def mesh_point_distance(
    points: Tensor, vertices: Tensor, faces: Tensor, point_lengths: Tensor | None = None
) -> Neighbours:
    """How far each face of a mesh is from a point cloud."""
    if points.dim() == 3:
        lengths = [points.shape[1]] * len(points) if point_lengths is None else point_lengths.tolist()
        rows = [
            mesh_point_distance(cloud[:length], mesh, faces)
            for cloud, mesh, length in zip(points, vertices, lengths, strict=True)
        ]
        return Neighbours(*(torch.stack(column) for column in zip(*rows, strict=True)))
    squared, index = _pairs(points, vertices, faces)[0].min(0)
    return Neighbours(squared, torch.where(squared.isfinite(), index, -1))


def loss_point_mesh(points: Tensor, vertices: Tensor, faces: Tensor, point_lengths: Tensor | None = None) -> Tensor:
    """How far a point cloud and a mesh are apart."""
    if points.dim() == 3:
        lengths = [points.shape[1]] * len(points) if point_lengths is None else point_lengths.tolist()
        every = [
            loss_point_mesh(cloud[:length], mesh, faces)
            for cloud, mesh, length in zip(points, vertices, lengths, strict=True)
        ]
        return torch.stack(every).mean()
    to_mesh = point_mesh_distance(points, vertices, faces).squared_distance
    return to_mesh.mean() + mesh_point_distance(points, vertices, faces).squared_distance.mean()


def loss_point_edges(points: Tensor, vertices: Tensor, edges: Tensor, point_lengths: Tensor | None = None) -> Tensor:
    """How far a point cloud and the edges of a mesh are apart."""
    return loss_point_mesh(points, vertices, edges[:, [0, 1, 1]], point_lengths)
