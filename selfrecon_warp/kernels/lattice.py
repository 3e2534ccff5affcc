"""The lattice under sparse evaluation and marching cubes: how nodes and cells are named, and the kernels of the search.

The lattice has ``X Y Z`` nodes; node ``(i, j, k)`` sits at ``lower + (i, j, k) * (upper - lower) / (resolution - 1)``
and its flat id is ``(i * Y + j) * Z + k``. A cell is named by the id of its lowest node. At stride ``s`` the nodes are
every ``s``-th one and the last one of each axis: any resolution works, and stride ``s`` holds the nodes of ``2 s``.

A node is inside where its value is below the level; a value at the level is outside. Nodes on the border of the lattice
are forced outside, so the surface is always closed: a body that leaves the box is capped there.

A node or cell is claimed, once, by exchanging an epoch stamp; what wins the exchange is appended to a list. The three
counters are the cells listed, the nodes listed and the border nodes forced outside.

No operation of its own: reference, tests and benchmarks are those of ``sparse_grid`` and ``marching_cubes``. The
search's kernels share these conventions line by line, so they stand in one file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import warp as wp
from torch import Tensor

wp.set_module_options({"enable_backward": False, "max_unroll": 0})  # unrolled loops only make compilation slow

FAR, CROSSING, NEAR = 0, 1, 2
"""What a cell is: no surface, corners on both sides, or uniform but close enough to hide a surface."""
CELLS, NODES, CAPPED = 0, 1, 2
"""Entries of the counters."""
CAP = 0.01
"""Value above the level given to border nodes that lie inside, in units of the smallest node spacing."""


def smallest_spacing(lower: Tensor, upper: Tensor, resolution: Sequence[int]) -> float:
    """Distance between neighbouring nodes along the finest axis [m]."""
    return float(((upper - lower).cpu() / (torch.tensor(resolution) - 1)).min())


@wp.func
def coordinates(node: int, shape: wp.vec3i):
    yz = shape[1] * shape[2]
    return wp.vec3i(node // yz, (node % yz) // shape[2], node % shape[2])


@wp.func
def flat(at: wp.vec3i, shape: wp.vec3i):
    return (at[0] * shape[1] + at[1]) * shape[2] + at[2]


@wp.func
def corner(low: wp.vec3i, k: int, stride: int, shape: wp.vec3i):
    """Node id of corner ``k`` of a cell: bits 0, 1, 2 are x, y, z; the last cell of an axis is clamped."""
    return flat(
        wp.vec3i(
            wp.min(low[0] + (k & 1) * stride, shape[0] - 1),
            wp.min(low[1] + ((k >> 1) & 1) * stride, shape[1] - 1),
            wp.min(low[2] + (k >> 2) * stride, shape[2] - 1),
        ),
        shape,
    )


@wp.func
def select_corner(low: wp.vec3i, high: wp.vec3i, k: int):
    return wp.vec3i(
        wp.where((k & 1) == 1, high[0], low[0]),
        wp.where(((k >> 1) & 1) == 1, high[1], low[1]),
        wp.where((k >> 2) == 1, high[2], low[2]),
    )


@wp.func
def is_cell(low: wp.vec3i, shape: wp.vec3i):
    within = low[0] >= 0 and low[1] >= 0 and low[2] >= 0
    return within and low[0] < shape[0] - 1 and low[1] < shape[1] - 1 and low[2] < shape[2] - 1


@wp.func
def claim_cell(
    low: wp.vec3i, shape: wp.vec3i, epoch: int, stamps: wp.array[int], cells: wp.array[int], counters: wp.array[int]
):
    if is_cell(low, shape):
        cell = flat(low, shape)
        if wp.atomic_exch(stamps, cell, epoch) != epoch:
            cells[wp.atomic_add(counters, 0, 1)] = cell


@wp.func
def trilinear(corners: Any, tx: float, ty: float, tz: float):
    y0 = wp.lerp(wp.lerp(corners[0], corners[1], tx), wp.lerp(corners[2], corners[3], tx), ty)
    y1 = wp.lerp(wp.lerp(corners[4], corners[5], tx), wp.lerp(corners[6], corners[7], tx), ty)
    return wp.lerp(y0, y1, tz)


@wp.func
def middle(low: int, stride: int, last: int):
    """Where the middle node of a parent of size ``2 stride`` lies along one axis, as a fraction of the parent."""
    size = wp.max(1, wp.min(2 * stride, last - low))
    return float(wp.min(stride, size)) / float(size)


@wp.func
def fraction(offset: int, at_middle: float):
    return wp.where(offset == 0, 0.0, wp.where(offset == 1, at_middle, 1.0))


@wp.kernel
def node_points_kernel(
    nodes: wp.array[int],  # [P]
    frame: wp.array[Any],  # [2] vec3: lower corner, spacing
    shape: wp.vec3i,
    # outputs
    points: wp.array[Any],  # [P] vec3
):
    p = wp.tid()
    at = coordinates(nodes[p], shape)
    lower = frame[0]
    spacing = frame[1]
    for a in range(3):
        points[p][a] = lower[a] + lower.dtype(at[a]) * spacing[a]


@wp.kernel
def store_values_kernel(
    nodes: wp.array[int],  # [P]
    queried: wp.array[Any],  # [P]
    cap: wp.array[Any],  # [1] value given to border nodes that lie inside
    level: wp.float64,
    epoch: int,
    shape: wp.vec3i,
    # outputs
    values: wp.array[Any],  # [X Y Z]
    stamps: wp.array[int],  # [X Y Z]
    counters: wp.array[int],  # [3]
):
    p = wp.tid()
    node = nodes[p]
    at = coordinates(node, shape)
    value = queried[p]
    border = wp.min(at) == 0 or at[0] == shape[0] - 1 or at[1] == shape[1] - 1 or at[2] == shape[2] - 1
    if border and wp.float64(value) < level:
        value = cap[0]
        wp.atomic_add(counters, 2, 1)
    values[node] = value
    stamps[node] = epoch


@wp.kernel
def claim_nodes_kernel(
    cells: wp.array[int],
    start: int,
    stride: int,
    epoch: int,
    shape: wp.vec3i,
    # outputs
    stamps: wp.array[int],  # [X Y Z]
    nodes: wp.array[int],
    counters: wp.array[int],  # [3]
):
    low = coordinates(cells[start + wp.tid()], shape)
    for k in range(8):
        node = corner(low, k, stride, shape)
        if wp.atomic_exch(stamps, node, epoch) != epoch:
            nodes[wp.atomic_add(counters, 1, 1)] = node


@wp.kernel
def classify_cells_kernel(
    values: wp.array[Any],  # [X Y Z]
    start: int,
    stride: int,
    epoch: int,
    level: wp.float64,
    reach: wp.float64,  # uniform cells whose smallest |value| is below this are near
    expand: int,
    shape: wp.vec3i,
    # outputs
    stamps: wp.array[int],  # [X Y Z] of cells
    cells: wp.array[int],
    kinds: wp.array[int],
    counters: wp.array[int],  # [3]
):
    i = start + wp.tid()
    low = coordinates(cells[i], shape)
    inside = wp.int32(0)
    nearest = wp.float64(1.0e300)
    for k in range(8):
        value = wp.float64(values[corner(low, k, stride, shape)]) - level
        nearest = wp.min(nearest, wp.abs(value))
        if value < wp.float64(0.0):
            inside = inside | (1 << k)
    if inside == 0 or inside == 255:
        kinds[i] = wp.where(nearest < reach, 2, 0)
        return
    kinds[i] = 1
    if expand == 0:
        return
    for a in range(3):
        for side in range(2):
            # corners of the face: those whose bit a equals side
            face = wp.where(a == 0, 0x55, wp.where(a == 1, 0x33, 0x0F)) << (side << a)
            bits = inside & face
            if bits != 0 and bits != face:
                beside = low
                beside[a] = low[a] + (2 * side - 1) * stride
                claim_cell(beside, shape, epoch, stamps, cells, counters)


@wp.kernel
def claim_crossing_children_kernel(
    parents: wp.array[int],
    values: wp.array[Any],  # [X Y Z]
    stride: int,  # of the children
    level: wp.float64,
    epoch: int,
    shape: wp.vec3i,
    # outputs
    stamps: wp.array[int],  # [X Y Z] of cells
    cells: wp.array[int],
    counters: wp.array[int],  # [3]
):
    """Claim the children that the surface crosses by values interpolated from the parent's corners."""
    low = coordinates(parents[wp.tid()], shape)
    corners = wp.vector(dtype=float, length=8)
    for k in range(8):
        corners[k] = float(wp.float64(values[corner(low, k, 2 * stride, shape)]) - level)
    tx = middle(low[0], stride, shape[0] - 1)
    ty = middle(low[1], stride, shape[1] - 1)
    tz = middle(low[2], stride, shape[2] - 1)
    inside = wp.int32(0)  # one bit for each of the 27 nodes
    for n in range(27):
        if trilinear(corners, fraction(n % 3, tx), fraction((n // 3) % 3, ty), fraction(n // 9, tz)) < 0.0:
            inside = inside | (1 << n)
    octant = (1 << 0) | (1 << 1) | (1 << 3) | (1 << 4) | (1 << 9) | (1 << 10) | (1 << 12) | (1 << 13)
    for k in range(8):
        bits = (inside >> ((k & 1) + 3 * ((k >> 1) & 1) + 9 * (k >> 2))) & octant
        if bits != 0 and bits != octant:
            child = low + wp.vec3i(k & 1, (k >> 1) & 1, k >> 2) * stride
            claim_cell(child, shape, epoch, stamps, cells, counters)


@wp.kernel
def claim_conflicts_kernel(
    nodes: wp.array[int],  # [P] just evaluated
    values: wp.array[Any],  # [X Y Z]
    node_stamps: wp.array[int],  # [X Y Z]
    node_epoch: int,
    stride: int,
    level: wp.float64,
    epoch: int,
    shape: wp.vec3i,
    # outputs
    stamps: wp.array[int],  # [X Y Z] of cells
    cells: wp.array[int],
    counters: wp.array[int],  # [3]
):
    """Claim the cells around each node whose sign is not the one the nodes of twice the stride predict."""
    node = nodes[wp.tid()]
    at = coordinates(node, shape)
    low = at
    high = at
    for a in range(3):
        if (at[a] // stride) % 2 == 1 and at[a] < shape[a] - 1:
            low[a] = at[a] - stride
            high[a] = wp.min(at[a] + stride, shape[a] - 1)
    if low == high:
        return
    corners = wp.vector(dtype=float, length=8)
    for k in range(8):
        around = flat(select_corner(low, high, k), shape)
        if node_stamps[around] != node_epoch:
            return
        corners[k] = float(wp.float64(values[around]) - level)
    tx = middle(low[0], stride, shape[0] - 1)
    ty = middle(low[1], stride, shape[1] - 1)
    tz = middle(low[2], stride, shape[2] - 1)
    if (trilinear(corners, tx, ty, tz) < 0.0) == (wp.float64(values[node]) < level):
        return
    for a in range(3):
        low[a] = (at[a] - 1) // stride * stride
    for k in range(8):
        claim_cell(select_corner(low, at, k), shape, epoch, stamps, cells, counters)


@wp.kernel
def claim_children_kernel(
    parents: wp.array[int],
    stride: int,  # of the children
    epoch: int,
    shape: wp.vec3i,
    # outputs
    stamps: wp.array[int],  # [X Y Z] of cells
    cells: wp.array[int],
    counters: wp.array[int],  # [3]
):
    low = coordinates(parents[wp.tid()], shape)
    for k in range(8):
        child = low + wp.vec3i(k & 1, (k >> 1) & 1, k >> 2) * stride
        claim_cell(child, shape, epoch, stamps, cells, counters)


@wp.kernel
def interpolate_nodes_kernel(
    nodes: wp.array[int],  # [P]
    shape: wp.vec3i,
    # outputs
    values: wp.array[Any],  # [X Y Z]
):
    """Give nodes of stride 1 the mean of the nodes of stride 2 around them."""
    node = nodes[wp.tid()]
    at = coordinates(node, shape)
    low = at
    high = at
    for a in range(3):
        if at[a] % 2 == 1 and at[a] < shape[a] - 1:
            low[a] = at[a] - 1
            high[a] = at[a] + 1
    total = values.dtype(0.0)
    for k in range(8):
        total += values[flat(select_corner(low, high, k), shape)]
    values[node] = total * values.dtype(0.125)


@wp.kernel
def claim_seeds_kernel(
    seeds: wp.array[Any],  # [P] vec3
    frame: wp.array[Any],  # [2] vec3: lower corner, spacing
    epoch: int,
    shape: wp.vec3i,
    # outputs
    stamps: wp.array[int],  # [X Y Z] of cells
    cells: wp.array[int],
    counters: wp.array[int],  # [3]
):
    offset = seeds[wp.tid()] - frame[0]
    spacing = frame[1]
    at = wp.vec3i(
        int(wp.floor(offset[0] / spacing[0])),
        int(wp.floor(offset[1] / spacing[1])),
        int(wp.floor(offset[2] / spacing[2])),
    )
    claim_cell(at, shape, epoch, stamps, cells, counters)


@wp.kernel
def claim_descent_kernel(
    values: wp.array[Any],  # [X Y Z]
    kinds: wp.array[int],
    level: wp.float64,
    epoch: int,
    shape: wp.vec3i,
    # outputs
    stamps: wp.array[int],  # [X Y Z] of cells
    cells: wp.array[int],
    counters: wp.array[int],  # [3]
):
    """From each cell without surface, claim the neighbour behind the face whose values are closest to the level."""
    i = wp.tid()
    if kinds[i] == 1:
        return
    low = coordinates(cells[i], shape)
    faces = wp.vector(dtype=wp.float64, length=6)
    for k in range(8):
        value = wp.abs(wp.float64(values[corner(low, k, 1, shape)]) - level)
        for a in range(3):
            faces[2 * a + ((k >> a) & 1)] += value
    best = wp.int32(0)
    for f in range(6):
        if faces[f] < faces[best]:
            best = f
    beside = low
    beside[best // 2] = low[best // 2] + 2 * (best % 2) - 1
    claim_cell(beside, shape, epoch, stamps, cells, counters)


@wp.kernel
def fill_rows_kernel(
    values: wp.array3d[Any],  # [X, Y, Z]
    stamps: wp.array3d[int],  # [X, Y, Z]
    epoch: int,
    outside: wp.array[Any],  # [1] value before the first evaluated node of a row
    # outputs
    filled: wp.array3d[Any],  # [X, Y, Z]
):
    x, y = wp.tid()
    last = outside[0]
    for z in range(values.shape[2]):
        if stamps[x, y, z] == epoch:
            last = values[x, y, z]
        filled[x, y, z] = last


for _real, _vec3 in ((wp.float32, wp.vec3f), (wp.float64, wp.vec3d)):  # known at once, all compile together
    _reals, _vec3s = wp.array(dtype=_real), wp.array(dtype=_vec3)
    wp.overload(node_points_kernel, {"frame": _vec3s, "points": _vec3s})
    wp.overload(store_values_kernel, {"queried": _reals, "cap": _reals, "values": _reals})
    wp.overload(claim_seeds_kernel, {"seeds": _vec3s, "frame": _vec3s})
    wp.overload(
        fill_rows_kernel, {"values": wp.array3d(dtype=_real), "outside": _reals, "filled": wp.array3d(dtype=_real)}
    )
    for _kernel in (
        classify_cells_kernel,
        claim_crossing_children_kernel,
        claim_conflicts_kernel,
        interpolate_nodes_kernel,
        claim_descent_kernel,
    ):
        wp.overload(_kernel, {"values": _reals})
