"""A projected triangle and a pixel: edge weights, barycentrics and depth, distance to the border, and their gradients.

Device functions that the rasterisers share. Corners are ``(u, v, z)`` as ``kernels/rasterize.py`` has them.
"""

from __future__ import annotations

from typing import Any

import warp as wp

NEAR = 1e-4
"""Nearest depth that is drawn [m]."""


@wp.func
def least(a: Any, b: Any, c: Any):
    """Smallest of three numbers, none of which is NaN."""
    low = wp.where(a < b, a, b)
    return wp.where(low < c, low, c)


@wp.func
def greatest(a: Any, b: Any, c: Any):
    """Largest of three numbers, none of which is NaN."""
    high = wp.where(a > b, a, b)
    return wp.where(high > c, high, c)


@wp.func
def face_corners(vertices: wp.array[Any], base: wp.int32, corner: wp.vec3i):
    """Corners of a face of the frame whose vertices begin at ``base``."""
    return vertices[base + corner[0]], vertices[base + corner[1]], vertices[base + corner[2]]


@wp.func
def names_missing(corner: wp.vec3i, vertex_count: wp.int32):
    """Whether a face names a vertex that does not exist."""
    lowest = wp.min(corner[0], wp.min(corner[1], corner[2]))
    return lowest < 0 or wp.max(corner[0], wp.max(corner[1], corner[2])) >= vertex_count


@wp.func
def corners_from(p0: Any, p1: Any, p2: Any, u: Any, v: Any):
    """Corners in the picture relative to a pixel."""
    return p0[0] - u, p0[1] - v, p1[0] - u, p1[1] - v, p2[0] - u, p2[1] - v


@wp.func
def edge_weights(p0: Any, p1: Any, p2: Any, u: Any, v: Any):
    """Twice the signed areas of the pixel with each edge, opposite ``p0``, ``p1`` and ``p2``.

    Corners are taken relative to the pixel, so that two faces get exactly opposite values along a shared edge.
    """
    x0, y0, x1, y1, x2, y2 = corners_from(p0, p1, p2, u, v)
    return x1 * y2 - y1 * x2, x2 * y0 - y2 * x0, x0 * y1 - y0 * x1


@wp.func
def weights_vjp(p0: Any, p1: Any, p2: Any, u: Any, v: Any, to_w: Any, to_z: Any):
    """Gradients of ``edge_weights``, and of the corners' depths, to the three corners."""
    x0, y0, x1, y1, x2, y2 = corners_from(p0, p1, p2, u, v)
    return (
        wp.vector(to_w[2] * y1 - to_w[1] * y2, to_w[1] * x2 - to_w[2] * x1, to_z[0]),
        wp.vector(to_w[0] * y2 - to_w[2] * y0, to_w[2] * x0 - to_w[0] * x2, to_z[1]),
        wp.vector(to_w[1] * y0 - to_w[0] * y1, to_w[0] * x1 - to_w[1] * x0, to_z[2]),
    )


@wp.func
def signed_area(p0: Any, p1: Any, p2: Any):
    """Twice the projected area, negative when front-facing; 0 for a face that is not drawn whatever its side.

    Those have no area, a coordinate or an area that is not finite, or a vertex at the near plane or before it.
    """
    x0 = p0[0] - p2[0]
    y0 = p0[1] - p2[1]
    x1 = p1[0] - p2[0]
    y1 = p1[1] - p2[1]
    area = x0 * y1 - y0 * x1
    z = p0[2] + p1[2] + p2[2]
    near = p0.dtype(NEAR)
    finite = area - area + z - z == p0.dtype(0.0)
    drawn = finite and p0[2] > near and p1[2] > near and p2[2] > near
    return wp.where(drawn, area, p0.dtype(0.0))


@wp.func
def locate(p0: Any, p1: Any, p2: Any, u: Any, v: Any):
    """Perspective-correct barycentrics and depth where the ray of pixel ``(u, v)`` meets the triangle's plane."""
    w0, w1, w2 = edge_weights(p0, p1, p2, u, v)
    q0 = w0 / p0[2]
    q1 = w1 / p1[2]
    q2 = w2 / p2[2]
    total = q0 + q1 + q2
    scale = wp.where(total == p0.dtype(0.0), p0.dtype(0.0), p0.dtype(1.0) / total)
    return wp.vector(q0 * scale, q1 * scale, q2 * scale), (w0 + w1 + w2) * scale


@wp.func
def locate_vjp(p0: Any, p1: Any, p2: Any, u: Any, v: Any, grad_weights: Any, grad_depth: Any):
    """Gradients of ``locate`` to the three corners."""
    w0, w1, w2 = edge_weights(p0, p1, p2, u, v)
    z0 = p0[2]
    z1 = p1[2]
    z2 = p2[2]
    total = w0 / z0 + w1 / z1 + w2 / z2
    scale = wp.where(total == p0.dtype(0.0), p0.dtype(0.0), p0.dtype(1.0) / total)
    shared = (grad_weights[0] * w0 / z0 + grad_weights[1] * w1 / z1 + grad_weights[2] * w2 / z2) * scale
    shared += grad_depth * (w0 + w1 + w2) * scale
    to_q0 = (grad_weights[0] - shared) * scale / z0
    to_q1 = (grad_weights[1] - shared) * scale / z1
    to_q2 = (grad_weights[2] - shared) * scale / z2
    to_w = wp.vector(to_q0 + grad_depth * scale, to_q1 + grad_depth * scale, to_q2 + grad_depth * scale)
    to_z = wp.vector(-to_q0 * w0 / z0, -to_q1 * w1 / z1, -to_q2 * w2 / z2)
    return weights_vjp(p0, p1, p2, u, v, to_w, to_z)


@wp.func
def segment_place(ax: Any, ay: Any, bx: Any, by: Any):
    """Fraction of the way from ``a`` to ``b`` at which the segment is nearest to the origin."""
    dx = bx - ax
    dy = by - ay
    t = -(ax * dx + ay * dy) / (dx * dx + dy * dy)
    return wp.clamp(t, type(t)(0.0), type(t)(1.0))


@wp.func
def segment_distance(ax: Any, ay: Any, bx: Any, by: Any):
    """Squared distance of the segment from the origin."""
    t = segment_place(ax, ay, bx, by)
    x = ax + t * (bx - ax)
    y = ay + t * (by - ay)
    return x * x + y * y


@wp.func
def border_distance(x0: Any, y0: Any, x1: Any, y1: Any, x2: Any, y2: Any):
    """Squared distance of the origin from the nearest edge of a triangle, and the corner opposite that edge."""
    e0 = segment_distance(x1, y1, x2, y2)
    e1 = segment_distance(x2, y2, x0, y0)
    e2 = segment_distance(x0, y0, x1, y1)
    nearest = wp.int32(0)
    distance = e0
    if e1 < distance:
        nearest = 1
        distance = e1
    if e2 < distance:
        nearest = 2
        distance = e2
    return distance, nearest


@wp.func
def border_vjp(p0: Any, p1: Any, p2: Any, u: Any, v: Any, grad: Any):
    """Gradients of the squared border distance to the corners, as if positive."""
    _squared, nearest = border_distance(p0[0] - u, p0[1] - v, p1[0] - u, p1[1] - v, p2[0] - u, p2[1] - v)
    a = p1
    b = p2
    if nearest == 1:
        a = p2
        b = p0
    if nearest == 2:
        a = p0
        b = p1
    t = segment_place(a[0] - u, a[1] - v, b[0] - u, b[1] - v)
    zero = p0.dtype(0.0)
    twice = p0.dtype(2.0) * grad
    to_b = twice * t * wp.vector(a[0] + t * (b[0] - a[0]) - u, a[1] + t * (b[1] - a[1]) - v, zero)
    to_a = twice * (p0.dtype(1.0) - t) * wp.vector(a[0] + t * (b[0] - a[0]) - u, a[1] + t * (b[1] - a[1]) - v, zero)
    none = wp.vector(zero, zero, zero)
    to_p0 = wp.where(nearest == 0, none, wp.where(nearest == 1, to_b, to_a))
    to_p1 = wp.where(nearest == 1, none, wp.where(nearest == 2, to_b, to_a))
    to_p2 = wp.where(nearest == 2, none, wp.where(nearest == 0, to_b, to_a))
    return to_p0, to_p1, to_p2
