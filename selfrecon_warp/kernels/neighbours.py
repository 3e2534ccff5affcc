"""Exact nearest neighbours between point clouds, with gradients, and the chamfer distance made of them."""

from __future__ import annotations

from typing import Any, Literal

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.arguments import require_like
from selfrecon_warp.kernels.internal.point_tree import Neighbours, PointTree, as_clouds, cloud_counts
from selfrecon_warp.kernels.interop import ints, launch, launch_split, scalars, vec3s

wp.set_module_options({"enable_backward": False})


@wp.kernel
def neighbours_to_queries_kernel(
    first: wp.int32,
    queries: wp.array2d[Any],  # [B, P] vec3
    points: wp.array2d[Any],  # [B, Q] vec3
    index: wp.array3d[wp.int64],  # [B, P, K]
    grad: wp.array3d[Any],  # [B, P, K]
    # outputs
    to_queries: wp.array2d[Any],  # [B, P] vec3
):
    """Gradient of the squared distances along the queries."""
    b, p = wp.tid()
    p += first
    q = queries[b, p]
    total = type(q)(q.dtype(0.0))
    for k in range(index.shape[2]):
        item = wp.int32(index[b, p, k])
        if item >= 0:
            total += (q.dtype(2.0) * grad[b, p, k]) * (q - points[b, item])
    to_queries[b, p] = total


@wp.kernel
def neighbours_to_points_kernel(
    queries: wp.array2d[Any],  # [B, P] vec3
    points: wp.array2d[Any],  # [B, Q] vec3
    index: wp.array3d[wp.int64],  # [B, P, K]
    grad: wp.array3d[Any],  # [B, P, K]
    # outputs
    to_points: wp.array2d[Any],  # [B, Q] vec3
):
    """Gradient of the squared distances along the points."""
    b, p = wp.tid()
    q = queries[b, p]
    for k in range(index.shape[2]):
        item = wp.int32(index[b, p, k])
        if item >= 0:
            wp.atomic_add(to_points, b, item, (q.dtype(2.0) * grad[b, p, k]) * (points[b, item] - q))


class _SquaredDistance(torch.autograd.Function):
    """Gives squared distances, found already, their gradient."""

    @staticmethod
    def forward(ctx, queries, points, squared, index):
        ctx.save_for_backward(queries, points, index)
        return squared.view_as(squared)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        queries, points, index = ctx.saved_tensors
        B, P, K = index.shape
        inputs = [vec3s(queries), vec3s(points), ints(index), scalars(grad.contiguous())]
        work = (B, P) if K and points.numel() else (0,)
        to_queries, to_points = None, None
        if ctx.needs_input_grad[0]:
            to_queries = torch.zeros_like(queries)
            launch_split(neighbours_to_queries_kernel, queries, work, inputs, [vec3s(to_queries)], axis=len(work) - 1)
        if ctx.needs_input_grad[1]:
            to_points = torch.zeros_like(points)
            launch(neighbours_to_points_kernel, queries, work, inputs, [vec3s(to_points)])
        return to_queries, to_points, None, None


def nearest_neighbours(
    queries: Tensor,
    points: Tensor,
    count: int = 1,
    query_lengths: Tensor | None = None,
    point_lengths: Tensor | None = None,
) -> Neighbours:
    """Find the nearest points of each query, exactly.

    Args:
        queries: ``[P, 3]`` or ``[B, P, 3]`` [m].
        points: Candidates, ``[Q, 3]`` or ``[B, Q, 3]`` [m], of the same dtype, float32 or float64.
        count: Neighbours wanted, ``K``.
        query_lengths: Queries of each cloud of a batch, ``[B]`` integers; all of them where absent.
        point_lengths: Points of each cloud of a batch, ``[B]`` integers; all of them where absent.

    Returns:
        Squared distances [m^2] and indices, ``[P, K]`` or ``[B, P, K]``, nearest first, among equal distances the lower
        index first. The distances are differentiable once in ``queries`` and ``points``.

        Where a cloud has fewer than ``K`` points, a query has a coordinate that is not finite or lies past its cloud's
        length, the rest is padded with distance ``inf`` and index -1, which have no gradient (PyTorch3D pads with 0).
        Points with a coordinate that is not finite are never neighbours, nor are points so far away that the squared
        distance overflows.

    Raises:
        ValueError: A shape, dtype, device or length disagrees, or ``count`` is not positive; the message names the
            argument.
    """
    pattern = "P 3" if queries.dim() == 2 else "B P 3"
    require_shapes(queries=(queries, pattern), points=(points, pattern.replace("P", "Q")))
    require_like("queries", queries, points=points)
    cloud_counts("query_lengths", query_lengths, queries)
    cloud_counts("point_lengths", point_lengths, points)
    found = PointTree(points, point_lengths, copy=False).nearest(queries, count, query_lengths)
    return _differentiable(queries, points, found)


def _differentiable(queries: Tensor, points: Tensor, found: Neighbours) -> Neighbours:
    """Neighbours whose distances have a gradient, where one may be asked for."""
    squared, index = found
    if torch.is_grad_enabled() and (queries.requires_grad or points.requires_grad):
        inputs = (as_clouds(x) for x in (queries, points, squared, index))
        squared = _SquaredDistance.apply(*inputs).view_as(squared)
    return Neighbours(squared, index)


def chamfer_distance(
    first: Tensor,
    second: Tensor,
    first_lengths: Tensor | None = None,
    second_lengths: Tensor | None = None,
    first_normals: Tensor | None = None,
    second_normals: Tensor | None = None,
    *,
    point_reduction: Literal["mean", "sum"] = "mean",
    batch_reduction: Literal["mean", "sum"] | None = "mean",
    squared: bool = True,
    one_way: bool = False,
    oriented: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """How far two point clouds are apart: each point to the nearest of the other cloud, both ways added.

    Args:
        first: Clouds ``[P, 3]`` or ``[B, P, 3]`` [m].
        second: Clouds ``[Q, 3]`` or ``[B, Q, 3]`` [m].
        first_lengths: Points of each cloud of a batch, ``[B]`` integers; all of them where absent.
        second_lengths: The same for the second cloud.
        first_normals: Normals of any length, shaped as ``first``; both normals or none.
        second_normals: Normals shaped as ``second``.
        point_reduction: Over the points of a cloud; the mean over none is 0.
        batch_reduction: Over the clouds of a batch; ``None`` keeps them apart, ``[B]``.
        squared: Squared distances [m^2], or else distances [m], whose gradient at 0 is taken as 0.
        one_way: From the first cloud to the second only.
        oriented: Normals that point opposite ways disagree; else they agree.

    Returns:
        The distance and, where normals are given, the disagreement ``1 - cos`` of each point's normal with that of its
        neighbour, reduced alike, else ``None``. Differentiable once in the clouds, any number of times in the normals.
        A point that has no neighbour (see :func:`nearest_neighbours`) is infinitely far and disagrees by 1.

    Raises:
        ValueError: A shape, dtype, device, length or reduction disagrees; the message names the argument.

    Source: Fan, Su and Guibas 2017; reductions as PyTorch3D's ``chamfer_distance``.
    """
    pattern = "P 3" if first.dim() == 2 else "B P 3"
    other = pattern.replace("P", "Q")
    shapes = {"first": (first, pattern), "second": (second, other)}
    if (first_normals is None) != (second_normals is None):
        raise ValueError("first_normals and second_normals must be given together, got one of them")
    if first_normals is not None and second_normals is not None:
        shapes |= {"first_normals": (first_normals, pattern), "second_normals": (second_normals, other)}
    require_shapes(**shapes)
    require_like("first", first, **{name: tensor for name, (tensor, _) in shapes.items() if name != "first"})
    for name, value, allowed in (
        ("point_reduction", point_reduction, ("mean", "sum")),
        ("batch_reduction", batch_reduction, ("mean", "sum", None)),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
    clouds = as_clouds(first), as_clouds(second)
    counts = cloud_counts("first_lengths", first_lengths, first), cloud_counts("second_lengths", second_lengths, second)
    normals = tuple(None if each is None else as_clouds(each) for each in (first_normals, second_normals))
    if one_way:
        nearest = [PointTree(clouds[1], counts[1], copy=False).nearest(clouds[0], 1, counts[0])]
    else:
        trees = [PointTree(*cloud, copy=False) for cloud in zip(clouds, counts, strict=True)]
        nearest = [trees[1].nearest_to_points_of(trees[0]), trees[0].nearest_to_points_of(trees[1])]
    parts = []
    for found in nearest:
        parts.append(_one_way(*clouds, found, counts[0], *normals, squared, oriented, point_reduction == "mean"))
        clouds, counts, normals = clouds[::-1], counts[::-1], normals[::-1]
    distance, disagreement = (
        None if column[0] is None else _over_batch(sum(column), batch_reduction, first.dim() == 2)
        for column in zip(*parts, strict=True)
    )
    return distance, disagreement


def _one_way(
    source: Tensor,
    target: Tensor,
    found: Neighbours,
    source_counts: Tensor,
    source_normals: Tensor | None,
    target_normals: Tensor | None,
    squared: bool,
    oriented: bool,
    mean: bool,
) -> tuple[Tensor, Tensor | None]:
    """Distance and disagreement of normals of each source cloud to its target, ``[B]``."""
    distance, index = (x[..., 0] for x in _differentiable(source, target, found))
    if not squared:
        positive = distance > 0
        distance = torch.where(positive, torch.where(positive, distance, 1).sqrt(), 0)
    kept = torch.arange(source.shape[1], device=source.device) < source_counts[:, None]
    shares = source_counts.clamp(min=1) if mean else 1
    total = torch.where(kept, distance, 0).sum(1) / shares
    if source_normals is None or target_normals is None:
        return total, None
    if target.shape[1] == 0:
        return total, torch.where(kept, 1, source.new_zeros(())).sum(1) / shares
    chosen = index.clamp(min=0)[..., None].expand(-1, -1, 3)
    cosine = torch.nn.functional.cosine_similarity(source_normals, target_normals.gather(1, chosen), dim=2, eps=1e-6)
    disagreement = torch.where(index >= 0, 1 - (cosine if oriented else cosine.abs()), 1)
    return total, torch.where(kept, disagreement, 0).sum(1) / shares


def _over_batch(values: Tensor, reduction: str | None, single: bool) -> Tensor:
    if single:
        return values[0]
    if reduction is None:
        return values
    return values.sum() / (max(len(values), 1) if reduction == "mean" else 1)
