"""Distances between point clouds and meshes, both ways, with gradients.

Each point goes to the nearest place of the mesh (see ``closest_point.py``), each face to the nearest point (among the
boxes of a point tree, ``internal/point_tree.py``). The gradient holds the pair and the place on the face fixed, which
is exact: at the nearest place the distance does not change to first order as the place moves along the face.
"""

from __future__ import annotations

from typing import Any

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.arguments import require_indices, require_like, require_range, triangles
from selfrecon_warp.kernels.closest_point import MeshPlaces, TriangleTree, nearest_on_triangle, triangle_middles
from selfrecon_warp.kernels.internal.box_tree import (
    LEAF,
    LEFT_OUT,
    STACK,
    along_curve,
    first_bit,
    gaps,
    in_order,
    mask_within,
    push_children,
)
from selfrecon_warp.kernels.internal.point_tree import Neighbours, PointTree, as_clouds, cloud_counts
from selfrecon_warp.kernels.interop import SPLIT_GRAIN, ints, launch, launch_split, scalars, vec3s

wp.set_module_options({"enable_backward": False, "fuse_fp": False})


@wp.func
def box_to_points(low: Any, high: Any, b: int, leaf: int, leaves: wp.array3d[Any]):
    """Squared distances from a box to the points of a leaf; not a number where there is none."""
    x = leaves[b, leaf, 0]
    y = leaves[b, leaf, 1]
    z = leaves[b, leaf, 2]
    dx = gaps(x, x, low[0], high[0]) + (x - x)  # max may take the number where the other is none
    dy = gaps(y, y, low[1], high[1])
    dz = gaps(z, z, low[2], high[2])
    return wp.cw_mul(dx, dx) + wp.cw_mul(dy, dy) + wp.cw_mul(dz, dz)


@wp.kernel
def nearest_to_triangle_kernel(
    first: wp.int32,
    corners: wp.array3d[Any],  # [B, F, 3] vec3, along the curve
    face_order: wp.array2d[wp.int64],  # [B, F]
    face_keys: wp.array2d[wp.int64],  # [B, F]
    in_turn: wp.bool,
    points: wp.array2d[Any],  # [B, P] vec3
    leaves: wp.array3d[Any],  # [B, leaves, 3] lanes
    order: wp.array2d[wp.int64],  # [B, P]
    boxes: wp.array3d[Any],  # [B, nodes, 6] lanes
    least: wp.array3d[wp.int32],  # [B, nodes, WIDTH]
    starts: Any,
    leaf_level: wp.int32,
    # outputs
    squared: wp.array2d[Any],  # [B, F]
    index: wp.array2d[wp.int64],  # [B, F]
    barycentrics: wp.array2d[Any],  # [B, F] vec3
):
    """The nearest point of each triangle and which place of the triangle it is near to."""
    b, t = wp.tid()
    turn = first + t
    row = wp.int32(face_order[b, turn])
    p0 = corners[b, turn, 0]
    p1 = corners[b, turn, 1]
    p2 = corners[b, turn, 2]
    zero = p0.dtype(0.0)
    best = wp.vector(p0.dtype(wp.inf), zero, zero, zero)
    best_index = wp.int32(-1)
    if face_keys[b, turn] < LEFT_OUT:
        low = wp.min(p0, wp.min(p1, p2))
        high = wp.max(p0, wp.max(p1, p2))
        if in_turn and t > 0:
            before = wp.int32(index[b, wp.int32(face_order[b, turn - 1])])
            if before >= 0:
                last = nearest_on_triangle(points[b, before], p0, p1, p2)
                if last[0] < best[0]:  # not where the square overflows
                    best = last
                    best_index = before
        distances = wp.zeros(shape=(STACK,), dtype=p0.dtype)
        codes = wp.zeros(shape=(STACK,), dtype=wp.int32)
        top = wp.int32(1)
        while top > 0:
            top -= 1
            code = codes[top]
            if distances[top] <= best[0]:
                if (code & 15) == leaf_level:
                    leaf = code >> 4
                    near = box_to_points(low, high, b, leaf, leaves)
                    mask = mask_within(near, best[0])
                    while mask != wp.uint32(0):
                        c = first_bit(mask)
                        mask = mask & (mask - wp.uint32(1))
                        if near[c] <= best[0]:
                            item = wp.int32(order[b, leaf * LEAF + c])
                            place = nearest_on_triangle(points[b, item], p0, p1, p2)
                            if place[0] < best[0] or (place[0] == best[0] and item < best_index):
                                best = place
                                best_index = item
                else:
                    top = push_children(
                        low, high, b, code, boxes, least, starts, best[0], best_index, distances, codes, top
                    )
    squared[b, row] = best[0]
    index[b, row] = wp.int64(best_index)
    barycentrics[b, row] = type(p0)(best[1], best[2], best[3])


@wp.kernel
def pair_distance_vjp_kernel(
    points: wp.array2d[Any],  # [B, P] vec3
    vertices: wp.array2d[Any],  # [B, V] vec3
    faces: wp.array2d[wp.int32],  # [F, 3]
    point_index: wp.array2d[wp.int64],  # [B, M]
    face_index: wp.array2d[wp.int64],  # [B, M]
    barycentrics: wp.array2d[Any],  # [B, M] vec3
    grad: wp.array2d[Any],  # [B, M]
    # outputs
    to_points: wp.array2d[Any],  # [B, P] vec3
    to_vertices: wp.array2d[Any],  # [B, V] vec3
):
    """Gradient of the squared distances between points and fixed places on faces."""
    b, m = wp.tid()
    p = wp.int32(point_index[b, m])
    f = wp.int32(face_index[b, m])
    if p >= 0 and f >= 0:
        weights = barycentrics[b, m]
        apart = points[b, p]
        for k in range(3):
            apart -= weights[k] * vertices[b, faces[f, k]]
        pull = (weights.dtype(2.0) * grad[b, m]) * apart
        wp.atomic_add(to_points, b, p, pull)
        for k in range(3):
            wp.atomic_add(to_vertices, b, faces[f, k], -weights[k] * pull)


class _PairDistance(torch.autograd.Function):
    """Gives squared distances, found already, their gradient."""

    @staticmethod
    def forward(ctx, points, vertices, faces, squared, point_index, face_index, barycentrics):
        ctx.save_for_backward(points, vertices, faces, point_index, face_index, barycentrics)
        return squared.view_as(squared)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        points, vertices, faces, point_index, face_index, barycentrics = ctx.saved_tensors
        to_points, to_vertices = torch.zeros_like(points), torch.zeros_like(vertices)
        launch(
            pair_distance_vjp_kernel,
            points,
            tuple(grad.shape) if points.numel() and faces.numel() else (0,),
            [
                vec3s(points),
                vec3s(vertices),
                ints(faces),
                ints(point_index),
                ints(face_index),
                vec3s(barycentrics),
                scalars(grad.contiguous()),
            ],
            [vec3s(to_points), vec3s(to_vertices)],
        )
        return to_points, to_vertices, None, None, None, None, None


def point_mesh_distance(
    points: Tensor, vertices: Tensor, faces: Tensor, point_lengths: Tensor | None = None
) -> MeshPlaces:
    """How far each point is from a mesh.

    Args:
        points: ``[P, 3]`` or ``[B, P, 3]`` [m], float32 or float64.
        vertices: ``[V, 3]`` or ``[B, V, 3]`` [m], of the same dtype.
        faces: Vertex indices, ``[F, 3]``, int32 or int64, shared by the batch. One without area counts as the segment
            or point that it is; one with a vertex that is not finite is never nearest.
        point_lengths: Points of each cloud of a batch, ``[B]`` integers; all of them where absent.

    Returns:
        Squared distance [m^2], differentiable once in ``points`` and ``vertices``, with the face and the place on it. A
        point that is not finite or lies past its cloud's length, and any point where there is no face, gets ``inf``, -1
        and zeros, and has no gradient.

    Raises:
        ValueError: A shape, dtype, device, length or index disagrees; the message names the argument.
    """
    clouds, meshes, faces, counts = _checked(points, vertices, faces, point_lengths)
    corners = meshes.detach()[:, faces.long()]
    squared, face_index, barycentrics = TriangleTree(corners, flat_too=True).nearest(clouds.detach(), counts)
    if _wants_gradient(points, vertices):
        numbers = torch.arange(clouds.shape[1], device=points.device).expand(face_index.shape).contiguous()
        squared = _PairDistance.apply(clouds, meshes, faces, squared, numbers, face_index, barycentrics)
    shape = points.shape[:-1]
    return MeshPlaces(squared.view(shape), face_index.view(shape), barycentrics.view(*shape, 3))


def mesh_point_distance(
    points: Tensor, vertices: Tensor, faces: Tensor, point_lengths: Tensor | None = None
) -> Neighbours:
    """How far each face of a mesh is from a point cloud.

    Args:
        points: ``[P, 3]`` or ``[B, P, 3]`` [m], float32 or float64; one that is not finite is never nearest.
        vertices: ``[V, 3]`` or ``[B, V, 3]`` [m], of the same dtype.
        faces: Vertex indices, ``[F, 3]``, int32 or int64, shared by the batch. One without area counts as the segment
            or point that it is.
        point_lengths: Points of each cloud of a batch, ``[B]`` integers; all of them where absent.

    Returns:
        Squared distance of the nearest place of each face to its nearest point [m^2], ``[F]`` or ``[B, F]``,
        differentiable once in ``points`` and ``vertices``, and that point. A face with a vertex that is not finite, and
        any face where there is no point, gets ``inf`` and -1 and has no gradient.

    Raises:
        ValueError: A shape, dtype, device, length or index disagrees; the message names the argument.
    """
    clouds, meshes, faces, counts = _checked(points, vertices, faces, point_lengths)
    B, F = len(clouds), len(faces)
    corners = meshes.detach()[:, faces.long()]
    squared = clouds.new_full((B, F), float("inf"))
    index = torch.full((B, F), -1, dtype=torch.int64, device=points.device)
    barycentrics = clouds.new_zeros(B, F, 3)
    tree = PointTree(clouds.detach(), counts).kernel_inputs()
    if tree is not None and corners.numel() > 0:
        keys, order = along_curve(triangle_middles(corners, flat_too=True), index.new_full((B,), F))
        launch_split(
            nearest_to_triangle_kernel,
            points,
            (B, F),
            [vec3s(in_order(corners, order)), ints(order), ints(keys), not points.is_cuda, *tree],
            [scalars(squared), ints(index), vec3s(barycentrics)],
            axis=1,
            grain=SPLIT_GRAIN // 8,
        )
    if _wants_gradient(points, vertices):
        numbers = torch.arange(F, device=points.device).expand(index.shape).contiguous()
        squared = _PairDistance.apply(clouds, meshes, faces, squared, index, numbers, barycentrics)
    shape = (*points.shape[:-2], F)
    return Neighbours(squared.view(shape), index.view(shape))


def loss_point_mesh(points: Tensor, vertices: Tensor, faces: Tensor, point_lengths: Tensor | None = None) -> Tensor:
    """How far a point cloud and a mesh are apart: points to the mesh and faces to the points.

    Args:
        points: ``[P, 3]`` or ``[B, P, 3]`` [m], float32 or float64.
        vertices: ``[V, 3]`` or ``[B, V, 3]`` [m], of the same dtype.
        faces: Vertex indices, ``[F, 3]``, int32 or int64, shared by the batch.
        point_lengths: Points of each cloud of a batch, ``[B]`` integers; all of them where absent.

    Returns:
        Mean over the points of the squared distance to the mesh plus mean over the faces of the squared distance to
        the nearest point [m^2], mean over the batch; the mean over none is 0. Differentiable once in ``points`` and
        ``vertices``. Infinite where :func:`point_mesh_distance` or :func:`mesh_point_distance` is.

    Raises:
        ValueError: A shape, dtype, device, length or index disagrees; the message names the argument.

    Source: PyTorch3D's ``point_mesh_face_distance``, which takes faces of an area below ``min_triangle_area`` for
    segments; here only a face without area is one.
    """
    counts = cloud_counts("point_lengths", point_lengths, points)
    to_mesh = as_clouds(point_mesh_distance(points, vertices, faces, point_lengths).squared_distance, 2)
    to_points = as_clouds(mesh_point_distance(points, vertices, faces, point_lengths).squared_distance, 2)
    kept = torch.arange(to_mesh.shape[1], device=points.device) < counts[:, None]
    of_points = torch.where(kept, to_mesh, 0).sum(1) / counts.clamp(min=1)
    return (of_points + to_points.sum(1) / max(to_points.shape[1], 1)).sum() / max(len(counts), 1)


def loss_point_edges(points: Tensor, vertices: Tensor, edges: Tensor, point_lengths: Tensor | None = None) -> Tensor:
    """How far a point cloud and the edges of a mesh are apart: points to the edges and edges to the points.

    Args:
        points: ``[P, 3]`` or ``[B, P, 3]`` [m], float32 or float64.
        vertices: ``[V, 3]`` or ``[B, V, 3]`` [m], of the same dtype.
        edges: Vertex indices, ``[E, 2]``, int32 or int64, shared by the batch.
        point_lengths: Points of each cloud of a batch, ``[B]`` integers; all of them where absent.

    Returns:
        As :func:`loss_point_mesh`, with edges for faces.

    Raises:
        ValueError: A shape, dtype, device, length or index disagrees; the message names the argument.

    Source: PyTorch3D's ``point_mesh_edge_distance``.
    """
    require_shapes(edges=(edges, "E 2"), vertices=(vertices, "V 3" if vertices.dim() == 2 else "B V 3"))
    require_indices("vertices", vertices, edges=edges)
    require_range("edges", edges, 0, vertices.shape[-2])
    return loss_point_mesh(points, vertices, edges[:, [0, 1, 1]], point_lengths)


def _checked(
    points: Tensor, vertices: Tensor, faces: Tensor, point_lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Contiguous clouds ``[B, P, 3]``, meshes ``[B, V, 3]``, faces and the points of each cloud."""
    lead = "" if points.dim() == 2 else "B "
    require_shapes(points=(points, lead + "P 3"), vertices=(vertices, lead + "V 3"), faces=(faces, "F 3"))
    require_like("points", points, vertices=vertices)
    counts = cloud_counts("point_lengths", point_lengths, points)
    return as_clouds(points), as_clouds(vertices), triangles(faces, vertices.shape[-2], vertices.device), counts


def _wants_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
