"""Normal maps: the fine surface's normals in the tangent space of the coarse one.

Tangent frames are those that glTF's readers make where a file brings none (MikkTSpace): at every texture coordinate the
mean of its faces' directions of growing u, weighted by their angles and made orthogonal to the vertex normal; the
second axis is ``w normal x tangent``, with w = -1 where the chart is mirrored; in between the axes are interpolated
without being normalised. x runs along u, y against v, which points down, and z outward: ``rgb = 127.5 (n + 1)``.

Source: Mikkelsen 2008; the glTF 2.0 specification.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from selfrecon_warp.asset.unwrap import Atlas, TexelMap
from selfrecon_warp.checks import require_shapes

LEAST_OUTWARD = 0.05
"""Normals turned further away than this from the coarse surface's are bent back: no reader can light them."""


def tangents(vertices: Tensor, normals: Tensor, faces: Tensor, atlas: Atlas) -> Tensor:
    """Tangent frames at the texture coordinates.

    Args:
        vertices: Positions [m], ``[V, 3]``.
        normals: Unit, ``[V, 3]``.
        faces: Vertex indices, ``[F, 3]``.
        atlas: The mesh laid flat.

    Returns:
        ``[T, 4]``: unit direction of growing u, orthogonal to the normal, and the sign of the second axis.
    """
    require_shapes(vertices=(vertices, "V 3"), normals=(normals, "V 3"), faces=(faces, "F 3"))
    corners = vertices[faces.long()]
    index = torch.from_numpy(atlas.faces).long().to(vertices.device)
    flat = torch.from_numpy(atlas.texcoords).to(vertices) * vertices.new_tensor([1.0, -1.0])
    flat = flat[index]
    (x1, y1), (x2, y2) = ((flat[:, k] - flat[:, 0]).unbind(-1) for k in (1, 2))
    turn = torch.where(x1 * y2 - x2 * y1 < 0, -1.0, 1.0)
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    along = normalize((first * y2[:, None] - second * y1[:, None]) * turn[:, None], dim=-1)
    total, mirrored = vertices.new_zeros(len(atlas.texcoords), 3), vertices.new_zeros(len(atlas.texcoords))
    upright = normals[torch.from_numpy(atlas.vertices).long().to(vertices.device)]
    for k in range(3):
        one, other = (normalize(corners[:, (k + i) % 3] - corners[:, k], dim=-1) for i in (1, 2))
        angle = torch.acos((one * other).sum(-1).clamp(-1, 1))
        here = upright[index[:, k]]
        level = normalize(along - here * (along * here).sum(-1, keepdim=True), dim=-1)
        total.index_add_(0, index[:, k], level * angle[:, None])
        mirrored.index_add_(0, index[:, k], turn * angle)
    total = total - upright * (total * upright).sum(-1, keepdim=True)
    lost = total.norm(dim=-1, keepdim=True) < 1e-8
    anywhere = torch.linalg.cross(upright, vertices.new_tensor([[0.6, 0.8, 0.0]]).expand_as(upright))
    direction = normalize(torch.where(lost, anywhere, total), dim=-1)
    return torch.cat((direction, torch.where(mirrored < 0, -1.0, 1.0)[:, None]), -1)


def encode_normals(
    fine: Tensor, texels: TexelMap, vertices: Tensor, normals: Tensor, faces: Tensor, atlas: Atlas
) -> Tensor:
    """Normals of the fine surface as colours of a normal map.

    Args:
        fine: Unit normals at the texels, ``[T, 3]``.
        texels: What they show.
        vertices: Of the coarse mesh [m], ``[V, 3]``.
        normals: Of the coarse mesh, unit, ``[V, 3]``.
        faces: Vertex indices, ``[F, 3]``.
        atlas: The coarse mesh laid flat.

    Returns:
        ``[T, 3]`` in [0, 1].
    """
    frames = tangents(vertices, normals, faces, atlas)
    upright = normals[torch.from_numpy(atlas.vertices).long().to(normals.device)]
    index = torch.from_numpy(atlas.faces).to(normals.device)
    across = frames[:, 3:] * torch.linalg.cross(upright, frames[:, :3])
    x, y, z = (texels.interpolate(axis.contiguous(), index) for axis in (frames[:, :3], across, upright))
    # The reader computes normalize(a x + b y + c z): a, b, c are the coordinates of the normal along the three axes.
    volume = (torch.linalg.cross(x, y) * z).sum(-1, keepdim=True)
    volume = torch.where(volume.abs() < 1e-6, 1e-6, volume)
    rows = (torch.linalg.cross(y, z), torch.linalg.cross(z, x), torch.linalg.cross(x, y))
    local = torch.cat([(row * fine).sum(-1, keepdim=True) / volume for row in rows], -1)
    local = normalize(local, dim=-1)
    local = normalize(torch.cat((local[:, :2], local[:, 2:].clamp(min=LEAST_OUTWARD)), -1), dim=-1)
    return (local + 1) / 2
