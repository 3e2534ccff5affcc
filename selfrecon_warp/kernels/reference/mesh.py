"""Plain-torch twin of ``kernels/mesh.py``, ``mesh_losses.py``, ``laplacian.py`` and ``topology.py``."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from selfrecon_warp.kernels.topology import MeshCorners, MeshTopology


def mesh_corners(faces: Tensor, vertex_count: int) -> MeshCorners:
    """The faces around each vertex."""
    around: list[list[int]] = [[] for _ in range(vertex_count)]
    for corner, vertex in enumerate(faces.flatten().tolist()):
        around[vertex].append(corner)
    start, corner = _lists(around, faces.device)
    return MeshCorners(faces.int(), start, corner)


def mesh_topology(faces: Tensor, vertex_count: int) -> MeshTopology:
    """Edges of a triangle mesh and the faces and vertices beside them."""
    sides: dict[tuple[int, int], list[int]] = {}
    next_side = list(range(3 * len(faces)))
    for f, face in enumerate(faces.tolist()):
        for k in range(3) if len(set(face)) == 3 else ():
            a, b = face[k], face[(k + 1) % 3]
            sides.setdefault((min(a, b), max(a, b)), []).append(3 * f + k)
    neighbours: list[list[int]] = [[] for _ in range(vertex_count)]
    lower: list[list[int]] = [[] for _ in range(vertex_count)]
    edges = sorted(sides)
    for e, (a, b) in enumerate(edges):
        neighbours[a].append(b)
        neighbours[b].append(a)
        lower[a].append(e)
        for one, following in zip(sides[a, b], sides[a, b][1:] + sides[a, b][:1], strict=True):
            next_side[one] = following
    neighbour_start, neighbour = _lists([sorted(each) for each in neighbours], faces.device)
    index = {"dtype": torch.int32, "device": faces.device}
    return MeshTopology(
        mesh_corners(faces, vertex_count),
        neighbour_start,
        neighbour,
        _lists(lower, faces.device)[0],
        torch.tensor(edges, **index).view(-1, 2),
        torch.tensor([sides[edge][0] for edge in edges], **index),
        torch.tensor(next_side, **index),
        sum(len(each) * (len(each) - 1) // 2 for each in sides.values()),
    )


def _lists(lists: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Where each list begins in all of them one after the other, and that."""
    start = [0]
    for each in lists:
        start.append(start[-1] + len(each))
    flat = [value for each in lists for value in each]
    return tuple(torch.tensor(x, dtype=torch.int32, device=device) for x in (start, flat))


def _faces(faces: Tensor | MeshTopology) -> Tensor:
    return faces.corners.faces.long() if isinstance(faces, MeshTopology) else faces.long()


def _edges(faces: Tensor | MeshTopology) -> Tensor:
    """Vertex pairs, each edge once, in ascending order."""
    faces = _faces(faces)
    v0, v1, v2 = faces.unbind(1)
    whole = faces[(v0 != v1) & (v1 != v2) & (v2 != v0)]
    low, high = torch.cat([whole[:, [0, 1]], whole[:, [1, 2]], whole[:, [2, 0]]]).sort(1).values.T
    pair = (low << 32 | high).unique()
    return torch.stack([pair >> 32, pair & 0xFFFFFFFF], 1)


def _normalized(vectors: Tensor, least: float = 0.0) -> Tensor:
    """Unit vectors; zeros, with no gradient, where the length is not above ``least``."""
    short = vectors.norm(dim=-1, keepdim=True) <= least
    safe = torch.where(short, torch.ones_like(vectors), vectors)
    return torch.where(short, torch.zeros_like(vectors), safe / safe.norm(dim=-1, keepdim=True))


def _area_vectors(vertices: Tensor, faces: Tensor | MeshTopology) -> Tensor:
    """Normals as long as twice the area, exactly zero where two corners coincide."""
    a, b, c = vertices[..., _faces(faces), :].unbind(-2)
    area_vectors = torch.linalg.cross(b - a, c - a)
    return torch.where((b == c).all(-1, keepdim=True), torch.zeros_like(area_vectors), area_vectors)


def face_normals(vertices: Tensor, faces: Tensor | MeshTopology) -> Tensor:
    """Unit normals of the faces."""
    return _normalized(_area_vectors(vertices, faces))


def face_areas(vertices: Tensor, faces: Tensor | MeshTopology) -> Tensor:
    """Areas of the faces."""
    return 0.5 * _area_vectors(vertices, faces).norm(dim=-1)


def vertex_normals(vertices: Tensor, faces: Tensor | MeshTopology) -> Tensor:
    """Unit normals of the vertices."""
    area_vectors = _area_vectors(vertices, faces)
    total = torch.zeros_like(vertices)
    for k in range(3):
        total = total.index_add(-2, _faces(faces)[:, k], area_vectors)
    return _normalized(total)


def edge_lengths(vertices: Tensor, faces: Tensor | MeshTopology) -> Tensor:
    """Lengths of the edges."""
    start, end = vertices[..., _edges(faces), :].unbind(-2)
    return (end - start).norm(dim=-1)


def loss_edge_length(vertices: Tensor, faces: Tensor | MeshTopology, target_length: float = 0.0) -> Tensor:
    """Mean squared difference of the edges' lengths from a target."""
    lengths = edge_lengths(vertices, faces)
    return (lengths - target_length).square().sum() / max(1, lengths.numel())


def loss_normal_consistency(vertices: Tensor, faces: Tensor | MeshTopology, least_area: float = 5e-9) -> Tensor:
    """Mean of ``1 - cos`` of the angle between the normals of two faces that share an edge."""
    sides: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for f, face in enumerate(_faces(faces).tolist()):
        for k in range(3) if len(set(face)) == 3 else ():
            pair = face[k], face[(k + 1) % 3]
            sides.setdefault(tuple(sorted(pair)), []).append((f, 1 if pair[0] < pair[1] else -1))
    pairs = [
        (f, g, -forward * onward) for each in sides.values() for (f, forward), (g, onward) in combinations(each, 2)
    ]
    first, second, sign = torch.tensor(pairs, device=vertices.device).view(-1, 3).T.long()
    normals = _normalized(_area_vectors(vertices, faces), 2 * least_area)
    terms = 1 - sign * (normals[..., first, :] * normals[..., second, :]).sum(-1)
    return terms.sum() / max(1, terms.numel())


def laplacian_uniform(vertices: Tensor, faces: Tensor | MeshTopology) -> Tensor:
    """Vector from each vertex to the centroid of its neighbours."""
    start, end = torch.cat([_edges(faces), _edges(faces).flip(1)]).T
    count = torch.bincount(start, minlength=vertices.shape[-2]).clamp(min=1)[:, None]
    differences = vertices[..., end, :] - vertices[..., start, :]
    return torch.zeros_like(vertices).index_add(-2, start, differences) / count


def laplacian_cotangent(
    vertices: Tensor, faces: Tensor | MeshTopology, curvature: bool = False, least_area: float = 1e-6
) -> Tensor:
    """Vector from each vertex to the weighted mean of its neighbours, or its mean curvature normal."""
    indices = _faces(faces)
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
