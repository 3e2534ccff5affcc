"""Triangle meshes in numpy: normals, subdivision, isosurfaces with even quads, clipping, borders, smoothing."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Array = NDArray[Any]
Index = NDArray[np.int32]


class Mesh(NamedTuple):
    """Vertices [m] ``[V, 3]`` and outward-oriented faces ``[F, 3]``."""

    vertices: Array
    faces: Index


def unit(vectors: Array) -> Array:
    """Vectors scaled to length one; zero stays zero."""
    length = np.sqrt(np.einsum("...c,...c->...", vectors, vectors))
    return np.asarray(vectors / np.maximum(length, 1e-12)[..., None], np.float32)


def cross(a: Array, b: Array) -> Array:
    """Cross products of ``[P, 3]`` rows."""
    (ax, ay, az), (bx, by, bz) = a.T, b.T
    return np.stack((ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx), 1)


def dot(a: Array, b: Array) -> Array:
    """Scalar products of ``[P, 3]`` rows, ``[P]``."""
    return np.asarray(np.einsum("pc,pc->p", a, b), np.float32)


def vertex_normals(vertices: Array, faces: Index) -> Array:
    """Area-weighted unit normals, ``[V, 3]``."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    across = cross(b - a, c - a).astype(np.float64)
    corner = faces.T.reshape(-1)
    total = [np.bincount(corner, np.tile(across[:, k], 3), len(vertices)) for k in range(3)]
    return unit(np.stack(total, 1))


def edges(faces: Index) -> Index:
    """Each undirected edge once, ``[E, 2]``."""
    pairs = np.concatenate((faces[:, :2], faces[:, 1:], faces[:, ::2])).astype(np.int64)
    span = int(pairs.max(initial=0)) + 1
    keys = np.unique(pairs.min(1) * span + pairs.max(1))
    return np.stack((keys // span, keys % span), 1).astype(np.int32)


def pair_mean(pairs: Index, vertex_count: int) -> sparse.csr_matrix:
    """Row-stochastic matrix that replaces each vertex value by the mean over the undirected pairs ``[E, 2]``."""
    rows = np.concatenate((pairs[:, 0], pairs[:, 1]))
    columns = np.concatenate((pairs[:, 1], pairs[:, 0]))
    matrix = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), (vertex_count, vertex_count))
    degree = np.maximum(np.asarray(matrix.sum(1)).ravel(), 1)
    return sparse.csr_matrix(sparse.diags((1 / degree).astype(np.float32)) @ matrix)


def neighbour_mean(faces: Index, vertex_count: int) -> sparse.csr_matrix:
    """Matrix that replaces each vertex value by the mean of its neighbours'."""
    return pair_mean(edges(faces), vertex_count)


def smooth_values(values: Array, faces: Index, passes: int, rate: float = 0.5) -> Array:
    """Diffuse vertex values over the mesh."""
    return diffuse(values, neighbour_mean(faces, len(values)), passes, rate)


def diffuse(values: Array, mean: sparse.csr_matrix, passes: int, rate: float = 0.5) -> Array:
    """The same with the matrix of :func:`neighbour_mean` at hand."""
    for _ in range(passes):
        values = values + np.float32(rate) * (mean @ values - values)
    return np.asarray(values, np.float32)


def smooth_mesh(mesh: Mesh, passes: int) -> Mesh:
    """Smooth without shrinking (Taubin 1995); the border moves along itself only."""
    mean = neighbour_mean(mesh.faces, len(mesh.vertices))
    border = border_edges(mesh.faces)
    along = pair_mean(border, len(mesh.vertices))
    is_border = np.zeros(len(mesh.vertices), bool)
    is_border[border] = True
    vertices = mesh.vertices
    for step in range(2 * passes):
        target = np.where(is_border[:, None], along @ vertices, mean @ vertices)
        vertices = vertices + np.float32(0.5 if step % 2 == 0 else -0.53) * (target - vertices)
    return Mesh(np.asarray(vertices, np.float32), mesh.faces)


def subdivide(mesh: Mesh, *attributes: Array) -> tuple[Mesh, list[Array]]:
    """Split every face in four; new vertices lie on the curved surface that the normals describe (Phong tessellation).

    Returns:
        The finer mesh, old vertices first, and each per-vertex attribute carried over linearly.
    """
    vertices, faces = mesh
    pairs = np.sort(np.concatenate((faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]])), 1)
    unique, inverse = np.unique(pairs, axis=0, return_inverse=True)
    middle = (len(vertices) + inverse.reshape(3, -1).T).astype(np.int32)
    ab, bc, ca = middle[:, 0], middle[:, 1], middle[:, 2]
    a, b, c = faces.T
    split = np.concatenate([np.stack(corner, 1) for corner in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    normals = vertex_normals(vertices, faces)
    p, q = vertices[unique[:, 0]], vertices[unique[:, 1]]
    centre = (p + q) / 2
    lift = np.zeros_like(centre)
    for corner, index in ((p, unique[:, 0]), (q, unique[:, 1])):
        n = normals[index]
        lift += ((corner - centre) * n).sum(1, keepdims=True) * n / 2
    finer = Mesh(np.concatenate((vertices, centre + 0.6 * lift)), split.astype(np.int32))
    carried = [np.concatenate((x, (x[unique[:, 0]] + x[unique[:, 1]]) / 2)) for x in attributes]
    return finer, carried


def select_faces(mesh: Mesh, keep: NDArray[np.bool_]) -> tuple[Mesh, Index]:
    """Drop faces and the vertices no face uses; also returns the kept vertices' old indices."""
    faces = mesh.faces[keep]
    used = np.unique(faces)
    renumber = np.zeros(len(mesh.vertices), np.int32)
    renumber[used] = np.arange(len(used), dtype=np.int32)
    return Mesh(mesh.vertices[used], renumber[faces]), used.astype(np.int32)


def surface_nets(field: Array, lower: Array, cell: float) -> Mesh:
    """Zero level of a signed field, one vertex a crossed cell: even quads that take displacement without slivers.

    Args:
        field: Values at lattice nodes, negative inside, ``[X, Y, Z]``.
        lower: Position of node (0, 0, 0) [m].
        cell: Lattice spacing [m].

    Returns:
        Faces oriented towards positive values; open where the surface leaves the lattice.

    Source: Gibson 1998, Constrained Elastic Surface Nets (without the elastic step).
    """
    inside = field < 0
    shape = np.array(field.shape) - 1
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    count = sum(inside[i : shape[0] + i, j : shape[1] + j, k : shape[2] + k].astype(np.int8) for i, j, k in corners)
    cells = np.argwhere((count > 0) & (count < 8))
    number = np.full(shape, -1, np.int32)
    number[tuple(cells.T)] = np.arange(len(cells), dtype=np.int32)
    values = field[tuple((cells[:, None] + corners).transpose(2, 0, 1))]
    total = np.zeros((len(cells), 3))
    hits = np.zeros((len(cells), 1))
    for a in range(8):
        for axis in range(3):
            b = a | (4 >> axis)
            if a == b:
                continue
            va, vb = values[:, a], values[:, b]
            crossed = (va < 0) != (vb < 0)
            t = np.where(crossed, va / np.where(crossed, va - vb, 1), 0)[:, None]
            total += np.where(crossed[:, None], corners[a] + t * (corners[b] - corners[a]), 0)
            hits += crossed[:, None]
    vertices = lower + (cells + total / hits) * cell
    quads = []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        first = np.take(inside, range(shape[axis]), axis)
        second = np.take(inside, range(1, shape[axis] + 1), axis)
        nodes = np.argwhere(first != second)
        nodes = nodes[((nodes[:, [u, v]] > 0) & (nodes[:, [u, v]] < shape[[u, v]])).all(1)]
        step_u, step_v = np.eye(3, dtype=int)[u], np.eye(3, dtype=int)[v]
        ring = [number[tuple((nodes - s).T)] for s in (step_u + step_v, step_v, np.zeros(3, int), step_u)]
        quad = np.stack(ring, 1)
        outward = first[tuple(nodes.T)]
        quads.append(np.where(outward[:, None], quad, quad[:, ::-1]))
    quad = np.concatenate(quads)
    faces = np.concatenate((quad[:, [0, 1, 2]], quad[:, [0, 2, 3]])).astype(np.int32)
    return Mesh(vertices.astype(np.float32), faces)


def clip(mesh: Mesh, values: Array) -> Mesh:
    """Keep the part of a mesh where a vertex value is positive, cutting faces along its zero line."""
    vertices, faces = mesh
    positive = values > 0
    count = positive[faces].sum(1)
    kept = [faces[count == 3]]
    extra: list[Array] = []
    cut: dict[int, Index] = {}
    pairs = edges(faces[(count == 1) | (count == 2)]) if ((count == 1) | (count == 2)).any() else np.zeros((0, 2), int)
    pairs = pairs[positive[pairs[:, 0]] != positive[pairs[:, 1]]]
    va, vb = values[pairs[:, 0]], values[pairs[:, 1]]
    t = np.clip(va / (va - vb), 0.0, 1.0)[:, None]
    extra.append(vertices[pairs[:, 0]] * (1 - t) + vertices[pairs[:, 1]] * t)
    key = pairs[:, 0].astype(np.int64) * len(vertices) + pairs[:, 1]

    def between(a: Index, b: Index) -> Index:
        low, high = np.minimum(a, b).astype(np.int64), np.maximum(a, b)
        return np.asarray(len(vertices) + np.searchsorted(key, low * len(vertices) + high), np.int32)

    for wanted in (1, 2):
        mixed = faces[count == wanted]
        lone = np.argmax(positive[mixed] == (wanted == 1), 1)
        rows = np.arange(len(mixed))
        cut[0], cut[1], cut[2] = (mixed[rows, (lone + i) % 3] for i in range(3))
        ab, ac = between(cut[0], cut[1]), between(cut[0], cut[2])
        if wanted == 1:
            kept.append(np.stack((cut[0], ab, ac), 1))
        else:
            kept += [np.stack((ab, cut[1], cut[2]), 1), np.stack((ab, cut[2], ac), 1)]
    whole = Mesh(np.concatenate([vertices, *extra]).astype(np.float32), np.concatenate(kept).astype(np.int32))
    return select_faces(whole, np.ones(len(whole.faces), bool))[0]


def border_edges(faces: Index) -> Index:
    """Directed edges that belong to one face only, ``[E, 2]``; the face lies to their left."""
    directed = np.concatenate((faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]))
    long = directed.astype(np.int64)
    keys = long.min(1) * (int(long.max(initial=0)) + 1) + long.max(1)
    _, inverse, count = np.unique(keys, return_inverse=True, return_counts=True)
    return np.asarray(directed[count[inverse] == 1], np.int32)


def extrude_border(
    mesh: Mesh, profile: list[tuple[float, float]], scale: Array, turned: bool = False
) -> tuple[Mesh, Index]:
    """Continue a mesh past its border by a strip with the given cross-section: hems, cuffs, collars, lapels.

    Args:
        mesh: The open mesh.
        profile: Points (past the border, along the outward normal) [m], from the border on.
        scale: Width factor per vertex, ``[V]``; border edges with both ends at zero get no strip.
        turned: The strip folds over to the outside and shows its inner side, as a collar does: a piece of its own,
            wound the other way.

    Returns:
        The mesh with the strips, old vertices and faces first, and the border vertex each new vertex came from.
    """
    vertices, faces = mesh
    border = border_edges(faces)
    border = border[(scale[border] > 0).any(1)]
    if not len(border):
        return mesh, np.zeros(0, np.int32)
    normals = vertex_normals(vertices, faces)
    out = np.zeros_like(vertices)
    tangent = unit(vertices[border[:, 1]] - vertices[border[:, 0]])
    for end in (0, 1):
        np.add.at(out, border[:, end], unit(np.cross(tangent, normals[border[:, end]])))
    ring = np.unique(border)
    mean = pair_mean(border, len(vertices))
    for _ in range(4):
        out = out + 0.5 * (mean @ out - out)
        normals = np.where(scale[:, None] > 0, normals + 0.5 * (mean @ normals - normals), normals)
    out, normals = unit(out), unit(normals)
    position = np.full(len(vertices), -1, np.int32)
    position[ring] = np.arange(len(ring), dtype=np.int32)
    rows, strips = [vertices], [faces]
    previous = border
    for step, (past, along_normal) in enumerate(profile):
        moved = vertices[ring] + scale[ring, None] * (past * out[ring] + along_normal * normals[ring])
        rows.append(moved.astype(np.float32))
        current = position[border] + len(vertices) + step * len(ring)
        if step or not turned:
            strip = np.stack(
                (previous[:, 1], previous[:, 0], current[:, 0], previous[:, 1], current[:, 0], current[:, 1]), 1
            )
            strips.append(strip.reshape(-1, 3)[:, :: -1 if turned else 1])
        previous = current
    grown = Mesh(np.concatenate(rows), np.concatenate(strips).astype(np.int32))
    return grown, np.tile(ring, len(profile)).astype(np.int32)
