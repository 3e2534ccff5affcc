"""Point clouds made ready to be asked for nearest neighbours.

Points are kept in a box tree (see ``box_tree.py``), queries are visited along a space-filling curve. Where queries are
visited one after the other, each starts from the answer of the one before: the distance to points that are known
already bounds the search from the first box on. Distances are those of the input's precision, ``(q - p)`` squared and
summed, without a detour; among equal ones the lower index wins.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import warp as wp
from torch import Tensor

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.arguments import require_like, require_range
from selfrecon_warp.kernels.internal.box_tree import (
    LEAF,
    LEFT_OUT,
    NO_INDEX,
    STACK,
    WIDTH,
    BoxTree,
    along_curve,
    enter_box,
    first_bit,
    grow,
    in_order,
    join,
    mask_within,
    push_children,
    tree_inputs,
)
from selfrecon_warp.kernels.interop import SPLIT_GRAIN, ints, lanes_of, launch_split, scalars, vec3s

wp.set_module_options({"enable_backward": False, "fuse_fp": False})  # box and point distances round alike


RUN = 256
"""Queries that one thread of Warp's answers on a CPU, each from where the last one ended."""
GRAIN = 1024
"""Fewest queries a thread is given: half a millisecond's work."""


class Neighbours(NamedTuple):
    """The nearest points of each query, nearest first."""

    squared_distance: Tensor
    """``[P, K]`` or ``[B, P, K]`` [m^2]; ``inf`` where there is no such neighbour."""
    index: Tensor
    """The same shape, int64; -1 where there is no such neighbour."""


@wp.kernel
def fill_leaves_kernel(
    first: wp.int32,
    points: wp.array2d[Any],  # [B, Q] vec3
    order: wp.array2d[wp.int64],  # [B, Q]
    keys: wp.array2d[wp.int64],  # [B, Q]
    parent_start: wp.int32,
    # outputs
    leaves: wp.array4d[Any],  # [B, leaves, 3, LEAF]
    boxes: wp.array4d[Any],  # [B, nodes, 6, WIDTH]
    least: wp.array3d[wp.int32],  # [B, nodes, WIDTH]
):
    """Copy the points of a leaf side by side and enter their box into the leaf's parent."""
    b, i = wp.tid()
    i += first
    parent = parent_start + i // WIDTH
    lane = i % WIDTH
    lowest = wp.int32(NO_INDEX)
    for place in range(i * LEAF, wp.min((i + 1) * LEAF, points.shape[1])):
        if keys[b, place] < LEFT_OUT:
            item = wp.int32(order[b, place])
            p = points[b, item]
            lowest = wp.min(lowest, item)
            for axis in range(3):
                leaves[b, i, axis, place - i * LEAF] = p[axis]
            enter_box(p, p, b, parent, lane, boxes)
    least[b, parent, lane] = lowest


@wp.func
def leaf_distances(q: Any, b: int, leaf: int, leaves: wp.array3d[Any]):
    """Squared distances to the points of a leaf; not a number where there is none."""
    x = leaves[b, leaf, 0]
    y = leaves[b, leaf, 1]
    z = leaves[b, leaf, 2]
    dx = x - type(x)(q[0])
    dy = y - type(x)(q[1])
    dz = z - type(x)(q[2])
    return wp.cw_mul(dx, dx) + wp.cw_mul(dy, dy) + wp.cw_mul(dz, dz)


@wp.func
def nearest_in_leaf(
    q: Any, b: int, leaf: int, leaves: wp.array3d[Any], order: wp.array2d[wp.int64], best: Any, best_index: int
):
    """The nearest so far, or a point of the leaf that is nearer."""
    near = leaf_distances(q, b, leaf, leaves)
    mask = mask_within(near, best)
    while mask != wp.uint32(0):
        c = first_bit(mask)
        mask = mask & (mask - wp.uint32(1))
        item = wp.int32(order[b, leaf * LEAF + c])
        if near[c] < best or (near[c] == best and item < best_index):
            best = near[c]
            best_index = item
    return best, best_index


@wp.kernel
def nearest_kernel(
    first: wp.int32,
    run: wp.int32,
    queries: wp.array2d[Any],  # [B, P] vec3, along the curve
    query_order: wp.array2d[wp.int64],  # [B, P]
    query_keys: wp.array2d[wp.int64],  # [B, P]
    leaves: wp.array3d[Any],  # [B, leaves, 3] lanes
    order: wp.array2d[wp.int64],  # [B, Q]
    boxes: wp.array3d[Any],  # [B, nodes, 6] lanes
    least: wp.array3d[wp.int32],  # [B, nodes, WIDTH]
    starts: Any,
    leaf_level: wp.int32,
    # outputs
    squared: wp.array3d[Any],  # [B, P, 1]
    index: wp.array3d[wp.int64],  # [B, P, 1]
):
    """The one nearest point of each query of a run; the leaf that held the last one's is looked into first."""
    b, r = wp.tid()
    r += first
    distances = wp.zeros(shape=(STACK,), dtype=queries.dtype.dtype)
    codes = wp.zeros(shape=(STACK,), dtype=wp.int32)
    last_leaf = wp.int32(-1)
    for turn in range(r * run, wp.min((r + 1) * run, queries.shape[1])):
        q = queries[b, turn]
        best = q.dtype(wp.inf)
        best_index = wp.int32(-1)
        if query_keys[b, turn] < LEFT_OUT:
            looked = last_leaf
            if looked >= 0:
                best, best_index = nearest_in_leaf(q, b, looked, leaves, order, best, best_index)
            distances[0] = q.dtype(0.0)
            codes[0] = wp.int32(0)
            top = wp.int32(1)
            while top > 0:
                top -= 1
                code = codes[top]
                if distances[top] <= best:
                    if (code & 15) == leaf_level:
                        leaf = code >> 4
                        if leaf != looked:
                            before = best_index
                            best, best_index = nearest_in_leaf(q, b, leaf, leaves, order, best, best_index)
                            if best_index != before:
                                last_leaf = leaf
                    else:
                        top = push_children(
                            q, q, b, code, boxes, least, starts, best, best_index, distances, codes, top
                        )
        row = wp.int32(query_order[b, turn])
        squared[b, row, 0] = best
        index[b, row, 0] = wp.int64(best_index)


@wp.kernel
def nearest_few_kernel(
    first: wp.int32,
    queries: wp.array2d[Any],  # [B, P] vec3, along the curve
    query_order: wp.array2d[wp.int64],  # [B, P]
    query_keys: wp.array2d[wp.int64],  # [B, P]
    points: wp.array2d[Any],  # [B, Q] vec3
    leaves: wp.array3d[Any],  # [B, leaves, 3] lanes
    order: wp.array2d[wp.int64],  # [B, Q]
    boxes: wp.array3d[Any],  # [B, nodes, 6] lanes
    least: wp.array3d[wp.int32],  # [B, nodes, WIDTH]
    starts: Any,
    leaf_level: wp.int32,
    in_turn: wp.bool,
    # outputs
    squared: wp.array3d[Any],  # [B, P, K]
    index: wp.array3d[wp.int64],  # [B, P, K]
):
    """The K nearest points."""
    b, t = wp.tid()
    turn = first + t
    row = wp.int32(query_order[b, turn])
    q = queries[b, turn]
    last = squared.shape[2] - 1
    found = wp.int32(0)
    if query_keys[b, turn] < LEFT_OUT:
        limit = q.dtype(wp.inf)
        limit_index = wp.int32(-1)
        if in_turn and t > 0:
            before = wp.int32(query_order[b, turn - 1])
            if index[b, before, last] >= wp.int64(0):
                limit = q.dtype(0.0)
                for k in range(last + 1):
                    gap = q - points[b, wp.int32(index[b, before, k])]
                    limit = wp.max(limit, gap[0] * gap[0] + gap[1] * gap[1] + gap[2] * gap[2])
                if limit < q.dtype(wp.inf):  # not where the square overflows
                    limit_index = wp.int32(NO_INDEX)
        distances = wp.zeros(shape=(STACK,), dtype=q.dtype)
        codes = wp.zeros(shape=(STACK,), dtype=wp.int32)
        top = wp.int32(1)
        while top > 0:
            top -= 1
            code = codes[top]
            if distances[top] <= limit:
                if (code & 15) == leaf_level:
                    leaf = code >> 4
                    near = leaf_distances(q, b, leaf, leaves)
                    mask = mask_within(near, limit)
                    while mask != wp.uint32(0):
                        c = first_bit(mask)
                        mask = mask & (mask - wp.uint32(1))
                        item = wp.int32(order[b, leaf * LEAF + c])
                        if near[c] < limit or (near[c] == limit and item < limit_index):
                            place = wp.min(found, last)
                            while place > 0 and (
                                squared[b, row, wp.max(place - 1, 0)] > near[c]
                                or (
                                    squared[b, row, wp.max(place - 1, 0)] == near[c]
                                    and index[b, row, wp.max(place - 1, 0)] > wp.int64(item)
                                )
                            ):
                                squared[b, row, place] = squared[b, row, place - 1]
                                index[b, row, place] = index[b, row, place - 1]
                                place -= 1
                            squared[b, row, place] = near[c]
                            index[b, row, place] = wp.int64(item)
                            found = wp.min(found + 1, last + 1)
                            if found > last:
                                limit = squared[b, row, last]
                                limit_index = wp.int32(index[b, row, last])
                else:
                    top = push_children(q, q, b, code, boxes, least, starts, limit, limit_index, distances, codes, top)
    while found <= last:
        squared[b, row, found] = q.dtype(wp.inf)
        index[b, row, found] = wp.int64(-1)
        found += 1


class PointTree:
    """Point clouds made ready to be asked for nearest neighbours any number of times; without gradient.

    Args:
        points: One cloud ``[Q, 3]`` or a batch ``[B, Q, 3]`` [m], float32 or float64; a point with a coordinate that is
            not finite is never chosen.
        lengths: Points of each cloud of a batch, ``[B]`` integers; all of them where absent.
        copy: Keep the points as they are now. Without, they must not change while the tree is asked.

    Raises:
        ValueError: A shape, dtype or length disagrees; the message names the argument.
    """

    def __init__(self, points: Tensor, lengths: Tensor | None = None, *, copy: bool = True) -> None:
        require_shapes(points=(points, "Q 3" if points.dim() == 2 else "B Q 3"))
        require_like("points", points)
        counts = cloud_counts("lengths", lengths, points)
        self._pattern = "P 3" if points.dim() == 2 else "B P 3"
        clouds = as_clouds(points.detach())
        self._points = clouds = clouds.clone() if copy else clouds
        self._boxes: BoxTree | None = None
        if clouds.numel() == 0:
            return
        tree = grow(clouds, counts)
        leaves = tree.sizes[-1]
        self._leaves = clouds.new_full((len(clouds), leaves, 3, LEAF), float("nan"))
        launch_split(
            fill_leaves_kernel,
            clouds,
            (len(clouds), leaves),
            [vec3s(clouds), ints(tree.order), ints(tree.keys), sum(tree.sizes[:-2])],
            [scalars(self._leaves), scalars(tree.boxes), ints(tree.least)],
            axis=1,
            grain=SPLIT_GRAIN // LEAF,
        )
        join(tree)
        self._boxes = tree

    def kernel_inputs(self) -> list[Any] | None:
        """Points, leaves and boxes as the searching kernels take them; ``None`` where there are no points."""
        if self._boxes is None:
            return None
        return [vec3s(self._points), lanes_of(self._leaves), *tree_inputs(self._boxes)]

    def nearest(self, queries: Tensor, count: int = 1, lengths: Tensor | None = None) -> Neighbours:
        """The nearest points of each query, as :func:`nearest_neighbours` gives them but without gradient.

        Args:
            queries: ``[P, 3]`` or ``[B, P, 3]`` [m], as the points are.
            count: Neighbours wanted, ``K``.
            lengths: Queries of each cloud of a batch, ``[B]`` integers; all of them where absent.

        Raises:
            ValueError: A shape, dtype or length disagrees, or ``count`` is not positive; the message names the
                argument.
        """
        if self._pattern == "B P 3":
            require_shapes(points=(self._points, "B Q 3"), queries=(queries, "B P 3"))
        else:
            require_shapes(queries=(queries, "P 3"))
        require_like("points", self._points, queries=queries)
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        counts = cloud_counts("lengths", lengths, queries)
        clouds = as_clouds(queries.detach())
        found = self._found(clouds, *along_curve(clouds, counts), count)
        return Neighbours(*(each.view(*queries.shape[:-1], count) for each in found))

    def nearest_to_points_of(self, other: PointTree) -> Neighbours:
        """The nearest point of each point of another tree of as many clouds, ``[B, P, 1]``, without sorting them."""
        empty = other._points.new_empty(other._points.shape[:2], dtype=torch.int64)
        keys, order = (empty, empty) if other._boxes is None else (other._boxes.keys, other._boxes.order)
        return self._found(other._points, keys, order, 1)

    def _found(self, queries: Tensor, keys: Tensor, order: Tensor, count: int) -> Neighbours:
        """Neighbours ``[B, P, K]`` of contiguous clouds ``[B, P, 3]``, given how they lie along the curve."""
        B, P = queries.shape[:2]
        tree = self.kernel_inputs()
        if tree is None or queries.numel() == 0:
            nowhere = torch.full((B, P, count), -1, dtype=torch.int64, device=queries.device)
            return Neighbours(queries.new_full((B, P, count), float("inf")), nowhere)
        inputs = [vec3s(in_order(queries, order)), ints(order), ints(keys)]
        squared = queries.new_empty(B, P, count)
        index = torch.empty(B, P, count, dtype=torch.int64, device=queries.device)
        outputs = [scalars(squared), ints(index)]
        if count == 1:
            run = 1 if queries.is_cuda else RUN
            inputs = [run, *inputs, *tree[1:]]
            dim = B, -(-P // run)
            launch_split(nearest_kernel, queries, dim, inputs, outputs, axis=1, grain=max(1, GRAIN // run))
        else:
            inputs += [*tree, not queries.is_cuda]
            launch_split(nearest_few_kernel, queries, (B, P), inputs, outputs, axis=1, grain=GRAIN)
        return Neighbours(squared, index)


def as_clouds(tensor: Tensor, dimensions: int = 3) -> Tensor:
    """The tensor contiguous, with a batch axis of one where it has fewer dimensions."""
    return (tensor if tensor.dim() == dimensions else tensor[None]).contiguous()


def cloud_counts(name: str, lengths: Tensor | None, points: Tensor) -> Tensor:
    """Points of each cloud, ``[B]`` int64 on the points' device.

    Raises:
        ValueError: The lengths do not fit the points.
    """
    B, N = (1, len(points)) if points.dim() == 2 else points.shape[:2]
    if lengths is None:
        return torch.full((B,), N, dtype=torch.int64, device=points.device)
    if lengths.shape != (B,) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        found = f"{list(lengths.shape)} {lengths.dtype}"
        raise ValueError(f"{name} must be [B={B}] integers, the points of each cloud, got {found}")
    if lengths.device != points.device:
        raise ValueError(
            f"{name} must be on {points.device} like the points, got {lengths.device}; move them with .to()"
        )
    require_range(name, lengths, 0, N + 1)
    return lengths.to(points.device, torch.int64).contiguous()
