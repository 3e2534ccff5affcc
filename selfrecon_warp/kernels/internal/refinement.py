"""The kernels that search for a surface on a lattice: which cells and nodes to evaluate next.

Names are those of ``lattice``. A node or cell is claimed, once, by exchanging an epoch stamp; what
wins the exchange is appended to a list. Deciding what to claim only gathers and can be shared among threads; claiming
is kept apart, because several cells may want the same one. The counters hold the cells and the nodes listed.

A cell of stride ``s`` is a child of a parent of stride ``2 s``, whose corners predict the signs of the 27 nodes of its
children by trilinear interpolation. A child remembers the signs predicted for its corners until it is classified.

No operation of its own: reference, tests and benchmarks are those of ``sparse_grid``.
"""

from __future__ import annotations

from typing import Any

import warp as wp

from selfrecon_warp.kernels.internal.lattice import coordinates, corner, flat, is_cell, middle, steps

wp.set_module_options({"enable_backward": False})

FAR, CROSSING, NEAR = 0, 1, 2
"""What a cell is: no surface, corners on both sides, or uniform but close enough to hide a surface."""
CELLS, NODES = 0, 1
"""Entries of the counters."""
UNKNOWN = -1
"""Stands for the predicted signs of a cell that was claimed for another reason."""


@wp.func
def claim_cell(
    low: wp.vec3i,
    prediction: int,
    shape: wp.vec3i,
    epoch: int,
    stamps: wp.array[int],
    cells: wp.array[int],
    kinds: wp.array[int],
    counters: wp.array[int],
):
    if is_cell(low, shape):
        cell = flat(low, shape)
        if stamps[cell] != epoch and wp.atomic_exch(stamps, cell, epoch) != epoch:
            slot = wp.atomic_add(counters, CELLS, 1)
            cells[slot] = cell
            kinds[slot] = prediction


@wp.func
def below(row: wp.vec3d):
    zero = wp.float64(0.0)
    return int(row[0] < zero) | (int(row[1] < zero) << 1) | (int(row[2] < zero) << 2)


@wp.func
def child_corners(inside: int, k: int):
    """Bits of the corners of child ``k`` among the bits of a parent's 27 nodes."""
    bits = inside >> ((k & 1) + 3 * ((k >> 1) & 1) + 9 * (k >> 2))
    return (bits & 3) | ((bits >> 1) & 12) | ((bits >> 5) & 48) | ((bits >> 6) & 192)


@wp.kernel
def predict_children_kernel(
    first: wp.int32,
    parents: wp.array[int],
    kinds: wp.array[int],
    values: wp.array[Any],  # [X Y Z]
    stride: int,  # of the children
    level: wp.float64,
    shape: wp.vec3i,
    # outputs
    signs: wp.array[int],  # bit n: node n of the 27, x fastest, is predicted inside
):
    i = wp.tid() + first
    if kinds[i] == FAR:
        return
    cell = parents[i]
    low = coordinates(cell, shape)
    step = steps(low, 2 * stride, shape)
    tx = wp.float64(middle(low[0], stride, shape[0] - 1))
    ty = wp.float64(middle(low[1], stride, shape[1] - 1))
    tz = wp.float64(middle(low[2], stride, shape[2] - 1))
    rows = wp.matrix(shape=(4, 3), dtype=wp.float64)
    for j in range(4):
        start = wp.float64(values[corner(cell, step, 2 * j)]) - level
        end = wp.float64(values[corner(cell, step, 2 * j + 1)]) - level
        rows[j] = wp.vec3d(start, wp.lerp(start, end, tx), end)
    front = wp.lerp(rows[0], rows[1], ty)
    back = wp.lerp(rows[2], rows[3], ty)
    inside = below(rows[0]) | (below(front) << 3) | (below(rows[1]) << 6)
    inside = inside | (below(wp.lerp(rows[0], rows[2], tz)) << 9) | (below(wp.lerp(front, back, tz)) << 12)
    inside = inside | (below(wp.lerp(rows[1], rows[3], tz)) << 15)
    signs[i] = inside | (below(rows[2]) << 18) | (below(back) << 21) | (below(rows[3]) << 24)


@wp.kernel
def claim_children_kernel(
    parents: wp.array[int],
    parent_kinds: wp.array[int],
    signs: wp.array[int],
    whole: int,  # kind of parent of which every child is claimed
    stride: int,  # of the children
    epoch: int,
    shape: wp.vec3i,
    # outputs
    stamps: wp.array[int],  # [X Y Z] of cells
    cells: wp.array[int],
    kinds: wp.array[int],
    counters: wp.array[int],
):
    """Claim the children that a surface is predicted to cross, or all of them."""
    i = wp.tid()
    kind = parent_kinds[i]
    if kind == FAR or (kind == NEAR and whole != NEAR):
        return
    low = coordinates(parents[i], shape)
    for k in range(8):
        bits = child_corners(signs[i], k)
        if kind == whole or (bits != 0 and bits != 255):
            child = low + wp.vec3i(k & 1, (k >> 1) & 1, k >> 2) * stride
            claim_cell(child, bits, shape, epoch, stamps, cells, kinds, counters)


@wp.kernel
def claim_nodes_kernel(
    cells: wp.array[int],
    start: int,
    stride: int,
    epoch: int,
    shape: wp.vec3i,
    # outputs
    stamps: wp.array[int],  # [X Y Z]
    nodes: wp.array[int],
    counters: wp.array[int],
):
    """Claim the corners of cells."""
    cell = cells[start + wp.tid()]
    step = steps(coordinates(cell, shape), stride, shape)
    for k in range(8):
        node = corner(cell, step, k)
        if stamps[node] != epoch and wp.atomic_exch(stamps, node, epoch) != epoch:
            nodes[wp.atomic_add(counters, NODES, 1)] = node


@wp.func
def is_unexpected(
    node: int,
    stride: int,
    values: wp.array[Any],
    node_stamps: wp.array[int],
    epoch: int,
    level: wp.float64,
    shape: wp.vec3i,
):
    """Whether a node's sign is not the one the nodes of twice the stride around it predict, where all are evaluated."""
    at = coordinates(node, shape)
    low = at
    size = wp.vec3i()
    t = wp.vec3d()
    for a in range(3):
        if (at[a] // stride) % 2 == 1 and at[a] < shape[a] - 1:
            low[a] = at[a] - stride
            size[a] = wp.min(2 * stride, shape[a] - 1 - low[a])
            t[a] = wp.float64(middle(low[a], stride, shape[a] - 1))
    step = wp.vec3i(size[0] * shape[1] * shape[2], size[1] * shape[2], size[2])
    start = flat(low, shape)
    rows = wp.vec4d()
    known = True
    for j in range(4):
        a = corner(start, step, 2 * j)
        b = corner(start, step, 2 * j + 1)
        known = known and node_stamps[a] == epoch and node_stamps[b] == epoch
        rows[j] = wp.lerp(wp.float64(values[a]) - level, wp.float64(values[b]) - level, t[0])
    predicted = wp.lerp(wp.lerp(rows[0], rows[1], t[1]), wp.lerp(rows[2], rows[3], t[1]), t[2])
    return known and (predicted < wp.float64(0.0)) != (wp.float64(values[node]) < level)


@wp.kernel
def classify_cells_kernel(
    first: wp.int32,
    cells: wp.array[int],
    values: wp.array[Any],  # [X Y Z]
    node_stamps: wp.array[int],  # [X Y Z]
    node_epoch: int,
    stamps: wp.array[int],  # [X Y Z] of cells
    epoch: int,
    start: int,
    stride: int,
    level: wp.float64,
    reach: wp.float64,  # uniform cells whose smallest |value| is below this are near
    refined: bool,  # whether the nodes of twice the stride predict signs
    shape: wp.vec3i,
    # outputs
    kinds: wp.array[int],  # holds the predictions before
    wanted: wp.array[int],  # what to claim, from 0 for the cell at start on
):
    """Tell what cells are, and which cells should be claimed because of them.

    Bits 0 to 5 of ``wanted`` are the faces, two an axis, behind which the surface continues into a cell not claimed;
    bits 8 to 15 the corners whose sign is not the predicted one.
    """
    n = wp.tid() + first
    i = start + n
    cell = cells[i]
    low = coordinates(cell, shape)
    step = steps(low, stride, shape)
    inside = wp.int32(0)
    for k in range(8):
        inside = inside | (int(wp.float64(values[corner(cell, step, k)]) < level) << k)
    wants = wp.int32(0)
    prediction = kinds[i]
    if prediction != UNKNOWN:
        wants = (inside ^ prediction) << 8
    elif refined:
        for k in range(8):
            if is_unexpected(corner(cell, step, k), stride, values, node_stamps, node_epoch, level, shape):
                wants = wants | (256 << k)
    kind = wp.int32(CROSSING)
    if inside == 0 or inside == 255:
        kind = FAR
    if reach > wp.float64(0.0):
        nearest = wp.float64(reach)
        for k in range(8):
            nearest = wp.min(nearest, wp.abs(wp.float64(values[corner(cell, step, k)]) - level))
        if kind == FAR and nearest < reach:
            kind = NEAR
    if kind == CROSSING:
        for f in range(6):
            a = f >> 1
            side = f & 1
            # corners of the face: those whose bit a equals side
            face = wp.where(a == 0, 0x55, wp.where(a == 1, 0x33, 0x0F)) << (side << a)
            bits = inside & face
            if bits != 0 and bits != face:
                beside = low
                beside[a] = low[a] + (2 * side - 1) * stride
                if is_cell(beside, shape) and stamps[flat(beside, shape)] != epoch:
                    wants = wants | (1 << f)
    kinds[i] = kind
    wanted[n] = wants


@wp.kernel
def descend_kernel(
    first: wp.int32,
    cells: wp.array[int],
    kinds: wp.array[int],
    values: wp.array[Any],  # [X Y Z]
    start: int,
    level: wp.float64,
    shape: wp.vec3i,
    # outputs
    wanted: wp.array[int],  # as `classify_cells_kernel` has it
):
    """From each cell without surface, of stride 1, want the neighbour in whose face values are closest to the level."""
    n = wp.tid() + first
    i = start + n
    wants = wp.int32(0)
    if kinds[i] != CROSSING:
        cell = cells[i]
        step = steps(coordinates(cell, shape), 1, shape)
        faces = wp.vector(dtype=wp.float64, length=6)
        for k in range(8):
            value = wp.abs(wp.float64(values[corner(cell, step, k)]) - level)
            for a in range(3):
                faces[2 * a + ((k >> a) & 1)] += value
        best = wp.int32(0)
        for f in range(6):
            if faces[f] < faces[best]:
                best = f
        wants = 1 << best
    wanted[n] = wants


@wp.kernel
def claim_wanted_kernel(
    wanted: wp.array[int],
    start: int,
    stride: int,
    epoch: int,
    shape: wp.vec3i,
    # outputs
    stamps: wp.array[int],  # [X Y Z] of cells
    cells: wp.array[int],
    kinds: wp.array[int],
    counters: wp.array[int],
):
    """Claim the neighbours behind wanted faces and the cells around wanted corners."""
    n = wp.tid()
    wants = wanted[n]
    if wants == 0:
        return
    low = coordinates(cells[start + n], shape)
    for f in range(6):
        if ((wants >> f) & 1) == 1:
            beside = low
            beside[f >> 1] = low[f >> 1] + (2 * (f & 1) - 1) * stride
            claim_cell(beside, UNKNOWN, shape, epoch, stamps, cells, kinds, counters)
    for k in range(8):
        if ((wants >> (8 + k)) & 1) == 1:
            for other in range(8):
                around = low
                for a in range(3):
                    end = wp.min(low[a] + ((k >> a) & 1) * stride, shape[a] - 1)
                    around[a] = wp.where(((other >> a) & 1) == 1, end, (end - 1) // stride * stride)
                claim_cell(around, UNKNOWN, shape, epoch, stamps, cells, kinds, counters)


@wp.kernel
def claim_seeds_kernel(
    seeds: wp.array[Any],  # [P] vec3
    frame: wp.array[Any],  # [2] vec3: lower corner, spacing
    epoch: int,
    shape: wp.vec3i,
    # outputs
    stamps: wp.array[int],  # [X Y Z] of cells
    cells: wp.array[int],
    kinds: wp.array[int],
    counters: wp.array[int],
):
    """Claim the cells that points lie in."""
    offset = wp.cw_div(seeds[wp.tid()] - frame[0], frame[1])
    low = wp.vec3i()
    within = True
    for a in range(3):
        # before the conversion, which is undefined for what an integer cannot hold
        within = within and offset[a] >= offset.dtype(0.0) and offset[a] < offset.dtype(shape[a] - 1)
        if within:
            low[a] = int(offset[a])
    if within:
        claim_cell(low, UNKNOWN, shape, epoch, stamps, cells, kinds, counters)
