"""Plain-torch twin of ``kernels/rasterize_layers.py``: every face against every pixel, differentiated by torch."""

from __future__ import annotations

import torch
from torch import Tensor

from selfrecon_warp.kernels.rasterize_layers import Layers
from selfrecon_warp.kernels.reference.rasterize import drawn_area, edge


def border_distance(corners: Tensor, pixels: Tensor) -> Tensor:
    """Squared distance of ``pixels`` ``[..., 2]`` from the nearest edge of triangles ``[..., 3, 3]``."""
    starts = corners[..., :2]
    along = starts.roll(-1, -2) - starts
    offset = pixels[..., None, :] - starts
    t = ((offset * along).sum(-1) / along.square().sum(-1)).clamp(0, 1)
    return (offset - t[..., None] * along).square().sum(-1).amin(-1)


def measure(
    corners: Tensor, pixels: Tensor, perspective_correct: bool, clip_barycentrics: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Barycentrics, depth and signed squared distance of triangles ``[..., 3, 3]`` at pixels ``[..., 2]``."""
    p0, p1, p2 = corners.unbind(-2)
    u, v = pixels.unbind(-1)
    weights = torch.stack([edge(p1, p2, u, v), edge(p2, p0, u, v), edge(p0, p1, u, v)], -1)
    weights = weights * edge(p0, p1, p2[..., 0], p2[..., 1]).sign()[..., None]
    inside = (weights >= 0).all(-1)
    if clip_barycentrics:
        weights = torch.where(weights > 0, weights, 0)
    if perspective_correct:
        weights = weights / corners[..., 2]
    barycentrics = weights / weights.sum(-1, keepdim=True)
    distance = border_distance(corners, pixels)
    depth = (barycentrics * corners[..., 2]).sum(-1)
    beyond = weights.sum(-1) <= 0
    return barycentrics, torch.where(beyond, -1, depth), torch.where(inside, -distance, distance)


def rasterize_layers(
    vertices_pixel: Tensor,
    faces: Tensor,
    height: int,
    width: int,
    faces_per_pixel: int,
    *,
    blur_radius: float = 0.0,
    perspective_correct: bool = True,
    clip_barycentrics: bool = False,
    cull_backfaces: bool = False,
) -> Layers:
    """The nearest faces in or near every pixel."""
    options = perspective_correct, clip_barycentrics
    (B, F), K = (len(vertices_pixel), len(faces)), faces_per_pixel
    every = torch.cartesian_prod(*(torch.arange(n, device=faces.device) for n in (height, width)))
    pixels = every.flip(-1).to(vertices_pixel.dtype)
    corners = vertices_pixel[:, faces.long()]
    _, depth, distance = measure(corners.detach()[:, None], pixels[None, :, None], *options)
    near = (distance <= 0) | (distance < blur_radius**2)
    drawn = drawn_area(corners.detach(), cull_backfaces)[:, None] != 0
    order = torch.where(near & drawn & (depth > 0), depth.float(), torch.inf)
    order, chosen = order.sort(dim=-1, stable=True)
    order, chosen = (torch.nn.functional.pad(x, (0, max(0, K - F)))[..., :K] for x in (order, chosen))
    b, i, k = (order.isfinite() & (torch.arange(K, device=order.device) < F)).nonzero(as_tuple=True)
    face_index = torch.full((B, height * width, K), -1, dtype=torch.int32, device=faces.device)
    face_index[b, i, k] = chosen[b, i, k].int()
    found = measure(corners[b, chosen[b, i, k]], pixels[i], *options)
    images = []
    for values in found:
        image = values.new_zeros(B, height * width, K, *values.shape[1:]).index_put((b, i, k), values)
        images.append(image.view(B, height, width, K, *values.shape[1:]))
    return Layers(face_index.view(B, height, width, K), *images)
