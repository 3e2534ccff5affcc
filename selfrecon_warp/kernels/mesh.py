"""Normals, areas and edge lengths of triangle meshes.

Positions are ``[V, 3]`` or ``[B, V, 3]``, in metres or any unit of length; the ``F`` faces are shared by the batch.
Faces and edges add to their vertices in ascending order: on a CPU always, so that sums are the same in every run; on a
GPU atomically, so that their last digits may differ. Give a :class:`MeshTopology` in place of the faces where several
steps share one mesh.

Defined results where geometry breaks down, the same on every device:

* A face of zero area has no normal: zero, with no gradient; the gradient of its area is zero as well.
* An edge of zero length has no direction: its length has no gradient.
* A vertex of no face has a zero normal and takes no part in any loss.
* A face that names a vertex twice has no edges and no neighbours.
* A vertex with a coordinate that is not finite makes what it enters not finite, losses included. Those terms are left
  out of the gradient, so that all other vertices keep finite ones.
* No face, no edge, no vertex or no frame: losses are zero.
"""

from __future__ import annotations

from typing import Any

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.kernels.internal.area_vector import (
    add_at_face,
    area_vector_vjp,
    edge_rows,
    face_area_vector,
    face_rows,
)
from selfrecon_warp.kernels.internal.mesh_frames import (
    as_frames,
    given_faces,
    given_topology,
    require_vertices,
    rows,
    vertex_sums,
)
from selfrecon_warp.kernels.interop import launch_split, scalars, vec2is, vec3is
from selfrecon_warp.kernels.topology import MeshTopology

wp.set_module_options({"enable_backward": False})


@wp.func
def unit_vjp(vector: Any, grad: Any):
    """Gradient of ``vector`` from that of its direction; zero where it has none."""
    length = wp.length(vector)
    if not (length > type(length)(0.0) and wp.isfinite(length)):
        return type(vector)()
    direction = vector / length
    return (grad - direction * wp.dot(direction, grad)) / length


@wp.kernel
def face_normals_kernel(
    first: wp.int32,
    vertices: wp.array[Any],  # [B V] vec3
    vertex_count: wp.int32,
    faces: wp.array[wp.vec3i],  # [F]
    # outputs
    normals: wp.array[Any],  # [B F] vec3
):
    i = wp.tid() + first
    face = face_rows(faces, vertex_count, i)
    vector = face_area_vector(vertices, face)
    length = wp.length(vector)
    if length == type(length)(0.0):
        length = type(length)(1.0)
    normals[i] = vector / length


@wp.kernel
def face_areas_kernel(
    first: wp.int32,
    vertices: wp.array[Any],  # [B V] vec3
    vertex_count: wp.int32,
    faces: wp.array[wp.vec3i],  # [F]
    # outputs
    areas: wp.array[Any],  # [B F]
):
    i = wp.tid() + first
    face = face_rows(faces, vertex_count, i)
    vector = face_area_vector(vertices, face)
    areas[i] = vector.dtype(0.5) * wp.length(vector)


@wp.kernel
def face_normals_vjp_kernel(
    first: wp.int32,
    vertices: wp.array[Any],  # [B V] vec3
    vertex_count: wp.int32,
    faces: wp.array[wp.vec3i],  # [F]
    grad_normals: wp.array[Any],  # [B F] vec3
    # outputs
    grad_vertices: wp.array[Any],  # [B V] vec3
):
    i = wp.tid() + first
    face = face_rows(faces, vertex_count, i)
    grad = unit_vjp(face_area_vector(vertices, face), grad_normals[i])
    area_vector_vjp(vertices, face, grad, grad_vertices)


@wp.kernel
def face_areas_vjp_kernel(
    first: wp.int32,
    vertices: wp.array[Any],  # [B V] vec3
    vertex_count: wp.int32,
    faces: wp.array[wp.vec3i],  # [F]
    grad_areas: wp.array[Any],  # [B F]
    # outputs
    grad_vertices: wp.array[Any],  # [B V] vec3
):
    i = wp.tid() + first
    face = face_rows(faces, vertex_count, i)
    vector = face_area_vector(vertices, face)
    length = wp.length(vector)
    grad = type(vector)()
    if length > type(length)(0.0) and wp.isfinite(length):
        grad = vector * (grad_areas[i] / (length + length))
    area_vector_vjp(vertices, face, grad, grad_vertices)


@wp.kernel
def sum_area_vectors_kernel(
    first: wp.int32,
    vertices: wp.array[Any],  # [B V] vec3
    vertex_count: wp.int32,
    faces: wp.array[wp.vec3i],  # [F]
    # outputs
    area_vectors: wp.array[Any],  # [B V] vec3
):
    """Sum of the area vectors around each vertex."""
    i = wp.tid() + first
    face = face_rows(faces, vertex_count, i)
    vector = face_area_vector(vertices, face)
    add_at_face(area_vectors, face, vector, vector, vector)


@wp.kernel
def vertex_normals_kernel(
    first: wp.int32,
    area_vectors: wp.array[Any],  # [B V] vec3
    # outputs
    normals: wp.array[Any],  # [B V] vec3
):
    i = wp.tid() + first
    vector = area_vectors[i]
    length = wp.length(vector)
    if length == type(length)(0.0):
        length = type(length)(1.0)
    normals[i] = vector / length


@wp.kernel
def vertex_normals_vjp_kernel(
    first: wp.int32,
    area_vectors: wp.array[Any],  # [B V] vec3
    grad_normals: wp.array[Any],  # [B V] vec3
    # outputs
    grad_area_vectors: wp.array[Any],  # [B V] vec3
):
    i = wp.tid() + first
    grad_area_vectors[i] = unit_vjp(area_vectors[i], grad_normals[i])


@wp.kernel
def sum_area_vectors_vjp_kernel(
    first: wp.int32,
    vertices: wp.array[Any],  # [B V] vec3
    vertex_count: wp.int32,
    faces: wp.array[wp.vec3i],  # [F]
    grad_area_vectors: wp.array[Any],  # [B V] vec3
    # outputs
    grad_vertices: wp.array[Any],  # [B V] vec3
):
    i = wp.tid() + first
    face = face_rows(faces, vertex_count, i)
    grad = grad_area_vectors[face[0]] + grad_area_vectors[face[1]] + grad_area_vectors[face[2]]
    area_vector_vjp(vertices, face, grad, grad_vertices)


@wp.kernel
def edge_lengths_kernel(
    first: wp.int32,
    vertices: wp.array[Any],  # [B V] vec3
    vertex_count: wp.int32,
    edges: wp.array[wp.vec2i],  # [E]
    # outputs
    lengths: wp.array[Any],  # [B E]
):
    i = wp.tid() + first
    edge = edge_rows(edges, vertex_count, i)
    lengths[i] = wp.length(vertices[edge[1]] - vertices[edge[0]])


@wp.kernel
def edge_lengths_vjp_kernel(
    first: wp.int32,
    vertices: wp.array[Any],  # [B V] vec3
    vertex_count: wp.int32,
    edges: wp.array[wp.vec2i],  # [E]
    grad_lengths: wp.array[Any],  # [B E]
    # outputs
    grad_vertices: wp.array[Any],  # [B V] vec3
):
    i = wp.tid() + first
    edge = edge_rows(edges, vertex_count, i)
    away = vertices[edge[1]] - vertices[edge[0]]
    length = wp.length(away)
    if length > type(length)(0.0) and wp.isfinite(length):
        pull = away * (grad_lengths[i] / length)
        wp.atomic_add(grad_vertices, edge[0], -pull)
        wp.atomic_add(grad_vertices, edge[1], pull)


class _FaceQuantity(torch.autograd.Function):
    """Normals, or areas, of the faces."""

    @staticmethod
    def forward(ctx: Any, vertices: Tensor, faces: Tensor, normals: bool) -> Tensor:
        ctx.normals = normals
        ctx.save_for_backward(vertices, faces)
        shape = len(vertices), len(faces)
        values = vertices.new_empty(*shape, 3) if normals else vertices.new_empty(shape)
        kernel = face_normals_kernel if normals else face_areas_kernel
        inputs = [rows(vertices), vertices.shape[1], vec3is(faces)]
        outputs = [rows(values) if normals else scalars(values.view(-1))]
        launch_split(kernel, vertices, (len(vertices) * len(faces),), inputs, outputs)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        vertices, faces = ctx.saved_tensors
        grad = grad.contiguous()
        kernel = face_normals_vjp_kernel if ctx.normals else face_areas_vjp_kernel
        inputs = [rows(vertices), vertices.shape[1], vec3is(faces)]
        inputs.append(rows(grad) if ctx.normals else scalars(grad.view(-1)))
        return vertex_sums(kernel, vertices, len(vertices) * len(faces), inputs), None, None


class _VertexNormals(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vertices: Tensor, faces: Tensor) -> Tensor:
        normals = torch.empty_like(vertices)
        inputs = [rows(vertices), vertices.shape[1], vec3is(faces)]
        count = len(vertices) * len(faces)
        area_vectors = vertex_sums(sum_area_vectors_kernel, vertices, count, inputs)
        each = (vertices.shape[:2].numel(),)
        launch_split(vertex_normals_kernel, vertices, each, [rows(area_vectors)], [rows(normals)])
        ctx.save_for_backward(vertices, faces, area_vectors)
        return normals

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_normals: Tensor) -> tuple[Tensor, None]:
        vertices, faces, area_vectors = ctx.saved_tensors
        pulls = torch.empty_like(vertices)
        inputs = [rows(area_vectors), rows(grad_normals.contiguous())]
        launch_split(vertex_normals_vjp_kernel, vertices, (vertices.shape[:2].numel(),), inputs, [rows(pulls)])
        inputs = [rows(vertices), vertices.shape[1], vec3is(faces), rows(pulls)]
        count = len(vertices) * len(faces)
        return vertex_sums(sum_area_vectors_vjp_kernel, vertices, count, inputs), None


class _EdgeLengths(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vertices: Tensor, edges: Tensor) -> Tensor:
        ctx.save_for_backward(vertices, edges)
        lengths = vertices.new_empty(len(vertices), len(edges))
        inputs = [rows(vertices), vertices.shape[1], vec2is(edges)]
        launch_split(edge_lengths_kernel, vertices, (lengths.numel(),), inputs, [scalars(lengths.view(-1))])
        return lengths

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_lengths: Tensor) -> tuple[Tensor, None]:
        vertices, edges = ctx.saved_tensors
        inputs = [rows(vertices), vertices.shape[1], vec2is(edges), scalars(grad_lengths.contiguous().view(-1))]
        count = grad_lengths.numel()
        return vertex_sums(edge_lengths_vjp_kernel, vertices, count, inputs), None


def _face_quantity(vertices: Tensor, faces: Tensor | MeshTopology, normals: bool) -> Tensor:
    """Checked arguments, and the quantity in their shape."""
    require_vertices(vertices)
    values: Tensor = _FaceQuantity.apply(as_frames(vertices), given_faces(vertices, faces), normals)
    return values if vertices.dim() == 3 else values[0]


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
    return _face_quantity(vertices, faces, True)


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
    return _face_quantity(vertices, faces, False)


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
    normals: Tensor = _VertexNormals.apply(as_frames(vertices), given_faces(vertices, faces))
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
    lengths: Tensor = _EdgeLengths.apply(as_frames(vertices), given_topology(vertices, faces).edges)
    return lengths if vertices.dim() == 3 else lengths[0]
