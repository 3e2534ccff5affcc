"""How opaque the faces around a pixel are together: the kernels of ``blended_silhouette``.

A face covers a pixel with the probability ``p = 1 / (1 + exp(d / sigma))`` of the signed squared distance ``d`` between
its border and the pixel's centre. Probabilities are taken as independent, so the light that passes all faces is
``T = prod(1 - p) = 1 / prod(1 + exp(-d / sigma))`` and ``dT/dd = T p / sigma``.

Either all faces within the radius count, in whatever order, and no list is kept; or the nearest few that
``select_layers`` found. Below ``OPAQUE`` no light passes: such a pixel is covered and carries no gradient.
"""

from __future__ import annotations

from typing import Any

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.kernels.internal.face_tiles import (
    RUN,
    TileGrid,
    border_distance_of_run,
    columns_of_run,
    corners_from_run,
    lowest_of_run,
    nearest_border,
    place_of_run,
    run_of,
    segment_distances,
    segment_places,
    tile_faces,
    weights_of_run,
)
from selfrecon_warp.kernels.internal.layer_selection import select_layers
from selfrecon_warp.kernels.internal.triangle import least
from selfrecon_warp.kernels.interop import (
    SCALAR,
    bits,
    ints,
    lanes,
    launch_split,
    scalars,
    scatter_split,
    vec3is,
)

OPAQUE = wp.constant(1e-12)
"""Least share of the light that counts."""


@wp.kernel(enable_backward=False, module="unique", module_options={"fuse_fp": False})
def blend_all_kernel(
    first: wp.int32,
    records: wp.array2d[Any],  # [B F, 3] lanes of 4
    start: wp.array[wp.int32],  # [tiles parts + 1]
    entries: wp.array[wp.int32],
    grid: TileGrid,
    radius: Any,
    sharpness: Any,
    # outputs
    light: wp.array[Any],  # [B H W]
):
    """Light that passes all faces near four pixels side by side."""
    tile, b, row, column = place_of_run(wp.tid() + first, grid)
    if row >= grid.height or column >= grid.width:
        return
    zero = type(radius)(0.0)
    one = type(radius)(1.0)
    u = type(radius)(column)
    v = type(radius)(row)
    columns = columns_of_run(u)
    most = one / type(radius)(OPAQUE)
    blocked = run_of(one)
    for k in range(4):
        if column + k >= grid.width:
            blocked[k] = most
    for entry in range(start[tile * grid.parts], start[(tile + 1) * grid.parts]):
        face = b * grid.face_count + entries[entry]
        r0 = records[face, 0]
        r1 = records[face, 1]
        r2 = records[face, 2]
        x0, y0, x1, y1, x2, y2 = corners_from_run(r0, r1, columns, v)
        _w0, _w1, _w2, outside = weights_of_run(x0, y0, x1, y1, x2, y2, r2)
        lowest = lowest_of_run(outside)
        if lowest < radius or lowest <= zero:
            squared = border_distance_of_run(x0, y0, x1, y1, x2, y2, r2)
            for k in range(4):
                inside = outside[k] <= zero
                if (inside or squared[k] < radius * radius) and blocked[k] < most:
                    signed = wp.where(inside, squared[k], -squared[k])
                    blocked[k] = blocked[k] * (one + wp.exp(signed * sharpness))
            if lowest_of_run(blocked) >= most:
                break
    pixel = (b * grid.height + row) * grid.width + column
    for k in range(4):
        if column + k < grid.width:
            light[pixel + k] = wp.where(blocked[k] < most, one / blocked[k], zero)


@wp.func
def push_apart(ax: Any, ay: Any, bx: Any, by: Any, scale: Any, pull: Any):
    """Gradients to the ends of an edge, summed over a run, for ``pull`` on its squared distances."""
    t = segment_places(ax, ay, bx, by, scale)
    x = ax + t * (bx[0] - ax[0])
    y = run_of(ay) + t * (by - ay)
    twice = pull * type(ay)(2.0)
    to_b = wp.cw_mul(twice, t)
    to_a = twice - to_b
    zero = type(ay)(0.0)
    return wp.vector(wp.dot(to_a, x), wp.dot(to_a, y), zero), wp.vector(wp.dot(to_b, x), wp.dot(to_b, y), zero)


@wp.kernel(enable_backward=False, module="unique", module_options={"fuse_fp": False})
def blend_all_vjp_kernel(
    first: wp.int32,
    records: wp.array2d[Any],  # [B F, 3] lanes of 4
    start: wp.array[wp.int32],  # [tiles parts + 1]
    entries: wp.array[wp.int32],
    grid: TileGrid,
    radius: Any,
    sharpness: Any,
    light: wp.array[Any],  # [B H W]
    grad_light: wp.array[Any],  # [B H W]
    faces: wp.array[wp.vec3i],  # [F]
    vertex_count: wp.int32,
    # outputs
    grad_vertices: wp.array[Any],  # [B V] vec3
):
    """Gradient of ``blend_all_kernel`` to the vertices."""
    tile, b, row, column = place_of_run(wp.tid() + first, grid)
    if row >= grid.height or column >= grid.width:
        return
    zero = type(radius)(0.0)
    one = type(radius)(1.0)
    u = type(radius)(column)
    v = type(radius)(row)
    columns = columns_of_run(u)
    pixel = (b * grid.height + row) * grid.width + column
    upstream = run_of(zero)
    for k in range(4):
        if column + k < grid.width:
            upstream[k] = grad_light[pixel + k] * light[pixel + k] * sharpness
    if wp.dot(upstream, upstream) == zero:
        return
    for entry in range(start[tile * grid.parts], start[(tile + 1) * grid.parts]):
        f = entries[entry]
        face = b * grid.face_count + f
        r0 = records[face, 0]
        r1 = records[face, 1]
        r2 = records[face, 2]
        x0, y0, x1, y1, x2, y2 = corners_from_run(r0, r1, columns, v)
        _w0, _w1, _w2, outside = weights_of_run(x0, y0, x1, y1, x2, y2, r2)
        lowest = lowest_of_run(outside)
        if lowest < radius or lowest <= zero:
            e0 = segment_distances(x1, y1, x2, y2, r2[1])
            e1 = segment_distances(x2, y2, x0, y0, r2[2])
            e2 = segment_distances(x0, y0, x1, y1, r2[3])
            pull0 = run_of(zero)
            pull1 = run_of(zero)
            pull2 = run_of(zero)
            for k in range(4):
                inside = outside[k] <= zero
                squared = least(e0[k], e1[k], e2[k])
                if upstream[k] != zero and (inside or squared < radius * radius):
                    signed = wp.where(inside, squared, -squared)
                    pull = upstream[k] / (one + wp.exp(-signed * sharpness))
                    if inside:
                        pull = -pull
                    if e0[k] == squared:
                        pull0[k] = pull
                    elif e1[k] == squared:
                        pull1[k] = pull
                    else:
                        pull2[k] = pull
            to_p1, to_p2 = push_apart(x1, y1, x2, y2, r2[1], pull0)
            also_p2, to_p0 = push_apart(x2, y2, x0, y0, r2[2], pull1)
            also_p0, also_p1 = push_apart(x0, y0, x1, y1, r2[3], pull2)
            corner = faces[f]
            wp.atomic_add(grad_vertices, b * vertex_count + corner[0], to_p0 + also_p0)
            wp.atomic_add(grad_vertices, b * vertex_count + corner[1], to_p1 + also_p1)
            wp.atomic_add(grad_vertices, b * vertex_count + corner[2], to_p2 + also_p2)


@wp.kernel(enable_backward=False, module="unique", module_options={"fuse_fp": False})
def blend_nearest_kernel(
    first: wp.int32,
    records: wp.array2d[Any],  # [B F, 3] lanes of 4
    keys: wp.array2d[wp.uint64],  # [B H W, K]
    counts: wp.array[wp.int32],  # [B H W]
    grid: TileGrid,
    sharpness: Any,
    # outputs
    light: wp.array[Any],  # [B H W]
):
    """Light that passes the nearest faces of a pixel."""
    j = wp.tid() + first
    _tile, b, row, column = place_of_run(j >> 2, grid)
    column += j & 3
    if row >= grid.height or column >= grid.width:
        return
    i = (b * grid.height + row) * grid.width + column
    one = type(sharpness)(1.0)
    if counts[i] == 0:
        light[i] = one
        return
    blocked = one
    most = one / type(sharpness)(OPAQUE)
    base = b * grid.face_count
    u = type(sharpness)(column)
    v = type(sharpness)(row)
    for k in range(counts[i]):
        face = base + wp.int32(wp.uint32(keys[i, k]))
        _at, signed, _opposite = nearest_border(records[face, 0], records[face, 1], records[face, 2], u, v)
        blocked *= one + wp.exp(-signed * sharpness)
        if not (blocked < most):
            break
    light[i] = wp.where(blocked < most, one / blocked, type(sharpness)(0.0))


@wp.kernel(enable_backward=False, module="unique", module_options={"fuse_fp": False})
def blend_nearest_vjp_kernel(
    first: wp.int32,
    records: wp.array2d[Any],  # [B F, 3] lanes of 4
    keys: wp.array2d[wp.uint64],  # [B H W, K]
    counts: wp.array[wp.int32],  # [B H W]
    grid: TileGrid,
    sharpness: Any,
    light: wp.array[Any],  # [B H W]
    grad_light: wp.array[Any],  # [B H W]
    faces: wp.array[wp.vec3i],  # [F]
    vertex_count: wp.int32,
    # outputs
    grad_vertices: wp.array[Any],  # [B V] vec3
):
    """Gradient of ``blend_nearest_kernel`` to the vertices."""
    j = wp.tid() + first
    _tile, b, row, column = place_of_run(j >> 2, grid)
    column += j & 3
    if row >= grid.height or column >= grid.width:
        return
    i = (b * grid.height + row) * grid.width + column
    one = type(sharpness)(1.0)
    zero = type(sharpness)(0.0)
    upstream = type(sharpness)(2.0) * grad_light[i] * light[i] * sharpness
    if upstream == zero:
        return
    u = type(sharpness)(column)
    v = type(sharpness)(row)
    for k in range(counts[i]):
        f = wp.int32(wp.uint32(keys[i, k]))
        face = b * grid.face_count + f
        at, signed, opposite = nearest_border(records[face, 0], records[face, 1], records[face, 2], u, v)
        pull = upstream / (one + wp.exp(signed * sharpness))
        if signed <= zero:
            pull = -pull
        corner = faces[f]
        from_corner = corner[1]
        to_corner = corner[2]
        if opposite == 1:
            from_corner = corner[2]
            to_corner = corner[0]
        elif opposite == 2:
            from_corner = corner[0]
            to_corner = corner[1]
        push = pull * wp.vector(at[0], at[1], zero)
        wp.atomic_add(grad_vertices, b * vertex_count + from_corner, (one - at[2]) * push)
        wp.atomic_add(grad_vertices, b * vertex_count + to_corner, at[2] * push)


class BlendFaces(torch.autograd.Function):
    """Light ``[B, H, W]`` that passes the faces near each pixel; at least one frame, vertex and face."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        vertices: Tensor,
        faces: Tensor,
        height: int,
        width: int,
        radius: float,
        sigma: float,
        faces_per_pixel: int | None,
    ) -> Tensor:
        light = vertices.new_empty(len(vertices), height, width)
        tiles = tile_faces(vertices, faces, height, width, radius, perspective_correct=True, cull_backfaces=False)
        if faces_per_pixel is None:
            lists = tiles.start, tiles.entries
        else:
            lists = select_layers(tiles, height, width, faces_per_pixel, radius, True, True)
        threads = tiles.runs(height, width) * (1 if faces_per_pixel is None else RUN)
        ctx.options = faces_per_pixel is None, threads, tiles.grid(height, width), radius, sigma
        ctx.save_for_backward(vertices, faces, light, tiles.records, *lists)
        inputs = _launch_inputs(ctx.options, tiles.records, *lists)
        kernel = blend_all_kernel if faces_per_pixel is None else blend_nearest_kernel
        launch_split(kernel, vertices, (threads,), inputs, [scalars(light.view(-1))], grain=256)
        return light

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_light: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        vertices, faces, light, *lists = ctx.saved_tensors
        all_faces, threads = ctx.options[:2]
        inputs = _launch_inputs(ctx.options, *lists)
        inputs += [scalars(light.view(-1)), scalars(grad_light.contiguous().view(-1)), vec3is(faces), vertices.shape[1]]
        kernel = blend_all_vjp_kernel if all_faces else blend_nearest_vjp_kernel
        return scatter_split(kernel, vertices, threads, inputs, vertices.shape, grain=256), *[None] * 6


def _launch_inputs(options: tuple[bool, int, Any, float, float], records: Tensor, *lists: Tensor) -> list[Any]:
    """What forward and backward kernel begin with."""
    all_faces, _, grid, radius, sigma = options
    scalar, shown = SCALAR[records.dtype], lanes(records.view(-1, 12), 12)
    if all_faces:
        start, entries = lists
        return [shown, ints(start), ints(entries), grid, scalar(radius), scalar(1 / sigma)]
    keys, counts = lists
    return [shown, bits(keys), ints(counts), grid, scalar(1 / sigma)]
