"""A rendered mask whose border moves smoothly with the mesh, three ways.

* :func:`antialiased_silhouette` moves coverage over the pixels next to the border. Its value is the covered area, its
  cost follows the border's length.
* :func:`blended_silhouette` makes faces fade over a radius and blends them as independent probabilities. It reaches as
  far as the radius and costs as much as the area that the faces cover together, each widened by the radius.
* :func:`splatted_silhouette` draws the vertices as discs and composites them front to back.

Antialiasing. Between two neighbouring pixels of which only one shows the mesh, a silhouette edge crosses the line that
joins their centres. Where it crosses, at the fraction ``t`` on the way from the covered to the free pixel, tells how
far coverage reaches: the free pixel gains ``t - 1/2`` when the edge passes beyond the midpoint, the covered one loses
``1/2 - t`` otherwise. That is the method of Laine et al. 2020 ("Modular Primitives for High-Performance Differentiable
Rendering", section 3.4), with two changes that meshes as fine as the pixels need. Silhouette edges come from the mesh
and not from the face seen by a pixel, which often lies a face or two inside. And horizontal and vertical pairs are
weighted by the squared components of the edge's normal instead of choosing one of them, which leaves no jump where an
outline passes 45 degrees. Every row of a shape with upright sides sums to its exact width, every column of one with
level sides to its height.

Picture conventions, and which faces are drawn at all, are those of ``kernels/rasterize.py``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.arguments import (
    require_indices,
    require_like,
    require_radius,
    require_range,
    require_sizes,
    triangles,
)
from selfrecon_warp.kernels.compositing import composite_alpha
from selfrecon_warp.kernels.contour import MeshEdges, mesh_edges, silhouette_edges
from selfrecon_warp.kernels.internal.silhouette_blend import BlendFaces
from selfrecon_warp.kernels.interop import ints, launch, scalars, vec3s
from selfrecon_warp.kernels.rasterize import visible_faces
from selfrecon_warp.kernels.splat import splat_lists

TOLERANCE = 1e-3
"""A crossing this far beyond a pixel centre still counts between the pixels [pixel]: rounding may place it there."""


@wp.func
def crossing(p0: Any, p1: Any, axis: wp.int32, line: Any):
    """Where the projected edge meets a row (axis 0, giving ``u``) or a column (axis 1, giving ``v``)."""
    return p0[axis] + (line - p0[1 - axis]) * (p1[axis] - p0[axis]) / (p1[1 - axis] - p0[1 - axis])


@wp.kernel(enable_backward=False, module="unique")
def find_crossings_kernel(
    vertices: wp.array2d[Any],  # [B, V] vec3
    frame: wp.array[wp.int32],  # [M]
    ends: wp.array2d[wp.int32],  # [M, 2]
    axis: wp.array[wp.int32],  # [M] 0: line is a row, 1: a column
    line: wp.array[wp.int32],  # [M]
    face_index: wp.array3d[wp.int32],  # [B, H, W]
    tolerance: wp.float32,
    # outputs
    keys: wp.array2d[wp.int64],  # [M, 2] pair of pixels, then bits of 2 - t; -1 where coverage does not change
):
    """Name the border pair of pixels, if any, that each edge crosses on each row and column."""
    m = wp.tid()
    b = frame[m]
    a = axis[m]
    p0 = vertices[b, ends[m, 0]]
    p1 = vertices[b, ends[m, 1]]
    height = face_index.shape[1]
    width = face_index.shape[2]
    limit = wp.where(a == 0, width, height) - 1
    place = crossing(p0, p1, a, p0.dtype(line[m]))
    keys[m, 0] = wp.int64(-1)
    keys[m, 1] = wp.int64(-1)
    if not (place >= -p0.dtype(tolerance) and place <= p0.dtype(limit) + p0.dtype(tolerance)):
        return
    for k in range(2):
        first = wp.int32(wp.floor(place - p0.dtype(tolerance)))
        if k == 1:
            first = wp.int32(wp.floor(place + p0.dtype(tolerance)))
        again = k == 1 and first == wp.int32(wp.floor(place - p0.dtype(tolerance)))
        if first >= 0 and first < limit and not again:
            row = wp.where(a == 0, line[m], first)
            column = wp.where(a == 0, first, line[m])
            covered = face_index[b, row, column] >= 0
            beyond = face_index[b, row + a, column + 1 - a] >= 0
            if covered != beyond:
                t = wp.float32(place - p0.dtype(first))
                if beyond:
                    t = 1.0 - t
                pair = (wp.int64(b * height + row) * wp.int64(width) + wp.int64(column)) * wp.int64(2) + wp.int64(a)
                keys[m, k] = (pair << wp.int64(32)) | wp.int64(wp.cast(2.0 - t, wp.uint32))


@wp.kernel(module="unique")
def move_border_kernel(
    vertices: wp.array2d[Any],  # [B, V] vec3
    ends: wp.array2d[wp.int32],  # [K, 2]
    pairs: wp.array2d[wp.int32],  # [K, 4] frame, row and column of the first pixel, axis
    face_index: wp.array3d[wp.int32],  # [B, H, W]
    # outputs
    mask: wp.array3d[Any],  # [B, H, W]
):
    """Move coverage over the border of each pair."""
    k = wp.tid()
    b = pairs[k, 0]
    row = pairs[k, 1]
    column = pairs[k, 2]
    a = pairs[k, 3]
    p0 = vertices[b, ends[k, 0]]
    p1 = vertices[b, ends[k, 1]]
    along = p1 - p0
    upright = along[1 - a] * along[1 - a]
    weight = upright / (upright + along[a] * along[a])
    t = crossing(p0, p1, a, p0.dtype(wp.where(a == 0, row, column))) - p0.dtype(wp.where(a == 0, column, row))
    half = p0.dtype(0.5)
    covered = face_index[b, row, column] >= 0
    beyond_half = t >= half
    reach = t - half
    if not covered:
        reach = -reach
    if beyond_half:
        wp.atomic_add(mask, b, row + a, column + 1 - a, weight * reach)
    else:
        wp.atomic_add(mask, b, row, column, weight * reach)


class _MoveBorder(torch.autograd.Function):
    @staticmethod
    def forward(ctx, vertices, ends, pairs, face_index):
        mask = (face_index >= 0).to(vertices.dtype)
        inputs = [vec3s(vertices), ints(ends), ints(pairs), ints(face_index)]
        launch(move_border_kernel, vertices, (len(pairs),), inputs, [scalars(mask)])
        ctx.save_for_backward(vertices, ends, pairs, face_index)
        return mask

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_mask):
        vertices, ends, pairs, face_index = ctx.saved_tensors
        grad, grad_mask = torch.zeros_like(vertices), grad_mask.contiguous()
        launch(
            move_border_kernel,
            vertices,
            (len(pairs),),
            [vec3s(vertices), ints(ends), ints(pairs), ints(face_index)],
            [scalars(grad_mask)],
            adj_inputs=[vec3s(grad), None, None, None],
            adj_outputs=[scalars(grad_mask)],
            adjoint=True,
        )
        return grad, None, None, None


def antialiased_silhouette(
    vertices_pixel: Tensor,
    faces: Tensor,
    height: int,
    width: int,
    *,
    face_index: Tensor | None = None,
    edges: MeshEdges | None = None,
) -> Tensor:
    """Mask of the mesh with an antialiased border.

    Args:
        vertices_pixel: Projected vertices ``(u, v, z)`` [pixel, pixel, m], ``[B, V, 3]``.
        faces: Vertex indices, ``[F, 3]``, int32 or int64.
        height: Rows of the image.
        width: Columns of the image.
        face_index: What ``visible_faces`` returned for these inputs, ``[B, H, W]``; drawn here when absent.
        edges: What ``mesh_edges`` returned for these faces; computed here when absent, which costs more than the rest.

    Returns:
        Coverage in [0, 1], ``[B, H, W]``; differentiable once in ``vertices_pixel``. A pixel's value depends on the
        vertices only next to the border, so a mask far from its target needs a longer-reaching term as well.

    Raises:
        ValueError: A shape or index disagrees; the message names the argument.

    Source: Laine et al. 2020, section 3.4, changed as the module's docstring tells.
    """
    require_shapes(vertices_pixel=(vertices_pixel, "B V 3"), faces=(faces, "F 3"))
    require_like("vertices_pixel", vertices_pixel)
    if face_index is None:
        face_index = visible_faces(vertices_pixel, faces, height, width)
    require_sizes(height=height, width=width)
    require_indices("vertices_pixel", vertices_pixel, face_index=face_index)
    expected = (len(vertices_pixel), height, width)
    if face_index.shape != expected:
        raise ValueError(f"face_index must have shape {list(expected)}, got {list(face_index.shape)}")
    vertices, face_index = vertices_pixel.contiguous(), face_index.to(torch.int32).contiguous()
    contour = silhouette_edges(vertices, faces, mesh_edges(faces) if edges is None else edges)
    ends, pairs = _border_pairs(vertices.detach(), contour.frame_index, contour.vertex_index, face_index)
    mask: Tensor = _MoveBorder.apply(vertices, ends, pairs, face_index)
    return mask.clamp(0, 1)


def blended_silhouette(
    vertices_pixel: Tensor,
    faces: Tensor,
    height: int,
    width: int,
    *,
    sigma: float,
    blur_radius: float,
    faces_per_pixel: int | None = None,
) -> Tensor:
    """Mask of the mesh as the probability that any face covers a pixel: ``1 - prod(1 - sigmoid(-d / sigma))``.

    With the nearest ``K`` faces this is PyTorch3D's ``sigmoid_alpha_blend`` of fragments with perspective-correct,
    clipped barycentrics; its sigma is ours times ``(2 / min(H, W))`` squared.

    Args:
        vertices_pixel: Projected vertices ``(u, v, z)`` [pixel, pixel, m], ``[B, V, 3]``.
        faces: Vertex indices, ``[F, 3]``, int32 or int64.
        height: Rows of the image.
        width: Columns of the image.
        sigma: Squared distance over which a face fades [pixel^2].
        blur_radius: How far outside its border a face counts [pixel]; ``sqrt(9.2 sigma)`` cuts where its probability
            is 1e-4.
        faces_per_pixel: The nearest faces that count, ``K``; all when absent, without a list of them.

    Returns:
        Coverage in [0, 1], ``[B, H, W]``; differentiable once in ``vertices_pixel``, whose depths get no gradient. A
        pixel that less than 1e-12 of the light passes is covered and has no gradient.

    Raises:
        ValueError: A shape, index or size disagrees; the message names the argument.

    Source: Soft Rasterizer (Liu et al. 2019); PyTorch3D (Ravi et al. 2020).
    """
    V = require_shapes(vertices_pixel=(vertices_pixel, "B V 3"), faces=(faces, "F 3"))["V"]
    require_like("vertices_pixel", vertices_pixel)
    require_sizes(height=height, width=width)
    require_radius("blur_radius", blur_radius)
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma must be a finite number of square pixels above 0, got {sigma}")
    if faces_per_pixel is not None:
        require_sizes(faces_per_pixel=faces_per_pixel)
    vertices, faces = vertices_pixel.contiguous(), triangles(faces, V, vertices_pixel.device)
    if 0 in (len(vertices), len(faces)):
        return vertices.new_zeros(len(vertices), height, width) + 0 * vertices.sum()
    return 1 - BlendFaces.apply(vertices, faces, height, width, float(blur_radius), float(sigma), faces_per_pixel)


def splatted_silhouette(
    vertices_pixel: Tensor,
    faces: Tensor,
    height: int,
    width: int,
    *,
    radius: float,
    points_per_pixel: int = 50,
) -> Tensor:
    """Mask of the vertices drawn as discs, each of opacity ``1 - d^2 / radius^2``, composited front to back.

    Args:
        vertices_pixel: Projected vertices ``(u, v, z)`` [pixel, pixel, m], ``[B, V, 3]``.
        faces: Vertex indices, ``[F, 3]``; only checked, so that all silhouettes are called alike.
        height: Rows of the image.
        width: Columns of the image.
        radius: Radius of the discs [pixel]; larger than the spacing of the vertices, or the mask has holes.
        points_per_pixel: The nearest discs that count.

    Returns:
        Coverage in [0, 1], ``[B, H, W]``; differentiable once in ``vertices_pixel``, whose depths get no gradient.

    Raises:
        ValueError: A shape, index or size disagrees; the message names the argument.

    Source: SelfRecon (Jiang et al. 2022), mask loss; SynSin (Wiles et al. 2020).
    """
    V = require_shapes(vertices_pixel=(vertices_pixel, "B V 3"), faces=(faces, "F 3"))["V"]
    require_like("vertices_pixel", vertices_pixel)
    require_indices("vertices_pixel", vertices_pixel, faces=faces)
    require_range("faces", faces, 0, V)
    lists = splat_lists(vertices_pixel, radius, height, width, points_per_pixel)
    alphas = 1 - lists.distance / radius**2
    return composite_alpha(alphas, lists.point_index, alphas.new_ones(V, 1), lists.ends)[..., 0]


def _border_pairs(vertices: Tensor, frame: Tensor, vertex_index: Tensor, face_index: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of pixels between which coverage changes, each with the outermost silhouette edge that crosses it.

    Returns:
        End vertices of the edges ``[K, 2]`` and pairs ``[K, 4]`` as (frame, row, column, axis), all int32.
    """
    _, H, W = face_index.shape
    ends = vertices[frame[:, None], vertex_index, :2]
    low, high = ends.amin(1).clamp(min=0), ends.amax(1)
    low, high = low.ceil().flip(-1), torch.minimum(high.floor().flip(-1), high.new_tensor([H - 1, W - 1]))
    count = (high - low + 1).clamp(min=0) * (ends[:, 0] != ends[:, 1]).flip(-1)
    count = count.nan_to_num(0).long().flatten()
    source = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    line = torch.arange(len(source), device=count.device) - (count.cumsum(0) - count)[source]
    line = (line + low.flatten()[source].long()).int()
    edge, axis = source // 2, (source % 2).int()
    crossed = vertex_index[edge].int()
    keys = torch.full((len(source), 2), -1, dtype=torch.int64, device=count.device)
    inputs = [
        vec3s(vertices),
        ints(frame[edge].int()),
        ints(crossed),
        ints(axis),
        ints(line),
        ints(face_index),
        TOLERANCE,
    ]
    launch(find_crossings_kernel, vertices, (len(source),), inputs, [ints(keys)])
    keys, order = torch.sort(keys.flatten(), stable=True)
    pair = keys >> 32
    outermost = (pair >= 0) & torch.cat([pair.new_ones(1, dtype=torch.bool)[: len(pair)], pair[1:] != pair[:-1]])
    pair, chosen = pair[outermost], order[outermost] // 2
    pixel = pair // 2
    place = torch.stack([pixel // (H * W), pixel // W % H, pixel % W, pair % 2], -1)
    return crossed[chosen].contiguous(), place.int()
