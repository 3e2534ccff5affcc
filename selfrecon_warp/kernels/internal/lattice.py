"""The lattice under sparse evaluation and marching cubes: how nodes and cells are named, and what holds their values.

The lattice has ``X Y Z`` nodes; node ``(i, j, k)`` sits at ``lower + (i, j, k) * (upper - lower) / (resolution - 1)``
and its flat id is ``(i * Y + j) * Z + k``. A cell is named by the id of its lowest node. At stride ``s`` the nodes are
every ``s``-th one and the last one of each axis: any resolution works, and stride ``s`` holds the nodes of ``2 s``.
Corner ``k`` of a cell lies at its lowest node plus bits 0, 1, 2 of ``k`` strides along x, y, z.

A node is inside where its value is below the level; a value at the level is outside. Nodes on the border of the lattice
are forced outside, so the surface is always closed: a body that leaves the box is capped there.

No operation of its own: reference, tests and benchmarks are those of ``sparse_grid`` and ``marching_cubes``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from mmap import ACCESS_COPY, mmap
from typing import Any

import torch
import warp as wp
from torch import Tensor

wp.set_module_options({"enable_backward": False})

CAP = 0.01
"""Value above the level given to border nodes that lie inside, in units of the smallest node spacing."""


def smallest_spacing(lower: Tensor, upper: Tensor, resolution: Sequence[int]) -> float:
    """Distance between neighbouring nodes along the finest axis [m]."""
    return float(((upper - lower).cpu() / (torch.tensor(resolution) - 1)).min())


def lattice_frame(lower: Tensor, upper: Tensor, resolution: Sequence[int]) -> Tensor:
    """First node and spacing of the nodes [m], ``[2, 3]``."""
    spacing = (upper - lower) / (torch.tensor(resolution, device=lower.device) - 1)
    return torch.stack([lower, spacing.to(lower)])


def rounded(level: float, dtype: torch.dtype) -> float:
    """A level as values of a type can hold it, so that a value at the level is found equal to it."""
    return float(torch.tensor(level, dtype=dtype))


def lazy_zeros(shape: tuple[int, ...], device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """Zeros; on the CPU in pages that take no memory, and no time, until they are written to."""
    if torch.device(device).type == "cpu":
        pages = mmap(-1, math.prod(shape) * dtype.itemsize, access=ACCESS_COPY)
        return torch.frombuffer(pages, dtype=dtype).view(shape)
    return torch.zeros(shape, device=device, dtype=dtype)


@wp.func
def coordinates(node: int, shape: wp.vec3i):
    row = node // shape[2]
    x = row // shape[1]
    return wp.vec3i(x, row - x * shape[1], node - row * shape[2])


@wp.func
def flat(at: wp.vec3i, shape: wp.vec3i):
    return (at[0] * shape[1] + at[1]) * shape[2] + at[2]


@wp.func
def steps(low: wp.vec3i, stride: int, shape: wp.vec3i):
    """What steps from a cell's lowest node to its other end along x, y, z, in ids; the last cell is clamped."""
    return wp.vec3i(
        wp.min(stride, shape[0] - 1 - low[0]) * shape[1] * shape[2],
        wp.min(stride, shape[1] - 1 - low[1]) * shape[2],
        wp.min(stride, shape[2] - 1 - low[2]),
    )


@wp.func
def corner(cell: int, step: wp.vec3i, k: int):
    """Node id of corner ``k`` of a cell with the given steps."""
    return cell + (k & 1) * step[0] + ((k >> 1) & 1) * step[1] + (k >> 2) * step[2]


@wp.func
def is_cell(low: wp.vec3i, shape: wp.vec3i):
    within = low[0] >= 0 and low[1] >= 0 and low[2] >= 0
    return within and low[0] < shape[0] - 1 and low[1] < shape[1] - 1 and low[2] < shape[2] - 1


@wp.func
def on_border(at: wp.vec3i, shape: wp.vec3i):
    return wp.min(at) == 0 or at[0] == shape[0] - 1 or at[1] == shape[1] - 1 or at[2] == shape[2] - 1


@wp.func
def middle(low: int, stride: int, last: int):
    """Where the middle node of a parent of size ``2 stride`` lies along one axis, as a fraction of the parent."""
    size = wp.max(1, wp.min(2 * stride, last - low))
    return float(wp.min(stride, size)) / float(size)


@wp.kernel
def node_points_kernel(
    first: wp.int32,
    nodes: wp.array[int],  # [P]
    frame: wp.array[Any],  # [2] vec3: lower corner, spacing
    shape: wp.vec3i,
    # outputs
    points: wp.array[Any],  # [P] vec3
):
    p = wp.tid() + first
    at = coordinates(nodes[p], shape)
    lower = frame[0]
    spacing = frame[1]
    points[p] = lower + wp.cw_mul(type(lower)(lower.dtype(at[0]), lower.dtype(at[1]), lower.dtype(at[2])), spacing)


@wp.kernel
def store_values_kernel(
    first: wp.int32,
    nodes: wp.array[int],  # [P]
    queried: wp.array[Any],  # [P]
    level: wp.float64,
    cap: wp.float64,  # value given to border nodes that lie inside
    epoch: int,
    shape: wp.vec3i,
    # outputs
    values: wp.array[Any],  # [X Y Z]
    stamps: wp.array[int],  # [X Y Z]
    capped: wp.array[bool],  # [P]
):
    p = wp.tid() + first
    node = nodes[p]
    value = queried[p]
    outside = on_border(coordinates(node, shape), shape) and wp.float64(value) < level
    values[node] = wp.where(outside, type(value)(cap), value)
    stamps[node] = epoch
    capped[p] = outside


@wp.kernel
def interpolate_nodes_kernel(
    nodes: wp.array[int],  # [P]
    shape: wp.vec3i,
    # outputs
    values: wp.array[Any],  # [X Y Z]
):
    """Give nodes of stride 1 the mean of the nodes of stride 2 around them.

    Two by two: so rounding cannot take the mean of values on one side of the level to the other.
    """
    node = nodes[wp.tid()]
    at = coordinates(node, shape)
    low = at
    size = wp.vec3i()
    for a in range(3):
        if at[a] % 2 == 1 and at[a] < shape[a] - 1:
            low[a] = at[a] - 1
            size[a] = 2
    step = wp.vec3i(size[0] * shape[1] * shape[2], size[1] * shape[2], size[2])
    half = values.dtype(0.5)
    mean = values.dtype(0.0)
    for z in range(2):
        plane = values.dtype(0.0)
        for y in range(2):
            start = flat(low, shape) + y * step[1] + z * step[2]
            plane += half * (half * values[start] + half * values[start + step[0]])
        mean += half * plane
    values[node] = mean


@wp.kernel
def fill_rows_kernel(
    first: wp.int32,
    values: wp.array2d[Any],  # [X Y, Z]
    stamps: wp.array2d[int],  # [X Y, Z]
    epoch: int,
    outside: wp.float64,  # value before the first evaluated node of a row
    # outputs
    filled: wp.array2d[Any],  # [X Y, Z]
):
    row = wp.tid() + first
    last = values.dtype(outside)
    for z in range(values.shape[1]):
        if stamps[row, z] == epoch:
            last = values[row, z]
        filled[row, z] = last
