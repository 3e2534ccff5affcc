"""The kernels of ``rasterize``: drawing faces, reading what pixels show, carrying attributes to them, and gradients.

No operation of its own: conventions, reference, tests and benchmarks are those of ``rasterize``.
"""

from __future__ import annotations

from typing import Any

import warp as wp

from selfrecon_warp.kernels.internal.triangle import (
    face_corners,
    greatest,
    least,
    locate,
    locate_vjp,
    names_missing,
    signed_area,
)

NARROW = wp.constant(24)
"""Boxes at least this wide have each row narrowed to what the edges leave [pixel]."""

ROUNDING = wp.constant(1e-6)
"""How far rounding may move an edge function, in float32, relative to the square of the face's extent."""

WIDEST = wp.constant(1e9)
"""A bound on columns that binds none."""
BAND = wp.constant(4)
"""Rows of the picture go to the threads that draw by turns, as many at a time as this power of two says."""


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
    parts: wp.int32,  # a power of two
    # outputs
    nearest: wp.array[wp.uint64],  # [B H W] bits of float32 1 / z, then the face index, complemented
    faulty: wp.array[wp.int32],  # [1] set where a face names a vertex that does not exist
):
    """Write every face's depth and index into the pixels that its edges contain, of the rows that are the part's."""
    part, f = wp.tid()
    part += first
    corner = faces[f]
    if names_missing(corner, vertex_count):
        faulty[0] = 1
        return
    key = wp.uint64(~wp.uint32(f))
    for b in range(frames):
        p0, p1, p2 = face_corners(vertices, b * vertex_count, corner)
        zero = p0.dtype(0.0)
        one = p0.dtype(1.0)
        min_v = least(p0[1], p1[1], p2[1])
        max_v = greatest(p0[1], p1[1], p2[1])
        top = wp.max(wp.ceil(min_v), zero)
        bottom = wp.min(wp.floor(max_v), p0.dtype(height - 1))
        if not (top <= bottom):
            continue
        row = int(top)
        ahead = (part - (row >> BAND)) & (parts - 1)
        row = wp.where(ahead > 0, ((row >> BAND) + ahead) << BAND, row)
        if row > int(bottom):
            continue
        min_u = least(p0[0], p1[0], p2[0])
        max_u = greatest(p0[0], p1[0], p2[0])
        left = wp.max(wp.ceil(min_u), zero)
        right = wp.min(wp.floor(max_u), p0.dtype(width - 1))
        if left <= right:
            area = signed_area(p0, p1, p2)
            if area < zero or (area > zero and not cull_backfaces):
                side = wp.where(area < zero, -one, one)
                q0 = one / p0[2]
                q1 = one / p1[2]
                q2 = one / p2[2]
                size = wp.max(max_u - min_u, max_v - min_v)
                slack = p0.dtype(ROUNDING) * size * size
                while row <= int(bottom):
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
                        wp.atomic_max(
                            nearest, (b * height + row) * width + column, wp.where(inside, seen, wp.uint64(0))
                        )
                    row += 1
                    if (row & ((1 << BAND) - 1)) == 0:
                        row += (parts - 1) << BAND


@wp.func
def nearest_face(key: wp.uint64):
    """Face that a pixel's key stands for, -1 where none."""
    return wp.where(key == wp.uint64(0), wp.int32(-1), wp.int32(~wp.uint32(key)))


@wp.kernel(enable_backward=False, module="unique")
def read_faces_kernel(
    first: wp.int32,
    nearest: wp.array[wp.uint64],  # [B H W]
    # outputs
    face_index: wp.array[wp.int32],  # [B H W]
):
    """The face that each pixel shows."""
    i = wp.tid() + first
    face_index[i] = nearest_face(nearest[i])


@wp.kernel(enable_backward=False, module="unique")
def read_fragments_kernel(
    first: wp.int32,
    nearest: wp.array[wp.uint64],  # [B H W]
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
    f = nearest_face(nearest[i])
    face_index[i] = f
    if f < 0:
        barycentrics[i] = barycentrics.dtype()
        depth[i] = depth.dtype(0.0)
        return
    row = i / width
    base = (row / height) * vertex_count
    p0, p1, p2 = face_corners(vertices, base, faces[f])
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
    # outputs
    grad_vertices: wp.array[Any],  # [B V] vec3
):
    """Gradient of ``read_fragments_kernel`` to the vertices."""
    i = wp.tid() + first
    f = face_index[i]
    if f < 0:
        return
    row = i / width
    base = (row / height) * vertex_count
    corner = faces[f]
    p0, p1, p2 = face_corners(vertices, base, corner)
    u = p0.dtype(i - row * width)
    v = p0.dtype(row % height)
    to_p0, to_p1, to_p2 = locate_vjp(p0, p1, p2, u, v, grad_barycentrics[i], grad_depth[i])
    wp.atomic_add(grad_vertices, base + corner[0], to_p0)
    wp.atomic_add(grad_vertices, base + corner[1], to_p1)
    wp.atomic_add(grad_vertices, base + corner[2], to_p2)


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
        p0, p1, p2 = face_corners(vertices, base, faces[f])
        weights, z = locate(p0, p1, p2, pixels[r][0], pixels[r][1])
        barycentrics[r] = weights
        depth[r] = z


@wp.kernel(enable_backward=False, module="unique")
def locate_pixels_vjp_kernel(
    first: wp.int32,
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
    r = wp.tid() + first
    f = face_index[r]
    if f >= 0:
        base = batch_index[r] * vertex_count
        corner = faces[f]
        p0, p1, p2 = face_corners(vertices, base, corner)
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
    first: wp.int32,
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
    i = wp.tid() + first
    f = face_index[i]
    if f >= 0:
        base = (i / per_frame) * stride
        corner = faces[f]
        weights = barycentrics[i]
        for c in range(grad_values.shape[1]):
            wp.atomic_add(grad_attributes, base + corner[0], c, weights[0] * grad_values[i, c])
            wp.atomic_add(grad_attributes, base + corner[1], c, weights[1] * grad_values[i, c])
            wp.atomic_add(grad_attributes, base + corner[2], c, weights[2] * grad_values[i, c])
