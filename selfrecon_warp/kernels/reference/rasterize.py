"""Plain-torch twin of ``kernels/rasterize.py``: every face against every pixel, differentiated by torch."""

from __future__ import annotations

import torch
from torch import Tensor

from selfrecon_warp.kernels.internal.triangle import NEAR
from selfrecon_warp.kernels.rasterize import Fragments


def edge(a: Tensor, b: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Twice the signed area of ``(a, b, pixel)``."""
    return (a[..., 0] - u) * (b[..., 1] - v) - (a[..., 1] - v) * (b[..., 0] - u)


def drawn_area(corners: Tensor, cull_backfaces: bool) -> Tensor:
    """Twice the signed area of triangles ``[..., 3, 3]``; 0 for those that are not drawn."""
    p0, p1, p2 = corners.unbind(-2)
    area = edge(p0, p1, p2[..., 0], p2[..., 1])
    drawn = corners.isfinite().flatten(-2).all(-1) & area.isfinite() & (corners[..., 2].amin(-1) > NEAR)
    return torch.where(drawn & (area < 0 if cull_backfaces else True), area, 0)


def locate(corners: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Perspective-correct barycentrics and depth on triangles ``[..., 3, 3]`` at pixels ``[...]``."""
    p0, p1, p2 = corners.unbind(-2)
    weights = torch.stack([edge(p1, p2, u, v), edge(p2, p0, u, v), edge(p0, p1, u, v)], -1)
    scaled = weights / corners[..., 2]
    total = scaled.sum(-1, keepdim=True)
    return scaled / total, (weights.sum(-1, keepdim=True) / total).squeeze(-1)


def visible_faces(
    vertices_pixel: Tensor, faces: Tensor, height: int, width: int, cull_backfaces: bool = False
) -> Tensor:
    """Face seen by each pixel, ``[B, H, W]`` int32, -1 where none."""
    corners = vertices_pixel.detach()[:, faces.long()]
    B, F = corners.shape[:2]
    p0, p1, p2 = (p[:, :, None, None] for p in corners.unbind(-2))
    row = torch.arange(height, device=corners.device).to(corners).view(1, 1, -1, 1)
    column = torch.arange(width, device=corners.device).to(corners).view(1, 1, 1, -1)
    area = drawn_area(corners, cull_backfaces)[:, :, None, None]
    weights = [area.sign() * edge(*ends, column, row) for ends in ((p1, p2), (p2, p0), (p0, p1))]
    total = weights[0] + weights[1] + weights[2]
    covered = (weights[0] >= 0) & (weights[1] >= 0) & (weights[2] >= 0) & (total > 0)
    covered &= area != 0
    inverse_depth = sum(w / p[..., 2] for w, p in zip(weights, (p0, p1, p2), strict=True)) / total
    bits = inverse_depth.float().view(torch.int32).long()
    rank = torch.arange(F, device=corners.device).flip(0).view(1, -1, 1, 1)
    key = torch.where(covered, (bits << 32) + rank, -1)
    if F == 0:
        return torch.full((B, height, width), -1, dtype=torch.int32, device=corners.device)
    best, face_index = key.max(1)
    return torch.where(best >= 0, face_index, -1).int()


def rasterize(
    vertices_pixel: Tensor, faces: Tensor, height: int, width: int, cull_backfaces: bool = False
) -> Fragments:
    """Face, barycentrics and depth at every pixel centre."""
    face_index = visible_faces(vertices_pixel, faces, height, width, cull_backfaces)
    b, row, column = (face_index >= 0).nonzero(as_tuple=True)
    pixels = torch.stack([column, row], -1)
    weights, z = pixel_barycentrics(vertices_pixel, faces, b, pixels, face_index[b, row, column])
    barycentrics = vertices_pixel.new_zeros(*face_index.shape, 3).index_put((b, row, column), weights)
    return Fragments(
        face_index, barycentrics, vertices_pixel.new_zeros(face_index.shape).index_put((b, row, column), z)
    )


def pixel_barycentrics(
    vertices_pixel: Tensor, faces: Tensor, batch_index: Tensor, pixels: Tensor, face_index: Tensor
) -> tuple[Tensor, Tensor]:
    """Barycentrics ``[R, 3]`` and depth ``[R]`` at chosen pixels."""
    seen = face_index >= 0
    corners = vertices_pixel[batch_index.long()[seen, None], faces.long()[face_index.long()[seen]]]
    weights, z = locate(corners, *pixels[seen].to(vertices_pixel.dtype).unbind(-1))
    barycentrics = vertices_pixel.new_zeros(len(pixels), 3).index_put((seen.nonzero()[:, 0],), weights)
    return barycentrics, vertices_pixel.new_zeros(len(pixels)).index_put((seen.nonzero()[:, 0],), z)


def interpolate(attributes: Tensor, faces: Tensor, fragments: tuple[Tensor, ...]) -> Tensor:
    """Vertex attributes ``[V, C]`` or ``[B, V, C]`` at the pixels, ``[B, ..., C]``."""
    face_index, barycentrics = fragments[:2]
    per_frame = attributes.expand(len(face_index), *attributes.shape[-2:])
    frame = torch.arange(len(face_index), device=attributes.device).view(-1, *[1] * face_index.dim())
    corners = per_frame[frame, faces.long()[face_index.clamp(min=0).long()]]
    return (barycentrics[..., None] * corners).sum(-2)
