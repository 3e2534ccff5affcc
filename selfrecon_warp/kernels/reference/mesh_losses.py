"""Plain-torch twin of the regularisers of edges and normals."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from selfrecon_warp.kernels.reference.mesh import area_vectors, edge_lengths, normalized
from selfrecon_warp.kernels.reference.topology import face_indices
from selfrecon_warp.kernels.topology import MeshTopology


def loss_edge_length(vertices: Tensor, faces: Tensor | MeshTopology, target_length: float = 0.0) -> Tensor:
    """Mean squared difference of the edges' lengths from a target."""
    lengths = edge_lengths(vertices, faces)
    return (lengths - target_length).square().sum() / max(1, lengths.numel())


def loss_normal_consistency(vertices: Tensor, faces: Tensor | MeshTopology, least_area: float = 5e-9) -> Tensor:
    """Mean of ``1 - cos`` of the angle between the normals of two faces that share an edge."""
    sides: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for f, face in enumerate(face_indices(faces).tolist()):
        for k in range(3) if len(set(face)) == 3 else ():
            pair = face[k], face[(k + 1) % 3]
            sides.setdefault(tuple(sorted(pair)), []).append((f, 1 if pair[0] < pair[1] else -1))
    pairs = [
        (f, g, -forward * onward) for each in sides.values() for (f, forward), (g, onward) in combinations(each, 2)
    ]
    first, second, sign = torch.tensor(pairs, device=vertices.device).view(-1, 3).T.long()
    normals = normalized(area_vectors(vertices, faces), 2 * least_area)
    terms = 1 - sign * (normals[..., first, :] * normals[..., second, :]).sum(-1)
    return terms.sum() / max(1, terms.numel())
