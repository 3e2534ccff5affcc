"""Plain-torch twin of normals, areas and edge lengths."""

from __future__ import annotations

import torch
from torch import Tensor

from selfrecon_warp.kernels.reference.topology import edge_pairs, face_indices
from selfrecon_warp.kernels.topology import MeshTopology


def normalized(vectors: Tensor, least: float = 0.0) -> Tensor:
    """Unit vectors; zeros, with no gradient, where the length is not above ``least``."""
    short = vectors.norm(dim=-1, keepdim=True) <= least
    safe = torch.where(short, torch.ones_like(vectors), vectors)
    return torch.where(short, torch.zeros_like(vectors), safe / safe.norm(dim=-1, keepdim=True))


def area_vectors(vertices: Tensor, faces: Tensor | MeshTopology) -> Tensor:
    """Normals as long as twice the area, exactly zero where two corners coincide."""
    a, b, c = vertices[..., face_indices(faces), :].unbind(-2)
    vectors = torch.linalg.cross(b - a, c - a)
    return torch.where((b == c).all(-1, keepdim=True), torch.zeros_like(vectors), vectors)


def face_normals(vertices: Tensor, faces: Tensor | MeshTopology) -> Tensor:
    """Unit normals of the faces."""
    return normalized(area_vectors(vertices, faces))


def face_areas(vertices: Tensor, faces: Tensor | MeshTopology) -> Tensor:
    """Areas of the faces."""
    return 0.5 * area_vectors(vertices, faces).norm(dim=-1)


def vertex_normals(vertices: Tensor, faces: Tensor | MeshTopology) -> Tensor:
    """Unit normals of the vertices."""
    vectors = area_vectors(vertices, faces)
    total = torch.zeros_like(vertices)
    for k in range(3):
        total = total.index_add(-2, face_indices(faces)[:, k], vectors)
    return normalized(total)


def edge_lengths(vertices: Tensor, faces: Tensor | MeshTopology) -> Tensor:
    """Lengths of the edges."""
    start, end = vertices[..., edge_pairs(faces), :].unbind(-2)
    return (end - start).norm(dim=-1)
