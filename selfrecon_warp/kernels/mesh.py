"""Normals, areas and edge lengths of triangle meshes.

Positions are ``[V, 3]`` or ``[B, V, 3]``, in metres or any unit of length; the ``F`` faces are shared by the batch.
Every kernel writes one entry per thread from the tables of ``kernels/topology.py``: nothing is scattered, so sums come
in the same order in every run. Give a :class:`MeshTopology` in place of the faces where several steps share one mesh.

Defined results where geometry breaks down, the same on every device:

* A face of zero area has no normal: zero, with no gradient; the gradient of its area is zero as well.
* An edge of zero length has no direction: its length has no gradient.
* A vertex of no face has a zero normal and takes no part in any loss.
* A face that names a vertex twice has no edges and no neighbours.
* A vertex with a coordinate that is not finite makes what it enters not finite, losses included. Those terms are left
  out of the gradient, so that all other vertices keep finite ones.
* No face, no edge, no vertex or no frame: losses are zero.

The file is long because its four operations and ``kernels/mesh_losses.py`` share the area vector and its gradient.
"""

from __future__ import annotations

from typing import Any

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.kernels.interop import ints, launch_split, scalars, vec3is, vec3s
from selfrecon_warp.kernels.mesh_frames import as_frames, corner_tables, optional_vec3s, recorded, require_vertices
from selfrecon_warp.kernels.topology import MeshCorners, MeshTopology, given_corners, given_topology, turned

wp.set_module_options({"enable_backward": False})


@wp.func
def area_vector(a: Any, b: Any):
    """Normal of the triangle between two of its sides, as long as twice its area; exactly zero where they coincide."""
    if a == b:  # a product and a difference rounded together would leave a remainder
        return type(a)()
    return wp.cross(a, b)


@wp.func
def face_area_vector(vertices: wp.array2d[Any], faces: wp.array[wp.vec3i], b: wp.int32, f: wp.int32):
    """Normal of a face, as long as twice its area."""
    face = faces[f]
    p0 = vertices[b, face[0]]
    return area_vector(vertices[b, face[1]] - p0, vertices[b, face[2]] - p0)


@wp.func
def unit_vjp(vector: Any, grad: Any):
    """Gradient of ``vector`` from that of its direction; zero where it has none."""
    length = wp.length(vector)
    if not (length > type(length)(0.0) and wp.isfinite(length)):
        return type(vector)()
    direction = vector / length
    return (grad - direction * wp.dot(direction, grad)) / length


@wp.func
def nonzero(vector: Any):
    zero = type(vector[0])(0.0)
    return vector[0] != zero or vector[1] != zero or vector[2] != zero


@wp.kernel
def face_normals_kernel(
    first: wp.int32,
    vertices: wp.array2d[Any],  # [B, V] vec3
    faces: wp.array[wp.vec3i],  # [F]
    # outputs
    normals: wp.array2d[Any],  # [B, F] vec3
):
    b, f = wp.tid()
    f += first
    vector = face_area_vector(vertices, faces, b, f)
    length = wp.length(vector)
    if length == type(length)(0.0):
        length = type(length)(1.0)
    normals[b, f] = vector / length


@wp.kernel
def face_areas_kernel(
    first: wp.int32,
    vertices: wp.array2d[Any],  # [B, V] vec3
    faces: wp.array[wp.vec3i],  # [F]
    # outputs
    areas: wp.array2d[Any],  # [B, F]
):
    b, f = wp.tid()
    f += first
    vector = face_area_vector(vertices, faces, b, f)
    areas[b, f] = vector.dtype(0.5) * wp.length(vector)


@wp.kernel
def face_normals_vjp_kernel(
    first: wp.int32,
    vertices: wp.array2d[Any],  # [B, V] vec3
    faces: wp.array[wp.vec3i],  # [F]
    grad_normals: wp.array2d[Any],  # [B, F] vec3
    # outputs
    grad_area_vectors: wp.array2d[Any],  # [B, F] vec3
):
    b, f = wp.tid()
    f += first
    grad_area_vectors[b, f] = unit_vjp(face_area_vector(vertices, faces, b, f), grad_normals[b, f])


@wp.kernel
def face_areas_vjp_kernel(
    first: wp.int32,
    vertices: wp.array2d[Any],  # [B, V] vec3
    faces: wp.array[wp.vec3i],  # [F]
    grad_areas: wp.array2d[Any],  # [B, F]
    # outputs
    grad_area_vectors: wp.array2d[Any],  # [B, F] vec3
):
    b, f = wp.tid()
    f += first
    vector = face_area_vector(vertices, faces, b, f)
    length = wp.length(vector)
    grad = type(vector)()
    if length > type(length)(0.0) and wp.isfinite(length):
        grad = vector * (grad_areas[b, f] / (length + length))
    grad_area_vectors[b, f] = grad


@wp.kernel
def area_vectors_to_vertices_kernel(
    first: wp.int32,
    vertices: wp.array2d[Any],  # [B, V] vec3
    faces: wp.array[wp.vec3i],  # [F]
    start: wp.array[wp.int32],  # [V + 1]
    corner: wp.array[wp.int32],  # [3 F]
    grad_area_vectors: wp.array2d[Any],  # [B, F] vec3
    scale: wp.array[Any],  # [1]
    # outputs
    grad_vertices: wp.array2d[Any],  # [B, V] vec3
):
    """Gradients of the faces' area vectors gathered by the vertices."""
    b, i = wp.tid()
    i += first
    total = grad_vertices.dtype()
    for c in range(start[i], start[i + 1]):
        f = corner[c] / 3
        face = turned(faces[f], corner[c] - 3 * f)
        grad = grad_area_vectors[b, f]
        if nonzero(grad):  # zero where the face is not finite, whose border must not be multiplied with it
            total += wp.cross(vertices[b, face[1]] - vertices[b, face[2]], grad)
    grad_vertices[b, i] = total * scale[0]


@wp.kernel
def vertex_normals_kernel(
    first: wp.int32,
    vertices: wp.array2d[Any],  # [B, V] vec3
    faces: wp.array[wp.vec3i],  # [F]
    start: wp.array[wp.int32],  # [V + 1]
    corner: wp.array[wp.int32],  # [3 F]
    # outputs
    normals: wp.array2d[Any],  # [B, V] vec3
    area_vectors: wp.array2d[Any],  # [B, V] vec3; absent where there is nothing to differentiate
):
    """Sum of the area vectors around each vertex, and its direction."""
    b, i = wp.tid()
    i += first
    p0 = vertices[b, i]
    total = normals.dtype()
    for c in range(start[i], start[i + 1]):
        f = corner[c] / 3
        face = turned(faces[f], corner[c] - 3 * f)
        total += area_vector(vertices[b, face[1]] - p0, vertices[b, face[2]] - p0)
    length = wp.length(total)
    if length == type(length)(0.0):
        length = type(length)(1.0)
    normals[b, i] = total / length
    if area_vectors.shape[0] > 0:
        area_vectors[b, i] = total


@wp.kernel
def vertex_normals_vjp_kernel(
    first: wp.int32,
    vertices: wp.array2d[Any],  # [B, V] vec3
    faces: wp.array[wp.vec3i],  # [F]
    start: wp.array[wp.int32],  # [V + 1]
    corner: wp.array[wp.int32],  # [3 F]
    pulls: wp.array2d[Any],  # [B, V] vec3 gradients of the vertices' summed area vectors
    # outputs
    grad_vertices: wp.array2d[Any],  # [B, V] vec3
):
    b, i = wp.tid()
    i += first
    here = pulls[b, i]
    total = grad_vertices.dtype()
    for c in range(start[i], start[i + 1]):
        f = corner[c] / 3
        face = turned(faces[f], corner[c] - 3 * f)
        grad = here + pulls[b, face[1]] + pulls[b, face[2]]
        if nonzero(grad):  # zero where the face is not finite, whose border must not be multiplied with it
            total += wp.cross(vertices[b, face[1]] - vertices[b, face[2]], grad)
    grad_vertices[b, i] = total


@wp.kernel
def unit_vjp_kernel(
    first: wp.int32,
    vectors: wp.array2d[Any],  # [B, V] vec3
    grad_units: wp.array2d[Any],  # [B, V] vec3
    # outputs
    grad_vectors: wp.array2d[Any],  # [B, V] vec3
):
    b, i = wp.tid()
    i += first
    grad_vectors[b, i] = unit_vjp(vectors[b, i], grad_units[b, i])


@wp.kernel
def edge_lengths_kernel(
    first: wp.int32,
    vertices: wp.array2d[Any],  # [B, V] vec3
    edges: wp.array2d[wp.int32],  # [E, 2]
    # outputs
    lengths: wp.array2d[Any],  # [B, E]
):
    b, e = wp.tid()
    e += first
    lengths[b, e] = wp.length(vertices[b, edges[e, 1]] - vertices[b, edges[e, 0]])


@wp.func
def find_edge(edge_start: wp.array[wp.int32], edges: wp.array2d[wp.int32], low: wp.int32, high: wp.int32):
    """Index of the edge between two neighbours, by bisection."""
    at = wp.int32(edge_start[low])
    end = wp.int32(edge_start[low + 1])
    while end - at > 1:
        middle = (at + end) / 2
        if edges[middle, 1] <= high:
            at = middle
        else:
            end = middle
    return at


@wp.kernel
def edge_lengths_vjp_kernel(
    first: wp.int32,
    vertices: wp.array2d[Any],  # [B, V] vec3
    neighbour_start: wp.array[wp.int32],  # [V + 1]
    neighbour: wp.array[wp.int32],  # [2 E]
    edge_start: wp.array[wp.int32],  # [V + 1]
    edges: wp.array2d[wp.int32],  # [E, 2]
    grad_lengths: wp.array2d[Any],  # [B, E]
    # outputs
    grad_vertices: wp.array2d[Any],  # [B, V] vec3
):
    b, i = wp.tid()
    i += first
    here = vertices[b, i]
    total = grad_vertices.dtype()
    for n in range(neighbour_start[i], neighbour_start[i + 1]):
        j = neighbour[n]
        away = here - vertices[b, j]
        length = wp.length(away)
        if length > type(length)(0.0) and wp.isfinite(length):
            e = find_edge(edge_start, edges, wp.min(i, j), wp.max(i, j))
            total += away * (grad_lengths[b, e] / length)
    grad_vertices[b, i] = total


def gather_area_vectors(vertices: Tensor, corners: MeshCorners, grad_area_vectors: Tensor, scale: Tensor) -> Tensor:
    """Gradient of the vertices from those of the area vectors."""
    grad = torch.empty_like(vertices)
    inputs = [vec3s(vertices), *corner_tables(corners), optional_vec3s(grad_area_vectors, vertices), scalars(scale)]
    launch_split(area_vectors_to_vertices_kernel, vertices, grad.shape[:2], inputs, [vec3s(grad)], axis=1)
    return grad


class _FaceQuantity(torch.autograd.Function):
    """Normals, or areas, of the faces."""

    @staticmethod
    def forward(ctx: Any, vertices: Tensor, corners: MeshCorners, normals: bool) -> Tensor:
        ctx.corners, ctx.normals = corners, normals
        ctx.save_for_backward(vertices)
        shape = len(vertices), len(corners.faces)
        values = vertices.new_empty(*shape, 3) if normals else vertices.new_empty(shape)
        kernel = face_normals_kernel if normals else face_areas_kernel
        inputs = [vec3s(vertices), vec3is(corners.faces)]
        launch_split(kernel, vertices, shape, inputs, [vec3s(values) if normals else scalars(values)], axis=1)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (vertices,) = ctx.saved_tensors
        grad = grad.contiguous()
        to_vectors = vertices.new_empty(*grad.shape[:2], 3)
        kernel = face_normals_vjp_kernel if ctx.normals else face_areas_vjp_kernel
        inputs = [vec3s(vertices), vec3is(ctx.corners.faces), vec3s(grad) if ctx.normals else scalars(grad)]
        launch_split(kernel, vertices, to_vectors.shape[:2], inputs, [vec3s(to_vectors)], axis=1)
        one = torch.ones(1, dtype=vertices.dtype, device=vertices.device)
        return gather_area_vectors(vertices, ctx.corners, to_vectors, one), None, None


class _VertexNormals(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vertices: Tensor, corners: MeshCorners, wanted: bool) -> Tensor:
        ctx.corners = corners
        normals = torch.empty_like(vertices)
        area_vectors = torch.empty_like(vertices) if wanted else None
        ctx.save_for_backward(vertices, area_vectors)
        inputs = [vec3s(vertices), *corner_tables(corners)]
        outputs = [vec3s(normals), optional_vec3s(area_vectors, vertices)]
        launch_split(vertex_normals_kernel, vertices, normals.shape[:2], inputs, outputs, axis=1)
        return normals

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_normals: Tensor) -> tuple[Tensor, None, None]:
        vertices, area_vectors = ctx.saved_tensors
        pulls, grad = torch.empty_like(vertices), torch.empty_like(vertices)
        inputs = [vec3s(area_vectors), vec3s(grad_normals.contiguous())]
        launch_split(unit_vjp_kernel, vertices, grad.shape[:2], inputs, [vec3s(pulls)], axis=1)
        inputs = [vec3s(vertices), *corner_tables(ctx.corners), vec3s(pulls)]
        launch_split(vertex_normals_vjp_kernel, vertices, grad.shape[:2], inputs, [vec3s(grad)], axis=1)
        return grad, None, None


class _EdgeLengths(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vertices: Tensor, topology: MeshTopology) -> Tensor:
        ctx.topology = topology
        ctx.save_for_backward(vertices)
        lengths = vertices.new_empty(len(vertices), len(topology.edges))
        inputs = [vec3s(vertices), ints(topology.edges)]
        launch_split(edge_lengths_kernel, vertices, tuple(lengths.shape), inputs, [scalars(lengths)], axis=1)
        return lengths

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_lengths: Tensor) -> tuple[Tensor, None]:
        (vertices,) = ctx.saved_tensors
        if grad_lengths.numel() == 0:
            return torch.zeros_like(vertices), None
        tables = ctx.topology[1:5]
        grad = torch.empty_like(vertices)
        inputs = [vec3s(vertices), *map(ints, tables), scalars(grad_lengths.contiguous())]
        launch_split(edge_lengths_vjp_kernel, vertices, grad.shape[:2], inputs, [vec3s(grad)], axis=1)
        return grad, None


def face_normals(vertices: Tensor, faces: Tensor | MeshTopology) -> Tensor:
    """Unit normals of the faces, pointing to where the vertices run counter-clockwise.

    Args:
        vertices: Positions [m], ``[V, 3]`` or ``[B, V, 3]``.
        faces: Vertex indices, ``[F, 3]``, int32 or int64, or what ``mesh_topology`` returned for them.

    Returns:
        Normals, ``[F, 3]`` or ``[B, F, 3]``; zero where the area is. Differentiable once in ``vertices``.

    Raises:
        ValueError: A shape, dtype, device or index disagrees; the message names the argument.
    """
    require_vertices(vertices)
    normals: Tensor = _FaceQuantity.apply(as_frames(vertices), given_corners(vertices, faces), True)
    return normals if vertices.dim() == 3 else normals[0]


def face_areas(vertices: Tensor, faces: Tensor | MeshTopology) -> Tensor:
    """Areas of the faces.

    Args:
        vertices: Positions [m], ``[V, 3]`` or ``[B, V, 3]``.
        faces: Vertex indices, ``[F, 3]``, int32 or int64, or what ``mesh_topology`` returned for them.

    Returns:
        Areas [m^2], ``[F]`` or ``[B, F]``. Differentiable once in ``vertices``.

    Raises:
        ValueError: A shape, dtype, device or index disagrees; the message names the argument.
    """
    require_vertices(vertices)
    areas: Tensor = _FaceQuantity.apply(as_frames(vertices), given_corners(vertices, faces), False)
    return areas if vertices.dim() == 3 else areas[0]


def vertex_normals(vertices: Tensor, faces: Tensor | MeshTopology) -> Tensor:
    """Unit normals of the vertices: the direction of the area-weighted sum of the normals around each.

    Args:
        vertices: Positions [m], ``[V, 3]`` or ``[B, V, 3]``.
        faces: Vertex indices, ``[F, 3]``, int32 or int64, or what ``mesh_topology`` returned for them.

    Returns:
        Normals in the shape of ``vertices``; zero at a vertex of no face and where the sum is zero. Differentiable once
        in ``vertices``.

    Raises:
        ValueError: A shape, dtype, device or index disagrees; the message names the argument.

    PyTorch3D divides sums below 1e-6 m^2 by that instead of their length, here they have unit length as all others.
    """
    require_vertices(vertices)
    corners = given_corners(vertices, faces)
    normals: Tensor = _VertexNormals.apply(as_frames(vertices), corners, recorded(vertices))
    return normals if vertices.dim() == 3 else normals[0]


def edge_lengths(vertices: Tensor, faces: Tensor | MeshTopology) -> Tensor:
    """Lengths of the edges.

    Args:
        vertices: Positions [m], ``[V, 3]`` or ``[B, V, 3]``.
        faces: Vertex indices, ``[F, 3]``, int32 or int64, or what ``mesh_topology`` returned for them.

    Returns:
        Lengths [m] in the order of ``mesh_topology(faces, V).edges``, ``[E]`` or ``[B, E]``. Differentiable once in
        ``vertices``.

    Raises:
        ValueError: A shape, dtype, device or index disagrees; the message names the argument.
    """
    require_vertices(vertices)
    lengths: Tensor = _EdgeLengths.apply(as_frames(vertices), given_topology(vertices, faces))
    return lengths if vertices.dim() == 3 else lengths[0]
