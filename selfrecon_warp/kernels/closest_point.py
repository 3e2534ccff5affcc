"""The nearest place on a triangle mesh for many points.

Triangles are kept in a box tree (``internal/box_tree.py``) in the precision of the input; points are visited along a
space-filling curve and, where they are visited one after the other, each starts from the triangle that the one before
found. The place on a triangle is the nearest of four: the foot on its plane where it lies inside, and the nearest of
each side; a triangle as thin as a line or a point needs no rule of its own. Of triangles that are equally near the one
of lower index is named; distances that agree to rounding may fall either way.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import warp as wp
from torch import Tensor

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.arguments import require_like, triangles
from selfrecon_warp.kernels.internal.box_tree import (
    LEAF,
    LEFT_OUT,
    NO_INDEX,
    STACK,
    WIDTH,
    along_curve,
    box_distances,
    enter_box,
    first_bit,
    grow,
    in_order,
    is_finite,
    join,
    mask_within,
    push_children,
    tree_inputs,
)
from selfrecon_warp.kernels.interop import SPLIT_GRAIN, ints, lanes_of, launch_split, scalars, vec3s

wp.set_module_options({"enable_backward": False, "fuse_fp": False})


class MeshPlaces(NamedTuple):
    """The nearest place on a mesh for each point."""

    squared_distance: Tensor
    """``[P]`` or ``[B, P]`` [m^2]; ``inf`` where there is no face to be near to."""
    face_index: Tensor
    """The same shape, int64; -1 where there is none."""
    barycentrics: Tensor
    """``[P, 3]`` or ``[B, P, 3]``: where on the face; 0 where there is none."""


@wp.func
def along_side(a: Any, b: Any):
    """How far from ``a`` to ``b``, from 0 to 1, the side is nearest to the origin."""
    side = b - a
    length = wp.dot(side, side)
    t = -wp.dot(a, side)
    if t <= a.dtype(0.0):
        return a.dtype(0.0)
    if t >= length:
        return a.dtype(1.0)
    return t / length


@wp.func
def nearest_on_triangle(p: Any, a: Any, b: Any, c: Any):
    """Squared distance of a point to a triangle, and the barycentrics of the nearest place, as one vector of four."""
    zero = p.dtype(0.0)
    one = p.dtype(1.0)
    a0 = a - p
    b0 = b - p
    c0 = c - p
    t = along_side(a0, b0)
    best = wp.length_sq((one - t) * a0 + t * b0)
    u = one - t
    v = t
    w = zero
    t = along_side(b0, c0)
    squared = wp.length_sq((one - t) * b0 + t * c0)
    if squared < best:
        best = squared
        u = zero
        v = one - t
        w = t
    t = along_side(c0, a0)
    squared = wp.length_sq((one - t) * c0 + t * a0)
    if squared < best:
        best = squared
        u = t
        v = zero
        w = one - t
    ab = b0 - a0
    ac = c0 - a0
    normal = wp.cross(ab, ac)
    area = wp.dot(normal, normal)
    if area > zero:
        y = wp.dot(wp.cross(ac, a0), normal) / area
        z = wp.dot(wp.cross(a0, ab), normal) / area
        x = one - y - z
        if wp.min(x, wp.min(y, z)) >= zero:
            squared = wp.length_sq(x * a0 + y * b0 + z * c0)
            if squared < best:
                best = squared
                u = x
                v = y
                w = z
    return wp.vector(best, u, v, w)


@wp.kernel
def triangle_middles_kernel(
    first: wp.int32,
    corners: wp.array3d[Any],  # [B, F, 3] vec3
    flat_too: wp.bool,
    # outputs
    middles: wp.array2d[Any],  # [B, F] vec3
):
    """Middle of each triangle's box; not a number where the triangle is left out."""
    b, f = wp.tid()
    f += first
    p0 = corners[b, f, 0]
    p1 = corners[b, f, 1]
    p2 = corners[b, f, 2]
    half = p0.dtype(0.5)
    middle = half * wp.min(p0, wp.min(p1, p2)) + half * wp.max(p0, wp.max(p1, p2))
    left_out = not (is_finite(p0) and is_finite(p1) and is_finite(p2))
    if not flat_too:
        left_out = left_out or not (wp.length_sq(wp.cross(p1 - p0, p2 - p0)) > p0.dtype(0.0))
    if left_out:
        middle = p0 - type(p0)(p0.dtype(wp.inf)) + type(p0)(p0.dtype(wp.inf))
    middles[b, f] = middle


@wp.kernel
def fill_triangles_kernel(
    first: wp.int32,
    corners: wp.array3d[Any],  # [B, F, 3] vec3
    order: wp.array2d[wp.int64],  # [B, F]
    keys: wp.array2d[wp.int64],  # [B, F]
    parent_start: wp.int32,
    # outputs
    leaves: wp.array4d[Any],  # [B, leaves, 6, LEAF]
    boxes: wp.array4d[Any],  # [B, nodes, 6, WIDTH]
    least: wp.array3d[wp.int32],  # [B, nodes, WIDTH]
):
    """Put the boxes of a leaf's triangles side by side and enter their union into the leaf's parent."""
    b, i = wp.tid()
    i += first
    parent = parent_start + i // WIDTH
    lane = i % WIDTH
    lowest = wp.int32(NO_INDEX)
    for place in range(i * LEAF, wp.min((i + 1) * LEAF, corners.shape[1])):
        if keys[b, place] < LEFT_OUT:
            item = wp.int32(order[b, place])
            p0 = corners[b, item, 0]
            p1 = corners[b, item, 1]
            p2 = corners[b, item, 2]
            low = wp.min(p0, wp.min(p1, p2))
            high = wp.max(p0, wp.max(p1, p2))
            lowest = wp.min(lowest, item)
            for axis in range(3):
                leaves[b, i, axis, place - i * LEAF] = low[axis]
                leaves[b, i, axis + 3, place - i * LEAF] = high[axis]
            enter_box(low, high, b, parent, lane, boxes)
    least[b, parent, lane] = lowest


@wp.kernel
def nearest_triangle_kernel(
    first: wp.int32,
    points: wp.array2d[Any],  # [B, P] vec3, along the curve
    point_order: wp.array2d[wp.int64],  # [B, P]
    point_keys: wp.array2d[wp.int64],  # [B, P]
    corners: wp.array3d[Any],  # [B, F, 3] vec3
    leaves: wp.array3d[Any],  # [B, leaves, 6] lanes
    order: wp.array2d[wp.int64],  # [B, F]
    boxes: wp.array3d[Any],  # [B, nodes, 6] lanes
    least: wp.array3d[wp.int32],  # [B, nodes, WIDTH]
    starts: Any,
    leaf_level: wp.int32,
    in_turn: wp.bool,
    # outputs
    squared: wp.array2d[Any],  # [B, P]
    face_index: wp.array2d[wp.int64],  # [B, P]
    barycentrics: wp.array2d[Any],  # [B, P] vec3
):
    """The nearest triangle of each point and where on it."""
    b, t = wp.tid()
    turn = first + t
    row = wp.int32(point_order[b, turn])
    q = points[b, turn]
    zero = q.dtype(0.0)
    best = wp.vector(q.dtype(wp.inf), zero, zero, zero)
    best_index = wp.int32(-1)
    if point_keys[b, turn] < LEFT_OUT:
        if in_turn and t > 0:
            before = wp.int32(face_index[b, wp.int32(point_order[b, turn - 1])])
            if before >= 0:
                last = nearest_on_triangle(q, corners[b, before, 0], corners[b, before, 1], corners[b, before, 2])
                if last[0] < best[0]:  # not where the square overflows
                    best = last
                    best_index = before
        distances = wp.zeros(shape=(STACK,), dtype=q.dtype)
        codes = wp.zeros(shape=(STACK,), dtype=wp.int32)
        top = wp.int32(1)
        while top > 0:
            top -= 1
            code = codes[top]
            if distances[top] <= best[0]:
                if (code & 15) == leaf_level:
                    leaf = code >> 4
                    near = box_distances(q, q, b, leaf, leaves)
                    mask = mask_within(near, best[0])
                    while mask != wp.uint32(0):
                        c = first_bit(mask)
                        mask = mask & (mask - wp.uint32(1))
                        if near[c] < best[0] or (near[c] == best[0] and best_index >= 0):
                            item = wp.int32(order[b, leaf * LEAF + c])
                            place = nearest_on_triangle(
                                q, corners[b, item, 0], corners[b, item, 1], corners[b, item, 2]
                            )
                            if place[0] < best[0] or (place[0] == best[0] and item < best_index):
                                best = place
                                best_index = item
                else:
                    top = push_children(q, q, b, code, boxes, least, starts, best[0], best_index, distances, codes, top)
    squared[b, row] = best[0]
    face_index[b, row] = wp.int64(best_index)
    barycentrics[b, row] = type(q)(best[1], best[2], best[3])


def triangle_middles(corners: Tensor, flat_too: bool) -> Tensor:
    """Middle of the box of each triangle ``[B, F, 3, 3]``; not a number where it is left out."""
    middles = corners.new_empty(*corners.shape[:2], 3)
    dim = (len(corners), corners.shape[1])
    launch_split(triangle_middles_kernel, corners, dim, [vec3s(corners), flat_too], [vec3s(middles)], axis=1)
    return middles


class TriangleTree:
    """Triangles made ready to be searched.

    Args:
        corners: Contiguous ``[B, F, 3, 3]``; triangles with a coordinate that is not finite are left out.
        flat_too: Count triangles without area as the segments or points that they are, or leave them out.
    """

    def __init__(self, corners: Tensor, flat_too: bool) -> None:
        self._corners = corners
        B, F = corners.shape[:2]
        if corners.numel() == 0:
            return
        tree = self._boxes = grow(
            triangle_middles(corners, flat_too), torch.full((B,), F, dtype=torch.int64, device=corners.device)
        )
        leaves = tree.sizes[-1]
        self._leaves = corners.new_empty(B, leaves, 6, LEAF)
        self._leaves[:, :, :3] = float("inf")
        self._leaves[:, :, 3:] = -float("inf")
        launch_split(
            fill_triangles_kernel,
            corners,
            (B, leaves),
            [vec3s(corners), ints(tree.order), ints(tree.keys), sum(tree.sizes[:-2])],
            [scalars(self._leaves), scalars(tree.boxes), ints(tree.least)],
            axis=1,
            grain=SPLIT_GRAIN // LEAF,
        )
        join(tree)

    def nearest(self, points: Tensor, counts: Tensor | None = None) -> MeshPlaces:
        """The nearest place for each of the contiguous points ``[B, P, 3]``; without gradient.

        Points past the counts of their clouds, ``[B]`` int64, are left out.
        """
        B, P = points.shape[:2]
        squared = points.new_full((B, P), float("inf"))
        face_index = torch.full((B, P), -1, dtype=torch.int64, device=points.device)
        barycentrics = points.new_zeros(B, P, 3)
        if points.numel() > 0 and self._corners.numel() > 0:
            keys, order = along_curve(points, face_index.new_full((B,), P) if counts is None else counts)
            launch_split(
                nearest_triangle_kernel,
                points,
                (B, P),
                [
                    vec3s(in_order(points, order)),
                    ints(order),
                    ints(keys),
                    vec3s(self._corners),
                    lanes_of(self._leaves),
                    *tree_inputs(self._boxes),
                    not points.is_cuda,
                ],
                [scalars(squared), ints(face_index), vec3s(barycentrics)],
                axis=1,
                grain=SPLIT_GRAIN // 8,
            )
        return MeshPlaces(squared, face_index, barycentrics)


def closest_point(points: Tensor, vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the nearest place on a triangle mesh.

    Args:
        points: Queries [m], ``[P, 3]``, float32 or float64.
        vertices: Vertices [m], ``[V, 3]``, of the same dtype.
        faces: Vertex indices, ``[F, 3]``, int32 or int64; at least one with an area. Those without are left out.

    Returns:
        Distance [m] ``[P]``, face ``[P]`` int64 and barycentrics of the nearest place ``[P, 3]``. A query that is not
        finite, or so far away that the squared distance overflows, gets ``inf``, face -1 and zeros. No gradient: see
        ``point_mesh_distance`` for one.

    Raises:
        ValueError: A shape, dtype or index disagrees, no face has an area or a vertex is not finite.
    """
    sizes = require_shapes(points=(points, "P 3"), vertices=(vertices, "V 3"), faces=(faces, "F 3"))
    require_like("points", points, vertices=vertices)
    points, vertices = points.detach().contiguous(), vertices.detach()
    if not vertices.isfinite().all():
        raise ValueError("vertices must be finite, got nan or inf")
    corners = vertices[triangles(faces, sizes["V"], vertices.device).long()]
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    if not (torch.linalg.cross(first, second) != 0).any():
        raise ValueError(f"faces must hold at least one face with an area, got F={len(faces)} without")
    squared, face_index, barycentrics = TriangleTree(corners[None], flat_too=False).nearest(points[None])
    return squared[0].sqrt(), face_index[0], barycentrics[0]
