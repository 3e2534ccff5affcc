"""Linear blend skinning, and its spatial Jacobian in one pass.

Skinning is linear in each of its inputs. With ``g`` the gradient of the posed points, everything follows from

    phi(g, p, weights, bones) = g . M [p; h]        M = sum_j weights_j bones_j

whose derivative along ``g`` is one Function and whose derivatives along the other three are another; ``h`` is one for
points and zero for directions. Each is the gradient of the other, so the two close under differentiation.
"""

from __future__ import annotations

from typing import Any

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.blending import (
    blend,
    blend_bones,
    blended_at_four,
    gradient_to_bones,
    gradient_to_weights,
    launch_blocks,
    prepare_blend,
)
from selfrecon_warp.kernels.interop import CPU_FLAGS, SCALAR, lanes, launch_split, mat33s, mat34s, require_like, vec3s

wp.set_module_options({"enable_backward": False, "cpu_compiler_flags": CPU_FLAGS})


@wp.func
def carried(m: Any, v: Any, h: Any):
    """``m [v; h]``."""
    return type(v)(
        m[0, 0] * v[0] + m[0, 1] * v[1] + m[0, 2] * v[2] + m[0, 3] * h,
        m[1, 0] * v[0] + m[1, 1] * v[1] + m[1, 2] * v[2] + m[1, 3] * h,
        m[2, 0] * v[0] + m[2, 1] * v[1] + m[2, 2] * v[2] + m[2, 3] * h,
    )


@wp.func
def turned_back(m: Any, g: Any):
    """``g`` under the transposed 3 x 3 part of ``m``."""
    return type(g)(
        m[0, 0] * g[0] + m[1, 0] * g[1] + m[2, 0] * g[2],
        m[0, 1] * g[0] + m[1, 1] * g[1] + m[2, 1] * g[2],
        m[0, 2] * g[0] + m[1, 2] * g[1] + m[2, 2] * g[2],
    )


@wp.func
def lifted_outer(g: Any, v: Any, h: Any, like: Any):
    """``g [v; h]^T`` as a matrix of the type of ``like``."""
    return type(like)(
        g[0] * v[0], g[0] * v[1], g[0] * v[2], g[0] * h,
        g[1] * v[0], g[1] * v[1], g[1] * v[2], g[1] * h,
        g[2] * v[0], g[2] * v[1], g[2] * v[2], g[2] * h,
    )  # fmt: skip


@wp.func
def where_finite(v: Any, there: Any):
    """``there``, or zeros where a coordinate of ``v`` is NaN or infinite: one comparison, no branch."""
    total = v[0] + v[1] + v[2]
    return wp.where(total - total == type(total)(0.0), there, type(there)())


@wp.kernel
def skin_points_kernel(
    first: wp.int32,
    points: wp.array2d[Any],  # [1 or B, P] vec3
    weights: wp.array3d[Any],  # [1 or B, P, J / lane] lanes
    rows: wp.array2d[Any],  # [B, J] mat34
    h: Any,
    # outputs
    matrices: wp.array2d[Any],  # [B, P] mat34
    posed: wp.array2d[Any],  # [B, P] vec3
):
    """Blend the bones at four points as ``blend_bones_kernel`` does, then carry these: phi along ``g``."""
    p0 = 4 * (first + wp.tid())
    last = matrices.shape[1] - 1
    p1 = wp.min(p0 + 1, last)
    p2 = wp.min(p0 + 2, last)
    p3 = wp.min(p0 + 3, last)
    for b in range(matrices.shape[0]):
        q = wp.min(b, points.shape[0] - 1)
        m0, m1, m2, m3 = blended_at_four(weights, rows, b, p0, p1, p2, p3)
        matrices[b, p0] = m0
        matrices[b, p1] = m1
        matrices[b, p2] = m2
        matrices[b, p3] = m3
        for k in range(4):
            p = wp.min(p0 + k, last)
            posed[b, p] = carried(matrices[b, p], points[q, p], h)


@wp.kernel
def skin_points_vjp_kernel(
    first: wp.int32,
    grad_posed: wp.array2d[Any],  # [B, P] vec3
    points: wp.array2d[Any],  # [1 or B, P] vec3
    matrices: wp.array2d[Any],  # [B, P] mat34
    h: Any,
    # outputs
    grad_points: wp.array2d[Any],  # [1 or B, P] vec3
    grad_matrices: wp.array2d[Any],  # [B, P] mat34
):
    """Gradients of the points, summed over frames where they share them, and of the matrices: phi along both."""
    p = first + wp.tid()
    shared = grad_posed.shape[0] // grad_points.shape[0]
    for q in range(grad_points.shape[0]):
        point = points[q, p]
        lifted = where_finite(point, point)
        total = grad_points.dtype()
        for b in range(q * shared, (q + 1) * shared):
            g = where_finite(point, grad_posed[b, p])
            total += turned_back(matrices[b, p], g)
            grad_matrices[b, p] = lifted_outer(g, lifted, h, grad_matrices.dtype())
        grad_points[q, p] = total


@wp.kernel
def skin_points_jacobian_kernel(
    first: wp.int32,
    matrices: wp.array2d[Any],  # [B, P] mat34
    slopes: wp.array3d[Any],  # [B, P, 3] mat34: derivatives of the blended matrix along x, y, z
    points: wp.array2d[Any],  # [1 or B, P] vec3
    # outputs
    posed: wp.array2d[Any],  # [B, P] vec3
    jacobian: wp.array2d[Any],  # [B, P] mat33
):
    """Carry each point and differentiate where it lands."""
    p = first + wp.tid()
    for b in range(posed.shape[0]):
        point = points[wp.min(b, points.shape[0] - 1), p]
        one = type(point[0])(1.0)
        m = matrices[b, p]
        along_x = carried(slopes[b, p, 0], point, one)
        along_y = carried(slopes[b, p, 1], point, one)
        along_z = carried(slopes[b, p, 2], point, one)
        posed[b, p] = carried(m, point, one)
        jacobian[b, p] = jacobian.dtype(
            m[0, 0] + along_x[0], m[0, 1] + along_y[0], m[0, 2] + along_z[0],
            m[1, 0] + along_x[1], m[1, 1] + along_y[1], m[1, 2] + along_z[1],
            m[2, 0] + along_x[2], m[2, 1] + along_y[2], m[2, 2] + along_z[2],
        )  # fmt: skip


@wp.kernel
def skin_points_jacobian_vjp_kernel(
    first: wp.int32,
    matrices: wp.array2d[Any],  # [B, P] mat34
    slopes: wp.array3d[Any],  # [B, P, 3] mat34
    points: wp.array2d[Any],  # [1 or B, P] vec3
    grad_posed: wp.array2d[Any],  # [B, P] vec3
    grad_jacobian: wp.array2d[Any],  # [B, P] mat33
    # outputs
    grad_matrices: wp.array2d[Any],  # [B, P] mat34
    grad_slopes: wp.array3d[Any],  # [B, P, 3] mat34
    grad_points: wp.array2d[Any],  # [1 or B, P] vec3
):
    """Gradients of ``skin_points_jacobian_kernel`` to all its inputs."""
    p = first + wp.tid()
    shared = grad_posed.shape[0] // grad_points.shape[0]
    for q in range(grad_points.shape[0]):
        point = points[q, p]
        lifted = where_finite(point, point)
        one = type(point[0])(1.0)
        to_point = grad_points.dtype()
        for b in range(q * shared, (q + 1) * shared):
            g = where_finite(point, grad_posed[b, p])
            d = where_finite(point, grad_jacobian[b, p])
            x = type(g)(d[0, 0], d[1, 0], d[2, 0])
            y = type(g)(d[0, 1], d[1, 1], d[2, 1])
            z = type(g)(d[0, 2], d[1, 2], d[2, 2])
            to_point += turned_back(matrices[b, p], g) + turned_back(slopes[b, p, 0], x)
            to_point += turned_back(slopes[b, p, 1], y) + turned_back(slopes[b, p, 2], z)
            grad_matrices[b, p] = grad_matrices.dtype(
                g[0] * lifted[0] + x[0], g[0] * lifted[1] + y[0], g[0] * lifted[2] + z[0], g[0],
                g[1] * lifted[0] + x[1], g[1] * lifted[1] + y[1], g[1] * lifted[2] + z[1], g[1],
                g[2] * lifted[0] + x[2], g[2] * lifted[1] + y[2], g[2] * lifted[2] + z[2], g[2],
            )  # fmt: skip
            grad_slopes[b, p, 0] = lifted_outer(x, lifted, one, grad_matrices.dtype())
            grad_slopes[b, p, 1] = lifted_outer(y, lifted, one, grad_matrices.dtype())
            grad_slopes[b, p, 2] = lifted_outer(z, lifted, one, grad_matrices.dtype())
        grad_points[q, p] = to_point


class _Skin(torch.autograd.Function):
    """Posed points ``[B, P, 3]`` of points ``[1 or B, P, 3]``, weights ``[1 or B, P, J]`` and rows ``[B, J, 3, 4]``."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, weights: Tensor, rows: Tensor, h: float) -> Tensor:
        count = points.shape[1]
        matrices = points.new_empty(len(rows), count, 3, 4)
        posed = points.new_empty(len(rows), count, 3)
        if len(rows):
            inputs = [vec3s(points), lanes(weights, weights.shape[2]), mat34s(rows), SCALAR[points.dtype](h)]
            launch_blocks(skin_points_kernel, points, count, inputs, [mat34s(matrices), vec3s(posed)])
        ctx.save_for_backward(points, weights, rows, matrices)
        ctx.h = h
        return posed

    @staticmethod
    def backward(ctx: Any, grad_posed: Tensor) -> tuple[Tensor | None, ...]:
        points, weights, rows, matrices = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        return *_SkinVjp.apply(grad_posed.contiguous(), points, weights, rows, ctx.h, matrices, needed), None


class _SkinVjp(torch.autograd.Function):
    """Gradients of points, weights and rows where needed; the blended ``matrices`` may be given."""

    @staticmethod
    def forward(
        ctx: Any,
        grad_posed: Tensor,
        points: Tensor,
        weights: Tensor,
        rows: Tensor,
        h: float,
        matrices: Tensor | None,
        needed: tuple[bool, bool, bool],
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(grad_posed, points, weights, rows)
        ctx.h = h
        ctx.set_materialize_grads(False)
        if matrices is None:
            matrices = blend(weights, rows)
        grad_points = torch.zeros_like(points) if len(rows) == 0 else torch.empty_like(points)
        grad_matrices = torch.empty_like(matrices)
        if len(rows):
            inputs = [vec3s(grad_posed), vec3s(points), mat34s(matrices), SCALAR[points.dtype](h)]
            outputs = [vec3s(grad_points), mat34s(grad_matrices)]
            launch_split(skin_points_vjp_kernel, points, (points.shape[1],), inputs, outputs)
        return (
            grad_points if needed[0] else None,
            gradient_to_weights(grad_matrices, rows, len(weights)) if needed[1] else None,
            gradient_to_bones(grad_matrices, weights) if needed[2] else None,
        )

    @staticmethod
    def backward(ctx: Any, *directions: Tensor | None) -> tuple[Tensor | None, ...]:
        """Each output contracted with its direction is phi with one argument replaced by the direction."""
        g, points, weights, rows = ctx.saved_tensors
        needed = ctx.needs_input_grad[:4]
        totals: list[Tensor | None] = [None, None, None, None]
        for place, direction in enumerate(directions):
            if direction is None:
                continue
            inputs = [points, weights, rows]
            inputs[place] = direction.contiguous()
            h = 0.0 if place == 0 else ctx.h
            others = tuple(needed[1 + k] and k != place for k in range(3))
            parts = [_Skin.apply(*inputs, h) if needed[0] else None]
            parts += _SkinVjp.apply(g, *inputs, h, None, others) if any(others) else [None] * 3
            for k, part in enumerate(parts):
                totals[k] = part if totals[k] is None else totals[k] if part is None else totals[k] + part
        return *totals, None, None, None


class _SkinJacobian(torch.autograd.Function):
    """Posed points and Jacobians ``[B, P, 3, 3]`` of matrices, their slopes ``[B, P, 3, 3, 4]`` and points."""

    @staticmethod
    def forward(ctx: Any, matrices: Tensor, slopes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(matrices, slopes, points)
        posed = matrices.new_empty(*matrices.shape[:2], 3)
        jacobian = matrices.new_empty(*matrices.shape[:2], 3, 3)
        inputs = [mat34s(matrices), mat34s(slopes), vec3s(points)]
        if len(matrices):
            outputs = [vec3s(posed), mat33s(jacobian)]
            launch_split(skin_points_jacobian_kernel, posed, (points.shape[1],), inputs, outputs)
        return posed, jacobian

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_posed: Tensor, grad_jacobian: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        matrices, slopes, points = ctx.saved_tensors
        grads = torch.empty_like(matrices), torch.empty_like(slopes), torch.zeros_like(points)
        inputs = [mat34s(matrices), mat34s(slopes), vec3s(points)]
        inputs += [vec3s(grad_posed.contiguous()), mat33s(grad_jacobian.contiguous())]
        outputs = [mat34s(grads[0]), mat34s(grads[1]), vec3s(grads[2])]
        if len(matrices):
            launch_split(skin_points_jacobian_vjp_kernel, points, (points.shape[1],), inputs, outputs)
        return grads


def _prepare(points: Tensor, weights: Tensor, bones: Tensor) -> Tensor:
    """Check the arguments; points ``[1 or B, P, 3]``."""
    require_shapes(
        bones=(bones, "B J 4 4"),
        points=(points, "P 3" if points.dim() == 2 else "B P 3"),
        weights=(weights, "P J" if weights.dim() == 2 else "B P J"),
    )
    if bones.shape[1] == 0:
        raise ValueError(f"bones must hold at least one joint, got {list(bones.shape)}")
    require_like("points", points, weights=weights, bones=bones)
    return (points if points.dim() == 3 else points[None]).contiguous()


def skin_points(points: Tensor, weights: Tensor, bones: Tensor) -> Tensor:
    """Carry canonical points into every posed body by linear blend skinning.

    A point that is not finite lands nowhere (NaN) and adds nothing to the gradients of weights and bones. A weight that
    is not finite spoils where its own point lands, and with it the gradient of the bones.

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
    points = _prepare(points, weights, bones)
    return _Skin.apply(points, *prepare_blend(weights, bones), 1.0)


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
        ``sum_j w_j R_j + sum_j (bones_j p) grad(w_j)^T``, ``[B, P, 3, 3]``; differentiable once in every input, any
        number of times where ``weight_gradients`` is ``None``.

    Raises:
        ValueError: A shape, dtype or device disagrees; the message names the argument.
    """
    frame_points = _prepare(points, weights, bones)
    matrices = blend_bones(weights, bones)
    if weight_gradients is None:
        return _Skin.apply(frame_points, *prepare_blend(weights, bones), 1.0), matrices[..., :3]
    require_shapes(
        bones=(bones, "B J 4 4"),
        weights=(weights, "P J" if weights.dim() == 2 else "B P J"),
        weight_gradients=(weight_gradients, "P J 3" if weight_gradients.dim() == 3 else "B P J 3"),
    )
    require_like("points", points, weight_gradients=weight_gradients)
    slopes = blend_bones(weight_gradients.transpose(-1, -2).flatten(-3, -2), bones).unflatten(1, (-1, 3))
    return _SkinJacobian.apply(matrices, slopes, frame_points)
