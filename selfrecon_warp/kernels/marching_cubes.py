"""Triangles of a level set on a lattice: watertight, outward, one vertex per crossed lattice edge.

The lattice and its node and cell ids are those of ``internal.lattice``, the edges of a cell and what lies
between them those of ``internal.cube_cases``. A lattice edge is named by three times the id of the node it
starts from plus its axis.

Every crossed edge has one vertex, made by the first listed cell around it; neighbours are found by counting
bits, of which a lattice of words holds one a cell, so little memory follows the lattice.
"""

from __future__ import annotations

from typing import Any

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.arguments import require_like, require_range
from selfrecon_warp.kernels.internal.cube_cases import case_table
from selfrecon_warp.kernels.internal.lattice import (
    CAP,
    coordinates,
    corner,
    flat,
    is_cell,
    lattice_frame,
    lazy_zeros,
    on_border,
    rounded,
    smallest_spacing,
    steps,
)
from selfrecon_warp.kernels.internal.lattice_sweep import crossed_cells
from selfrecon_warp.kernels.interop import ints, launch, launch_split, scalars, vec3s

MARGIN = 1e-3
"""A vertex keeps this fraction of its edge away from both nodes, so values at the level make no triangle degenerate."""


@wp.func
def find_cell(low: wp.vec3i, words: wp.array2d[int], shape: wp.vec3i):
    """Index in the list of the cell at a place or -1."""
    if not is_cell(low, shape):
        return -1
    w = (low[0] * shape[1] + low[1]) * ((shape[2] + 31) >> 5) + (low[2] >> 5)
    bit = wp.uint32(1) << wp.uint32(low[2] & 31)
    bits = wp.uint32(words[w, 0])
    before = wp.bit_count(bits & (bit - wp.uint32(1)))
    return wp.where((bits & bit) == wp.uint32(0), -1, words[w, 1] + int(before))


@wp.func
def beside_edge(low: wp.vec3i, axis: int, place: int, other: int):
    """The cell in which the edge at a place of this cell has the other place."""
    at = low
    b = (axis + 1) % 3
    c = (axis + 2) % 3
    at[b] = low[b] + (place & 1) - (other & 1)
    at[c] = low[c] + (place >> 1) - (other >> 1)
    return at


@wp.func
def word_of(cell: int, shape: wp.vec3i):
    row = cell // shape[2]
    return row * ((shape[2] + 31) >> 5) + ((cell - row * shape[2]) >> 5)


@wp.kernel(enable_backward=False)
def list_words_kernel(
    first: wp.int32,
    cells: wp.array[int],  # [K] ascending
    shape: wp.vec3i,
    # outputs
    words: wp.array2d[int],  # [X Y W, 2] bits of the listed cells among 32 along z, and the index of the first of them
):
    i = wp.tid() + first
    word = word_of(cells[i], shape)
    if i > 0 and word_of(cells[i - 1], shape) == word:
        return
    bits = wp.uint32(0)
    other = int(i)
    while other < cells.shape[0] and word_of(cells[other], shape) == word:
        bits = bits | (wp.uint32(1) << wp.uint32((cells[other] % shape[2]) & 31))
        other += 1
    words[word, 0] = int(bits)
    words[word, 1] = i


@wp.kernel(enable_backward=False)
def connect_cells_kernel(
    first: wp.int32,
    values: wp.array[Any],  # [X Y Z]
    level: wp.float64,
    cells: wp.array[int],  # [K] ascending
    words: wp.array2d[int],  # [X Y W, 2]
    triangle_counts: wp.array[int],  # [256]
    shape: wp.vec3i,
    # outputs
    cases: wp.array[int],  # [K]
    owned: wp.array[int],  # [K] bits of the crossed edges whose vertex this cell makes
    owners: wp.array2d[
        int
    ],  # [K, 12] four times the cell that makes the vertex of a crossed edge, plus its place there
    counts: wp.array2d[int],  # [2, K] vertices, triangles
):
    i = wp.tid() + first
    cell = cells[i]
    low = coordinates(cell, shape)
    step = steps(low, 1, shape)
    case = wp.int32(0)
    for k in range(8):
        case = case | (int(wp.float64(values[corner(cell, step, k)]) < level) << k)
    if on_border(low, shape) or on_border(low + wp.vec3i(1, 1, 1), shape):
        for k in range(8):
            if on_border(low + wp.vec3i(k & 1, (k >> 1) & 1, k >> 2), shape):
                case = case & ~(1 << k)
    mine = wp.int32(0)
    for edge in range(12):
        axis = edge // 4
        place = edge & 3
        start = ((place & 1) << ((axis + 1) % 3)) | ((place >> 1) << ((axis + 2) % 3))
        if ((case >> start) & 1) != ((case >> (start | (1 << axis))) & 1):
            owner = wp.int32(-1)
            for other in range(place):
                if owner < 0:
                    found = find_cell(beside_edge(low, axis, place, other), words, shape)
                    if found >= 0:
                        owner = 4 * found + other
            if owner < 0:
                owner = 4 * i + place
                mine = mine | (1 << edge)
            owners[i, edge] = owner
    cases[i] = case
    owned[i] = mine
    counts[0, i] = wp.bit_count(mine)
    counts[1, i] = triangle_counts[case]


@wp.kernel(enable_backward=False)
def list_mesh_kernel(
    first: wp.int32,
    cells: wp.array[int],  # [K]
    cases: wp.array[int],  # [K]
    owned: wp.array[int],  # [K]
    owners: wp.array2d[int],  # [K, 12]
    counts: wp.array2d[int],  # [2, K]
    ends: wp.array2d[int],  # [2, K] counts up to and with this cell
    triangle_edges: wp.array2d[int],  # [256, 15]
    shape: wp.vec3i,
    # outputs
    edges: wp.array[int],  # [V]
    faces: wp.array2d[int],  # [F, 3]
):
    i = wp.tid() + first
    low = coordinates(cells[i], shape)
    v = ends[0, i] - counts[0, i]
    bits = owned[i]
    while bits != 0:
        edge = wp.bit_count((bits & -bits) - 1)
        bits = bits & (bits - 1)
        edges[v] = 3 * flat(beside_edge(low, edge // 4, edge & 3, 0), shape) + edge // 4
        v += 1
    f = ends[1, i] - counts[1, i]
    case = cases[i]
    for n in range(counts[1, i]):
        for c in range(3):
            edge = triangle_edges[case, 3 * n + c]
            owner = owners[i, edge]
            after = -1 << ((edge & 12) | (owner & 3))
            faces[f + n, c] = ends[0, owner >> 2] - wp.bit_count(owned[owner >> 2] & after)


@wp.func
def is_finite(value: Any):
    return value - value == type(value)(0.0)


@wp.kernel
def place_vertices_kernel(
    first: wp.int32,
    values: wp.array[Any],  # [X Y Z]
    edges: wp.array[int],  # [V]
    frame: wp.array[Any],  # [2] vec3: lower corner, spacing
    level: wp.float64,
    cap: wp.float64,  # value of border nodes that lie inside
    shape: wp.vec3i,
    # outputs
    vertices: wp.array[Any],  # [V] vec3
):
    v = wp.tid() + first
    node = edges[v] // 3
    axis = edges[v] - 3 * node
    at = coordinates(node, shape)
    along = wp.vec3i(int(axis == 0), int(axis == 1), int(axis == 2))
    end = at + along
    lower = frame[0]
    surface = lower.dtype(level)
    a = values[node]
    b = values[flat(end, shape)]
    if on_border(at, shape) and a < surface:
        a = lower.dtype(cap)
    if on_border(end, shape) and b < surface:
        b = lower.dtype(cap)
    t = lower.dtype(0.5)
    if is_finite(a) and is_finite(b):
        margin = lower.dtype(MARGIN)
        t = wp.clamp((surface - a) / (b - a), margin, lower.dtype(1.0) - margin)
    nodes = vertices.dtype(lower.dtype(at[0]), lower.dtype(at[1]), lower.dtype(at[2]))
    nodes += t * vertices.dtype(lower.dtype(along[0]), lower.dtype(along[1]), lower.dtype(along[2]))
    vertices[v] = lower + wp.cw_mul(nodes, frame[1])


class _PlaceVertices(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, edges, frame, level, cap):
        vertices = values.new_empty(len(edges), 3)
        ctx.save_for_backward(values, edges, frame, vertices)
        ctx.surface = level, cap
        inputs = _place_inputs(values, edges, frame, *ctx.surface)
        launch_split(place_vertices_kernel, values, (len(edges),), inputs, [vec3s(vertices)])
        return vertices

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_vertices):
        values, edges, frame, vertices = ctx.saved_tensors
        grad_values = lazy_zeros(values.shape, values.device, values.dtype)
        launch(
            place_vertices_kernel,
            values,
            (len(edges),),
            [0, *_place_inputs(values, edges, frame, *ctx.surface)],
            [vec3s(vertices)],
            adj_inputs=[None, scalars(grad_values.view(-1)), None, None, None, None, None],
            adj_outputs=[vec3s(grad_vertices.contiguous())],
            adjoint=True,
        )
        return grad_values, None, None, None, None


def _place_inputs(values, edges, frame, level, cap):
    surface = [wp.float64(level), wp.float64(cap), wp.vec3i(*values.shape)]
    return [scalars(values.view(-1)), ints(edges), vec3s(frame), *surface]


def marching_cubes(
    values: Tensor, lower: Tensor, upper: Tensor, level: float = 0.0, cells: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Triangulate the surface on which a lattice of signed distances takes a value.

    The mesh is closed and oriented, every edge belonging to exactly two faces, whatever the values: a value at the
    level counts as outside and its vertices stay `MARGIN` of an edge away from the node. Nodes on the border of the
    lattice count as outside too: a surface that leaves the box is capped there. NaN counts as outside; the vertex on an
    edge with an end that is not finite lies in its middle. Where the corners leave open how a cell is crossed, what
    touches in an edge of the cell comes apart, see ``internal.cube_cases``.

    A call is one lattice; the meshes of a batch differ in size, so a batch is a loop.

    Args:
        values: Signed distances at the nodes [m], ``[X, Y, Z]``, negative inside, two or more nodes an axis.
        lower: Position of the first node [m], ``[3]``.
        upper: Position of the last node [m], ``[3]``.
        level: Value of the surface [m].
        cells: The crossed cells as ids of their lowest nodes, ``[K]`` integers, as `SparseGrid.cells` holds them: only
            their corners are read. Part of the crossed cells gives their part of the mesh. Found by a sweep over all
            nodes when absent.

    Returns:
        Vertices [m], ``[V, 3]``, differentiable once in ``values``, and faces ``[F, 3]`` int32, counter-clockwise seen
        from outside. Both are empty where no cell is crossed. The order depends on which cells are crossed alone. A
        vertex held at its `MARGIN`, or in the middle because of a value that is not finite, has no gradient.

    Raises:
        ValueError: A shape, dtype or device disagrees or a cell is out of range; the message names the argument.

    Source: Lorensen and Cline 1987; cases derived with the face rule of Nielson and Hamann 1991 fixed to separate.
    """
    X, Y, Z = require_shapes(values=(values, "X Y Z"), lower=(lower, "3"), upper=(upper, "3")).values()
    require_like("values", values, lower=lower, upper=upper)
    if min(X, Y, Z) < 2 or 3 * X * Y * Z >= 2**31:
        raise ValueError(
            f"values must have 2 or more nodes an axis and fewer than 715 million, got {list(values.shape)}"
        )
    lower, upper, values = lower.detach(), upper.detach(), values.contiguous()
    level = rounded(level, values.dtype)
    cells = crossed_cells(values, level) if cells is None else _listed(cells, values)
    edges, faces = _connect(values.detach(), level, cells)
    cap = level + CAP * smallest_spacing(lower, upper, values.shape)
    return _PlaceVertices.apply(values, edges, lattice_frame(lower, upper, values.shape), level, cap), faces


def _listed(cells: Tensor, values: Tensor) -> Tensor:
    """Given cells as int32 without repetition, ascending."""
    require_shapes(cells=(cells, "K"))
    if cells.dtype not in (torch.int32, torch.int64) or cells.device != values.device:
        raise ValueError(
            f"cells must be int32 or int64 on {values.device} like values, got {cells.dtype} on {cells.device}"
        )
    require_range("cells", cells, 0, values.numel())
    cells = cells.int().contiguous()
    return cells if bool((cells[1:] > cells[:-1]).all()) else cells.unique()


def _connect(values: Tensor, level: float, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Crossed edges ``[V]`` and the faces ``[F, 3]`` between them."""
    K = len(cells)
    if K == 0:
        return cells.new_empty(0), cells.new_empty(0, 3)
    X, Y, Z = values.shape
    shape, dim = wp.vec3i(X, Y, Z), (K,)
    triangle_counts, triangle_edges = (ints(table) for table in case_table(values.device))
    words = cells.new_zeros(X * Y * -(-Z // 32), 2)
    launch_split(list_words_kernel, values, dim, [ints(cells), shape], [ints(words)])
    cases, owned, owners, counts = (cells.new_empty(size) for size in (K, K, (K, 12), (2, K)))
    inputs = [scalars(values.view(-1)), wp.float64(level), ints(cells), ints(words), triangle_counts, shape]
    launch_split(connect_cells_kernel, values, dim, inputs, [ints(each) for each in (cases, owned, owners, counts)])
    ends = counts.cumsum(1, dtype=torch.int32)
    V, F = ends[:, -1].tolist()
    edges, faces = cells.new_empty(V), cells.new_empty(F, 3)
    inputs = [ints(each) for each in (cells, cases, owned, owners, counts, ends)]
    launch_split(list_mesh_kernel, values, dim, [*inputs, triangle_edges, shape], [ints(edges), ints(faces)])
    return edges, faces
