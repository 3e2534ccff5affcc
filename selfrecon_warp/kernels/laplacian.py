"""Laplacian of a triangle mesh's vertices, with uniform or cotangent weights, and the regulariser made of it.

With weights ``w_ij`` of neighbours ``j`` of vertex ``i``, all variants are ``scale_i sum_j w_ij (v_j - v_i)``:

* uniform: ``w_ij = 1``, scale one over the number of neighbours; the vector to their centroid.
* cotangent: ``w_ij = cot a_ij + cot b_ij``, the angles facing the edge, scale one over the sum of the weights.
* curvature: the same weights, scale one over four times the area of the faces around the vertex; a third of the mean
  curvature normal [1/m].

``w`` is symmetric, so ``sum_j w_ij (x_j - x_i)`` is its own transpose: one kernel serves both directions. Weights and
scales are constants to the gradient, as in PyTorch3D: only the differences ``v_j - v_i`` are differentiated.

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

from selfrecon_warp.kernels.interop import SCALAR, ints, launch_split, scalars, vec3is, vec3s
from selfrecon_warp.kernels.mesh_frames import (
    as_frames,
    corner_tables,
    optional_vec3s,
    recorded,
    require_vertices,
    total,
)
from selfrecon_warp.kernels.topology import MeshCorners, MeshTopology, given_corners, given_topology, turned

METHODS = ("uniform", "cot", "cotcurv")
LEAST_AREA = 1e-6
"""Smallest area that a face is taken to have when angles are read from it [m^2], the same as PyTorch3D's."""

wp.set_module_options({"enable_backward": False})


@wp.kernel
def face_cotangents_kernel(
    first: wp.int32,
    vertices: wp.array2d[Any],  # [B, V] vec3
    faces: wp.array[wp.vec3i],  # [F]
    least_area: Any,
    # outputs
    cotangents: wp.array2d[Any],  # [B, F] vec3: one at each corner
    areas: wp.array2d[Any],  # [B, F]
):
    b, f = wp.tid()
    f += first
    face = faces[f]
    p0 = vertices[b, face[0]]
    p1 = vertices[b, face[1]]
    p2 = vertices[b, face[2]]
    a = p2 - p1
    c = p1 - p0
    d = p0 - p2
    area = wp.length(wp.cross(c, a)) * type(least_area)(0.5)
    cotangent = cotangents.dtype()
    if wp.isfinite(area):  # else zeros: times vertices that are not finite they give NaN, times the others nothing
        area = wp.max(area, least_area)
        scale = type(area)(-0.5) / area
        cotangent = type(cotangent)(wp.dot(c, d) * scale, wp.dot(a, c) * scale, wp.dot(d, a) * scale)
    cotangents[b, f] = cotangent
    areas[b, f] = area


@wp.func
def uniform_differences(
    values: wp.array2d[Any], start: wp.array[wp.int32], neighbour: wp.array[wp.int32], b: wp.int32, i: wp.int32
):
    """Sum of the neighbours' differences from vertex ``i``."""
    here = values[b, i]
    total = values.dtype()
    for n in range(start[i], start[i + 1]):
        total += values[b, neighbour[n]] - here
    return total


@wp.func
def cotangent_differences(
    values: wp.array2d[Any],
    faces: wp.array[wp.vec3i],
    start: wp.array[wp.int32],
    corner: wp.array[wp.int32],
    cotangents: wp.array2d[Any],
    b: wp.int32,
    i: wp.int32,
):
    """Weighted sum of the neighbours' differences from vertex ``i``, face by face, and the sum of the weights."""
    here = values[b, i]
    total = values.dtype()
    weight = here.dtype(0.0)
    for c in range(start[i], start[i + 1]):
        f = corner[c] / 3
        k = corner[c] - 3 * f
        face = turned(faces[f], k)
        cotangent = turned(cotangents[b, f], k)
        total += cotangent[2] * (values[b, face[1]] - here) + cotangent[1] * (values[b, face[2]] - here)
        weight += cotangent[1] + cotangent[2]
    return total, weight


@wp.func
def surrounding_area(
    areas: wp.array2d[Any], start: wp.array[wp.int32], corner: wp.array[wp.int32], b: wp.int32, i: wp.int32
):
    """Area of the faces around a vertex."""
    total = areas.dtype(0.0)
    for c in range(start[i], start[i + 1]):
        total += areas[b, corner[c] / 3]
    return total


@wp.func
def inverse(x: Any):
    """One over a positive number, zero of any other."""
    if x > type(x)(0.0):
        return type(x)(1.0) / x
    return type(x)(0.0)


@wp.kernel
def uniform_differences_kernel(
    first: wp.int32,
    values: wp.array2d[Any],  # [B, V] vec3
    start: wp.array[wp.int32],  # [V + 1]
    neighbour: wp.array[wp.int32],  # [2 E]
    scale: wp.array[Any],  # [1]
    # outputs
    differences: wp.array2d[Any],  # [B, V] vec3
):
    b, i = wp.tid()
    i += first
    differences[b, i] = uniform_differences(values, start, neighbour, b, i) * scale[0]


@wp.kernel
def cotangent_differences_kernel(
    first: wp.int32,
    values: wp.array2d[Any],  # [B, V] vec3
    faces: wp.array[wp.vec3i],  # [F]
    start: wp.array[wp.int32],  # [V + 1]
    corner: wp.array[wp.int32],  # [3 F]
    cotangents: wp.array2d[Any],  # [B, F] vec3
    scale: wp.array[Any],  # [1]
    # outputs
    differences: wp.array2d[Any],  # [B, V] vec3
):
    b, i = wp.tid()
    i += first
    total, _weight = cotangent_differences(values, faces, start, corner, cotangents, b, i)
    differences[b, i] = total * scale[0]


@wp.func
def pull(laplacian: Any, scale: Any):
    """Gradient of a Laplacian's length to the differences it is made of; zero where it has no direction."""
    length = wp.length(laplacian)
    if not (length > type(length)(0.0) and wp.isfinite(length)):
        return type(laplacian)()
    return laplacian * (scale / length)


@wp.kernel
def cotangent_scales_kernel(
    first: wp.int32,
    vertices: wp.array2d[Any],  # [B, V] vec3
    faces: wp.array[wp.vec3i],  # [F]
    start: wp.array[wp.int32],  # [V + 1]
    corner: wp.array[wp.int32],  # [3 F]
    cotangents: wp.array2d[Any],  # [B, F] vec3
    areas: wp.array2d[Any],  # [B, F]
    curvature: wp.bool,
    # outputs
    scales: wp.array2d[Any],  # [B, V]
):
    b, i = wp.tid()
    i += first
    _total, weight = cotangent_differences(vertices, faces, start, corner, cotangents, b, i)
    if curvature:
        weight = type(weight)(4.0) * surrounding_area(areas, start, corner, b, i)
    scales[b, i] = inverse(weight)


@wp.kernel
def loss_uniform_kernel(
    first: wp.int32,
    vertices: wp.array2d[Any],  # [B, V] vec3
    start: wp.array[wp.int32],  # [V + 1]
    neighbour: wp.array[wp.int32],  # [2 E]
    weight: Any,
    # outputs
    terms: wp.array2d[Any],  # [B, V]
    pulls: wp.array2d[Any],  # [B, V] vec3; absent where no gradient is wanted
):
    b, i = wp.tid()
    i += first
    scale = inverse(type(weight)(start[i + 1] - start[i]))
    laplacian = uniform_differences(vertices, start, neighbour, b, i) * scale
    terms[b, i] = wp.length(laplacian) * weight
    if pulls.shape[0] > 0:
        pulls[b, i] = pull(laplacian, scale * weight)


@wp.kernel
def loss_cotangent_kernel(
    first: wp.int32,
    vertices: wp.array2d[Any],  # [B, V] vec3
    faces: wp.array[wp.vec3i],  # [F]
    start: wp.array[wp.int32],  # [V + 1]
    corner: wp.array[wp.int32],  # [3 F]
    cotangents: wp.array2d[Any],  # [B, F] vec3
    areas: wp.array2d[Any],  # [B, F]
    curvature: wp.bool,
    weight: Any,
    # outputs
    terms: wp.array2d[Any],  # [B, V]
    pulls: wp.array2d[Any],  # [B, V] vec3; absent where no gradient is wanted
):
    b, i = wp.tid()
    i += first
    total, sum_of_weights = cotangent_differences(vertices, faces, start, corner, cotangents, b, i)
    scale = inverse(sum_of_weights)
    if curvature:
        scale = inverse(type(weight)(4.0) * surrounding_area(areas, start, corner, b, i))
    laplacian = total * scale
    terms[b, i] = wp.length(laplacian) * weight
    if pulls.shape[0] > 0:
        pulls[b, i] = pull(laplacian, scale * weight)


def _face_cotangents(vertices: Tensor, faces: Tensor, least_area: float) -> tuple[Tensor, Tensor]:
    """Cotangents ``[B, F, 3]`` and areas ``[B, F]`` of contiguous frames."""
    shape = len(vertices), len(faces)
    cotangents, areas = vertices.new_empty(*shape, 3), vertices.new_empty(shape)
    inputs = [vec3s(vertices), vec3is(faces), SCALAR[vertices.dtype](least_area)]
    launch_split(face_cotangents_kernel, vertices, shape, inputs, [vec3s(cotangents), scalars(areas)], axis=1)
    return cotangents, areas


def _differences(values: Tensor, table: MeshCorners | MeshTopology, cotangents: Tensor | None, scale: Tensor) -> Tensor:
    """``scale sum_j w_ij (x_j - x_i)``, ``[B, V, 3]``; uniform weights where there are no cotangents."""
    result = torch.empty_like(values)
    if isinstance(table, MeshTopology):
        kernel, tables = uniform_differences_kernel, [ints(table.neighbour_start), ints(table.neighbour)]
    else:
        kernel, tables = cotangent_differences_kernel, [*corner_tables(table), optional_vec3s(cotangents, values)]
    launch_split(kernel, values, values.shape[:2], [vec3s(values), *tables, scalars(scale)], [vec3s(result)], axis=1)
    return result


class _Differences(torch.autograd.Function):
    """Its own gradient, but for vertices where the result is not finite: their gradient is left out."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, table: MeshCorners | MeshTopology, cotangents: Tensor | None) -> Tensor:
        values = values.contiguous()
        result = _differences(values, table, cotangents, torch.ones(1, dtype=values.dtype, device=values.device))
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
        ctx: Any, vertices: Tensor, table: MeshCorners | MeshTopology, method: str, least_area: float, wanted: bool
    ) -> Tensor:
        B, V = vertices.shape[:2]
        weight = SCALAR[vertices.dtype](1.0 / (B * V))
        terms = vertices.new_empty(B, V)
        pulls = torch.empty_like(vertices) if wanted else None
        outputs = [scalars(terms), optional_vec3s(pulls, vertices)]
        cotangents = None
        if isinstance(table, MeshTopology):
            inputs = [vec3s(vertices), ints(table.neighbour_start), ints(table.neighbour), weight]
            launch_split(loss_uniform_kernel, vertices, (B, V), inputs, outputs, axis=1)
        else:
            cotangents, areas = _face_cotangents(vertices, table.faces, least_area)
            inputs = [
                vec3s(vertices),
                *corner_tables(table),
                vec3s(cotangents),
                scalars(areas),
                method == "cotcurv",
                weight,
            ]
            launch_split(loss_cotangent_kernel, vertices, (B, V), inputs, outputs, axis=1)
        ctx.table = table
        ctx.save_for_backward(pulls, cotangents)
        return total(terms)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        pulls, cotangents = ctx.saved_tensors
        return _differences(pulls, ctx.table, cotangents, grad_loss.reshape(1)), None, None, None, None


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
    count = topology.neighbour_start.diff().to(vertices.dtype)
    scale = torch.where(count > 0, 1 / count, count)[:, None]
    result: Tensor = scale * _Differences.apply(as_frames(vertices), topology, None)
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
    corners, frames = given_corners(vertices, faces), as_frames(vertices)
    cotangents, areas = _face_cotangents(frames, corners.faces, least_area)
    scales = frames.new_zeros(frames.shape[:2])
    shape = tuple(scales.shape) if len(corners.faces) else (0, 0)
    inputs = [vec3s(frames), *corner_tables(corners), vec3s(cotangents), scalars(areas), curvature]
    launch_split(cotangent_scales_kernel, frames, shape, inputs, [scalars(scales)], axis=1)
    result: Tensor = scales[..., None] * _Differences.apply(frames, corners, cotangents)
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
    table = given_topology(vertices, faces) if method == "uniform" else given_corners(vertices, faces)
    frames = as_frames(vertices)
    size = len(table.neighbour) if isinstance(table, MeshTopology) else len(table.faces)
    if 0 in (len(frames), size):
        return frames[:, :0].sum()
    return _LossLaplacian.apply(frames, table, method, least_area, recorded(vertices))
