"""The 256 cases of a lattice cell, derived, not listed: which triangles it holds whose corners lie inside or outside.

Edge ``4 a + o`` of a cell runs along axis ``a`` from the corner that bits 0, 1 of its place ``o`` put along the two
axes that follow ``a`` cyclically.

On every face of a cell the crossed edges are joined so that diagonally opposite inside corners are kept apart. The rule
looks at nothing but the face, so the two cells that share it agree, in ambiguous cases too; the segments chain into
loops, and each loop is triangulated without a diagonal in a face, so that two triangles share every triangle edge.
Which of the two surfaces an ambiguous face is meant to have, its corners do not tell: here bodies that touch in an edge
come apart, and cavities that do are joined. The opposite sign gives another surface, and other implementations may join
what is kept apart here; all agree on which edges carry a vertex.

No operation of its own: reference, tests and benchmarks are those of ``marching_cubes``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

MOST_TRIANGLES = 5
"""Triangles of the fullest case."""

Triangle = tuple[int, int, int]


def _corner_of(axis: int, along: int, first: int, second: int) -> int:
    """Corner at ``along`` on an axis and at ``first``, ``second`` on the two that follow it."""
    return along << axis | first << (axis + 1) % 3 | second << (axis + 2) % 3


def _edge_between(corner_a: int, corner_b: int) -> int:
    axis = (corner_a ^ corner_b).bit_length() - 1
    low = min(corner_a, corner_b)
    return 4 * axis + ((low >> (axis + 1) % 3) & 1) + 2 * ((low >> (axis + 2) % 3) & 1)


def _share_face(edge_a: int, edge_b: int) -> bool:
    def faces(edge: int) -> set[tuple[int, int]]:
        axis, at = divmod(edge, 4)
        return {((axis + 1) % 3, at & 1), ((axis + 2) % 3, at >> 1)}

    return bool(faces(edge_a) & faces(edge_b))


def _case_loops(case: int) -> list[list[int]]:
    """Closed loops of crossed edges of a case, bit ``k`` of which says that corner ``k`` is inside."""
    follows: dict[int, int] = {}
    for axis in range(3):
        for side in (0, 1):
            ring = [_corner_of(axis, side, *at) for at in ((0, 0), (1, 0), (1, 1), (0, 1))]
            ring = ring if side else ring[::-1]  # counter-clockwise seen from outside the cell
            inside = [bool(case >> k & 1) for k in ring]
            for i in range(4):
                if inside[i] or not inside[(i + 1) % 4]:
                    continue
                run = i + 1
                while inside[(run + 1) % 4]:
                    run += 1
                entered = _edge_between(ring[i], ring[(i + 1) % 4])
                follows[entered] = _edge_between(ring[run % 4], ring[(run + 1) % 4])
    loops = []
    while follows:
        edge, after = follows.popitem()
        loops.append([edge])
        while after != edge:
            loops[-1].append(after)
            after = follows.pop(after)
    return loops


def _triangulations(loop: list[int]) -> Iterator[list[Triangle]]:
    if len(loop) < 3:
        yield []
    for k in range(1, len(loop) - 1):
        for before in _triangulations(loop[: k + 1]):
            for after in _triangulations(loop[k:]):
                yield [(loop[0], loop[k], loop[-1]), *before, *after]


def _lies_inside(triangles: list[Triangle], loop: list[int]) -> bool:
    """Whether no diagonal of a triangulated loop lies in a face of the cell."""
    sides = {frozenset(pair) for pair in zip(loop, loop[1:] + loop[:1], strict=True)}
    pairs = [(t[i], t[(i + 1) % 3]) for t in triangles for i in range(3)]
    return not any(_share_face(*pair) for pair in pairs if frozenset(pair) not in sides)


def case_triangles(case: int) -> list[Triangle]:
    """Triangles of one of the 256 cases as edges of the cell, counter-clockwise seen from outside the surface."""
    triangles = []
    for loop in _case_loops(case):
        triangles += next(t for t in _triangulations(loop) if _lies_inside(t, loop))
    return triangles


@cache
def case_table(device: torch.device) -> tuple[Tensor, Tensor]:
    """Triangle counts ``[256]`` and edges ``[256, 15]`` (padded with -1) of every case, int32."""
    cases = [[edge for triangle in case_triangles(case) for edge in triangle] for case in range(256)]
    padded = [edges + [-1] * (3 * MOST_TRIANGLES - len(edges)) for edges in cases]
    counts = [len(edges) // 3 for edges in cases]
    return tuple(torch.tensor(table, dtype=torch.int32, device=device) for table in (counts, padded))
