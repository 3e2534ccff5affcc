"""Two regularisers of triangle meshes: edges of one length, and faces that continue their neighbours.

Conventions, exceptions and the order of sums are those of ``kernels/mesh.py``; ``kernels/laplacian.py`` holds a third.
"""

from __future__ import annotations

from typing import Any

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.kernels.interop import SCALAR, ints, launch_split, scalars, vec3is, vec3s
from selfrecon_warp.kernels.mesh import face_area_vector, gather_area_vectors
from selfrecon_warp.kernels.mesh_frames import as_frames, optional_vec3s, recorded, require_vertices, scaled, total
from selfrecon_warp.kernels.topology import MeshTopology, given_topology

wp.set_module_options({"enable_backward": False})


@wp.kernel
def loss_edge_length_kernel(
    first: wp.int32,
    vertices: wp.array2d[Any],  # [B, V] vec3
    neighbour_start: wp.array[wp.int32],  # [V + 1]
    neighbour: wp.array[wp.int32],  # [2 E]
    target: Any,
    weight: Any,
    # outputs
    terms: wp.array2d[Any],  # [B, V]
    grad_vertices: wp.array2d[Any],  # [B, V] vec3; absent where none is wanted
):
    """Half of each edge's weighted term at either end, and the gradient of all terms."""
    b, i = wp.tid()
    i += first
    here = vertices[b, i]
    value = terms.dtype(0.0)
    total = grad_vertices.dtype()
    if target > type(target)(0.0):
        for n in range(neighbour_start[i], neighbour_start[i + 1]):
            away = here - vertices[b, neighbour[n]]
            length = wp.length(away)
            excess = length - target
            value += excess * excess
            total += away * (excess / length)
    else:  # no roots to take
        for n in range(neighbour_start[i], neighbour_start[i + 1]):
            away = here - vertices[b, neighbour[n]]
            value += wp.dot(away, away)
            total += away
    if not wp.isfinite(total):  # once more, without edges that have no direction
        total = type(here)()
        for n in range(neighbour_start[i], neighbour_start[i + 1]):
            away = here - vertices[b, neighbour[n]]
            length = wp.length(away)
            if length > type(target)(0.0) and wp.isfinite(length):
                total += away * ((length - target) / length)
    terms[b, i] = value * weight * type(weight)(0.5)
    if grad_vertices.shape[0] > 0:
        grad_vertices[b, i] = total * (weight + weight)


@wp.kernel
def face_directions_kernel(
    first: wp.int32,
    vertices: wp.array2d[Any],  # [B, V] vec3
    faces: wp.array[wp.vec3i],  # [F]
    least: Any,
    # outputs
    directions: wp.array2d[Any],  # [B, F] vec3 zero where the area vector is not longer than ``least``
    lengths: wp.array2d[Any],  # [B, F] of the area vectors
):
    b, f = wp.tid()
    f += first
    area_vector = face_area_vector(vertices, faces, b, f)
    length = wp.length(area_vector)
    lengths[b, f] = length
    if length <= least:
        area_vector = type(area_vector)()
        length = type(length)(1.0)
    directions[b, f] = area_vector / length


@wp.kernel
def loss_normal_consistency_kernel(
    first: wp.int32,
    side_start: wp.array[wp.int32],  # [3 F] vertex that each side starts from: the faces
    next_side: wp.array[wp.int32],  # [3 F]
    directions: wp.array2d[Any],  # [B, F] vec3
    lengths: wp.array2d[Any],  # [B, F]
    least: Any,
    weight: Any,
    # outputs
    terms: wp.array2d[Any],  # [B, F]
    grad_area_vectors: wp.array2d[Any],  # [B, F] vec3; absent where none is wanted
):
    """Half of each pair's weighted term at either face, and the gradient of all terms."""
    b, f = wp.tid()
    f += first
    direction = directions[b, f]
    one = type(weight)(1.0)
    value = terms.dtype(0.0)
    others = directions.dtype()
    for k in range(3):
        side = 3 * f + k
        beside = wp.int32(next_side[side])
        while beside != side:
            other = directions[b, beside / 3]
            if side_start[beside] == side_start[side]:  # both run the same way along the edge: turned over
                other = -other
            cosine = wp.dot(direction, other)
            value += one - cosine
            if wp.isfinite(cosine):
                others += other
            beside = next_side[beside]
    terms[b, f] = value * weight * type(weight)(0.5)
    if grad_area_vectors.shape[0] > 0:
        length = lengths[b, f]
        grad = type(others)()
        if length > least and wp.isfinite(length):
            grad = (direction * wp.dot(direction, others) - others) * (weight / length)
        grad_area_vectors[b, f] = grad


class _LossEdgeLength(torch.autograd.Function):
    """The gradient is made beside the value, while the neighbours are at hand, and scaled in the backward pass."""

    @staticmethod
    def forward(ctx: Any, vertices: Tensor, topology: MeshTopology, target: float, wanted: bool) -> Tensor:
        B, V = vertices.shape[:2]
        terms = vertices.new_empty(B, V)
        grad = torch.empty_like(vertices) if wanted else None
        number = SCALAR[vertices.dtype]
        inputs = [vec3s(vertices), ints(topology.neighbour_start), ints(topology.neighbour)]
        inputs += [number(target), number(1.0 / (B * len(topology.edges)))]
        launch_split(
            loss_edge_length_kernel, vertices, (B, V), inputs, [scalars(terms), optional_vec3s(grad, vertices)], axis=1
        )
        ctx.save_for_backward(grad)
        return total(terms)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = ctx.saved_tensors
        return scaled(grad, grad_loss), None, None, None


class _LossNormalConsistency(torch.autograd.Function):
    """The gradient of the area vectors is made beside the value, while the neighbours are at hand."""

    @staticmethod
    def forward(ctx: Any, vertices: Tensor, topology: MeshTopology, least: float, wanted: bool) -> Tensor:
        faces = topology.corners.faces
        B, F = len(vertices), len(faces)
        directions, lengths = vertices.new_empty(B, F, 3), vertices.new_empty(B, F)
        number = SCALAR[vertices.dtype]
        inputs = [vec3s(vertices), vec3is(faces), number(least)]
        launch_split(face_directions_kernel, vertices, (B, F), inputs, [vec3s(directions), scalars(lengths)], axis=1)
        terms = vertices.new_empty(B, F)
        grad = torch.empty_like(directions) if wanted else None
        inputs = [ints(faces.view(-1)), ints(topology.next_side), vec3s(directions), scalars(lengths)]
        inputs += [number(least), number(1.0 / (B * topology.pair_count))]
        launch_split(
            loss_normal_consistency_kernel,
            vertices,
            (B, F),
            inputs,
            [scalars(terms), optional_vec3s(grad, vertices)],
            axis=1,
        )
        ctx.corners = topology.corners
        ctx.save_for_backward(vertices, grad)
        return total(terms)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None, None, None]:
        vertices, grad = ctx.saved_tensors
        return gather_area_vectors(vertices, ctx.corners, grad, grad_loss.reshape(1)), None, None, None


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
    return _LossEdgeLength.apply(frames, topology, target_length, recorded(vertices))


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
    topology, frames = given_topology(vertices, faces), as_frames(vertices)
    if 0 in (len(frames), topology.pair_count):
        return frames[:, :0].sum()
    return _LossNormalConsistency.apply(frames, topology, 2.0 * least_area, recorded(vertices))
