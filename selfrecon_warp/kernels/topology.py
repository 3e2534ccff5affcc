"""Who is beside whom on a triangle mesh: edges, the faces around each edge, and how many neighbours a vertex has.

A side is a face's border from one corner to the next: side ``3 f + k`` runs from vertex ``faces[f, k]`` to vertex
``faces[f, (k + 1) % 3]``. All the sides between one pair of vertices, in either direction, are one edge: an edge of a
closed mesh has two sides, one on a border has one, and any number may come together. Faces that name a vertex twice
have no edges.

Every table is sorted, so results are the same on every device and in every run. Sides are filed under their lower
vertex, on a CPU by several threads into stretches of their own, and sorted in place, each list by one thread: time
grows with the number of faces, and a vertex of very many faces holds up the rest.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import warp as wp
from torch import Tensor

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.arguments import require_indices, require_range
from selfrecon_warp.kernels.interop import cleared, ints, launch, launch_parts, launch_split, split_parts, vec3is

wp.set_module_options({"enable_backward": False})

MOST_PARTS = 4
"""Most threads that file sides, each with counts of its own."""


class MeshTopology(NamedTuple):
    """What the connections of a mesh are; depends on the faces alone and serves any positions of the vertices."""

    faces: Tensor
    """``[F, 3]`` int32 vertex indices."""
    neighbour_count: Tensor
    """``[V]`` int32 edges at each vertex."""
    edges: Tensor
    """``[E, 2]`` int32 vertex pairs, lower vertex first, in ascending order."""
    edge_side: Tensor
    """``[E]`` int32 first side of each edge."""
    next_side: Tensor
    """``[3 F]`` int32 next side of the same edge in ascending order, from the last one back to the first."""
    pair_count: int
    """Number of pairs of sides on one edge: of pairs of faces side by side."""


@wp.func
def has_edges(face: wp.vec3i):
    """Whether a face names three vertices."""
    return face[0] != face[1] and face[1] != face[2] and face[2] != face[0]


@wp.kernel
def count_sides_kernel(
    first: wp.int32,
    given: wp.array2d[Any],  # [F, 3]
    # outputs
    faces: wp.array[wp.vec3i],  # [F]
    count: wp.array[wp.int32],  # [V] of the sides whose lower vertex this is
    wrong: wp.array[wp.int32],  # [1] number of faces with an index out of range
):
    """Number of sides filed under each vertex, and the faces as 32-bit indices."""
    f = wp.tid() + first
    least = wp.min(given[f, 0], wp.min(given[f, 1], given[f, 2]))
    greatest = wp.max(given[f, 0], wp.max(given[f, 1], given[f, 2]))
    if least < type(least)(0) or greatest >= type(least)(count.shape[0]):
        wp.atomic_add(wrong, 0, 1)
        return
    face = wp.vec3i(int(given[f, 0]), int(given[f, 1]), int(given[f, 2]))
    faces[f] = face
    if has_edges(face):
        wp.atomic_add(count, wp.min(face[0], face[1]), 1)
        wp.atomic_add(count, wp.min(face[1], face[2]), 1)
        wp.atomic_add(count, wp.min(face[2], face[0]), 1)


@wp.kernel
def share_lists_kernel(
    first: wp.int32,
    start: wp.array[wp.int32],  # [V + 1]
    # outputs
    count: wp.array2d[wp.int32],  # [parts, V] becomes where each part's entries begin
):
    """Give each part of the faces a stretch of each vertex's list."""
    i = wp.tid() + first
    begin = wp.int32(start[i])
    for part in range(count.shape[0]):
        end = begin + count[part, i]
        count[part, i] = begin
        begin = end


@wp.func
def file_side(side: wp.int32, a: wp.int32, b: wp.int32, end: wp.array[wp.int32], keys: wp.array[wp.int64]):
    """File a side under its lower vertex."""
    slot = wp.atomic_add(end, wp.min(a, b), 1)
    keys[slot] = (wp.int64(wp.max(a, b)) << wp.int64(32)) | wp.int64(side)


@wp.kernel
def file_sides_kernel(
    first: wp.int32,
    faces: wp.array[wp.vec3i],  # [F]
    # outputs
    end: wp.array[wp.int32],  # [V] next free entry of each vertex
    keys: wp.array[wp.int64],  # [3 F] upper vertex, then side
    next_side: wp.array[wp.int32],  # [3 F] written where there is no edge
):
    """File every side under its lower vertex."""
    f = wp.tid() + first
    face = faces[f]
    if has_edges(face):
        file_side(3 * f, face[0], face[1], end, keys)
        file_side(3 * f + 1, face[1], face[2], end, keys)
        file_side(3 * f + 2, face[2], face[0], end, keys)
    else:
        for k in range(3):
            next_side[3 * f + k] = 3 * f + k


@wp.func
def sift_down(keys: wp.array[wp.int64], first: wp.int32, root: wp.int32, count: wp.int32):
    """Restore the heap of ``count`` keys from ``first`` on, below one entry."""
    moved = keys[first + root]
    at = wp.int32(root)
    child = wp.int32(2 * root + 1)
    while child < count:
        if child + 1 < count and keys[first + child] < keys[first + child + 1]:
            child += 1
        if keys[first + child] > moved:
            keys[first + at] = keys[first + child]
            at = child
            child = 2 * child + 1
        else:
            child = count
    keys[first + at] = moved


@wp.func
def sort_keys(keys: wp.array[wp.int64], first: wp.int32, count: wp.int32):
    """Sort ``count`` keys from ``first`` on: few by insertion, many by a heap."""
    if count <= 64:
        for i in range(first + 1, first + count):
            moved = keys[i]
            at = wp.int32(i)
            while at > first and keys[at - 1] > moved:
                keys[at] = keys[at - 1]
                at -= 1
            keys[at] = moved
    else:
        for i in range(count / 2):
            sift_down(keys, first, count / 2 - 1 - i, count)
        for i in range(count - 1):
            last = count - 1 - i
            greatest = keys[first]
            keys[first] = keys[first + last]
            keys[first + last] = greatest
            sift_down(keys, first, 0, last)


@wp.kernel
def link_sides_kernel(
    first: wp.int32,
    start: wp.array[wp.int32],  # [V + 1]
    # outputs
    keys: wp.array[wp.int64],  # [3 F] sorted; then each edge's first side, from the front of each vertex's list
    edge_count: wp.array[wp.int32],  # [V] of the edges whose lower vertex this is
    pair_count: wp.array[wp.int64],  # [V] of the same edges
    next_side: wp.array[wp.int32],  # [3 F]
):
    """Ring the sides of each edge together."""
    i = wp.tid() + first
    begin = start[i]
    end = start[i + 1]
    sort_keys(keys, begin, end - begin)
    edges = wp.int32(0)
    pairs = wp.int64(0)
    last = wp.int32(-1)
    lowest = wp.int32(-1)
    here = wp.int32(-1)
    beside = wp.int32(0)
    for at in range(begin, end):
        key = keys[at]
        other = int(key >> wp.int64(32))
        side = int(key & wp.int64(0x7FFFFFFF))
        if other != last:
            if edges > 0:
                next_side[here] = lowest
            keys[begin + edges] = key
            edges += 1
            lowest = side
            beside = 1
        else:
            next_side[here] = side
            pairs += wp.int64(beside)
            beside += 1
        here = side
        last = other
    if edges > 0:
        next_side[here] = lowest
    edge_count[i] = edges
    pair_count[i] = pairs


@wp.kernel
def write_edges_kernel(
    first: wp.int32,
    start: wp.array[wp.int32],  # [V + 1]
    keys: wp.array[wp.int64],  # [3 F]
    edge_start: wp.array[wp.int32],  # [V + 1]
    # outputs
    edges: wp.array2d[wp.int32],  # [E, 2]
    edge_side: wp.array[wp.int32],  # [E]
):
    """Close the gaps between the lists of edges."""
    i = wp.tid() + first
    begin = edge_start[i]
    for e in range(begin, edge_start[i + 1]):
        key = keys[start[i] + e - begin]
        edges[e, 0] = i
        edges[e, 1] = int(key >> wp.int64(32))
        edge_side[e] = int(key & wp.int64(0x7FFFFFFF))


@wp.kernel
def count_neighbours_kernel(
    edges: wp.array2d[wp.int32],  # [E, 2]
    # outputs
    count: wp.array[wp.int32],  # [V] holds those with a greater index
):
    """Add the neighbours with a lower index."""
    wp.atomic_add(count, edges[wp.tid(), 1], 1)


def _starts(count: Tensor) -> Tensor:
    """Where each list begins, and the end of the last: ``[V + 1]`` from ``[V]``."""
    start = count.new_empty(len(count) + 1)
    start[0] = 0
    torch.cumsum(count, 0, dtype=count.dtype, out=start[1:])
    return start


class LinkedSides(NamedTuple):
    """What a topology is made of, and all that losses over pairs of faces need."""

    faces: Tensor
    """``[F, 3]`` int32 vertex indices."""
    start: Tensor
    """``[V + 1]`` int32 where each vertex's list begins."""
    keys: Tensor
    """``[3 F]`` int64 upper vertex and first side of each edge, from the front of its lower vertex's list."""
    edge_count: Tensor
    """``[V]`` int32 edges whose lower vertex this is."""
    next_side: Tensor
    """``[3 F]`` int32, as in :class:`MeshTopology`."""
    pair_count: int
    """As in :class:`MeshTopology`."""


def link_sides(faces: Tensor, vertex_count: int) -> LinkedSides:
    """Sort the sides by edge, without writing the edges down; arguments and errors are those of ``mesh_topology``."""
    F, V = require_shapes(faces=(faces, "F 3"))["F"], vertex_count
    if V < 0:
        raise ValueError(f"vertex_count must not be negative, got {V}")
    require_indices("faces", faces, faces=faces)
    given = faces.contiguous()
    faces = torch.empty_like(given, dtype=torch.int32)
    parts = min(split_parts(faces, F), MOST_PARTS)
    count, wrong, edge_count = cleared(faces, parts, V), cleared(faces, parts), cleared(faces, V)
    outputs = [[vec3is(faces), ints(count[part]), ints(wrong[part : part + 1])] for part in range(parts)]
    launch_parts(count_sides_kernel, faces, (F,), [ints(given)], outputs)
    if int(wrong.sum()):
        require_range("faces", given, 0, V)
    start = _starts(count[0] if parts == 1 else torch.from_numpy(count.numpy().sum(0, dtype=np.int32)))
    keys = torch.empty(3 * F, dtype=torch.int64, device=faces.device)
    next_side = faces.new_empty(3 * F)
    pair_count = cleared(faces, V, dtype=torch.int64)
    vertices = (V if F else 0,)
    launch_split(share_lists_kernel, faces, vertices, [ints(start)], [ints(count)])
    outputs = [[ints(count[part]), ints(keys), ints(next_side)] for part in range(parts)]
    launch_parts(file_sides_kernel, faces, (F,), [vec3is(faces)], outputs)
    outputs = [ints(keys), ints(edge_count), ints(pair_count), ints(next_side)]
    launch_split(link_sides_kernel, faces, vertices, [ints(start)], outputs)
    return LinkedSides(faces, start, keys, edge_count, next_side, _sum(pair_count))


def _sum(count: Tensor) -> int:
    """Sum of many counts; on a CPU by NumPy, which leaves no threads of torch's spinning."""
    return int(count.sum() if count.is_cuda else count.numpy().sum())


def mesh_topology(faces: Tensor, vertex_count: int) -> MeshTopology:
    """Edges of a triangle mesh and the faces beside them; computed once for any number of positions.

    Args:
        faces: Vertex indices, ``[F, 3]``, int32 or int64.
        vertex_count: Vertices V.

    Returns:
        The tables, on the device of ``faces``.

    Raises:
        ValueError: A shape, dtype or index disagrees; the message names the argument.
    """
    faces, start, keys, edge_count, next_side, pair_total = link_sides(faces, vertex_count)
    edge_start = _starts(edge_count)
    edge_total = int(edge_start[-1])
    edges, edge_side = faces.new_empty(edge_total, 2), faces.new_empty(edge_total)
    neighbour_count = edge_count
    if edge_total:
        inputs = [ints(start), ints(keys), ints(edge_start)]
        launch_split(write_edges_kernel, faces, (vertex_count,), inputs, [ints(edges), ints(edge_side)])
        launch(count_neighbours_kernel, faces, (edge_total,), [ints(edges)], [ints(neighbour_count)])
    return MeshTopology(faces, neighbour_count, edges, edge_side, next_side, pair_total)
