"""Linear blend skinning, and its spatial Jacobian in one pass.

Skinning is linear in each of its inputs. With ``g`` the gradient of the posed points, everything follows from

    phi(g, weights, bones, [p; h]) = sum_j weights_j g . bones_j [p; h]

whose derivatives along ``g`` (the posed points), ``p`` and ``weights`` are one kernel each; ``h`` is one for points and
zero for directions. Each is the gradient of the others, so the three close under differentiation. The gradient of the
bones is a matrix product and stays in torch: tens of bones gathered from many points would contend on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.interop import SCALAR, lanes, launch, mat33s, require_like, vec3s

wp.set_module_options({"enable_backward": False})


@wp.func
def moved(bones: wp.array4d[Any], b: int, row: int, joints: int, v: Any, h: Any):
    """One coordinate of ``[v; h]`` carried by each joint of a lane."""
    return (
        v[0] * bones[b, row, 0, joints]
        + v[1] * bones[b, row, 1, joints]
        + v[2] * bones[b, row, 2, joints]
        + h * bones[b, row, 3, joints]
    )


@wp.func
def turned_back(bones: wp.array4d[Any], b: int, column: int, joints: int, v: Any):
    """One coordinate of ``v`` under the transposed 3 x 3 part of each joint of a lane."""
    return v[0] * bones[b, 0, column, joints] + v[1] * bones[b, 1, column, joints] + v[2] * bones[b, 2, column, joints]


@wp.func
def lane_sum(lane: Any):
    """Sum of the entries of a lane; lanes are added up first because this runs one entry after the other."""
    return wp.dot(lane, type(lane)(type(lane[0])(1.0)))


@wp.kernel
def skin_points_kernel(
    points: wp.array2d[Any],  # [B, P] vec3
    weights: wp.array3d[Any],  # [B, P, J / lane] lanes
    bones: wp.array4d[Any],  # [B, 3, 4, J / lane] lanes
    h: Any,
    # outputs
    posed: wp.array2d[Any],  # [B, P] vec3
):
    """Blend the bones at each point and carry it."""
    b, p = wp.tid()
    point = points[b, p]
    x = weights.dtype()
    y = weights.dtype()
    z = weights.dtype()
    for joints in range(bones.shape[3]):
        weight = weights[b, p, joints]
        x += wp.cw_mul(weight, moved(bones, b, 0, joints, point, h))
        y += wp.cw_mul(weight, moved(bones, b, 1, joints, point, h))
        z += wp.cw_mul(weight, moved(bones, b, 2, joints, point, h))
    posed[b, p] = type(point)(lane_sum(x), lane_sum(y), lane_sum(z))


@wp.kernel
def skin_points_to_points_kernel(
    grad_posed: wp.array2d[Any],  # [B, P] vec3
    weights: wp.array3d[Any],  # [B, P, J / lane] lanes
    bones: wp.array4d[Any],  # [B, 3, 4, J / lane] lanes
    # outputs
    grad_points: wp.array2d[Any],  # [B, P] vec3
):
    """Gradient of the posed points carried back to the points."""
    b, p = wp.tid()
    grad = grad_posed[b, p]
    x = weights.dtype()
    y = weights.dtype()
    z = weights.dtype()
    for joints in range(bones.shape[3]):
        weight = weights[b, p, joints]
        x += wp.cw_mul(weight, turned_back(bones, b, 0, joints, grad))
        y += wp.cw_mul(weight, turned_back(bones, b, 1, joints, grad))
        z += wp.cw_mul(weight, turned_back(bones, b, 2, joints, grad))
    grad_points[b, p] = type(grad)(lane_sum(x), lane_sum(y), lane_sum(z))


@wp.kernel
def skin_points_to_weights_kernel(
    grad_posed: wp.array2d[Any],  # [B, P] vec3
    points: wp.array2d[Any],  # [B, P] vec3
    bones: wp.array4d[Any],  # [B, 3, 4, J / lane] lanes
    h: Any,
    # outputs
    grad_weights: wp.array3d[Any],  # [B, P, J / lane] lanes
):
    """Gradient of the posed points along each bone's share."""
    b, p = wp.tid()
    grad = grad_posed[b, p]
    point = points[b, p]
    for joints in range(bones.shape[3]):
        grad_weights[b, p, joints] = (
            grad[0] * moved(bones, b, 0, joints, point, h)
            + grad[1] * moved(bones, b, 1, joints, point, h)
            + grad[2] * moved(bones, b, 2, joints, point, h)
        )


@wp.kernel
def skin_points_jacobian_kernel(
    points: wp.array2d[Any],  # [B, P] vec3
    weights: wp.array3d[Any],  # [B, P, J / lane] lanes
    slopes: wp.array4d[Any],  # [B, P, 3, J / lane] lanes
    bones: wp.array4d[Any],  # [B, 3, 4, J / lane] lanes
    # outputs
    posed: wp.array2d[Any],  # [B, P] vec3
    jacobian: wp.array2d[Any],  # [B, P] mat33
):
    """Carry each point and differentiate where it lands."""
    b, p = wp.tid()
    point = points[b, p]
    one = type(point[0])(1.0)
    total = points.dtype()
    spread = jacobian.dtype()
    for row in range(3):
        here = weights.dtype()
        along_x = weights.dtype()
        along_y = weights.dtype()
        along_z = weights.dtype()
        for joints in range(bones.shape[3]):
            weight = weights[b, p, joints]
            carried = moved(bones, b, row, joints, point, one)
            here += wp.cw_mul(weight, carried)
            along_x += wp.cw_mul(weight, bones[b, row, 0, joints]) + wp.cw_mul(carried, slopes[b, p, 0, joints])
            along_y += wp.cw_mul(weight, bones[b, row, 1, joints]) + wp.cw_mul(carried, slopes[b, p, 1, joints])
            along_z += wp.cw_mul(weight, bones[b, row, 2, joints]) + wp.cw_mul(carried, slopes[b, p, 2, joints])
        total[row] = lane_sum(here)
        spread[row, 0] = lane_sum(along_x)
        spread[row, 1] = lane_sum(along_y)
        spread[row, 2] = lane_sum(along_z)
    posed[b, p] = total
    jacobian[b, p] = spread


@wp.kernel
def skin_points_jacobian_vjp_kernel(
    points: wp.array2d[Any],  # [B, P] vec3
    weights: wp.array3d[Any],  # [B, P, J / lane] lanes
    slopes: wp.array4d[Any],  # [B, P, 3, J / lane] lanes
    bones: wp.array4d[Any],  # [B, 3, 4, J / lane] lanes
    grad_posed: wp.array2d[Any],  # [B, P] vec3
    grad_jacobian: wp.array2d[Any],  # [B, P] mat33
    # outputs
    grad_points: wp.array2d[Any],  # [B, P] vec3
    grad_weights: wp.array3d[Any],  # [B, P, J / lane] lanes
    grad_slopes: wp.array4d[Any],  # [B, P, 3, J / lane] lanes
):
    """Gradients of ``skin_points_jacobian_kernel`` to all inputs but the bones."""
    b, p = wp.tid()
    point = points[b, p]
    one = type(point[0])(1.0)
    grad = grad_posed[b, p]
    grad_matrix = grad_jacobian[b, p]
    to_point_x = weights.dtype()
    to_point_y = weights.dtype()
    to_point_z = weights.dtype()
    for joints in range(bones.shape[3]):
        weight = weights[b, p, joints]
        to_weight = weights.dtype()
        to_slope_x = weights.dtype()
        to_slope_y = weights.dtype()
        to_slope_z = weights.dtype()
        for row in range(3):
            carried = moved(bones, b, row, joints, point, one)
            to_weight += grad[row] * carried
            to_slope_x += grad_matrix[row, 0] * carried
            to_slope_y += grad_matrix[row, 1] * carried
            to_slope_z += grad_matrix[row, 2] * carried
            pull = (
                grad[row] * weight
                + grad_matrix[row, 0] * slopes[b, p, 0, joints]
                + grad_matrix[row, 1] * slopes[b, p, 1, joints]
                + grad_matrix[row, 2] * slopes[b, p, 2, joints]
            )
            to_weight += (
                grad_matrix[row, 0] * bones[b, row, 0, joints]
                + grad_matrix[row, 1] * bones[b, row, 1, joints]
                + grad_matrix[row, 2] * bones[b, row, 2, joints]
            )
            to_point_x += wp.cw_mul(pull, bones[b, row, 0, joints])
            to_point_y += wp.cw_mul(pull, bones[b, row, 1, joints])
            to_point_z += wp.cw_mul(pull, bones[b, row, 2, joints])
        grad_weights[b, p, joints] = to_weight
        grad_slopes[b, p, 0, joints] = to_slope_x
        grad_slopes[b, p, 1, joints] = to_slope_y
        grad_slopes[b, p, 2, joints] = to_slope_z
    grad_points[b, p] = type(point)(lane_sum(to_point_x), lane_sum(to_point_y), lane_sum(to_point_z))


def _joint_lanes(bones: Tensor) -> Any:
    """View the upper rows of ``[B, J, 4, 4]`` transforms as ``[B, 3, 4, J / lane]`` lanes of joints."""
    return lanes(bones[..., :3, :].permute(0, 2, 3, 1).contiguous(), bones.shape[1])


def _bone_gradient(weights: Tensor, grad_posed: Tensor, points: Tensor, h: float) -> Tensor:
    """Gradient ``[B, J, 4, 4]``: ``weights_j grad_posed [points; h]^T`` summed over points by a matrix product."""
    lifted = torch.nn.functional.pad(points, (0, 1), value=h)
    outer = (grad_posed[..., :, None] * lifted[..., None, :]).flatten(-2)
    rows = weights.transpose(-1, -2) @ outer
    return torch.nn.functional.pad(rows.unflatten(-1, (3, 4)), (0, 0, 0, 1))


class _SkinPoints(torch.autograd.Function):
    """Posed points: phi along ``g``."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, weights: Tensor, bones: Tensor, h: float) -> Tensor:
        ctx.save_for_backward(points, weights, bones)
        ctx.h = h
        posed = points.new_empty(points.shape)
        inputs = [vec3s(points), lanes(weights, weights.shape[-1]), _joint_lanes(bones), SCALAR[points.dtype](h)]
        launch(skin_points_kernel, points, points.shape[:2], inputs, [vec3s(posed)])
        return posed

    @staticmethod
    def backward(ctx: Any, grad_posed: Tensor) -> tuple[Tensor | None, ...]:
        points, weights, bones = ctx.saved_tensors
        needed = ctx.needs_input_grad
        return (
            _SkinPointsToPoints.apply(grad_posed, weights, bones) if needed[0] else None,
            _SkinPointsToWeights.apply(grad_posed, points, bones, ctx.h) if needed[1] else None,
            _bone_gradient(weights, grad_posed, points, ctx.h) if needed[2] else None,
            None,
        )


class _SkinPointsToPoints(torch.autograd.Function):
    """Gradient of the points: phi along ``p``."""

    @staticmethod
    def forward(ctx: Any, grad_posed: Tensor, weights: Tensor, bones: Tensor) -> Tensor:
        grad_posed = grad_posed.contiguous()
        ctx.save_for_backward(grad_posed, weights, bones)
        grad_points = torch.empty_like(grad_posed)
        inputs = [vec3s(grad_posed), lanes(weights, weights.shape[-1]), _joint_lanes(bones)]
        launch(skin_points_to_points_kernel, grad_posed, grad_posed.shape[:2], inputs, [vec3s(grad_points)])
        return grad_points

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:
        grad_posed, weights, bones = ctx.saved_tensors
        needed = ctx.needs_input_grad
        direction = direction.contiguous()
        return (
            _SkinPoints.apply(direction, weights, bones, 0.0) if needed[0] else None,
            _SkinPointsToWeights.apply(grad_posed, direction, bones, 0.0) if needed[1] else None,
            _bone_gradient(weights, grad_posed, direction, 0.0) if needed[2] else None,
        )


class _SkinPointsToWeights(torch.autograd.Function):
    """Gradient of the weights: phi along ``weights``."""

    @staticmethod
    def forward(ctx: Any, grad_posed: Tensor, points: Tensor, bones: Tensor, h: float) -> Tensor:
        grad_posed = grad_posed.contiguous()
        ctx.save_for_backward(grad_posed, points, bones)
        ctx.h = h
        grad_weights = points.new_empty(*points.shape[:2], bones.shape[1])
        inputs = [vec3s(grad_posed), vec3s(points), _joint_lanes(bones), SCALAR[points.dtype](h)]
        launch(skin_points_to_weights_kernel, points, points.shape[:2], inputs, [lanes(grad_weights, bones.shape[1])])
        return grad_weights

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        grad_posed, points, bones = ctx.saved_tensors
        needed = ctx.needs_input_grad
        weights = weights.contiguous()
        return (
            _SkinPoints.apply(points, weights, bones, ctx.h) if needed[0] else None,
            _SkinPointsToPoints.apply(grad_posed, weights, bones) if needed[1] else None,
            _bone_gradient(weights, grad_posed, points, ctx.h) if needed[2] else None,
            None,
        )


class _SkinPointsJacobian(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, weights: Tensor, slopes: Tensor, bones: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(points, weights, slopes, bones)
        posed = points.new_empty(points.shape)
        jacobian = points.new_empty(*points.shape, 3)
        joints = bones.shape[1]
        inputs = [vec3s(points), lanes(weights, joints), lanes(slopes, joints), _joint_lanes(bones)]
        launch(skin_points_jacobian_kernel, points, points.shape[:2], inputs, [vec3s(posed), mat33s(jacobian)])
        return posed, jacobian

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_posed: Tensor, grad_jacobian: Tensor) -> tuple[Tensor | None, ...]:
        points, weights, slopes, bones = ctx.saved_tensors
        grad_posed, grad_jacobian = grad_posed.contiguous(), grad_jacobian.contiguous()
        joints = bones.shape[1]
        to_points, to_weights, to_slopes, to_bones = None, None, None, None
        if any(ctx.needs_input_grad[:3]):
            to_points, to_weights, to_slopes = (torch.empty_like(x) for x in (points, weights, slopes))
            inputs = [vec3s(points), lanes(weights, joints), lanes(slopes, joints), _joint_lanes(bones)]
            upstream = [vec3s(grad_posed), mat33s(grad_jacobian)]
            outputs = [vec3s(to_points), lanes(to_weights, joints), lanes(to_slopes, joints)]
            launch(skin_points_jacobian_vjp_kernel, points, points.shape[:2], inputs + upstream, outputs)
        if ctx.needs_input_grad[3]:
            to_bones = _bone_gradient(weights, grad_posed, points, 1.0)
            to_bones[..., :3, :3] += (weights.transpose(-1, -2) @ grad_jacobian.flatten(-2)).unflatten(-1, (3, 3))
            for axis in range(3):
                to_bones += _bone_gradient(slopes[..., axis, :], grad_jacobian[..., axis], points, 1.0)
        return to_points, to_weights, to_slopes, to_bones


def _prepare(points: Tensor, weights: Tensor, bones: Tensor) -> tuple[Tensor, Tensor]:
    """Checked points ``[B, P, 3]`` and weights ``[B, P, J]``."""
    require_shapes(
        bones=(bones, "B J 4 4"),
        points=(points, "P 3" if points.dim() == 2 else "B P 3"),
        weights=(weights, "P J" if weights.dim() == 2 else "B P J"),
    )
    if bones.shape[1] == 0:
        raise ValueError(f"bones must hold at least one joint, got {list(bones.shape)}")
    require_like("points", points, weights=weights, bones=bones)
    points, weights = (x if x.dim() == 3 else x.expand(len(bones), -1, -1) for x in (points, weights))
    return points.contiguous(), weights.contiguous()


def skin_points(points: Tensor, weights: Tensor, bones: Tensor) -> Tensor:
    """Carry canonical points into every posed body by linear blend skinning.

    Args:
        points: Canonical positions [m], ``[P, 3]`` shared by all frames or ``[B, P, 3]``.
        weights: Skinning weights, ``[P, J]`` shared by all frames or ``[B, P, J]``; rows are expected to sum to one.
        bones: Canonical-to-posed affine transforms, translation [m], ``[B, J, 4, 4]``; the last row is taken as 0 0 0
            1.

    Returns:
        Posed positions [m], ``[B, P, 3]``; differentiable any number of times in every input.

    Raises:
        ValueError: A shape, dtype or device disagrees; the message names the argument.

    Source: SMPL (Loper et al. 2015), blend skinning.
    """
    points, weights = _prepare(points, weights, bones)
    return _SkinPoints.apply(points, weights, bones, 1.0)


def skin_points_jacobian(
    points: Tensor, weights: Tensor, weight_gradients: Tensor | None, bones: Tensor
) -> tuple[Tensor, Tensor]:
    """Skin canonical points and differentiate the posed position along the canonical one.

    Args:
        points: Canonical positions [m], ``[P, 3]`` shared by all frames or ``[B, P, 3]``.
        weights: Skinning weights at the points, ``[P, J]`` shared by all frames or ``[B, P, J]``.
        weight_gradients: Spatial derivatives of the weights [1/m], ``[P, J, 3]`` or ``[B, P, J, 3]``, quickest as the
            view that ``grid_sample_jacobian`` returns; ``None`` holds the weights constant.
        bones: Canonical-to-posed affine transforms, translation [m], ``[B, J, 4, 4]``; the last row is taken as 0 0 0
            1.

    Returns:
        Posed positions [m], ``[B, P, 3]``, and their Jacobian
        ``sum_j w_j R_j + sum_j (bones_j p) grad(w_j)^T``, ``[B, P, 3, 3]``; differentiable once in every input.

    Raises:
        ValueError: A shape, dtype or device disagrees; the message names the argument.
    """
    frame_points, frame_weights = _prepare(points, weights, bones)
    if weight_gradients is None:
        rotations = torch.einsum("bpj,bjmn->bpmn", frame_weights, bones[..., :3, :3])
        return _SkinPoints.apply(frame_points, frame_weights, bones, 1.0), rotations
    pattern = "P J 3" if weight_gradients.dim() == 3 else "B P J 3"
    require_shapes(
        bones=(bones, "B J 4 4"), points=(frame_points, "B P 3"), weight_gradients=(weight_gradients, pattern)
    )
    require_like("points", points, weight_gradients=weight_gradients)
    slopes = weight_gradients.transpose(-1, -2).expand(len(bones), -1, -1, -1).contiguous()
    return _SkinPointsJacobian.apply(frame_points, frame_weights, slopes, bones)
