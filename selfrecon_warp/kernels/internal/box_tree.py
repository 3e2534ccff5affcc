"""Boxes around boxes: the hierarchy that the searches for nearest points and nearest triangles walk.

Items (points, or triangles by the middle of their boxes) are sorted along Hilbert's curve and cut into leaves of
``LEAF``; ``WIDTH`` leaves make a node, ``WIDTH`` nodes the next, up to one root. Nothing is linked: child ``c`` of node
``i`` is number ``WIDTH i + c`` of the level below. The boxes of a node's children lie side by side, so that one pass of
vector instructions finds how far a query is from all of them. Clouds of a batch share the shape of their trees; what a
cloud lacks is an empty box, infinitely far from everything.

The distance to a box is the same sum of the same roundings as the distance to a point in it, so it is never larger:
pruning by it loses nothing, in either precision. Among equals the lowest index is wanted, therefore every child carries
the lowest index below it; many equal points cost no more than one.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import warp as wp
from torch import Tensor

from selfrecon_warp.kernels.interop import SCALAR, SPLIT_GRAIN, ints, lanes_of, launch, launch_split, scalars, vec3s

wp.set_module_options({"enable_backward": False, "fuse_fp": False})

WIDTH = wp.constant(8)
"""Children of a node."""
LEAF = wp.constant(16)
"""Items of a leaf."""
STACK = wp.constant(64)
"""Entries of a query's stack: a level leaves at most seven waiting."""
LEVELS = wp.constant(9)
"""Levels at most, leaves included: 2**28 items and more."""
NO_INDEX = wp.constant(2**31 - 1)
"""Index of no item, after all others."""
LEFT_OUT = wp.constant(wp.int64(2**62))
"""Place on the curve of an item that is left out, after all others."""

RUN = 64
"""Fewest points whose common box one thread finds."""

STARTS = wp.types.vector(LEVELS, wp.int32)


class BoxTree(NamedTuple):
    """What the searches read."""

    order: Tensor
    """``[B, N]`` int64: item at each place along the curve."""
    keys: Tensor
    """``[B, N]`` int64: place on the curve; ``LEFT_OUT`` where the item is left out."""
    boxes: Tensor
    """``[B, nodes, 6, WIDTH]``: lower and upper corner of the children of each node, root first."""
    least: Tensor
    """``[B, nodes, WIDTH]`` int32: lowest index among the items below each child, ``NO_INDEX`` where there is none."""
    sizes: tuple[int, ...]
    """Nodes of each level, root first, leaves last."""


@wp.func
def spread_bits(x: wp.uint64):
    """Twenty bits, two zeros after each."""
    x = (x | (x << wp.uint64(32))) & wp.uint64(0x001F00000000FFFF)
    x = (x | (x << wp.uint64(16))) & wp.uint64(0x001F0000FF0000FF)
    x = (x | (x << wp.uint64(8))) & wp.uint64(0x100F00F00F00F00F)
    x = (x | (x << wp.uint64(4))) & wp.uint64(0x10C30C30C30C30C3)
    return (x | (x << wp.uint64(2))) & wp.uint64(0x1249249249249249)


@wp.func
def hilbert_place(x: wp.uint32, y: wp.uint32, z: wp.uint32, turns: wp.int32):
    """Place on a space-filling curve of a cell of 20 bits an axis: Hilbert's at its upper ``turns`` bits.

    Source: Skilling 2004, Programming the Hilbert curve.
    """
    one = wp.uint32(1)
    for n in range(turns):
        bit = wp.uint32(19 - n)
        below = (one << bit) - one
        x = x ^ (below & (~((x >> bit) & one) + one))
        turned = ~((y >> bit) & one) + one  # all bits or none
        swapped = (x ^ y) & below & ~turned
        x = x ^ swapped ^ (below & turned)
        y = y ^ swapped
        turned = ~((z >> bit) & one) + one
        swapped = (x ^ z) & below & ~turned
        x = x ^ swapped ^ (below & turned)
        z = z ^ swapped
    y = y ^ x
    z = z ^ y
    odd = z >> one
    odd = odd ^ (odd >> one)
    odd = odd ^ (odd >> wp.uint32(2))
    odd = odd ^ (odd >> wp.uint32(4))
    odd = odd ^ (odd >> wp.uint32(8))
    odd = odd ^ (odd >> wp.uint32(16))
    place = spread_bits(wp.uint64(z ^ odd))
    place = place | (spread_bits(wp.uint64(y ^ odd)) << wp.uint64(1))
    return wp.int64(place | (spread_bits(wp.uint64(x ^ odd)) << wp.uint64(2)))


@wp.func
def is_finite(p: Any):
    """Whether a point is finite."""
    return wp.isfinite(p[0]) and wp.isfinite(p[1]) and wp.isfinite(p[2])


@wp.kernel
def bound_runs_kernel(
    first: wp.int32,
    run: wp.int32,
    points: wp.array2d[Any],  # [B, N] vec3
    lengths: wp.array[wp.int64],  # [B]
    # outputs
    corners: wp.array3d[Any],  # [B, runs, 6]
):
    """Halved box of each run of points; halved so that no extent overflows."""
    b, i = wp.tid()
    i += first
    infinity = type(corners[b, i, 0])(wp.inf)
    low = type(points[b, 0])(infinity)
    high = -low
    for n in range(i * run, wp.min((i + 1) * run, wp.int32(lengths[b]))):
        p = points[b, n]
        if is_finite(p):
            low = wp.min(low, p)
            high = wp.max(high, p)
    for axis in range(3):
        corners[b, i, axis] = low[axis] / type(infinity)(2.0)
        corners[b, i, axis + 3] = high[axis] / type(infinity)(2.0)


@wp.kernel
def fit_curve_kernel(
    corners: wp.array3d[Any],  # [B, runs, 6]
    least: Any,
    most: Any,
    # outputs
    lower: wp.array[Any],  # [B] vec3, halved
    scale: wp.array[Any],  # [B] of halved coordinates
):
    """Cube that a cloud's curve fills, from the halved boxes of its runs."""
    b = wp.tid()
    low = lower.dtype(scale.dtype(wp.inf))
    high = -low
    for i in range(corners.shape[1]):
        for axis in range(3):
            low[axis] = wp.min(low[axis], corners[b, i, axis])
            high[axis] = wp.max(high[axis], corners[b, i, axis + 3])
    lower[b] = low
    scale[b] = wp.min(type(least)(1048575.0) / wp.max(wp.max(high - low), least), most)


@wp.kernel
def curve_keys_kernel(
    first: wp.int32,
    points: wp.array2d[Any],  # [B, N] vec3
    lengths: wp.array[wp.int64],  # [B]
    lower: wp.array[Any],  # [B] vec3, halved
    scale: wp.array[Any],  # [B] of halved coordinates
    turns: wp.int32,
    # outputs
    keys: wp.array2d[wp.int64],  # [B, N]
):
    """Place of each point on the curve through its cloud's box."""
    b, n = wp.tid()
    n += first
    p = points[b, n]
    key = LEFT_OUT
    if wp.int64(n) < lengths[b] and is_finite(p):
        zero = p.dtype(0.0)
        last = p.dtype(1048575.0)
        half = p.dtype(0.5)
        x = wp.clamp((half * p[0] - lower[b][0]) * scale[b], zero, last)
        y = wp.clamp((half * p[1] - lower[b][1]) * scale[b], zero, last)
        z = wp.clamp((half * p[2] - lower[b][2]) * scale[b], zero, last)
        key = hilbert_place(wp.uint32(x), wp.uint32(y), wp.uint32(z), turns)
    keys[b, n] = key


@wp.func
def enter_box(low: Any, high: Any, b: int, node: int, lane: int, boxes: wp.array4d[Any]):
    """Widen the box of a node's child to hold what lies between two corners."""
    for axis in range(3):
        boxes[b, node, axis, lane] = wp.min(boxes[b, node, axis, lane], low[axis])
        boxes[b, node, axis + 3, lane] = wp.max(boxes[b, node, axis + 3, lane], high[axis])


@wp.kernel
def join_boxes_kernel(
    start: wp.int32,
    parent_start: wp.int32,
    # outputs
    boxes: wp.array4d[Any],  # [B, nodes, 6, WIDTH]
    least: wp.array3d[wp.int32],  # [B, nodes, WIDTH]
):
    """Enter the union of a node's boxes into its parent."""
    b, i = wp.tid()
    node = start + i
    parent = parent_start + i // WIDTH
    lane = i % WIDTH
    for axis in range(3):
        low = boxes[b, node, axis, 0]
        high = boxes[b, node, axis + 3, 0]
        for c in range(1, WIDTH):
            low = wp.min(low, boxes[b, node, axis, c])
            high = wp.max(high, boxes[b, node, axis + 3, c])
        boxes[b, parent, axis, lane] = low
        boxes[b, parent, axis + 3, lane] = high
    lowest = least[b, node, 0]
    for c in range(1, WIDTH):
        lowest = wp.min(lowest, least[b, node, c])
    least[b, parent, lane] = lowest


def along_curve(points: Tensor, lengths: Tensor, turns: int = 3) -> tuple[Tensor, Tensor]:
    """Sort the points of each cloud along a space-filling curve through its box.

    Args:
        points: Contiguous clouds ``[B, N, 3]``.
        lengths: Points of each cloud, ``[B]`` int64; those past them, and those not finite, come last.
        turns: Upper bits at which the curve is Hilbert's; below them it jumps more. Each costs some time.

    Returns:
        Place of each on the curve, ascending, ``LEFT_OUT`` where it is left out, and its number; both ``[B, N]`` int64.
    """
    B, N = points.shape[:2]
    keys = torch.empty(B, N, dtype=torch.int64, device=points.device)
    if points.numel() > 0:
        run = max(RUN, math.isqrt(N))  # as many runs as points in a run: one thread sees to all runs of a cloud
        runs = -(-N // run)
        corners, lower, scale = points.new_empty(B, runs, 6), points.new_empty(B, 3), points.new_empty(B)
        inputs, cubes = [vec3s(points), ints(lengths)], [vec3s(lower), scalars(scale)]
        grain = max(1, SPLIT_GRAIN // run)
        launch_split(bound_runs_kernel, points, (B, runs), [run, *inputs], [scalars(corners)], axis=1, grain=grain)
        numbers, number = torch.finfo(points.dtype), SCALAR[points.dtype]
        launch(fit_curve_kernel, points, (B,), [scalars(corners), number(numbers.tiny), number(numbers.max)], cubes)
        launch_split(curve_keys_kernel, points, (B, N), [*inputs, *cubes, turns], [ints(keys)], axis=1)
    if B == 1:  # a sort of one row alone is the faster call
        ordered, order = keys[0].sort(stable=True)
        return ordered[None], order[None]
    return tuple(keys.sort(dim=1, stable=True))


def in_order(items: Tensor, order: Tensor) -> Tensor:
    """Contiguous items ``[B, N, ...]`` in another order, ``[B, N]``."""
    B, N = order.shape
    rows = order if B == 1 else order + N * torch.arange(B, device=order.device)[:, None]
    return items.view(B * N, -1).index_select(0, rows.reshape(-1)).view_as(items)


def grow(middles: Tensor, lengths: Tensor) -> BoxTree:
    """Order the items of each cloud and make room for their boxes, all empty.

    Args:
        middles: Middle of each item, ``[B, N, 3]``, ``N > 0``; one that is not finite leaves the item out.
        lengths: Items of each cloud, ``[B]`` int64.

    Where most items share their place on the curve with another, as clusters do among outliers, they are ordered by
    their ranks along each axis instead of their coordinates.
    """
    B, N = middles.shape[:2]
    keys, order = along_curve(middles, lengths, 10)
    crowded = 2 * (keys[:, 1:] == keys[:, :-1]).sum() > keys.numel()
    if crowded:
        keys, order = along_curve(_ranks(middles), lengths, 10)
    sizes = [-(-N // LEAF)]
    while len(sizes) < 2 or sizes[0] > 1:
        sizes.insert(0, -(-sizes[0] // WIDTH))
    nodes = sum(sizes[:-1])
    boxes = torch.empty(B, nodes, 6, WIDTH, dtype=middles.dtype, device=keys.device)
    boxes[:, :, :3] = float("inf")
    boxes[:, :, 3:] = -float("inf")
    least = torch.full((B, nodes, WIDTH), NO_INDEX, dtype=torch.int32, device=keys.device)
    return BoxTree(order, keys, boxes, least, tuple(sizes))


def _ranks(points: Tensor) -> Tensor:
    """Rank of each coordinate within its cloud, ``[B, N, 3]``; NaN where the point is not finite."""
    ranks = points.argsort(dim=1, stable=True).argsort(dim=1).to(points.dtype)
    return torch.where(points.isfinite().all(-1, keepdim=True), ranks, float("nan"))


def join(tree: BoxTree) -> None:
    """Fill the levels above the lowest nodes, whose boxes the leaves have entered."""
    sizes = tree.sizes[:-1]
    for level in range(len(sizes) - 1, 0, -1):
        start = sum(sizes[:level])
        launch(
            join_boxes_kernel,
            tree.boxes,
            (len(tree.boxes), sizes[level]),
            [start, start - sizes[level - 1]],
            [scalars(tree.boxes), ints(tree.least)],
        )


def tree_inputs(tree: BoxTree) -> list[Any]:
    """The tree as the kernels take it: order, boxes, lowest indices, first node of each level, level of the leaves."""
    starts = STARTS(*(sum(tree.sizes[:level]) if level < len(tree.sizes) else 0 for level in range(LEVELS)))
    return [ints(tree.order), lanes_of(tree.boxes), ints(tree.least), starts, len(tree.sizes) - 1]


@wp.func
def first_bit(mask: wp.uint32):
    """Number of zeros below the lowest one."""
    return wp.int32(wp.bit_count((mask & (~mask + wp.uint32(1))) - wp.uint32(1)))


@wp.func
def mask_within(lane: Any, limit: Any):
    """A bit for each entry that is at most ``limit``."""
    mask = wp.uint32(0)
    for c in range(len(lane)):
        mask = mask | wp.where(lane[c] <= limit, wp.uint32(1 << c), wp.uint32(0))
    return mask


@wp.func
def gaps(low: Any, high: Any, from_low: Any, from_high: Any):
    """How far an interval lies outside each of the others."""
    return wp.max(wp.max(low - type(low)(from_high), type(low)(from_low) - high), type(low)(from_low - from_low))


@wp.func
def box_distances(low: Any, high: Any, b: int, node: int, boxes: wp.array3d[Any]):
    """Squared distances from the box between two corners to the children of a node; 0 where they overlap."""
    dx = gaps(boxes[b, node, 0], boxes[b, node, 3], low[0], high[0])
    dy = gaps(boxes[b, node, 1], boxes[b, node, 4], low[1], high[1])
    dz = gaps(boxes[b, node, 2], boxes[b, node, 5], low[2], high[2])
    return wp.cw_mul(dx, dx) + wp.cw_mul(dy, dy) + wp.cw_mul(dz, dz)


@wp.func
def push_children(
    low: Any,
    high: Any,
    b: int,
    code: int,
    boxes: wp.array3d[Any],
    least: wp.array3d[wp.int32],
    starts: Any,
    limit: Any,
    limit_index: int,
    distances: Any,
    codes: Any,
    top: int,
):
    """Put the children of a node that may hold something nearer onto the stack, the nearest last; returns its height.

    What is asked for lies between the corners ``low`` and ``high``.

    A code is the node's number within its level, times 16, plus the level.
    """
    level = code & 15
    i = code >> 4
    node = starts[level] + i
    squared = box_distances(low, high, b, node, boxes)
    mask = mask_within(squared, limit)
    bottom = top
    while mask != wp.uint32(0):
        c = first_bit(mask)
        mask = mask & (mask - wp.uint32(1))
        away = squared[c]
        if away < limit or least[b, node, c] < limit_index:
            place = top
            while place > bottom and distances[wp.max(place - 1, 0)] <= away:
                distances[place] = distances[place - 1]
                codes[place] = codes[place - 1]
                place -= 1
            distances[place] = away
            codes[place] = ((i * WIDTH + c) << 4) | (level + 1)
            top += 1
    return top
