"""Laplacian of a triangle mesh's vertices, with uniform or cotangent weights, and the regulariser made of it.

With weights ``w_ij`` of neighbours ``j`` of vertex ``i``, all variants are ``scale_i sum_j w_ij (v_j - v_i)``:

* uniform: ``w_ij = 1``, scale one over the number of neighbours; the vector to their centroid.
* cotangent: ``w_ij = cot a_ij + cot b_ij``, the angles facing the edge, scale one over the sum of the weights.
* curvature: the same weights, scale one over four times the area of the faces around the vertex; a third of the mean
  curvature normal [1/m].

``w`` is symmetric, so ``sum_j w_ij (x_j - x_i)`` is its own transpose: one kernel serves both directions, over
the edges with uniform weights and over the faces with the others. Weights and scales are constants to the gradient, as
in PyTorch3D: only the differences ``v_j - v_i`` are differentiated.

Conventions, exceptions and the order of sums are those of ``kernels/mesh.py``. A vertex whose scale would be infinite,
such as one of no face, has a zero Laplacian.

Source: Desbrun et al., "Implicit fairing of irregular meshes using diffusion and curvature flow", SIGGRAPH 1999.
"""

from __future__ import annotations

from typing import Any

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.kernels.internal.area_vector import add_at_face, edge_rows, face_rows, frame_of
from selfrecon_warp.kernels.internal.mesh_frames import (
    SUMS,
    as_frames,
    given_faces,
    given_topology,
    optional_rows,
    recorded,
    require_vertices,
    rows,
    total,
    vertex_sums,
)
from selfrecon_warp.kernels.interop import SCALAR, ints, launch_split, scalars, scatter_split, vec2is, vec3is
from selfrecon_warp.kernels.topology import MeshTopology

METHODS = ("uniform", "cot", "cotcurv")
LEAST_AREA = 1e-6
"""Smallest area that a face is taken to have when angles are read from it [m^2], the same as PyTorch3D's."""

wp.set_module_options({"enable_backward": False})


@wp.kernel
def face_cotangents_kernel(
    first: wp.int32,
    vertices: wp.array[Any],  # [B V] vec3
    vertex_count: wp.int32,
    faces: wp.array[wp.vec3i],  # [F]
    least_area: Any,
    # outputs
    cotangents: wp.array[Any],  # [B F] vec3: one at each corner
    areas: wp.array[Any],  # [B F]
):
    i = wp.tid() + first
    face = face_rows(faces, vertex_count, i)
    p0 = vertices[face[0]]
    p1 = vertices[face[1]]
    p2 = vertices[face[2]]
    a = p2 - p1
    c = p1 - p0
    d = p0 - p2
    area = wp.length(wp.cross(c, a)) * type(least_area)(0.5)
    cotangent = cotangents.dtype()
    if wp.isfinite(area):  # else zeros: times vertices that are not finite they give NaN, times the others nothing
        area = wp.max(area, least_area)
        scale = type(area)(-0.5) / area
        cotangent = type(cotangent)(wp.dot(c, d) * scale, wp.dot(a, c) * scale, wp.dot(d, a) * scale)
    cotangents[i] = cotangent
    areas[i] = area


@wp.kernel
def uniform_differences_kernel(
    first: wp.int32,
    values: wp.array[Any],  # [B V] vec3
    vertex_count: wp.int32,
    edges: wp.array[wp.vec2i],  # [E]
    scale: wp.array[Any],  # [1]
    # outputs
    differences: wp.array[Any],  # [B V] vec3
):
    """Add the difference across an edge to either end."""
    i = wp.tid() + first
    edge = edge_rows(edges, vertex_count, i)
    difference = (values[edge[1]] - values[edge[0]]) * scale[0]
    wp.atomic_add(differences, edge[0], difference)
    wp.atomic_add(differences, edge[1], -difference)


@wp.kernel
def cotangent_differences_kernel(
    first: wp.int32,
    values: wp.array[Any],  # [B V] vec3
    vertex_count: wp.int32,
    faces: wp.array[wp.vec3i],  # [F]
    cotangents: wp.array[Any],  # [B F] vec3
    scale: wp.array[Any],  # [1]
    # outputs
    differences: wp.array[Any],  # [B V] vec3
):
    """Add the differences across a face's sides, each weighted by the cotangent opposite, to their ends."""
    i = wp.tid() + first
    face = face_rows(faces, vertex_count, i)
    x0 = values[face[0]]
    x1 = values[face[1]]
    x2 = values[face[2]]
    weights = cotangents[i] * scale[0]
    across_0 = weights[0] * (x2 - x1)
    across_1 = weights[1] * (x0 - x2)
    across_2 = weights[2] * (x1 - x0)
    add_at_face(differences, face, across_2 - across_1, across_0 - across_2, across_1 - across_0)


@wp.kernel
def cotangent_weights_kernel(
    first: wp.int32,
    vertex_count: wp.int32,
    faces: wp.array[wp.vec3i],  # [F]
    cotangents: wp.array[Any],  # [B F] vec3
    areas: wp.array[Any],  # [B F]
    curvature: wp.bool,
    # outputs
    weights: wp.array[Any],  # [B V]
):
    """Sum of each vertex's weights, or four times the area around it."""
    i = wp.tid() + first
    face = face_rows(faces, vertex_count, i)
    if curvature:
        area = areas.dtype(4.0) * areas[i]
        add_at_face(weights, face, area, area, area)
    else:
        each = cotangents[i]
        add_at_face(weights, face, each[1] + each[2], each[2] + each[0], each[0] + each[1])


@wp.func
def inverse(x: Any):
    """One over a positive number, zero of any other."""
    if x > type(x)(0.0):
        return type(x)(1.0) / x
    return type(x)(0.0)


@wp.func
def pull(laplacian: Any, scale: Any):
    """Gradient of a Laplacian's length to the differences it is made of; zero where it has no direction."""
    length = wp.length(laplacian)
    if not (length > type(length)(0.0) and wp.isfinite(length)):
        return type(laplacian)()
    return laplacian * (scale / length)


@wp.kernel
def loss_laplacian_kernel(
    first: wp.int32,
    differences: wp.array[Any],  # [B V] vec3
    weights: wp.array[Any],  # [V] or [B V]
    share: Any,
    # outputs
    terms: wp.array[Any],  # [B V]
    pulls: wp.array[Any],  # [B V] vec3; absent where no gradient is wanted
):
    i = wp.tid() + first
    scale = inverse(terms.dtype(weights[i - frame_of(i, weights.shape[0]) * weights.shape[0]]))
    laplacian = differences[i] * scale
    terms[i] = wp.length(laplacian) * share
    if pulls.shape[0] > 0:
        pulls[i] = pull(laplacian, scale * share)


def _face_cotangents(vertices: Tensor, faces: Tensor, least_area: float) -> tuple[Tensor, Tensor]:
    """Cotangents ``[B, F, 3]`` and areas ``[B, F]`` of contiguous frames."""
    shape = len(vertices), len(faces)
    cotangents, areas = vertices.new_empty(*shape, 3), vertices.new_empty(shape)
    inputs = [rows(vertices), vertices.shape[1], vec3is(faces), SCALAR[vertices.dtype](least_area)]
    outputs = [rows(cotangents), scalars(areas.view(-1))]
    launch_split(face_cotangents_kernel, vertices, (areas.numel(),), inputs, outputs)
    return cotangents, areas


def _cotangent_weights(vertices: Tensor, faces: Tensor, cotangents: Tensor, areas: Tensor, curvature: bool) -> Tensor:
    """What the differences of each vertex are divided by, ``[B, V]``."""
    inputs = [vertices.shape[1], vec3is(faces), rows(cotangents), scalars(areas.view(-1)), curvature]
    count, shape = areas.numel(), vertices.shape[:2]
    return scatter_split(
        cotangent_weights_kernel,
        vertices,
        count,
        inputs,
        shape,
        parts=SUMS,
        view=lambda part: scalars(part.view(-1)),
    )


def _differences(values: Tensor, table: Tensor, cotangents: Tensor | None, scale: Tensor) -> Tensor:
    """``scale sum_j w_ij (x_j - x_i)``, ``[B, V, 3]``: over the edges with uniform weights, or over the faces."""
    inputs = [rows(values), values.shape[1]]
    if cotangents is None:
        kernel, inputs = uniform_differences_kernel, [*inputs, vec2is(table)]
    else:
        kernel, inputs = cotangent_differences_kernel, [*inputs, vec3is(table), rows(cotangents)]
    return vertex_sums(kernel, values, len(values) * len(table), [*inputs, scalars(scale)])


class _Differences(torch.autograd.Function):
    """Its own gradient, but for vertices where the result is not finite: their gradient is left out."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, table: Tensor, cotangents: Tensor | None) -> Tensor:
        result = _differences(values.contiguous(), table, cotangents, values.new_ones(1))
        ctx.table, ctx.cotangents = table, cotangents
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        finite = ctx.saved_tensors[0].detach().isfinite().all(-1, keepdim=True)
        grad = torch.where(finite, grad, torch.zeros_like(grad))
        return _Differences.apply(grad, ctx.table, ctx.cotangents), None, None


class _LossLaplacian(torch.autograd.Function):
    """The gradient of the differences is made beside the value, and carried to the vertices in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, vertices: Tensor, table: Tensor, weights: Tensor, cotangents: Tensor | None, wanted: bool
    ) -> Tensor:
        count = vertices.shape[:2].numel()
        differences = _differences(vertices, table, cotangents, vertices.new_ones(1))
        terms, pulls = vertices.new_empty(count), torch.empty_like(vertices) if wanted else None
        view = ints if weights.dtype == torch.int32 else scalars
        inputs = [rows(differences), view(weights.view(-1)), SCALAR[vertices.dtype](1.0 / count)]
        launch_split(
            loss_laplacian_kernel, vertices, (count,), inputs, [scalars(terms), optional_rows(pulls, vertices)]
        )
        ctx.save_for_backward(pulls, table, cotangents)
        return total(terms)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        pulls, table, cotangents = ctx.saved_tensors
        return _differences(pulls, table, cotangents, grad_loss.reshape(1)), None, None, None, None


def _require_least_area(least_area: float) -> None:
    if not 0 < least_area < float("inf"):
        raise ValueError(f"least_area must be positive and finite, got {least_area}")


def laplacian_uniform(vertices: Tensor, faces: Tensor | MeshTopology) -> Tensor:
    """Vector from each vertex to the centroid of its neighbours.

    Args:
        vertices: Positions [m], ``[V, 3]`` or ``[B, V, 3]``.
        faces: Vertex indices, ``[F, 3]``, int32 or int64, or what ``mesh_topology`` returned for them.

    Returns:
        Vectors [m] in the shape of ``vertices``; zero at a vertex without neighbours. Differentiable any number of
        times in ``vertices``.

    Raises:
        ValueError: A shape, dtype, device or index disagrees; the message names the argument.
    """
    require_vertices(vertices)
    topology = given_topology(vertices, faces)
    count = topology.neighbour_count.to(vertices.dtype)
    scale = torch.where(count > 0, 1 / count, count)[:, None]
    result: Tensor = scale * _Differences.apply(as_frames(vertices), topology.edges, None)
    return result if vertices.dim() == 3 else result[0]


def laplacian_cotangent(
    vertices: Tensor, faces: Tensor | MeshTopology, curvature: bool = False, least_area: float = LEAST_AREA
) -> Tensor:
    """Vector from each vertex to its neighbours' mean by cotangent weights, or a third of its mean curvature normal.

    Args:
        vertices: Positions [m], ``[V, 3]`` or ``[B, V, 3]``.
        faces: Vertex indices, ``[F, 3]``, int32 or int64, or what ``mesh_topology`` returned for them.
        curvature: Divide by four times the area around the vertex instead of the sum of the weights.
        least_area: Smaller faces count as this large [m^2] in weights and areas.

    Returns:
        Vectors in the shape of ``vertices``, [m] or with ``curvature`` [1/m]; zero at a vertex of no face.
        Differentiable any number of times in ``vertices`` with weights and areas held constant.

    Raises:
        ValueError: A shape, dtype, device or index disagrees, or the area is not positive; the message names the
            argument.
    """
    require_vertices(vertices)
    _require_least_area(least_area)
    table, frames = given_faces(vertices, faces), as_frames(vertices)
    cotangents, areas = _face_cotangents(frames.detach(), table, least_area)
    weights = _cotangent_weights(frames.detach(), table, cotangents, areas, curvature)
    scale = torch.where(weights > 0, 1 / weights, torch.zeros_like(weights))[..., None]
    result: Tensor = scale * _Differences.apply(frames, table, cotangents)
    return result if vertices.dim() == 3 else result[0]


def loss_laplacian(
    vertices: Tensor, faces: Tensor | MeshTopology, method: str = "uniform", least_area: float = LEAST_AREA
) -> Tensor:
    """Mean length of the vertices' Laplacian.

    Args:
        vertices: Positions [m], ``[V, 3]`` or ``[B, V, 3]``.
        faces: Vertex indices, ``[F, 3]``, int32 or int64, or what ``mesh_topology`` returned for them; the cotangent
            methods need no edges, so that little is gained by a topology.
        method: ``uniform``, ``cot`` (cotangent weights) or ``cotcurv`` (mean curvature normal).
        least_area: Smaller faces count as this large [m^2] in the cotangent weights and areas.

    Returns:
        Mean over vertices, those of no face included, and frames, ``[]``, in the unit of the Laplacian. Differentiable
        once in ``vertices`` with weights and areas held constant; a vertex of zero Laplacian gives no gradient.

    Raises:
        ValueError: A shape, dtype, device, index or option disagrees; the message names the argument.

    Agrees with PyTorch3D's ``mesh_laplacian_smoothing``, but for vertices of no face: there the uniform and cotangent
    variants add their distance from the origin.
    """
    require_vertices(vertices)
    _require_least_area(least_area)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    frames = as_frames(vertices)
    if method == "uniform":
        topology = given_topology(vertices, faces)
        table, weights, cotangents = topology.edges, topology.neighbour_count, None
    else:
        table = given_faces(vertices, faces)
        cotangents, areas = _face_cotangents(frames.detach(), table, least_area)
        weights = _cotangent_weights(frames.detach(), table, cotangents, areas, method == "cotcurv")
    if 0 in (len(frames), len(table)):
        return frames[:, :0].sum()
    return _LossLaplacian.apply(frames, table, weights, cotangents, recorded(vertices))
