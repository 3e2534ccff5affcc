"""Triangles of a level set on a lattice: watertight, outward, one vertex per crossed lattice edge.

The lattice and its node and cell ids are those of `selfrecon_warp.kernels.lattice`. Corner ``k`` of a cell lies at
its lowest node plus bits 0, 1, 2 of ``k`` along x, y, z. Edge ``4 a + o`` runs along axis ``a`` from the corner that
bits 0, 1 of its place ``o`` put along the two axes that follow ``a`` cyclically.

The 256 cases are derived, not listed: on every face of a cell the crossed edges are joined so that diagonally opposite
inside corners are kept apart. The rule looks at nothing but the face, so neighbours agree; the segments chain into
loops, and each loop is triangulated without a diagonal in a face, so that two triangles share every triangle edge.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.interop import ints, launch, scalars, vec3s
from selfrecon_warp.kernels.lattice import CAP, coordinates, corner, flat, is_cell, smallest_spacing

MARGIN = 1e-3
"""A vertex keeps this fraction of its edge away from both nodes, so values at the level make no triangle degenerate."""
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


@wp.func
def find_cell(cell: int, slots: wp.array[int], cells: wp.array[int]):
    """Index of a cell in the list or -1; slots never written hold anything and are believed if the list agrees."""
    slot = slots[cell]
    if slot >= 0 and slot < cells.shape[0] and cells[slot] == cell:
        return slot
    return -1


@wp.func
def find_cell_around(at: wp.vec3i, axis: int, place: int, shape: wp.vec3i, slots: wp.array[int], cells: wp.array[int]):
    """Index of the listed cell in which the edge from node ``at`` along ``axis`` has a place, or -1."""
    b = (axis + 1) % 3
    c = (axis + 2) % 3
    low = at
    low[b] = at[b] - (place & 1)
    low[c] = at[c] - (place >> 1)
    if is_cell(low, shape):
        return find_cell(flat(low, shape), slots, cells)
    return -1


@wp.func
def edge_start(low: wp.vec3i, edge: int):
    at = low
    axis = edge // 4
    b = (axis + 1) % 3
    c = (axis + 2) % 3
    at[b] = low[b] + (edge & 1)
    at[c] = low[c] + ((edge >> 1) & 1)
    return at


@wp.kernel(enable_backward=False)
def mark_crossing_kernel(
    values: wp.array3d[Any],  # [X, Y, Z]
    level: wp.float64,
    # outputs
    crossing: wp.array3d[wp.uint8],  # [X, Y, Z]
):
    x, y = wp.tid()
    before = wp.int32(0)
    for z in range(values.shape[2]):
        inside = wp.int32(0)
        for k in range(4):
            if wp.float64(values[x + (k & 1), y + (k >> 1), z]) < level:
                inside += 1
        both = inside + before
        if z > 0 and both > 0 and both < 8:
            crossing[x, y, z - 1] = wp.uint8(1)
        before = inside


@wp.kernel(enable_backward=False)
def list_slots_kernel(
    cells: wp.array[int],  # [K]
    # outputs
    slots: wp.array[int],  # [X Y Z]
):
    i = wp.tid()
    slots[cells[i]] = i


@wp.kernel(enable_backward=False)
def count_kernel(
    values: wp.array[Any],  # [X Y Z]
    level: wp.float64,
    cells: wp.array[int],  # [K]
    slots: wp.array[int],  # [X Y Z]
    triangle_counts: wp.array[int],  # [256]
    shape: wp.vec3i,
    # outputs
    cases: wp.array[int],  # [K]
    owned: wp.array[int],  # [K] bits of the crossed edges whose vertex this cell makes
    counts: wp.array2d[int],  # [2, K] vertices, triangles
):
    i = wp.tid()
    low = coordinates(cells[i], shape)
    case = wp.int32(0)
    for k in range(8):
        if wp.float64(values[corner(low, k, 1, shape)]) < level:
            case = case | (1 << k)
    mine = wp.int32(0)
    for edge in range(12):
        axis = edge // 4
        place = edge & 3
        start = ((place & 1) << ((axis + 1) % 3)) | ((place >> 1) << ((axis + 2) % 3))
        end = start | (1 << axis)
        if ((case >> start) & 1) != ((case >> end) & 1):
            at = edge_start(low, edge)
            earlier = wp.int32(-1)  # the edge belongs to the first listed cell around it
            for other in range(place):
                if earlier < 0:
                    earlier = find_cell_around(at, axis, other, shape, slots, cells)
            if earlier < 0:
                mine = mine | (1 << edge)
    cases[i] = case
    owned[i] = mine
    counts[0, i] = wp.bit_count(mine)
    counts[1, i] = triangle_counts[case]


@wp.kernel(enable_backward=False)
def list_edges_kernel(
    cells: wp.array[int],  # [K]
    owned: wp.array[int],  # [K]
    first_vertex: wp.array[int],  # [K]
    slots: wp.array[int],  # [X Y Z]
    shape: wp.vec3i,
    # outputs
    edges: wp.array2d[int],  # [V, 2] node where the edge starts, axis
    cell_vertices: wp.array2d[int],  # [K, 12] vertex on each crossed edge
):
    i = wp.tid()
    low = coordinates(cells[i], shape)
    v = first_vertex[i]
    for edge in range(12):
        if ((owned[i] >> edge) & 1) == 1:
            at = edge_start(low, edge)
            axis = edge // 4
            edges[v, 0] = flat(at, shape)
            edges[v, 1] = axis
            for place in range(4):
                slot = find_cell_around(at, axis, place, shape, slots, cells)
                if slot >= 0:
                    cell_vertices[slot, 4 * axis + place] = v
            v += 1


@wp.kernel(enable_backward=False)
def list_faces_kernel(
    cases: wp.array[int],  # [K]
    first_face: wp.array[int],  # [K]
    cell_vertices: wp.array2d[int],  # [K, 12]
    triangle_counts: wp.array[int],  # [256]
    triangle_edges: wp.array2d[int],  # [256, 15]
    # outputs
    faces: wp.array2d[int],  # [F, 3]
):
    i = wp.tid()
    case = cases[i]
    for n in range(3 * triangle_counts[case]):
        faces[first_face[i] + n // 3, n % 3] = cell_vertices[i, triangle_edges[case, n]]


@wp.kernel
def place_vertices_kernel(
    values: wp.array[Any],  # [X Y Z]
    edges: wp.array2d[int],  # [V, 2]
    frame: wp.array[Any],  # [2] vec3: lower corner, spacing
    level: wp.array[Any],  # [1]
    margin: wp.array[Any],  # [2] smallest and largest place on an edge
    shape: wp.vec3i,
    # outputs
    vertices: wp.array[Any],  # [V] vec3
):
    v = wp.tid()
    axis = edges[v, 1]
    at = coordinates(edges[v, 0], shape)
    end = at
    end[axis] = at[axis] + 1
    start_value = values[edges[v, 0]]
    end_value = values[flat(end, shape)]
    t = wp.clamp((level[0] - start_value) / (end_value - start_value), margin[0], margin[1])
    lower = frame[0]
    spacing = frame[1]
    x = lower[0] + spacing[0] * (lower.dtype(at[0]) + wp.where(axis == 0, t, lower.dtype(0.0)))
    y = lower[1] + spacing[1] * (lower.dtype(at[1]) + wp.where(axis == 1, t, lower.dtype(0.0)))
    z = lower[2] + spacing[2] * (lower.dtype(at[2]) + wp.where(axis == 2, t, lower.dtype(0.0)))
    vertices[v] = vertices.dtype(x, y, z)


for _real, _vec3 in ((wp.float32, wp.vec3f), (wp.float64, wp.vec3d)):  # known at once, all compile together
    _reals, _vec3s = wp.array(dtype=_real), wp.array(dtype=_vec3)
    wp.overload(mark_crossing_kernel, {"values": wp.array3d(dtype=_real)})
    wp.overload(count_kernel, {"values": _reals})
    wp.overload(
        place_vertices_kernel,
        {"values": _reals, "frame": _vec3s, "level": _reals, "margin": _reals, "vertices": _vec3s},
    )


class _PlaceVertices(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, edges, frame, level):
        vertices = values.new_empty(len(edges), 3)
        ctx.save_for_backward(values, edges, frame, vertices)
        ctx.level = level
        launch(place_vertices_kernel, values, (len(edges),), *_place_arguments(level, values, edges, frame, vertices))
        return vertices

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_vertices):
        values, edges, frame, vertices = ctx.saved_tensors
        grad_values = torch.zeros_like(values)
        launch(
            place_vertices_kernel,
            values,
            (len(edges),),
            *_place_arguments(ctx.level, values, edges, frame, vertices),
            adj_inputs=[scalars(grad_values.view(-1)), None, None, None, None, None],
            adj_outputs=[vec3s(grad_vertices.contiguous())],
            adjoint=True,
        )
        return grad_values, None, None, None


def _place_arguments(level, values, edges, frame, vertices):
    margin = values.new_tensor([MARGIN, 1 - MARGIN])
    inputs = [scalars(values.view(-1)), ints(edges), vec3s(frame), scalars(values.new_tensor([level])), scalars(margin)]
    return [*inputs, wp.vec3i(*values.shape)], [vec3s(vertices)]


def marching_cubes(
    values: Tensor, lower: Tensor, upper: Tensor, level: float = 0.0, cells: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Triangulate the surface on which a lattice of signed distances takes a value.

    The mesh is closed and oriented, every edge belonging to exactly two faces, whatever the values: a value at the
    level counts as outside and its vertices stay `MARGIN` of an edge away from the node. Nodes on the border of the
    lattice count as outside too: a surface that leaves the box is capped there.

    Args:
        values: Signed distances at the nodes [m], ``[X, Y, Z]``, negative inside, two or more nodes an axis.
        lower: Position of the first node [m], ``[3]``.
        upper: Position of the last node [m], ``[3]``.
        level: Value of the surface [m].
        cells: The crossed cells as ids of their lowest nodes, ``[K]`` integers, as `SparseGrid.cells` holds them: only
            their corners are read, and border nodes lie outside already. Found by a sweep over all nodes when absent.

    Returns:
        Vertices [m], ``[V, 3]``, differentiable once in ``values``, and faces ``[F, 3]`` int32, counter-clockwise seen
        from outside. Both are empty where no cell is crossed. The order depends on the cells' order alone.

    Raises:
        ValueError: A shape disagrees; the message names the argument.

    Source: Lorensen and Cline 1987; cases derived with the face rule of Nielson and Hamann 1991 fixed to separate.
    """
    require_shapes(values=(values, "X Y Z"), lower=(lower, "3"), upper=(upper, "3"))
    if min(values.shape) < 2:
        raise ValueError(f"values must have 2 or more nodes an axis, got {list(values.shape)}")
    lower, upper = lower.detach().to(values), upper.detach().to(values)
    if cells is None:
        values = _cap(values, level, level + CAP * smallest_spacing(lower, upper, values.shape))
        cells = _crossed_cells(values, level)
    else:
        require_shapes(cells=(cells, "K"))
    values, cells = values.contiguous(), cells.int().contiguous()
    edges, faces = _connect(values.detach(), level, cells)
    frame = torch.stack([lower, (upper - lower) / (torch.tensor(values.shape, device=values.device) - 1)]).to(values)
    return _PlaceVertices.apply(values, edges, frame, level), faces


def _cap(values: Tensor, level: float, outside: float) -> Tensor:
    """Force the nodes on the border outside."""
    border = torch.ones_like(values, dtype=torch.bool)
    border[1:-1, 1:-1, 1:-1] = False
    return values.masked_fill(border & (values < level), outside)


def _crossed_cells(values: Tensor, level: float) -> Tensor:
    """Ids of the cells with corners on both sides, ``[K]`` ascending."""
    X, Y, _ = values.shape
    crossing = torch.zeros(values.shape, dtype=torch.uint8, device=values.device)
    inputs = [scalars(values.contiguous()), wp.float64(level)]
    launch(mark_crossing_kernel, values, (X - 1, Y - 1), inputs, [wp.from_torch(crossing)])
    return crossing.view(-1).nonzero()[:, 0]


def _connect(values: Tensor, level: float, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Crossed edges ``[V, 2]`` (start node, axis) and the faces ``[F, 3]`` between them."""
    K = len(cells)
    if K == 0:
        return cells.new_empty(0, 2), cells.new_empty(0, 3)
    shape, dim = wp.vec3i(*values.shape), (K,)
    triangle_counts, triangle_edges = (ints(table) for table in case_table(values.device))
    slots = ints(cells.new_empty(values.numel()))
    cases, owned, counts = cells.new_empty(K), cells.new_empty(K), cells.new_empty(2, K)
    launch(list_slots_kernel, values, dim, [ints(cells)], [slots])
    inputs = [scalars(values.view(-1)), wp.float64(level), ints(cells), slots, triangle_counts, shape]
    launch(count_kernel, values, dim, inputs, [ints(cases), ints(owned), ints(counts)])
    ends = counts.cumsum(1, dtype=torch.int32)
    V, F = ends[:, -1].tolist()
    first_vertex, first_face = (ints(starts) for starts in ends - counts)
    edges, faces, cell_vertices = cells.new_empty(V, 2), cells.new_empty(F, 3), cells.new_empty(K, 12)
    inputs = [ints(cells), ints(owned), first_vertex, slots, shape]
    launch(list_edges_kernel, values, dim, inputs, [ints(edges), ints(cell_vertices)])
    inputs = [ints(cases), first_face, ints(cell_vertices), triangle_counts, triangle_edges]
    launch(list_faces_kernel, values, dim, inputs, [ints(faces)])
    return edges, faces
