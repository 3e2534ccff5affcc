"""Triangles to layers: the nearest faces in or near each pixel, and how far their borders are.

The differentiable relative of ``kernels/rasterize.py``, whose picture conventions and rules it shares: which faces are
drawn, that borders count as inside, that depths are compared as float32 and equal ones go to the lower face index
(here the depth itself is compared, not ``1 / z``). It computes what PyTorch3D's ``rasterize_meshes`` computes, in
pixels: its blur radius is the square of ours, times ``(2 / min(H, W))`` squared, and so are its distances to ours.

A pixel belongs to a face when its centre lies inside, or less than ``blur_radius`` from the border. Outside, where
barycentrics leave [0, 1], the plane's depth goes on: a face is left out where that is not a positive number, as beyond
its plane's horizon. Clipped barycentrics stay on the face.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.arguments import require_like, require_radius, require_sizes, triangles
from selfrecon_warp.kernels.internal.face_tiles import tile_faces
from selfrecon_warp.kernels.internal.layer_selection import select_layers
from selfrecon_warp.kernels.internal.triangle import (
    border_distance,
    border_vjp,
    edge_weights,
    face_corners,
    signed_area,
    weights_vjp,
)
from selfrecon_warp.kernels.interop import bits, ints, launch_split, scalars, scatter_split, vec3is, vec3s


class Layers(NamedTuple):
    """What lies at every pixel, nearest first."""

    face_index: Tensor
    """``[B, H, W, K]`` int32; -1 beyond the last face."""
    barycentrics: Tensor
    """``[B, H, W, K, 3]`` weights of the face's vertices; 0 where there is no face."""
    depth: Tensor
    """``[B, H, W, K]`` depth along the camera axis [m]; 0 where there is no face."""
    distance: Tensor
    """``[B, H, W, K]`` squared distance to the face's border, negative inside [pixel^2]; 0 where there is no face."""


@wp.func
def kept(w: Any, clip: wp.bool):
    """An edge weight, positive inside, as far as it counts."""
    return wp.where(clip and w < type(w)(0.0), type(w)(0.0), w)


@wp.kernel(enable_backward=False, module="unique", module_options={"fuse_fp": False})
def measure_layers_kernel(
    first: wp.int32,
    vertices: wp.array[Any],  # [B V] vec3
    faces: wp.array[wp.vec3i],  # [F]
    vertex_count: wp.int32,
    keys: wp.array2d[wp.uint64],  # [B H W, K]
    counts: wp.array[wp.int32],  # [B H W]
    height: wp.int32,
    width: wp.int32,
    perspective: wp.bool,
    clip: wp.bool,
    # outputs
    face_index: wp.array2d[wp.int32],  # [B H W, K]
    barycentrics: wp.array2d[Any],  # [B H W, K] vec3
    depth: wp.array2d[Any],  # [B H W, K]
    distance: wp.array2d[Any],  # [B H W, K]
):
    """Barycentrics, depth and distance of the selected faces."""
    i = wp.tid() + first
    count = counts[i]
    for k in range(count, keys.shape[1]):
        face_index[i, k] = -1
        barycentrics[i, k] = barycentrics.dtype()
        depth[i, k] = depth.dtype(0.0)
        distance[i, k] = distance.dtype(0.0)
    if count == 0:
        return
    row = i / width
    base = (row / height) * vertex_count
    u = depth.dtype(i - row * width)
    v = depth.dtype(row % height)
    zero = depth.dtype(0.0)
    one = depth.dtype(1.0)
    for k in range(count):
        f = wp.int32(wp.uint32(keys[i, k]))
        p0, p1, p2 = face_corners(vertices, base, faces[f])
        w0, w1, w2 = edge_weights(p0, p1, p2, u, v)
        side = wp.where(signed_area(p0, p1, p2) < zero, -one, one)
        m0 = kept(w0 * side, clip)
        m1 = kept(w1 * side, clip)
        m2 = kept(w2 * side, clip)
        total = m0 + m1 + m2
        if perspective:
            m0 = m0 * (one / p0[2])
            m1 = m1 * (one / p1[2])
            m2 = m2 * (one / p2[2])
        scale = one / (m0 + m1 + m2)
        z = total * scale
        if not perspective:
            z = (m0 * p0[2] + m1 * p1[2] + m2 * p2[2]) * scale
        squared, _nearest = border_distance(p0[0] - u, p0[1] - v, p1[0] - u, p1[1] - v, p2[0] - u, p2[1] - v)
        inside = w0 * side >= zero and w1 * side >= zero and w2 * side >= zero
        face_index[i, k] = f
        barycentrics[i, k] = wp.vector(m0 * scale, m1 * scale, m2 * scale)
        depth[i, k] = z
        distance[i, k] = wp.where(inside, -squared, squared)


@wp.kernel(enable_backward=False, module="unique")
def measure_layers_vjp_kernel(
    first: wp.int32,
    vertices: wp.array[Any],  # [B V] vec3
    faces: wp.array[wp.vec3i],  # [F]
    vertex_count: wp.int32,
    height: wp.int32,
    width: wp.int32,
    perspective: wp.bool,
    clip: wp.bool,
    face_index: wp.array2d[wp.int32],  # [B H W, K]
    distance: wp.array2d[Any],  # [B H W, K]
    grad_barycentrics: wp.array2d[Any],  # [B H W, K] vec3
    grad_depth: wp.array2d[Any],  # [B H W, K]
    grad_distance: wp.array2d[Any],  # [B H W, K]
    # outputs
    grad_vertices: wp.array[Any],  # [B V] vec3
):
    """Gradient of ``measure_layers_kernel`` to the vertices."""
    i = wp.tid() + first
    row = i / width
    base = (row / height) * vertex_count
    u = grad_depth.dtype(i - row * width)
    v = grad_depth.dtype(row % height)
    zero = type(u)(0.0)
    one = type(u)(1.0)
    for k in range(face_index.shape[1]):
        f = face_index[i, k]
        if f < 0:
            break
        corner = faces[f]
        p0, p1, p2 = face_corners(vertices, base, corner)
        w0, w1, w2 = edge_weights(p0, p1, p2, u, v)
        side = wp.where(signed_area(p0, p1, p2) < zero, -one, one)
        c0 = wp.where(clip and w0 * side < zero, zero, side)
        c1 = wp.where(clip and w1 * side < zero, zero, side)
        c2 = wp.where(clip and w2 * side < zero, zero, side)
        s0 = wp.where(perspective, one / p0[2], one)
        s1 = wp.where(perspective, one / p1[2], one)
        s2 = wp.where(perspective, one / p2[2], one)
        scale = one / (c0 * w0 * s0 + c1 * w1 * s1 + c2 * w2 * s2)
        b0 = c0 * w0 * s0 * scale
        b1 = c1 * w1 * s1 * scale
        b2 = c2 * w2 * s2 * scale
        to_depth = grad_depth[i, k]
        to_weights = grad_barycentrics[i, k]
        g0 = to_weights[0] + to_depth * p0[2]
        g1 = to_weights[1] + to_depth * p1[2]
        g2 = to_weights[2] + to_depth * p2[2]
        shared = g0 * b0 + g1 * b1 + g2 * b2
        to_q0 = (g0 - shared) * scale * s0
        to_q1 = (g1 - shared) * scale * s1
        to_q2 = (g2 - shared) * scale * s2
        bent = wp.where(perspective, one, zero)
        to_p0, to_p1, to_p2 = weights_vjp(
            p0,
            p1,
            p2,
            u,
            v,
            wp.vector(to_q0 * c0, to_q1 * c1, to_q2 * c2),
            wp.vector(
                to_depth * b0 - bent * to_q0 * c0 * w0 * s0,
                to_depth * b1 - bent * to_q1 * c1 * w1 * s1,
                to_depth * b2 - bent * to_q2 * c2 * w2 * s2,
            ),
        )
        outward = wp.where(distance[i, k] < zero, -grad_distance[i, k], grad_distance[i, k])
        on_p0, on_p1, on_p2 = border_vjp(p0, p1, p2, u, v, outward)
        wp.atomic_add(grad_vertices, base + corner[0], to_p0 + on_p0)
        wp.atomic_add(grad_vertices, base + corner[1], to_p1 + on_p1)
        wp.atomic_add(grad_vertices, base + corner[2], to_p2 + on_p2)


class _RasterizeLayers(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        vertices: Tensor,
        faces: Tensor,
        height: int,
        width: int,
        faces_per_pixel: int,
        radius: float,
        perspective: bool,
        clip: bool,
        cull_backfaces: bool,
    ) -> tuple[Tensor, ...]:
        (B, V), K = vertices.shape[:2], faces_per_pixel
        ctx.perspective, ctx.clip = perspective, clip
        face_index = torch.full((B, height, width, K), -1, dtype=torch.int32, device=vertices.device)
        make = vertices.new_empty if len(faces) else vertices.new_zeros
        barycentrics, depth, distance = (make(B, height, width, K, *tail) for tail in ((3,), (), ()))
        if B and len(faces):
            tiles = tile_faces(
                vertices,
                faces,
                height,
                width,
                radius,
                perspective_correct=perspective,
                cull_backfaces=cull_backfaces,
            )
            keys, counts = select_layers(tiles, height, width, K, radius, perspective, clip)
            inputs = [vec3s(vertices.view(-1, 3)), vec3is(faces), V, bits(keys)]
            inputs += [ints(counts), height, width, perspective, clip]
            outputs = [ints(face_index.view(-1, K)), vec3s(barycentrics.view(-1, K, 3))]
            outputs += [scalars(depth.view(-1, K)), scalars(distance.view(-1, K))]
            launch_split(measure_layers_kernel, vertices, (len(counts),), inputs, outputs)
        ctx.save_for_backward(vertices, faces, face_index, distance)
        ctx.mark_non_differentiable(face_index)
        return face_index, barycentrics, depth, distance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, *grads: Tensor) -> tuple[Tensor | None, ...]:
        vertices, faces, face_index, distance = ctx.saved_tensors
        (B, V), (H, W, K) = vertices.shape[:2], face_index.shape[1:]
        to_barycentrics, to_depth, to_distance = (each.contiguous() for each in grads)
        inputs = [vec3s(vertices.view(-1, 3)), vec3is(faces), V, H, W, ctx.perspective, ctx.clip]
        inputs += [ints(face_index.view(-1, K)), scalars(distance.view(-1, K))]
        inputs += [vec3s(to_barycentrics.view(-1, K, 3)), scalars(to_depth.view(-1, K))]
        inputs += [scalars(to_distance.view(-1, K))]
        pixels = B * H * W if len(faces) else 0
        return scatter_split(measure_layers_vjp_kernel, vertices, pixels, inputs, vertices.shape), *[None] * 8


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
    """Draw the nearest faces in or near every pixel.

    Args:
        vertices_pixel: Projected vertices ``(u, v, z)`` [pixel, pixel, m], ``[B, V, 3]``.
        faces: Vertex indices, ``[F, 3]``, int32 or int64.
        height: Rows of the image.
        width: Columns of the image.
        faces_per_pixel: Layers ``K``.
        blur_radius: How far outside its border a face is still seen [pixel]; 0 draws its inside alone.
        perspective_correct: Interpolate in space rather than in the picture.
        clip_barycentrics: Keep barycentrics, and with them the depth, on the face: negative ones become 0.
        cull_backfaces: Leave out faces whose vertices run clockwise in the picture.

    Returns:
        The layers. Barycentrics, depth and distance are differentiable once in ``vertices_pixel`` with the faces held
        fixed. Faces that ``rasterize`` skips (a vertex at the near plane or before it, a coordinate that is not finite,
        no area) are skipped here.

    Raises:
        ValueError: A shape, index or size disagrees; the message names the argument.

    Source: PyTorch3D (Ravi et al. 2020), ``rasterize_meshes``; Soft Rasterizer (Liu et al. 2019).
    """
    B, V = require_shapes(vertices_pixel=(vertices_pixel, "B V 3"), faces=(faces, "F 3"))["B"], vertices_pixel.shape[1]
    require_like("vertices_pixel", vertices_pixel)
    require_sizes(height=height, width=width, faces_per_pixel=faces_per_pixel)
    require_radius("blur_radius", blur_radius)
    if B * height * width * faces_per_pixel >= 2**31:
        raise ValueError(f"{B} frames of {height} x {width} pixels and {faces_per_pixel} layers are too many at once")
    return Layers(
        *_RasterizeLayers.apply(
            vertices_pixel.contiguous(),
            triangles(faces, V, vertices_pixel.device),
            height,
            width,
            faces_per_pixel,
            float(blur_radius),
            perspective_correct,
            clip_barycentrics,
            cull_backfaces,
        )
    )
