"""Cutting a triangle mesh along a level and closing the gap between two cuts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Clipped:
    """What lies below a level of heights at vertices.

    Attributes:
        vertices: The given ones, all of them, then those along the cut, ``[V', 3]``.
        faces: Those below, and what is left of those that were cut, ``[F', 3]`` int64.
        loops: Vertices along the cut in order, a closed walk each, as the faces' own sides run.
    """

    vertices: Tensor
    faces: Tensor
    loops: list[np.ndarray]


def clip(vertices: Tensor, faces: Tensor, height: Tensor) -> Clipped:
    """Keep what lies below height zero of a mesh, triangles cut along it.

    Args:
        vertices: ``[V, 3]``.
        faces: ``[F, 3]`` int64.
        height: ``[V]``; a vertex at zero counts as above.
    """
    index, values = faces.cpu().numpy(), height.double().cpu().numpy()
    below = values < 0
    count = below[index].sum(1)
    whole, cut = index[count == 3], index[(count == 1) | (count == 2)]
    single = below[cut].sum(1) == 1
    # The corner that is alone on its side comes first.
    lone = np.argmax(below[cut] == single[:, None], axis=1)
    cut = cut[np.arange(len(cut))[:, None], (lone[:, None] + np.arange(3)) % 3]
    sides = np.sort(np.concatenate([cut[:, [0, 1]], cut[:, [0, 2]]]), axis=1)
    unique, where = np.unique(sides, axis=0, return_inverse=True)
    where = where.reshape(-1)
    share = values[unique[:, 0]] / (values[unique[:, 0]] - values[unique[:, 1]])
    first, second = (vertices[torch.from_numpy(unique[:, k]).to(faces.device)] for k in range(2))
    between = first + torch.from_numpy(share).to(vertices)[:, None] * (second - first)
    onto_next, onto_last = where[: len(cut)] + len(vertices), where[len(cut) :] + len(vertices)
    a, b, c = cut.T
    kept = np.concatenate(
        [
            whole,
            np.stack([a, onto_next, onto_last], 1)[single],
            np.stack([onto_next, b, c], 1)[~single],
            np.stack([onto_next, c, onto_last], 1)[~single],
        ]
    )
    # The side along the cut, as the kept face walks it.
    start = np.where(single, onto_next, onto_last)
    end = np.where(single, onto_last, onto_next)
    return Clipped(torch.cat([vertices, between]), torch.from_numpy(kept).to(faces), _walks(start, end))


def _walks(start: np.ndarray, end: np.ndarray) -> list[np.ndarray]:
    """Closed walks along directed sides; open ones are left out."""
    following = dict(zip(start.tolist(), end.tolist(), strict=True))
    walks = []
    while following:
        walk = [next(iter(following))]
        while walk[-1] in following:
            walk.append(following.pop(walk[-1]))
        if walk[0] == walk[-1] and len(walk) > 3:
            walks.append(np.array(walk[:-1]))
    return walks


def zip_loops(
    first_vertices: np.ndarray, first: np.ndarray, second_vertices: np.ndarray, second: np.ndarray, offset: int
) -> np.ndarray:
    """Triangles between two loops that run beside each other, each time across the shorter way.

    Args:
        first_vertices: ``[V, 3]``.
        first: Loop ``[N]`` of them, as the sides of its faces run.
        second_vertices: ``[W, 3]``.
        second: Loop ``[M]`` of them, against the sides of its faces.
        offset: Added to the second loop's indices in the result.

    Returns:
        ``[N + M, 3]``, oriented as the faces on both sides.
    """
    gap = np.linalg.norm(first_vertices[first][:, None] - second_vertices[second][None], axis=-1)
    i, j = np.unravel_index(gap.argmin(), gap.shape)
    first, second = np.roll(first, -i), np.roll(second, -j)
    gap = np.roll(gap, (-i, -j), (0, 1))
    N, M = gap.shape
    triangles = []
    i = j = 0
    while i < N or j < M:
        along_first = gap[(i + 1) % N, j % M] if i < N else np.inf
        along_second = gap[i % N, (j + 1) % M] if j < M else np.inf
        a, b = first[i % N], second[j % M] + offset
        if along_first <= along_second:
            i += 1
            triangles.append((first[i % N], a, b))
        else:
            j += 1
            triangles.append((a, b, second[j % M] + offset))
    return np.array(triangles)
