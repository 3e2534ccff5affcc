"""Which cells of a lattice a surface crosses, by a sweep over all of its nodes.

Names are those of ``lattice``. Signs are packed 32 to a word along z, so that a cell's eight
corners are compared for 32 cells at once, and the sweep takes an eighth of a byte a node.

No operation of its own: reference, tests and benchmarks are those of ``marching_cubes``.
"""

from __future__ import annotations

from typing import Any

import torch
import warp as wp
from torch import Tensor

from selfrecon_warp.kernels.interop import ints, launch_split, scalars

wp.set_module_options({"enable_backward": False})


@wp.kernel
def pack_signs_kernel(
    first: wp.int32,
    values: wp.array2d[Any],  # [X Y, Z]
    level: wp.float64,
    shape: wp.vec3i,
    # outputs
    signs: wp.array2d[int],  # [X Y, W] bit z % 32 of word z // 32: the node is inside
):
    row, w = wp.tid()
    row += first
    x = row // shape[1]
    y = row - x * shape[1]
    bits = wp.int32(0)
    if x > 0 and x < shape[0] - 1 and y > 0 and y < shape[1] - 1:  # the border lies outside
        begin = wp.max(32 * w, 1)
        for z in range(begin, wp.min(32 * w + 32, shape[2] - 1)):
            if wp.float64(values[row, z]) < level:
                bits = bits | (1 << (z - 32 * w))
    signs[row, w] = bits


@wp.func
def crossed_word(row: int, w: int, signs: wp.array2d[int], shape: wp.vec3i):
    """Bits of the crossed cells of a row among 32.

    All nodes of the last row, column and layer lie outside, so no cell begins there.
    """
    crossed = wp.uint32(0)
    x = row // shape[1]
    if x == shape[0] - 1 or row - x * shape[1] == shape[1] - 1:
        return crossed
    some = wp.uint32(0)
    every = wp.uint32(0xFFFFFFFF)
    after_some = wp.uint32(0)
    after_every = wp.uint32(1)
    for k in range(4):
        at = row + (k & 1) + (k >> 1) * shape[1]
        word = wp.uint32(signs[at, w])
        some = some | word
        every = every & word
        after = wp.uint32(0)
        if w + 1 < signs.shape[1]:
            after = wp.uint32(signs[at, w + 1])
        after_some = after_some | after
        after_every = after_every & after
    some = some | (some >> wp.uint32(1)) | (after_some << wp.uint32(31))
    every = every & ((every >> wp.uint32(1)) | (after_every << wp.uint32(31)))
    return some & ~every


@wp.kernel
def count_crossed_kernel(
    first: wp.int32,
    signs: wp.array2d[int],  # [X Y, W]
    shape: wp.vec3i,
    # outputs
    counts: wp.array2d[int],  # [X Y, W]
):
    row, w = wp.tid()
    row += first
    counts[row, w] = int(wp.bit_count(crossed_word(row, w, signs, shape)))


@wp.kernel
def list_crossed_kernel(
    first: wp.int32,
    signs: wp.array2d[int],  # [X Y, W]
    ends: wp.array2d[int],  # [X Y, W] one beyond the last place in the list
    shape: wp.vec3i,
    # outputs
    cells: wp.array[int],  # [K]
):
    row, w = wp.tid()
    row += first
    crossed = crossed_word(row, w, signs, shape)
    if crossed == wp.uint32(0):
        return
    place = ends[row, w]
    for b in range(32):
        z = 31 - b
        if ((crossed >> wp.uint32(z)) & wp.uint32(1)) == wp.uint32(1):
            place -= 1
            cells[place] = row * shape[2] + 32 * w + z


def crossed_cells(values: Tensor, level: float) -> Tensor:
    """Ids of the cells with corners on both sides of the level, the border taken to lie outside.

    Args:
        values: ``[X, Y, Z]``, contiguous; NaN lies outside.
        level: Value of the surface, as the dtype of ``values`` holds it.

    Returns:
        ``[K]`` int32, ascending.
    """
    X, Y, Z = values.shape
    shape, dim = wp.vec3i(X, Y, Z), (X * Y, -(-Z // 32))
    signs = torch.empty(dim, dtype=torch.int32, device=values.device)
    counts = torch.empty_like(signs)
    inputs = [scalars(values.detach().flatten(0, 1)), wp.float64(level), shape]
    launch_split(pack_signs_kernel, values, dim, inputs, [ints(signs)])
    launch_split(count_crossed_kernel, values, dim, [ints(signs), shape], [ints(counts)])
    ends = counts.view(-1).cumsum(0, dtype=torch.int32).view(dim)
    cells = signs.new_empty(int(ends[-1, -1]))
    if len(cells):
        launch_split(list_crossed_kernel, values, dim, [ints(signs), ints(ends), shape], [ints(cells)])
    return cells
