"""Who is beside whom on a triangle mesh: corners and neighbours of each vertex, edges, and the faces around each edge.

A side is a face's border from one corner to the next: side ``3 f + k`` runs from vertex ``faces[f, k]`` to vertex
``faces[f, (k + 1) % 3]``; the corner that it starts from has the same number. All the sides between one pair of
vertices, in either direction, are one edge, so an edge of a closed mesh has two sides, one on a border has one, and any
number may come together. Faces that name a vertex twice have corners but no edges.

Every table is sorted, so results are the same on every device and in every run. The lists of a vertex are sorted in
place, each by one thread: time grows with the number of faces, and a vertex of very many faces holds up the rest.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import warp as wp
from torch import Tensor

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.interop import cleared, ints, launch, launch_split, require_indices, vec3is
from selfrecon_warp.kernels.rasterize import require_range

wp.set_module_options({"enable_backward": False})


class MeshCorners(NamedTuple):
    """The faces around each vertex."""

    faces: Tensor
    """``[F, 3]`` int32 vertex indices."""
    start: Tensor
    """``[V + 1]`` int32: the corners at vertex ``i`` are ``corner[start[i]:start[i + 1]]``."""
    corner: Tensor
    """``[3 F]`` int32, ascending at each vertex."""


class MeshTopology(NamedTuple):
    """What the connections of a mesh are; depends on the faces alone and serves any positions of the vertices."""

    corners: MeshCorners
    """The faces around each vertex."""
    neighbour_start: Tensor
    """``[V + 1]`` int32: the neighbours of vertex ``i`` begin at ``neighbour_start[i]``, as corners do."""
    neighbour: Tensor
    """``[2 E]`` int32 vertices that share an edge with each vertex, ascending at each vertex."""
    edge_start: Tensor
    """``[V + 1]`` int32: the edges whose lower vertex is ``i`` are ``edges[edge_start[i]:edge_start[i + 1]]``."""
    edges: Tensor
    """``[E, 2]`` int32 vertex pairs, lower vertex first, in ascending order."""
    edge_side: Tensor
    """``[E]`` int32 first side of each edge."""
    next_side: Tensor
    """``[3 F]`` int32 next side of the same edge in ascending order, from the last one back to the first."""
    pair_count: int
    """Number of pairs of sides on one edge: of pairs of faces side by side."""


@wp.func
def turned(triple: Any, k: wp.int32):
    """The three values of a face's corners, from corner ``k`` on."""
    x = triple[0]
    y = triple[1]
    z = triple[2]
    return type(triple)(
        wp.where(k == 0, x, wp.where(k == 1, y, z)),
        wp.where(k == 0, y, wp.where(k == 1, z, x)),
        wp.where(k == 0, z, wp.where(k == 1, x, y)),
    )


@wp.kernel
def count_corners_kernel(
    given: wp.array2d[Any],  # [F, 3]
    # outputs
    faces: wp.array2d[wp.int32],  # [F, 3]
    count: wp.array[wp.int32],  # [V]
    wrong: wp.array[wp.int32],  # [1] number of indices out of range
):
    """Number of corners at each vertex, and the faces as 32-bit indices."""
    f = wp.tid()
    for k in range(3):
        index = given[f, k]
        if index >= type(index)(0) and index < type(index)(count.shape[0]):
            faces[f, k] = int(index)
            wp.atomic_add(count, int(index), 1)
        else:
            wp.atomic_add(wrong, 0, 1)


@wp.kernel
def fill_corners_kernel(
    faces: wp.array2d[wp.int32],  # [F, 3]
    end: wp.array[wp.int32],  # [V] next free entry of each vertex
    # outputs
    corner: wp.array[wp.int32],  # [3 F]
):
    """File every corner under its vertex; in order where threads run one after the other."""
    f = wp.tid()
    for k in range(3):
        corner[wp.atomic_add(end, faces[f, k], 1)] = 3 * f + k


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
def sort_corners_kernel(
    first: wp.int32,
    start: wp.array[wp.int32],  # [V + 1]
    # outputs
    corner: wp.array[wp.int32],  # [3 F]
    keys: wp.array[wp.int64],  # [3 F] room to sort in
):
    """Put the corners of each vertex in order where they are not."""
    i = wp.tid() + first
    ordered = wp.bool(True)
    for c in range(start[i] + 1, start[i + 1]):
        if corner[c - 1] > corner[c]:
            ordered = wp.bool(False)
    if not ordered:
        for c in range(start[i], start[i + 1]):
            keys[c] = wp.int64(corner[c])
        sort_keys(keys, start[i], start[i + 1] - start[i])
        for c in range(start[i], start[i + 1]):
            corner[c] = int(keys[c])


@wp.kernel
def link_sides_kernel(
    first: wp.int32,
    faces: wp.array[wp.vec3i],  # [F]
    start: wp.array[wp.int32],  # [V + 1]
    corner: wp.array[wp.int32],  # [3 F]
    # outputs
    keys: wp.array[wp.int64],  # [6 F] neighbour, then the first side of the edge; room for the vertex's 2 x corners
    neighbour_count: wp.array[wp.int32],  # [V]
    edge_count: wp.array[wp.int32],  # [V] of the edges whose lower vertex this is
    pair_count: wp.array[wp.int64],  # [V] of the same edges
    next_side: wp.array[wp.int32],  # [3 F]
):
    """List the sides that start or end at each vertex by their other end, and ring those of one edge together."""
    i = wp.tid() + first
    base = 2 * start[i]
    low = wp.int32(base)  # lists of lower neighbours grow from the front, of upper ones from the back
    high = wp.int32(2 * start[i + 1])
    for c in range(start[i], start[i + 1]):
        side = corner[c]
        f = side / 3
        k = side - 3 * f
        triangle = turned(faces[f], k)
        ahead = triangle[1]
        behind = triangle[2]
        if ahead != i and behind != i and ahead != behind:
            leaving = (wp.int64(ahead) << wp.int64(32)) | wp.int64(side)
            arriving = (wp.int64(behind) << wp.int64(32)) | wp.int64(wp.where(k == 0, side + 2, side - 1))
            if ahead < i:
                keys[low] = leaving
                low += 1
            else:
                high -= 1
                keys[high] = leaving
            if behind < i:
                keys[low] = arriving
                low += 1
            else:
                high -= 1
                keys[high] = arriving
        else:
            next_side[side] = side
    sort_keys(keys, base, low - base)
    sort_keys(keys, high, 2 * start[i + 1] - high)
    neighbours = wp.int32(0)
    last = wp.int32(-1)
    for at in range(base, low):
        key = keys[at]
        other = int(key >> wp.int64(32))
        if other != last:
            keys[base + neighbours] = key
            neighbours += 1
        last = other
    edges = wp.int32(0)
    pairs = wp.int64(0)
    lowest = wp.int32(-1)
    here = wp.int32(-1)
    beside = wp.int32(0)
    for at in range(high, 2 * start[i + 1]):
        key = keys[at]
        other = int(key >> wp.int64(32))
        side = int(key & wp.int64(0x7FFFFFFF))
        if other != last:
            if edges > 0:
                next_side[here] = lowest
            keys[base + neighbours] = key
            neighbours += 1
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
    neighbour_count[i] = neighbours
    edge_count[i] = edges
    pair_count[i] = pairs


@wp.kernel
def write_edges_kernel(
    first: wp.int32,
    start: wp.array[wp.int32],  # [V + 1]
    keys: wp.array[wp.int64],  # [6 F]
    neighbour_start: wp.array[wp.int32],  # [V + 1]
    edge_start: wp.array[wp.int32],  # [V + 1]
    # outputs
    neighbour: wp.array[wp.int32],  # [2 E]
    edges: wp.array2d[wp.int32],  # [E, 2]
    edge_side: wp.array[wp.int32],  # [E]
):
    """Close the gaps between the lists of neighbouring vertices."""
    i = wp.tid() + first
    e = edge_start[i]
    for n in range(neighbour_start[i + 1] - neighbour_start[i]):
        key = keys[2 * start[i] + n]
        other = int(key >> wp.int64(32))
        neighbour[neighbour_start[i] + n] = other
        if other > i:
            edges[e, 0] = i
            edges[e, 1] = other
            edge_side[e] = int(key & wp.int64(0x7FFFFFFF))
            e += 1


def _starts(count: Tensor) -> Tensor:
    """Where each list begins, and the end of the last: ``[V + 1]`` from ``[V]``."""
    start = count.new_empty(len(count) + 1)
    start[0] = 0
    torch.cumsum(count, 0, dtype=count.dtype, out=start[1:])
    return start


def mesh_corners(faces: Tensor, vertex_count: int) -> MeshCorners:
    """The faces around each vertex; the cheap part of :func:`mesh_topology`.

    Args:
        faces: Vertex indices, ``[F, 3]``, int32 or int64.
        vertex_count: Vertices V.

    Returns:
        The table.

    Raises:
        ValueError: A shape, dtype or index disagrees; the message names the argument.
    """
    F = require_shapes(faces=(faces, "F 3"))["F"]
    if vertex_count < 0:
        raise ValueError(f"vertex_count must not be negative, got {vertex_count}")
    require_indices("faces", faces, faces=faces)
    given = faces.contiguous()
    count, wrong = (cleared(faces, n, dtype=torch.int32) for n in (vertex_count, 1))
    faces = torch.empty_like(given, dtype=torch.int32)
    launch(count_corners_kernel, faces, (F,), [ints(given)], [ints(faces), ints(count), ints(wrong)])
    if int(wrong):
        require_range("faces", given, 0, vertex_count)
    start, corner = faces.new_empty(vertex_count + 1), faces.new_empty(3 * F)
    start[:2] = 0
    torch.cumsum(count[:-1], 0, dtype=count.dtype, out=start[2:])  # one entry late: filling moves each to its end
    if F:
        launch(fill_corners_kernel, faces, (F,), [ints(faces), ints(start[1:])], [ints(corner)])
        room = torch.empty(3 * F, dtype=torch.int64, device=faces.device)
        launch_split(sort_corners_kernel, faces, (vertex_count,), [ints(start)], [ints(corner), ints(room)])
    return MeshCorners(faces, start, corner)


def mesh_topology(faces: Tensor, vertex_count: int) -> MeshTopology:
    """Edges of a triangle mesh and the faces and vertices beside them; computed once for any number of positions.

    Args:
        faces: Vertex indices, ``[F, 3]``, int32 or int64.
        vertex_count: Vertices V.

    Returns:
        The tables, on the device of ``faces``.

    Raises:
        ValueError: A shape, dtype or index disagrees; the message names the argument.
    """
    return link_corners(mesh_corners(faces, vertex_count))


def link_corners(corners: MeshCorners) -> MeshTopology:
    """Complete the table of corners to the whole topology."""
    faces, start, corner = corners
    vertex_count = len(start) - 1
    keys = torch.empty(2 * len(corner), dtype=torch.int64, device=faces.device)
    neighbour_count, edge_count = (cleared(faces, vertex_count) for _ in range(2))
    pair_count = cleared(faces, vertex_count, dtype=torch.int64)
    next_side = torch.empty_like(corner)
    vertices = (vertex_count if len(faces) else 0,)
    inputs = [vec3is(faces), ints(start), ints(corner)]
    counts = [ints(neighbour_count), ints(edge_count), ints(pair_count)]
    launch_split(link_sides_kernel, faces, vertices, inputs, [ints(keys), *counts, ints(next_side)])
    neighbour_start, edge_start = _starts(neighbour_count), _starts(edge_count)
    edge_total, pair_total = torch.stack([edge_start[-1].long(), _starts(pair_count)[-1]]).tolist()
    neighbour, edges = faces.new_empty(2 * edge_total), faces.new_empty(edge_total, 2)
    edge_side = faces.new_empty(edge_total)
    if edge_total:
        inputs = [ints(start), ints(keys), ints(neighbour_start), ints(edge_start)]
        launch_split(write_edges_kernel, faces, vertices, inputs, [ints(neighbour), ints(edges), ints(edge_side)])
    return MeshTopology(corners, neighbour_start, neighbour, edge_start, edges, edge_side, next_side, pair_total)


def given_corners(vertices: Tensor, faces: Tensor | MeshTopology) -> MeshCorners:
    """The corners of faces that an operation on ``vertices`` was given, as a tensor or inside a topology.

    Raises:
        ValueError: They do not fit the vertices; the message says how.
    """
    V = vertices.shape[-2]
    table = faces.corners if isinstance(faces, MeshTopology) else None
    require_indices("vertices", vertices, faces=faces if table is None else table.start)
    if table is None:
        return mesh_corners(faces, V)
    if len(table.start) != V + 1:
        raise ValueError(f"faces must be the topology of V={V} vertices, got one of {len(table.start) - 1}")
    return table


def given_topology(vertices: Tensor, faces: Tensor | MeshTopology) -> MeshTopology:
    """The topology of faces that an operation on ``vertices`` was given, made here unless it was given as such.

    Raises:
        ValueError: They do not fit the vertices; the message says how.
    """
    corners = given_corners(vertices, faces)
    return faces if isinstance(faces, MeshTopology) else link_corners(corners)
