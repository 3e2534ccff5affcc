"""Plain-torch twin of ``kernels/contour.py``: every edge, every pixel, every pair."""

from __future__ import annotations

import torch
from torch import Tensor

from selfrecon_warp.kernels.contour import Contour, MeshEdges
from selfrecon_warp.kernels.internal.triangle import NEAR


def mesh_edges(faces: Tensor) -> MeshEdges:
    """Edges of a triangle mesh and the faces beside them."""
    beside: dict[tuple[int, int], list[int]] = {}
    for f, (a, b, c) in enumerate(faces.tolist()):
        if len({a, b, c}) == 3:
            for pair in ((a, b), (b, c), (c, a)):
                beside.setdefault((min(pair), max(pair)), []).append(f)
    pairs = sorted(beside)
    neighbours = [(beside[pair] + [-1])[:2] for pair in pairs]
    rows = [torch.tensor(x, dtype=torch.int32, device=faces.device).view(-1, 2) for x in (pairs, neighbours)]
    return MeshEdges(*rows)


def silhouette_edges(vertices_pixel: Tensor, faces: Tensor, edges: MeshEdges) -> Contour:
    """Every silhouette edge, seen or hidden."""
    corners = vertices_pixel.detach()[:, faces.long()]
    first, second = corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0]
    area = first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
    facing = torch.where(area < 0, 1, -1)
    side = torch.where(corners[..., 2].amin(-1) > NEAR, facing, 0)
    side = torch.cat([side, side.new_zeros(len(side), 1)], 1)[:, edges.face_index.long()]
    frame_index, edge_index = (side[..., 0] != side[..., 1]).nonzero(as_tuple=True)
    ordered = []
    for b, e in zip(frame_index.tolist(), edge_index.tolist(), strict=True):
        first, second = side[b, e].tolist()
        which = 1 if second == 1 or first == 0 else 0
        pair = edges.vertex_index[e].tolist()
        corner = faces[edges.face_index[e, which].long()].tolist()
        forward = corner[(corner.index(pair[0]) + 1) % 3] == pair[1]
        ordered.append(pair if forward == ((first, second)[which] > 0) else pair[::-1])
    return Contour(frame_index, edge_index, torch.tensor(ordered, device=faces.device).long().view(-1, 2))


def contour_edges(
    vertices_pixel: Tensor, faces: Tensor, edges: MeshEdges, face_index: Tensor, reach: float = 1.5
) -> Contour:
    """Silhouette edges on the border of the rendered mask."""
    every = silhouette_edges(vertices_pixel, faces, edges)
    middle = vertices_pixel.detach()[every.frame_index[:, None], every.vertex_index, :2].mean(1)
    row, column = (torch.arange(n, device=middle.device).to(middle) for n in face_index.shape[1:])
    squared = (column - middle[:, None, None, 0]) ** 2 + (row[:, None] - middle[:, None, None, 1]) ** 2
    kept = ((squared <= reach**2) & (face_index < 0)[every.frame_index]).flatten(1).any(1)
    return Contour(*(part[kept] for part in every))


def nearest_contour(
    queries: Tensor,
    query_frame: Tensor,
    query_direction: Tensor,
    midpoints: Tensor,
    edge_frame: Tensor,
    edge_direction: Tensor,
    radius: float,
    min_cos: float,
) -> Tensor:
    """Nearest contour edge of the same frame that faces a similar way, ``[Q]``."""
    if 0 in (len(queries), len(midpoints)):
        return torch.full((len(queries),), -1, device=queries.device)
    squared = (queries[:, None] - midpoints).square().sum(-1)
    fits = (query_frame[:, None] == edge_frame) & (query_direction @ edge_direction.T >= min_cos)
    squared = torch.where(fits & (squared <= radius**2), squared, float("inf"))
    best, index = squared.min(1)
    return torch.where(best < float("inf"), index, -1)
