"""Points listed by the tiles of the picture that their discs touch, nearest first.

Points are put in order of depth, then counted and written into their tiles' lists in that order. The counting sort is
shared by chunks of points, each with counts of its own, so nothing depends on the order in which threads run.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import warp as wp
from torch import Tensor

from selfrecon_warp.kernels.internal.triangle import NEAR
from selfrecon_warp.kernels.interop import ints, launch, vec4s

TILE = 2, 32
"""Least rows and columns of a tile; doubled until they are no less than the radius."""
LARGEST_TILE = 64
CHUNKS = {"cpu": 1, "cuda": 256}
"""Chunks that the points are listed in, side by side; the lists do not depend on it."""


class TileLists(NamedTuple):
    """The points whose discs may touch each tile, nearest first."""

    tile: tuple[int, int]
    """Rows and columns of a tile."""
    ends: Tensor
    """``[B, tiles down, tiles across]`` int32: one past the tile's last entry; it begins where the one before ends."""
    point_index: Tensor
    """``[M]`` int32."""
    discs: Tensor
    """``[M, 4]``: the point's ``(u, v, z)`` [pixel, pixel, m] and its radius [pixel]."""


@wp.func
def tile_range(ends: wp.array3d[wp.int32], b: int, row: int, column: int):
    """First and one-past-last entry of a tile."""
    begin = wp.int32(0)
    if column > 0:
        begin = ends[b, row, column - 1]
    elif row > 0:
        begin = ends[b, row - 1, ends.shape[2] - 1]
    elif b > 0:
        begin = ends[b - 1, ends.shape[1] - 1, ends.shape[2] - 1]
    return wp.vec2i(begin, ends[b, row, column])


@wp.func
def tiles_touched(disc: Any, height: int, width: int, tile_height: int, tile_width: int):
    """First and last row, first and last column of the tiles a disc may touch; last before first when none."""
    zero = disc.dtype(0.0)
    top = wp.max(disc[1] - disc[3], zero)
    bottom = wp.min(disc[1] + disc[3], disc.dtype(height - 1))
    left = wp.max(disc[0] - disc[3], zero)
    right = wp.min(disc[0] + disc[3], disc.dtype(width - 1))
    if not (disc[3] > zero and top <= bottom and left <= right):
        return wp.vec4i(0, -1, 0, -1)
    return wp.vec4i(
        int(top) // tile_height, int(bottom) // tile_height, int(left) // tile_width, int(right) // tile_width
    )


@wp.kernel(enable_backward=False, module="unique")
def count_tiles_kernel(
    discs: wp.array2d[Any],  # [B, P] vec4, nearest first
    shown: wp.array[wp.int32],  # [B]
    height: wp.int32,
    width: wp.int32,
    tile_height: wp.int32,
    tile_width: wp.int32,
    across: wp.int32,
    # outputs
    counts: wp.array3d[wp.int32],  # [B, tiles, chunks]
):
    """Count the points of one chunk in each tile they may touch."""
    b, chunk = wp.tid()
    chunks = counts.shape[2]
    size = (shown[b] + chunks - 1) // chunks
    for rank in range(chunk * size, wp.min(shown[b], (chunk + 1) * size)):
        disc = discs[b, rank]
        box = tiles_touched(disc, height, width, tile_height, tile_width)
        for row in range(box[0], box[1] + 1):
            for column in range(box[2], box[3] + 1):
                t = row * across + column
                counts[b, t, chunk] = counts[b, t, chunk] + 1


@wp.kernel(enable_backward=False, module="unique")
def list_tiles_kernel(
    discs: wp.array2d[Any],  # [B, P] vec4, nearest first
    shown: wp.array[wp.int32],  # [B]
    height: wp.int32,
    width: wp.int32,
    tile_height: wp.int32,
    tile_width: wp.int32,
    across: wp.int32,
    order: wp.array2d[wp.int32],  # [B, P]
    # outputs
    cursors: wp.array3d[wp.int32],  # [B, tiles, chunks]
    tile_points: wp.array[wp.int32],  # [M]
    tile_discs: wp.array[Any],  # [M] vec4
):
    """Write the points of one chunk into the lists of the tiles they may touch."""
    b, chunk = wp.tid()
    chunks = cursors.shape[2]
    size = (shown[b] + chunks - 1) // chunks
    for rank in range(chunk * size, wp.min(shown[b], (chunk + 1) * size)):
        disc = discs[b, rank]
        box = tiles_touched(disc, height, width, tile_height, tile_width)
        for row in range(box[0], box[1] + 1):
            for column in range(box[2], box[3] + 1):
                t = row * across + column
                cursor = cursors[b, t, chunk]
                tile_points[cursor] = order[b, rank]
                tile_discs[cursor] = disc
                cursors[b, t, chunk] = cursor + 1


def _nearest_first(points: Tensor) -> tuple[Tensor, Tensor]:
    """Order of each frame's points by depth, ties by index, and how many of them can be drawn; the others come last."""
    usable = points.isfinite().all(-1) & (points[..., 2] > NEAR)
    bits = points[..., 2].contiguous().view(torch.int32 if points.dtype == torch.float32 else torch.int64)
    keys = torch.where(usable, bits, torch.iinfo(bits.dtype).max)  # a positive float's bits order as integers
    order = [torch.sort(frame, stable=True).indices for frame in keys]  # radix sort, for single rows alone
    return torch.stack(order), usable.sum(1, dtype=torch.int32)


def tile_lists(points_pixel: Tensor, radius: Tensor, height: int, width: int, chunks: int | None = None) -> TileLists:
    """List the points by the tiles of the picture their discs may touch, nearest first.

    Args:
        points_pixel: Projected points ``(u, v, z)`` [pixel, pixel, m], ``[B, P, 3]``; constant to the gradient, as the
            radius. Points at ``z <= NEAR`` or with a coordinate that is not finite are left out.
        radius: Radii [pixel], ``[1 or B, 1 or P]``; a point whose radius is not above zero is left out.
        height: Rows of the image.
        width: Columns of the image.
        chunks: Parts of the points listed side by side; a fitting number when absent. The lists do not depend on it.

    Returns:
        The lists; a tile's points hold all those of its pixels.

    Raises:
        ValueError: The lists are too long to index.
    """
    points, B = points_pixel.detach(), len(points_pixel)
    usual = float(radius.nan_to_num(0.0).clamp(0.0, height + width).square().sum() / max(1, radius.numel())) ** 0.5
    side = 1 << math.ceil(math.log2(max(1.0, min(usual, LARGEST_TILE))))
    tile = max(TILE[0], side), max(TILE[1], side)
    down, across = -(-height // tile[0]), -(-width // tile[1])
    chunks = chunks or CHUNKS[points.device.type]
    counts = torch.zeros(B, down * across, chunks, dtype=torch.int32, device=points.device)
    if points.numel() == 0:
        return TileLists(tile, counts[..., 0].view(B, down, across), counts.new_zeros(0), points.new_zeros(0, 4))
    order, shown = _nearest_first(points)
    discs = torch.cat([points, radius.expand(points.shape[:2])[..., None]], -1)
    discs = discs.gather(1, order[..., None].expand(-1, -1, 4))
    inputs = [vec4s(discs), ints(shown), height, width, *tile, across]
    launch(count_tiles_kernel, points, (B, chunks), inputs, [ints(counts)])
    ends = counts.flatten().cumsum(0)
    total = int(ends[-1])
    require_addressable("radius", total)
    ends = ends.int().view_as(counts)
    cursors = ends - counts
    tile_points, tile_discs = counts.new_empty(total), points.new_empty(total, 4)
    if total:
        outputs = [ints(cursors), ints(tile_points), vec4s(tile_discs)]
        launch(list_tiles_kernel, points, (B, chunks), [*inputs, ints(order.int())], outputs)
    return TileLists(tile, ends[..., -1].reshape(B, down, across), tile_points, tile_discs)


def require_addressable(name: str, total: int) -> None:
    """Check that lists of ``total`` entries can be indexed by int32.

    Raises:
        ValueError: They cannot; the message names the argument that made them long.
    """
    if total >= 2**31:
        raise ValueError(
            f"{name} must leave fewer than 2^31 entries in all lists, got {total}; draw fewer frames at a time"
        )
