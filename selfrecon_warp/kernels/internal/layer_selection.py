"""The nearest faces in or near every pixel, without what they look like there.

``rasterize_layers`` measures them and ``blended_silhouette`` blends them. No operation of its own: reference, tests and
benchmarks are theirs.
"""

from __future__ import annotations

from typing import Any

import torch
import warp as wp
from torch import Tensor

from selfrecon_warp.kernels.internal.face_tiles import (
    FaceTiles,
    TileGrid,
    border_distance_of_run,
    columns_of_run,
    corners_from_run,
    higher_of_runs,
    lowest_of_run,
    place_of_run,
    run_of,
    weights_of_run,
)
from selfrecon_warp.kernels.internal.triangle import greatest, least
from selfrecon_warp.kernels.interop import SCALAR, bits, ints, lanes, launch_split

LAST = wp.constant(wp.uint64(0xFFFFFFFFFFFFFFFF))
"""Sorts behind every face."""

CLOSER = wp.constant(1.0 - 1e-5)
"""What rounding may take off a depth between its corners'."""

vec4i = wp.types.vector(4, wp.int32)
vec4u = wp.types.vector(4, wp.uint64)


@wp.func
def insert(keys: wp.array2d[wp.uint64], pixel: wp.int32, key: wp.uint64, count: wp.int32):
    """Put a key into a pixel's ascending list of ``count``, dropping the last of a full one."""
    slot = wp.min(count, keys.shape[1] - 1)
    while slot > 0:
        before = keys[pixel, slot - 1]
        if before < key:
            break
        keys[pixel, slot] = before
        slot -= 1
    keys[pixel, slot] = key


@wp.func
def farthest_depth(last: Any):
    """Depth behind which no pixel of a run has room: that of its last key, infinite while one may still take any."""
    key = wp.max(wp.max(last[0], last[1]), wp.max(last[2], last[3]))
    return wp.where(key == LAST, wp.float32(wp.inf), wp.cast(wp.uint32(key >> wp.uint64(32)), wp.float32))


@wp.kernel(enable_backward=False, module="unique", module_options={"fuse_fp": False})
def select_layers_kernel(
    first: wp.int32,
    records: wp.array2d[Any],  # [B F, 3] lanes of 4
    start: wp.array[wp.int32],  # [tiles parts + 1]
    entries: wp.array[wp.int32],
    grid: TileGrid,
    radius: Any,
    perspective: wp.bool,
    clip: wp.bool,
    # outputs
    keys: wp.array2d[wp.uint64],  # [B H W, K] bits of the float32 depth, then the face index; ascending
    counts: wp.array[wp.int32],  # [B H W] how many
):
    """Collect the nearest faces of four pixels side by side."""
    tile, b, row, column = place_of_run(wp.tid() + first, grid)
    if row >= grid.height or column >= grid.width:
        return
    zero = type(radius)(0.0)
    one = type(radius)(1.0)
    u = type(radius)(column)
    v = type(radius)(row)
    farthest = wp.float32(wp.inf)
    columns = columns_of_run(u)
    pixel = (b * grid.height + row) * grid.width + column
    count = vec4i(0, 0, 0, 0)
    last = vec4u(LAST, LAST, LAST, LAST)
    for k in range(4):
        if column + k >= grid.width:
            last[k] = wp.uint64(0)
    for entry in range(start[tile * grid.parts], start[(tile + 1) * grid.parts]):
        f = entries[entry]
        r1 = records[b * grid.face_count + f, 1]
        r2 = records[b * grid.face_count + f, 2]
        if clip:
            least_depth = wp.where(perspective, one / greatest(r1[2], r1[3], r2[0]), least(r1[2], r1[3], r2[0]))
            if wp.float32(least_depth * type(radius)(CLOSER)) > farthest:
                continue
        r0 = records[b * grid.face_count + f, 0]
        x0, y0, x1, y1, x2, y2 = corners_from_run(r0, r1, columns, v)
        w0, w1, w2, outside = weights_of_run(x0, y0, x1, y1, x2, y2, r2)
        lowest = lowest_of_run(outside)
        if lowest < radius or lowest <= zero:
            side = wp.where(r2[1] < zero, one, -one)
            if clip:
                w0 = higher_of_runs(w0 * side, run_of(zero)) * side
                w1 = higher_of_runs(w1 * side, run_of(zero)) * side
                w2 = higher_of_runs(w2 * side, run_of(zero)) * side
            total = (w0 + w1 + w2) * side
            weighted = (w0 * r1[2] + w1 * r1[3] + w2 * r2[0]) * side
            squared = border_distance_of_run(x0, y0, x1, y1, x2, y2, r2)
            for k in range(4):
                if outside[k] <= zero or squared[k] < radius * radius:
                    z = wp.where(perspective, total[k] / weighted[k], weighted[k] / total[k])
                    key = (wp.uint64(wp.cast(wp.float32(z), wp.uint32)) << wp.uint64(32)) | wp.uint64(f)
                    if z > zero and key < last[k]:
                        insert(keys, pixel + k, key, count[k])
                        count[k] = wp.min(count[k] + 1, keys.shape[1])
                        if count[k] == keys.shape[1]:
                            last[k] = keys[pixel + k, count[k] - 1]
                            farthest = farthest_depth(last)
    for k in range(4):
        if column + k < grid.width:
            counts[pixel + k] = count[k]


def select_layers(
    tiles: FaceTiles, height: int, width: int, faces_per_pixel: int, radius: float, perspective: bool, clip: bool
) -> tuple[Tensor, Tensor]:
    """The nearest faces of every pixel: keys ``[B H W, K]``, the face index in the lower half, and counts ``[B H W]``.

    Keys beyond a pixel's count are left unwritten.
    """
    records, start, entries = tiles[:3]
    counts = torch.empty(len(records) * height * width, dtype=torch.int32, device=records.device)
    keys = torch.empty(len(counts), faces_per_pixel, dtype=torch.int64, device=records.device)
    inputs = [lanes(records.view(-1, 12), 12), ints(start), ints(entries), tiles.grid(height, width)]
    inputs += [SCALAR[records.dtype](radius), perspective, clip]
    outputs = [bits(keys), ints(counts)]
    launch_split(select_layers_kernel, records, (tiles.runs(height, width),), inputs, outputs, grain=256)
    return keys, counts
