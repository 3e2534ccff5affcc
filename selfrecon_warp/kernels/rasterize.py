"""Triangles to fragments: which face each pixel shows, where on it, and how far away.

A face tests the pixels of its bounding box, wide boxes row by row within what the edges leave, and writes depth and
index into an image by one atomic maximum. On the CPU each thread has a share of the faces and an image of its own; the
pass over the pixels that reads faces, barycentrics and depths takes the nearest of them.

The file is long because the image, chosen pixels and interpolation are each a kernel, its gradient and a public
function over the same conventions.

Vertices are projected already: ``(u, v, z)`` with ``u`` right and ``v`` down in pixels and ``z`` the depth along the
camera's axis in metres. Integer coordinates are pixel centres, so pixel ``[row, column]`` samples ``(u, v) = (column,
row)``.

Rules, the same on every device:

* A pixel belongs to a face when its centre lies inside or on the border of the projected triangle. Two faces find
  exactly opposite values along an edge they share, so they leave no gap.
* The nearest face wins. Depths are compared as the float32 value of ``1 / z``; equal ones go to the lower face index.
* Faces with a vertex at ``z <= NEAR`` (behind the camera included: nothing is clipped), with zero projected area, or
  with a coordinate or an area that is not finite are skipped; vertices of theirs that other faces do not share get a
  gradient of zero. A face may be larger than the picture; in float32 its border is sharp to about a millionth of its
  extent.
* A face is front-facing when its vertices run counter-clockwise as seen in the picture, which is what outward-oriented
  meshes show the camera.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.interop import (
    cleared,
    ints,
    launch,
    launch_split,
    require_indices,
    require_like,
    scalars,
    split_parts,
    vec2s,
    vec3is,
    vec3s,
)
from selfrecon_warp.kernels.triangle import NEAR as NEAR
from selfrecon_warp.kernels.triangle import greatest, least, locate, locate_vjp, signed_area

NARROW = wp.constant(24)
"""Boxes at least this wide have each row narrowed to what the edges leave [pixel]."""

ROUNDING = wp.constant(1e-6)
"""How far rounding may move an edge function, in float32, relative to the square of the face's extent."""

MOST_KEYS = 2**22
"""Pixels of all parts that are drawn at once, by whole frames: 32 MB, as much as the allocator keeps at hand."""

MOST_PARTS = 4
"""Parts that the faces are drawn in on the CPU at most: each costs an image."""

WIDEST = wp.constant(1e9)
"""A bound on columns that binds none."""


class Fragments(NamedTuple):
    """What every pixel shows."""

    face_index: Tensor
    """``[B, H, W]`` int32; -1 where no face is seen."""
    barycentrics: Tensor
    """``[B, H, W, 3]`` perspective-correct weights of the face's vertices; 0 where no face is seen."""
    depth: Tensor
    """``[B, H, W]`` depth along the camera axis [m]; 0 where no face is seen."""


@wp.func
def bound_columns(ax: Any, ay: Any, bx: Any, by: Any, slack: Any):
    """Columns, counted from the one that ``ax`` and ``bx`` are relative to, that one edge leaves to a row.

    The bounds are loose by a pixel and by what rounding may do to the edge function (``slack``, an area).
    """
    slope = ay - by
    at = (ay * bx - ax * by) / slope
    margin = type(at)(1.0) + slack / wp.abs(slope)
    low = type(at)(0.0)
    high = type(at)(WIDEST)
    if slope > type(at)(0.0) and at - margin > low:
        low = at - margin
    if slope < type(at)(0.0) and at + margin < high:
        high = at + margin
    return low, high


@wp.kernel(enable_backward=False, module="unique", module_options={"fuse_fp": False})
def draw_faces_kernel(
    first: wp.int32,
    vertices: wp.array[Any],  # [B V] vec3
    faces: wp.array[wp.vec3i],  # [F]
    frames: wp.int32,
    vertex_count: wp.int32,
    height: wp.int32,
    width: wp.int32,
    cull_backfaces: wp.bool,
    share: wp.int32,  # faces of a part
    # outputs
    nearest: wp.array[wp.uint64],  # [parts B H W] bits of float32 1 / z, then the face index, complemented
    faulty: wp.array[wp.int32],  # [1] set where a face names a vertex that does not exist
):
    """Write every face's depth and index into the pixels of its part that its edges contain."""
    part, f = wp.tid()
    part += first
    f += part * share
    if f >= faces.shape[0]:
        return
    corner = faces[f]
    least_vertex = wp.min(corner[0], wp.min(corner[1], corner[2]))
    if least_vertex < 0 or wp.max(corner[0], wp.max(corner[1], corner[2])) >= vertex_count:
        faulty[0] = 1
        return
    key = wp.uint64(~wp.uint32(f))
    for b in range(frames):
        p0 = vertices[b * vertex_count + corner[0]]
        p1 = vertices[b * vertex_count + corner[1]]
        p2 = vertices[b * vertex_count + corner[2]]
        zero = p0.dtype(0.0)
        one = p0.dtype(1.0)
        min_u = least(p0[0], p1[0], p2[0])
        max_u = greatest(p0[0], p1[0], p2[0])
        min_v = least(p0[1], p1[1], p2[1])
        max_v = greatest(p0[1], p1[1], p2[1])
        left = wp.max(wp.ceil(min_u), zero)
        right = wp.min(wp.floor(max_u), p0.dtype(width - 1))
        top = wp.max(wp.ceil(min_v), zero)
        bottom = wp.min(wp.floor(max_v), p0.dtype(height - 1))
        if left <= right and top <= bottom:
            area = signed_area(p0, p1, p2)
            if area < zero or (area > zero and not cull_backfaces):
                side = wp.where(area < zero, -one, one)
                q0 = one / p0[2]
                q1 = one / p1[2]
                q2 = one / p2[2]
                size = wp.max(max_u - min_u, max_v - min_v)
                slack = p0.dtype(ROUNDING) * size * size
                image = (part * frames + b) * height
                for row in range(int(top), int(bottom) + 1):
                    v = p0.dtype(row)
                    y0 = side * (p0[1] - v)
                    y1 = side * (p1[1] - v)
                    y2 = side * (p2[1] - v)
                    begin = left
                    end = right
                    if right - left >= p0.dtype(NARROW):
                        low0, high0 = bound_columns(p1[0] - left, y1, p2[0] - left, y2, slack)
                        low1, high1 = bound_columns(p2[0] - left, y2, p0[0] - left, y0, slack)
                        low2, high2 = bound_columns(p0[0] - left, y0, p1[0] - left, y1, slack)
                        begin = wp.min(left + wp.floor(greatest(low0, low1, low2)), right + one)
                        end = wp.max(wp.min(left + least(high0, high1, high2), right), left - one)
                    for column in range(int(begin), int(end) + 1):
                        u = p0.dtype(column)
                        x0 = p0[0] - u
                        x1 = p1[0] - u
                        x2 = p2[0] - u
                        w0 = x1 * y2 - y1 * x2
                        w1 = x2 * y0 - y2 * x0
                        w2 = x0 * y1 - y0 * x1
                        total = w0 + w1 + w2
                        # Written without a branch: which pixels of a small box are inside is beyond prediction.
                        inverse_depth = wp.float32((w0 * q0 + w1 * q1 + w2 * q2) / total)
                        seen = (wp.uint64(wp.cast(inverse_depth, wp.uint32)) << wp.uint64(32)) | key
                        inside = least(w0, w1, w2) >= zero and total > zero
                        wp.atomic_max(nearest, (image + row) * width + column, wp.where(inside, seen, wp.uint64(0)))


@wp.func
def nearest_face(nearest: wp.array[wp.uint64], parts: wp.int32, pixels: wp.int32, i: wp.int32):
    """Face at a pixel among all parts, -1 where none."""
    best = nearest[i]
    for part in range(1, parts):
        best = wp.max(best, nearest[part * pixels + i])
    return wp.where(best == wp.uint64(0), wp.int32(-1), wp.int32(~wp.uint32(best)))


@wp.kernel(enable_backward=False, module="unique")
def read_faces_kernel(
    first: wp.int32,
    nearest: wp.array[wp.uint64],  # [parts B H W]
    parts: wp.int32,
    # outputs
    face_index: wp.array[wp.int32],  # [B H W]
):
    """The face that each pixel shows."""
    i = wp.tid() + first
    face_index[i] = nearest_face(nearest, parts, face_index.shape[0], i)


@wp.kernel(enable_backward=False, module="unique")
def read_fragments_kernel(
    first: wp.int32,
    nearest: wp.array[wp.uint64],  # [parts B H W]
    parts: wp.int32,
    vertices: wp.array[Any],  # [B V] vec3
    faces: wp.array[wp.vec3i],  # [F]
    vertex_count: wp.int32,
    height: wp.int32,
    width: wp.int32,
    # outputs
    face_index: wp.array[wp.int32],  # [B H W]
    barycentrics: wp.array[Any],  # [B H W] vec3
    depth: wp.array[Any],  # [B H W]
):
    """Face, barycentrics and depth at every pixel."""
    i = wp.tid() + first
    f = nearest_face(nearest, parts, face_index.shape[0], i)
    face_index[i] = f
    if f < 0:
        barycentrics[i] = barycentrics.dtype()
        depth[i] = depth.dtype(0.0)
        return
    row = i / width
    base = (row / height) * vertex_count
    corner = faces[f]
    p0 = vertices[base + corner[0]]
    p1 = vertices[base + corner[1]]
    p2 = vertices[base + corner[2]]
    weights, z = locate(p0, p1, p2, p0.dtype(i - row * width), p0.dtype(row % height))
    barycentrics[i] = weights
    depth[i] = z


@wp.kernel(enable_backward=False, module="unique")
def read_fragments_vjp_kernel(
    first: wp.int32,
    vertices: wp.array[Any],  # [B V] vec3
    faces: wp.array[wp.vec3i],  # [F]
    vertex_count: wp.int32,
    height: wp.int32,
    width: wp.int32,
    face_index: wp.array[wp.int32],  # [B H W]
    grad_barycentrics: wp.array[Any],  # [B H W] vec3
    grad_depth: wp.array[Any],  # [B H W]
    share: wp.int32,  # pixels of a part
    # outputs
    grad_vertices: wp.array2d[Any],  # [parts, B V] vec3
):
    """Gradient of ``read_fragments_kernel`` to the vertices, each part of the pixels into a buffer of its own."""
    part, i = wp.tid()
    part += first
    i += part * share
    if i >= face_index.shape[0]:
        return
    f = face_index[i]
    if f < 0:
        return
    row = i / width
    base = (row / height) * vertex_count
    corner = faces[f]
    p0 = vertices[base + corner[0]]
    p1 = vertices[base + corner[1]]
    p2 = vertices[base + corner[2]]
    u = p0.dtype(i - row * width)
    v = p0.dtype(row % height)
    to_p0, to_p1, to_p2 = locate_vjp(p0, p1, p2, u, v, grad_barycentrics[i], grad_depth[i])
    wp.atomic_add(grad_vertices, part, base + corner[0], to_p0)
    wp.atomic_add(grad_vertices, part, base + corner[1], to_p1)
    wp.atomic_add(grad_vertices, part, base + corner[2], to_p2)


@wp.kernel(enable_backward=False, module="unique")
def locate_pixels_kernel(
    first: wp.int32,
    vertices: wp.array[Any],  # [B V] vec3
    faces: wp.array[wp.vec3i],  # [F]
    vertex_count: wp.int32,
    batch_index: wp.array[wp.int32],  # [R]
    pixels: wp.array[Any],  # [R] vec2
    face_index: wp.array[wp.int32],  # [R]
    # outputs
    barycentrics: wp.array[Any],  # [R] vec3
    depth: wp.array[Any],  # [R]
):
    """Barycentrics and depth at a list of pixels."""
    r = wp.tid() + first
    f = face_index[r]
    if f >= 0:
        base = batch_index[r] * vertex_count
        corner = faces[f]
        p0 = vertices[base + corner[0]]
        p1 = vertices[base + corner[1]]
        p2 = vertices[base + corner[2]]
        weights, z = locate(p0, p1, p2, pixels[r][0], pixels[r][1])
        barycentrics[r] = weights
        depth[r] = z


@wp.kernel(enable_backward=False, module="unique")
def locate_pixels_vjp_kernel(
    vertices: wp.array[Any],  # [B V] vec3
    faces: wp.array[wp.vec3i],  # [F]
    vertex_count: wp.int32,
    batch_index: wp.array[wp.int32],  # [R]
    pixels: wp.array[Any],  # [R] vec2
    face_index: wp.array[wp.int32],  # [R]
    grad_barycentrics: wp.array[Any],  # [R] vec3
    grad_depth: wp.array[Any],  # [R]
    # outputs
    grad_vertices: wp.array[Any],  # [B V] vec3
):
    """Gradient of ``locate_pixels_kernel`` to the vertices."""
    r = wp.tid()
    f = face_index[r]
    if f >= 0:
        base = batch_index[r] * vertex_count
        corner = faces[f]
        p0 = vertices[base + corner[0]]
        p1 = vertices[base + corner[1]]
        p2 = vertices[base + corner[2]]
        pixel = pixels[r]
        to_p0, to_p1, to_p2 = locate_vjp(p0, p1, p2, pixel[0], pixel[1], grad_barycentrics[r], grad_depth[r])
        wp.atomic_add(grad_vertices, base + corner[0], to_p0)
        wp.atomic_add(grad_vertices, base + corner[1], to_p1)
        wp.atomic_add(grad_vertices, base + corner[2], to_p2)


@wp.kernel(enable_backward=False, module="unique")
def interpolate_kernel(
    first: wp.int32,
    attributes: wp.array2d[Any],  # [(1 or B) V, C]
    faces: wp.array[wp.vec3i],  # [F]
    face_index: wp.array[wp.int32],  # [B N]
    barycentrics: wp.array[Any],  # [B N] vec3
    stride: wp.int32,  # V, or 0 where all frames share the attributes
    per_frame: wp.int32,  # N
    # outputs
    values: wp.array2d[Any],  # [B N, C]
):
    """Vertex attributes at every covered pixel."""
    i = wp.tid() + first
    f = face_index[i]
    if f >= 0:
        base = (i / per_frame) * stride
        corner = faces[f]
        weights = barycentrics[i]
        for c in range(attributes.shape[1]):
            values[i, c] = (
                weights[0] * attributes[base + corner[0], c]
                + weights[1] * attributes[base + corner[1], c]
                + weights[2] * attributes[base + corner[2], c]
            )


@wp.kernel(enable_backward=False, module="unique")
def interpolate_to_barycentrics_kernel(
    first: wp.int32,
    attributes: wp.array2d[Any],  # [(1 or B) V, C]
    faces: wp.array[wp.vec3i],  # [F]
    face_index: wp.array[wp.int32],  # [B N]
    grad_values: wp.array2d[Any],  # [B N, C]
    stride: wp.int32,
    per_frame: wp.int32,
    # outputs
    grad_barycentrics: wp.array[Any],  # [B N] vec3
):
    """Gradient of ``interpolate_kernel`` to the barycentrics."""
    i = wp.tid() + first
    f = face_index[i]
    if f >= 0:
        base = (i / per_frame) * stride
        corner = faces[f]
        total = grad_barycentrics.dtype()
        for c in range(attributes.shape[1]):
            total += grad_values[i, c] * wp.vector(
                attributes[base + corner[0], c], attributes[base + corner[1], c], attributes[base + corner[2], c]
            )
        grad_barycentrics[i] = total


@wp.kernel(enable_backward=False, module="unique")
def interpolate_to_attributes_kernel(
    faces: wp.array[wp.vec3i],  # [F]
    face_index: wp.array[wp.int32],  # [B N]
    barycentrics: wp.array[Any],  # [B N] vec3
    grad_values: wp.array2d[Any],  # [B N, C]
    stride: wp.int32,
    per_frame: wp.int32,
    # outputs
    grad_attributes: wp.array2d[Any],  # [(1 or B) V, C]
):
    """Gradient of ``interpolate_kernel`` to the attributes."""
    i = wp.tid()
    f = face_index[i]
    if f >= 0:
        base = (i / per_frame) * stride
        corner = faces[f]
        weights = barycentrics[i]
        for c in range(grad_values.shape[1]):
            wp.atomic_add(grad_attributes, base + corner[0], c, weights[0] * grad_values[i, c])
            wp.atomic_add(grad_attributes, base + corner[1], c, weights[1] * grad_values[i, c])
            wp.atomic_add(grad_attributes, base + corner[2], c, weights[2] * grad_values[i, c])


def _draw(
    vertices: Tensor, faces: Tensor, height: int, width: int, cull_backfaces: bool
) -> Iterator[tuple[slice, Any, int]]:
    """Nearest face and depth of every pixel: for some frames at a time, an image for each part of the faces.

    Yields:
        Frames, images and number of parts.
    """
    B, V = vertices.shape[:2]
    parts = min(split_parts(vertices, B * len(faces)), MOST_PARTS)
    share = -(-len(faces) // parts)
    faulty = cleared(vertices, 1, dtype=torch.int32)
    step = max(1, MOST_KEYS // (parts * height * width))
    for start in range(0, B if len(faces) else 0, step):
        frames = slice(start, min(start + step, B))
        some = vertices[frames]
        nearest = cleared(vertices, parts * len(some) * height * width, dtype=torch.int64)
        keys = wp.from_torch(nearest, dtype=wp.uint64)
        inputs = [vec3s(some.view(-1, 3)), vec3is(faces), len(some), V, height, width, cull_backfaces, share]
        launch_split(draw_faces_kernel, vertices, (parts, share), inputs, [keys, ints(faulty)], grain=1)
        if start == 0 and faulty.item():
            require_range("faces", faces, 0, V)
        yield frames, keys, parts


def _blank(vertices: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """Room for the face index image: -1 without faces, else still to be written."""
    face_index = torch.empty(len(vertices), height, width, dtype=torch.int32, device=vertices.device)
    return face_index if len(faces) else face_index.fill_(-1)


class _ReadFragments(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, vertices: Tensor, faces: Tensor, height: int, width: int, cull_backfaces: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        B, V = vertices.shape[:2]
        face_index = _blank(vertices, faces, height, width)
        make = vertices.new_empty if len(faces) else vertices.new_zeros
        barycentrics, depth = make(B, height, width, 3), make(B, height, width)
        for frames, nearest, parts in _draw(vertices, faces, height, width, cull_backfaces):
            index = face_index[frames].view(-1)
            inputs = [nearest, parts, vec3s(vertices[frames].view(-1, 3)), vec3is(faces), V, height, width]
            outputs = [ints(index), vec3s(barycentrics[frames].view(-1, 3)), scalars(depth[frames].view(-1))]
            launch_split(read_fragments_kernel, vertices, (len(index),), inputs, outputs)
        ctx.save_for_backward(vertices, faces, face_index)
        ctx.mark_non_differentiable(face_index)
        return face_index, barycentrics, depth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, grad_barycentrics: Tensor, grad_depth: Tensor) -> tuple[Tensor | None, ...]:
        vertices, faces, face_index = ctx.saved_tensors
        B, V = vertices.shape[:2]
        H, W = face_index.shape[1:]
        parts = split_parts(vertices, face_index.numel())
        grad = cleared(vertices, parts, B, V, 3)
        share = -(-face_index.numel() // parts)
        inputs = [
            vec3s(vertices.view(-1, 3)),
            vec3is(faces),
            V,
            H,
            W,
            ints(face_index.view(-1)),
            vec3s(grad_barycentrics.contiguous().view(-1, 3)),
            scalars(grad_depth.contiguous().view(-1)),
            share,
        ]
        dim = (parts, share if len(faces) else 0)
        launch_split(read_fragments_vjp_kernel, vertices, dim, inputs, [vec3s(grad.view(parts, -1, 3))], grain=1)
        return grad.sum(0) if parts > 1 else grad[0], None, None, None, None


class _LocatePixels(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, vertices: Tensor, faces: Tensor, batch_index: Tensor, pixels: Tensor, face_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        barycentrics = vertices.new_zeros(len(pixels), 3)
        depth = vertices.new_zeros(len(pixels))
        inputs = _LocatePixels.inputs(vertices, faces, batch_index, pixels, face_index)
        rows = (len(pixels) if len(faces) else 0,)
        launch_split(locate_pixels_kernel, vertices, rows, inputs, [vec3s(barycentrics), scalars(depth)])
        ctx.save_for_backward(vertices, faces, batch_index, pixels, face_index)
        return barycentrics, depth

    @staticmethod
    def inputs(vertices: Tensor, faces: Tensor, batch_index: Tensor, pixels: Tensor, face_index: Tensor) -> list[Any]:
        shared = [vec3s(vertices.view(-1, 3)), vec3is(faces), vertices.shape[1]]
        return [*shared, ints(batch_index), vec2s(pixels), ints(face_index)]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_barycentrics: Tensor, grad_depth: Tensor) -> tuple[Tensor | None, ...]:
        vertices, faces, _, pixels, _ = ctx.saved_tensors
        grad = torch.zeros_like(vertices)
        upstream = [vec3s(grad_barycentrics.contiguous()), scalars(grad_depth.contiguous())]
        inputs = [*_LocatePixels.inputs(*ctx.saved_tensors), *upstream]
        rows = (len(pixels) if len(faces) else 0,)
        launch(locate_pixels_vjp_kernel, vertices, rows, inputs, [vec3s(grad.view(-1, 3))])
        return grad, None, None, None, None


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, attributes: Tensor, faces: Tensor, face_index: Tensor, barycentrics: Tensor) -> Tensor:
        values = attributes.new_zeros(*face_index.shape, attributes.shape[2])
        dim, shared = _Interpolate.extent(attributes, faces, face_index)
        inputs = [scalars(attributes.flatten(0, 1)), vec3is(faces), ints(face_index.view(-1))]
        inputs += [vec3s(barycentrics.view(-1, 3)), *shared]
        launch_split(interpolate_kernel, values, dim, inputs, [scalars(values.flatten(0, 1))])
        ctx.save_for_backward(attributes, faces, face_index, barycentrics)
        return values

    @staticmethod
    def extent(attributes: Tensor, faces: Tensor, face_index: Tensor) -> tuple[tuple[int], list[int]]:
        """Threads of a launch over the pixels, none where there is nothing to carry, and the two strides."""
        work = face_index.numel() if attributes.numel() and len(faces) else 0
        return (work,), [attributes.shape[1] if len(attributes) > 1 else 0, face_index.shape[1]]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_values: Tensor) -> tuple[Tensor | None, ...]:
        attributes, faces, face_index, barycentrics = ctx.saved_tensors
        dim, shared = _Interpolate.extent(attributes, faces, face_index)
        grad_values = grad_values.contiguous().flatten(0, 1)
        to_attributes, to_barycentrics = None, None
        if ctx.needs_input_grad[0]:
            to_attributes = torch.zeros_like(attributes)
            inputs = [vec3is(faces), ints(face_index.view(-1)), vec3s(barycentrics.view(-1, 3))]
            inputs += [scalars(grad_values), *shared]
            outputs = [scalars(to_attributes.flatten(0, 1))]
            launch(interpolate_to_attributes_kernel, attributes, dim, inputs, outputs)
        if ctx.needs_input_grad[3]:
            to_barycentrics = torch.zeros_like(barycentrics)
            inputs = [scalars(attributes.flatten(0, 1)), vec3is(faces), ints(face_index.view(-1))]
            inputs += [scalars(grad_values), *shared]
            outputs = [vec3s(to_barycentrics.view(-1, 3))]
            launch_split(interpolate_to_barycentrics_kernel, attributes, dim, inputs, outputs)
        return to_attributes, None, None, to_barycentrics


def require_sizes(**sizes: int) -> None:
    """Check that counts of pixels, or of layers, are positive.

    Raises:
        ValueError: One is not; the message names it.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def require_range(name: str, index: Tensor, low: int, end: int) -> None:
    """Check that every index lies in ``low <= index < end``.

    Raises:
        ValueError: One does not; the message names the argument and what it holds.
    """
    if index.numel():
        # NumPy finds both ends ten times as fast as torch, which shares a reduction of integers out badly on the CPU.
        on_cpu = index.device.type == "cpu"
        array = index.detach().numpy() if on_cpu else torch.stack(torch.aminmax(index)).cpu().numpy()
        least, greatest = int(array.min()), int(array.max())
        if least < low or greatest >= end:
            raise ValueError(f"{name} must hold indices from {low} to {end - 1}, got {least} to {greatest}")


def triangles(faces: Tensor, vertex_count: int, device: torch.device | None = None) -> Tensor:
    """Faces as contiguous int32, checked to stay inside the vertex array.

    Raises:
        ValueError: ``faces`` holds something other than int32 or int64, an index out of range, or lies elsewhere than
            on ``device``.
    """
    if faces.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"faces must be int32 or int64, got {faces.dtype}; convert them with .int()")
    if device is not None and faces.device != device:
        raise ValueError(f"faces must be on {device} like the vertices, got {faces.device}; move them with .to()")
    require_range("faces", faces, 0, vertex_count)
    return faces.to(torch.int32).contiguous()


def _checked(vertices_pixel: Tensor, faces: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The inputs contiguous, or an error that names what is wrong."""
    V = require_shapes(vertices_pixel=(vertices_pixel, "B V 3"), faces=(faces, "F 3"))["V"]
    require_like("vertices_pixel", vertices_pixel)
    require_sizes(height=height, width=width)
    if faces.dtype == torch.int32 and faces.device == vertices_pixel.device and V:
        return vertices_pixel.contiguous(), faces.contiguous()  # drawing finds indices out of range
    return vertices_pixel.contiguous(), triangles(faces, V, vertices_pixel.device)


def visible_faces(
    vertices_pixel: Tensor, faces: Tensor, height: int, width: int, cull_backfaces: bool = False
) -> Tensor:
    """Draw a mesh into face indices only: the cheapest form of :func:`rasterize`.

    Args:
        vertices_pixel: Projected vertices ``(u, v, z)`` [pixel, pixel, m], ``[B, V, 3]``.
        faces: Vertex indices, ``[F, 3]``, int32 or int64.
        height: Rows of the image.
        width: Columns of the image.
        cull_backfaces: Leave out faces whose vertices run clockwise in the picture.

    Returns:
        Face seen by each pixel, ``[B, H, W]`` int32, -1 where none; no gradient.

    Raises:
        ValueError: A shape or index disagrees; the message names the argument.
    """
    vertices, faces = _checked(vertices_pixel.detach(), faces, height, width)
    face_index = _blank(vertices, faces, height, width)
    for frames, nearest, parts in _draw(vertices, faces, height, width, cull_backfaces):
        index = face_index[frames].view(-1)
        launch_split(read_faces_kernel, vertices, (len(index),), [nearest, parts], [ints(index)])
    return face_index


def rasterize(
    vertices_pixel: Tensor, faces: Tensor, height: int, width: int, cull_backfaces: bool = False
) -> Fragments:
    """Draw a mesh: face, barycentrics and depth at every pixel centre.

    Args:
        vertices_pixel: Projected vertices ``(u, v, z)`` [pixel, pixel, m], ``[B, V, 3]``.
        faces: Vertex indices, ``[F, 3]``, int32 or int64.
        height: Rows of the image.
        width: Columns of the image.
        cull_backfaces: Leave out faces whose vertices run clockwise in the picture.

    Returns:
        The fragments. Barycentrics and depth are differentiable once in ``vertices_pixel`` with the face held fixed;
        what happens at a border of visibility is no part of the gradient (see ``kernels/silhouette.py``).

    Raises:
        ValueError: A shape or index disagrees; the message names the argument.
    """
    vertices, faces = _checked(vertices_pixel, faces, height, width)
    return Fragments(*_ReadFragments.apply(vertices, faces, height, width, cull_backfaces))


def pixel_barycentrics(
    vertices_pixel: Tensor, faces: Tensor, batch_index: Tensor, pixels: Tensor, face_index: Tensor
) -> tuple[Tensor, Tensor]:
    """Barycentrics and depth at chosen pixels only, on faces already known (from :func:`visible_faces`).

    Args:
        vertices_pixel: Projected vertices ``(u, v, z)`` [pixel, pixel, m], ``[B, V, 3]``.
        faces: Vertex indices, ``[F, 3]``, int32 or int64.
        batch_index: Which of the ``B`` frames each pixel belongs to, ``[R]``.
        pixels: Positions ``(u, v)`` [pixel], ``[R, 2]``; integers or fractions, constants to the gradient.
        face_index: Face seen at each pixel, ``[R]``; -1 gives zeros.

    Returns:
        Perspective-correct barycentrics ``[R, 3]`` and depth [m] ``[R]``; differentiable once in ``vertices_pixel``.

    Raises:
        ValueError: A shape or index disagrees; the message names the argument.
    """
    sizes = require_shapes(
        vertices_pixel=(vertices_pixel, "B V 3"),
        faces=(faces, "F 3"),
        batch_index=(batch_index, "R"),
        pixels=(pixels, "R 2"),
        face_index=(face_index, "R"),
    )
    require_like("vertices_pixel", vertices_pixel)
    require_indices("vertices_pixel", vertices_pixel, batch_index=batch_index, face_index=face_index)
    require_range("batch_index", batch_index, 0, sizes["B"])
    require_range("face_index", face_index, -1, sizes["F"])
    barycentrics, depth = _LocatePixels.apply(
        vertices_pixel.contiguous(),
        triangles(faces, sizes["V"], vertices_pixel.device),
        batch_index.to(torch.int32).contiguous(),
        pixels.detach().to(vertices_pixel.dtype).contiguous(),
        face_index.to(torch.int32).contiguous(),
    )
    return barycentrics, depth


def interpolate(attributes: Tensor, faces: Tensor, fragments: tuple[Tensor, ...]) -> Tensor:
    """Carry vertex attributes to the pixels.

    Args:
        attributes: Values at the vertices, ``[V, C]`` for every frame or ``[B, V, C]``.
        faces: Vertex indices, ``[F, 3]``, int32 or int64.
        fragments: What :func:`rasterize` or ``rasterize_layers`` returned for the same faces: any tuple that begins
            with face indices ``[B, ...]``, -1 where none, and barycentrics ``[B, ..., 3]``.

    Returns:
        Values at the pixels, ``[B, ..., C]``, 0 where no face is seen; differentiable once in ``attributes`` and in
        ``fragments.barycentrics``.

    Raises:
        ValueError: A shape or index disagrees; the message names the argument.
    """
    face_index, barycentrics = fragments[:2]
    if face_index.dim() == 0 or barycentrics.shape != (*face_index.shape, 3):
        expected = f"[{', '.join(map(str, [*face_index.shape, 3]))}] after face_index"
        raise ValueError(f"barycentrics must have shape {expected}, got {list(barycentrics.shape)}")
    B = len(face_index)
    shaped = attributes if attributes.dim() == 3 else attributes[None]
    require_shapes(faces=(faces, "F 3"), attributes=(attributes, "V C" if attributes.dim() == 2 else "B V C"))
    if attributes.dim() == 3 and len(shaped) != B:
        raise ValueError(f"attributes must have shape [V, C] or [B={B}, V, C], got {list(attributes.shape)}")
    require_like("barycentrics", barycentrics, attributes=attributes)
    require_indices("barycentrics", barycentrics, face_index=face_index)
    require_range("face_index", face_index, -1, len(faces))
    values: Tensor = _Interpolate.apply(
        shaped.contiguous(),
        triangles(faces, shaped.shape[1], attributes.device),
        face_index.reshape(B, -1 if B else 0).to(torch.int32).contiguous(),
        barycentrics.reshape(B, -1 if B else 0, 3).contiguous(),
    )
    return values.view(*face_index.shape, shaped.shape[-1])
