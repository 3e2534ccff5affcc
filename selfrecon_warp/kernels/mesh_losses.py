"""Two regularisers of triangle meshes: edges of one length, and faces that continue their neighbours.

Conventions, exceptions and the order of sums are those of ``kernels/mesh.py``; ``kernels/laplacian.py`` holds a third.
"""

from __future__ import annotations

from typing import Any

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.kernels.internal.area_vector import (
    area_vector_vjp,
    edge_rows,
    face_area_vector,
    face_rows,
    frame_of,
)
from selfrecon_warp.kernels.internal.mesh_frames import (
    as_frames,
    given_sides,
    given_topology,
    optional_rows,
    recorded,
    require_vertices,
    rows,
    scaled,
    total,
    vertex_sums,
)
from selfrecon_warp.kernels.interop import SCALAR, ints, launch_split, scalars, vec2is, vec3is
from selfrecon_warp.kernels.topology import LinkedSides, MeshTopology

wp.set_module_options({"enable_backward": False})


@wp.kernel
def loss_edge_length_kernel(
    first: wp.int32,
    vertices: wp.array[Any],  # [B V] vec3
    vertex_count: wp.int32,
    edges: wp.array[wp.vec2i],  # [E]
    target: Any,
    weight: Any,
    # outputs
    terms: wp.array[Any],  # [B E]
    grad_vertices: wp.array[Any],  # [B V] vec3; absent where none is wanted
):
    """Weighted term of an edge, and its gradient."""
    i = wp.tid() + first
    edge = edge_rows(edges, vertex_count, i)
    away = vertices[edge[1]] - vertices[edge[0]]
    length = wp.length(away)
    excess = length - target
    terms[i] = excess * excess * weight
    if grad_vertices.shape[0] > 0 and length > type(length)(0.0) and wp.isfinite(length):
        pull = away * ((weight + weight) * excess / length)
        wp.atomic_add(grad_vertices, edge[0], -pull)
        wp.atomic_add(grad_vertices, edge[1], pull)


@wp.kernel
def face_directions_kernel(
    first: wp.int32,
    vertices: wp.array[Any],  # [B V] vec3
    vertex_count: wp.int32,
    faces: wp.array[wp.vec3i],  # [F]
    least: Any,
    # outputs
    directions: wp.array[Any],  # [B F] vec3 zero where the area vector is not longer than ``least``
    lengths: wp.array[Any],  # [B F] of the area vectors
):
    i = wp.tid() + first
    face = face_rows(faces, vertex_count, i)
    vector = face_area_vector(vertices, face)
    length = wp.length(vector)
    lengths[i] = length
    if length <= least:
        vector = type(vector)()
        length = type(length)(1.0)
    directions[i] = vector / length


@wp.kernel
def loss_normal_consistency_kernel(
    first: wp.int32,
    side_start: wp.array[wp.int32],  # [3 F] vertex that each side starts from: the faces
    next_side: wp.array[wp.int32],  # [3 F]
    directions: wp.array[Any],  # [B F] vec3
    lengths: wp.array[Any],  # [B F]
    least: Any,
    weight: Any,
    # outputs
    terms: wp.array[Any],  # [B F]
    grad_area_vectors: wp.array[Any],  # [B F] vec3; absent where none is wanted
):
    """Half of each pair's weighted term at either face, and the gradient of all terms."""
    i = wp.tid() + first
    base = frame_of(i, next_side.shape[0] / 3) * (next_side.shape[0] / 3)
    f = i - base
    direction = directions[i]
    one = type(weight)(1.0)
    value = terms.dtype(0.0)
    others = directions.dtype()
    for k in range(3):
        side = 3 * f + k
        beside = wp.int32(next_side[side])
        while beside != side:
            other = directions[base + beside / 3]
            if side_start[beside] == side_start[side]:  # both run the same way along the edge: turned over
                other = -other
            cosine = wp.dot(direction, other)
            value += one - cosine
            if wp.isfinite(cosine):
                others += other
            beside = next_side[beside]
    terms[i] = value * weight * type(weight)(0.5)
    if grad_area_vectors.shape[0] > 0:
        length = lengths[i]
        grad = type(others)()
        if length > least and wp.isfinite(length):
            grad = (direction * wp.dot(direction, others) - others) * (weight / length)
        grad_area_vectors[i] = grad


@wp.kernel
def area_vectors_to_vertices_kernel(
    first: wp.int32,
    vertices: wp.array[Any],  # [B V] vec3
    vertex_count: wp.int32,
    faces: wp.array[wp.vec3i],  # [F]
    grad_area_vectors: wp.array[Any],  # [B F] vec3
    scale: wp.array[Any],  # [1]
    # outputs
    grad_vertices: wp.array[Any],  # [B V] vec3
):
    """Gradients of the faces' area vectors carried to the vertices."""
    i = wp.tid() + first
    face = face_rows(faces, vertex_count, i)
    area_vector_vjp(vertices, face, grad_area_vectors[i] * scale[0], grad_vertices)


class _LossEdgeLength(torch.autograd.Function):
    """The gradient is made beside the value, while the edges are at hand, and scaled in the backward pass."""

    @staticmethod
    def forward(ctx: Any, vertices: Tensor, edges: Tensor, target: float, wanted: bool) -> Tensor:
        count = len(vertices) * len(edges)
        terms = vertices.new_empty(count)
        number = SCALAR[vertices.dtype]
        inputs = [rows(vertices), vertices.shape[1], vec2is(edges), number(target), number(1.0 / count)]
        kernel, values = loss_edge_length_kernel, scalars(terms)
        if wanted:
            ctx.save_for_backward(vertex_sums(kernel, vertices, count, inputs, (values,)))
        else:
            launch_split(kernel, vertices, (count,), inputs, [values, optional_rows(None, vertices)])
        return total(terms)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = ctx.saved_tensors
        return scaled(grad, grad_loss), None, None, None


class _LossNormalConsistency(torch.autograd.Function):
    """The gradient of the area vectors is made beside the value, while the neighbours are at hand."""

    @staticmethod
    def forward(ctx: Any, vertices: Tensor, sides: MeshTopology | LinkedSides, least: float, wanted: bool) -> Tensor:
        faces, (B, V) = sides.faces, vertices.shape[:2]
        count = B * len(faces)
        directions, lengths = vertices.new_empty(1, count, 3), vertices.new_empty(count)
        number = SCALAR[vertices.dtype]
        inputs = [rows(vertices), V, vec3is(faces), number(least)]
        launch_split(face_directions_kernel, vertices, (count,), inputs, [rows(directions), scalars(lengths)])
        terms = vertices.new_empty(count)
        grad = torch.empty_like(directions) if wanted else None
        inputs = [ints(faces.view(-1)), ints(sides.next_side), rows(directions), scalars(lengths)]
        inputs += [number(least), number(1.0 / (B * sides.pair_count))]
        outputs = [scalars(terms), optional_rows(grad, vertices)]
        launch_split(loss_normal_consistency_kernel, vertices, (count,), inputs, outputs)
        ctx.save_for_backward(vertices, faces, grad)
        return total(terms)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None, None, None]:
        vertices, faces, grad = ctx.saved_tensors
        inputs = [rows(vertices), vertices.shape[1], vec3is(faces), rows(grad), scalars(grad_loss.reshape(1))]
        count = grad.shape[1]
        return vertex_sums(area_vectors_to_vertices_kernel, vertices, count, inputs), None, None, None


def loss_edge_length(vertices: Tensor, faces: Tensor | MeshTopology, target_length: float = 0.0) -> Tensor:
    """Mean squared difference of the edges' lengths from a target: ``mean((|v_j - v_i| - target)^2)``.

    Args:
        vertices: Positions [m], ``[V, 3]`` or ``[B, V, 3]``.
        faces: Vertex indices, ``[F, 3]``, int32 or int64, or what ``mesh_topology`` returned for them.
        target_length: Length at rest [m].

    Returns:
        Mean over edges and frames [m^2], ``[]``. Differentiable once in ``vertices``.

    Raises:
        ValueError: A shape, dtype, device or index disagrees, or the length is negative; the message names the
            argument.

    Agrees with PyTorch3D's ``mesh_edge_loss``, which also counts an edge from a vertex to itself where a face names it
    twice.
    """
    require_vertices(vertices)
    if not 0 <= target_length < float("inf"):
        raise ValueError(f"target_length must be finite and not negative, got {target_length}")
    topology, frames = given_topology(vertices, faces), as_frames(vertices)
    if 0 in (len(frames), len(topology.edges)):
        return frames[:, :0].sum()
    return _LossEdgeLength.apply(frames, topology.edges, target_length, recorded(vertices))


def loss_normal_consistency(vertices: Tensor, faces: Tensor | MeshTopology, least_area: float = 5e-9) -> Tensor:
    """Mean of ``1 - cos`` of the angle between the normals of two faces that share an edge.

    Every pair of faces counts on an edge of more than two; cost follows the number of pairs. A face that runs the same
    way along the edge as its neighbour is turned over, so that orientation does not matter.

    Args:
        vertices: Positions [m], ``[V, 3]`` or ``[B, V, 3]``.
        faces: Vertex indices, ``[F, 3]``, int32 or int64, or what ``mesh_topology`` returned for them.
        least_area: A face of this area [m^2] or less has no normal: its pairs count 1 and give no gradient.

    Returns:
        Mean over pairs and frames, ``[]``, 0 without any. Differentiable once in ``vertices``.

    Raises:
        ValueError: A shape, dtype, device or index disagrees, or the area is negative; the message names the argument.

    Agrees with PyTorch3D's ``mesh_normal_consistency``, which below the same area lets the cosine go to 0 in proportion
    to the area, with gradients that grow up to 1e8 per metre; and which pairs the two like sides of a face that names a
    vertex twice.
    """
    require_vertices(vertices)
    if not 0 <= least_area < float("inf"):
        raise ValueError(f"least_area must be finite and not negative, got {least_area}")
    sides, frames = given_sides(vertices, faces), as_frames(vertices)
    if 0 in (len(frames), sides.pair_count):
        return frames[:, :0].sum()
    return _LossNormalConsistency.apply(frames, sides, 2.0 * least_area, recorded(vertices))
