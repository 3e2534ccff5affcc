"""Plain-torch twin of ``kernels/paint.py``: barycentrics of every sample, then lookups, then means."""

from __future__ import annotations

import torch
from torch import Tensor

from selfrecon_warp.kernels.reference.rasterize import locate


def paint_texture(
    face_index: Tensor,
    vertices_pixel: Tensor,
    faces: Tensor,
    texcoords: Tensor,
    face_texcoords: Tensor,
    texture: Tensor,
    samples: int = 1,
) -> Tensor:
    """RGB in [0, 1] times coverage, and coverage, ``[B, H, W, 4]``."""
    seen, weights = _weights(face_index, vertices_pixel, faces)
    at = (weights[..., None] * texcoords[face_texcoords.long()[face_index[seen].long()]]).sum(1)
    sizes = at.new_tensor([texture.shape[1], texture.shape[0]])
    at = torch.minimum((at * sizes - 0.5).clamp_min(0.0), sizes - 1)
    low = at.floor().long()
    high = torch.minimum(low + 1, sizes.long() - 1)
    x, y = (at - low)[..., None].unbind(1)
    values = texture.to(at) / 255
    upper = (1 - x) * values[low[:, 1], low[:, 0]] + x * values[low[:, 1], high[:, 0]]
    lower = (1 - x) * values[high[:, 1], low[:, 0]] + x * values[high[:, 1], high[:, 0]]
    return _averaged(seen, (1 - y) * upper + y * lower, samples)


def paint_vertices(
    face_index: Tensor, vertices_pixel: Tensor, faces: Tensor, colours: Tensor, samples: int = 1
) -> Tensor:
    """The numbers times coverage, and coverage, ``[B, H, W, 4]``."""
    seen, weights = _weights(face_index, vertices_pixel, faces)
    frame = seen.nonzero()[:, 0]
    corners = faces.long()[face_index[seen].long()]
    values = colours.expand(len(vertices_pixel), -1, -1)[frame[:, None], corners]
    return _averaged(seen, (weights[..., None] * values).sum(1), samples)


def _weights(face_index: Tensor, vertices_pixel: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Which samples see a face ``[B, H, W]``, and barycentrics there ``[P, 3]``."""
    seen = face_index >= 0
    frame, row, column = seen.nonzero(as_tuple=True)
    corners = vertices_pixel[frame[:, None], faces.long()[face_index[seen].long()]]
    return seen, locate(corners, column.to(corners), row.to(corners))[0]


def _averaged(seen: Tensor, colours: Tensor, samples: int) -> Tensor:
    values = colours.new_zeros(*seen.shape, 4)
    values[seen] = torch.cat((colours, torch.ones_like(colours[:, :1])), -1)
    B, H, W = seen.shape
    return values.view(B, H // samples, samples, W // samples, samples, 4).mean((2, 4))
