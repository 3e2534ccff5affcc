"""Plain-torch twin of ``kernels/neighbours.py``: every query against every point."""

from __future__ import annotations

import torch
from torch import Tensor

from selfrecon_warp.kernels.internal.point_tree import Neighbours


def nearest_neighbours(
    queries: Tensor,
    points: Tensor,
    count: int = 1,
    query_lengths: Tensor | None = None,
    point_lengths: Tensor | None = None,
) -> Neighbours:
    """The nearest ``count`` points of each query by a sort of all distances."""
    every = (queries[..., :, None, :] - points[..., None, :, :]).square().sum(-1)
    for lengths, numbers in (
        (query_lengths, torch.arange(every.shape[-2], device=every.device)[:, None]),
        (point_lengths, torch.arange(every.shape[-1], device=every.device)),
    ):
        if lengths is not None:
            every = torch.where(numbers < lengths[:, None, None], every, float("inf"))
    infinite = every.new_full((*every.shape[:-1], count), float("inf"))
    every = torch.cat([torch.where(every.isfinite(), every, float("inf")), infinite], -1)
    squared, index = every.sort(dim=-1, stable=True)
    squared, index = squared[..., :count], index[..., :count]
    return Neighbours(squared, torch.where(squared.isfinite(), index, -1))


def chamfer_distance(
    first: Tensor,
    second: Tensor,
    first_lengths: Tensor | None = None,
    second_lengths: Tensor | None = None,
    first_normals: Tensor | None = None,
    second_normals: Tensor | None = None,
    *,
    point_reduction: str = "mean",
    batch_reduction: str | None = "mean",
    squared: bool = True,
    one_way: bool = False,
    oriented: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Both ways' distances and, with normals, disagreements, cloud by cloud."""
    if first.dim() == 2:
        normals = [None if n is None else n[None] for n in (first_normals, second_normals)]
        options = {"squared": squared, "one_way": one_way, "oriented": oriented, "point_reduction": point_reduction}
        return chamfer_distance(first[None], second[None], None, None, *normals, **options)
    distances, disagreements = [], []
    for b in range(len(first)):
        p = first[b] if first_lengths is None else first[b, : first_lengths[b]]
        q = second[b] if second_lengths is None else second[b, : second_lengths[b]]
        distance, disagreement = first.new_zeros(()), first.new_zeros(())
        ways = ((p, q, first_normals, second_normals), (q, p, second_normals, first_normals))
        for source, target, source_normals, target_normals in ways[: 1 if one_way else 2]:
            reduce = torch.mean if point_reduction == "mean" and len(source) else torch.sum
            each, index = (x[..., 0] for x in nearest_neighbours(source, target))
            distance = distance + reduce(each if squared else each.sqrt())
            if source_normals is not None:
                pair = source_normals[b, : len(source)], target_normals[b][index]
                cosine = torch.nn.functional.cosine_similarity(*pair, dim=1, eps=1e-6)
                disagreement = disagreement + reduce(1 - (cosine if oriented else cosine.abs()))
        distances.append(distance)
        disagreements.append(disagreement)
    reduce = {"mean": torch.mean, "sum": torch.sum, None: lambda x: x}[batch_reduction]
    with_normals = reduce(torch.stack(disagreements)) if first_normals is not None else None
    return reduce(torch.stack(distances)), with_normals
