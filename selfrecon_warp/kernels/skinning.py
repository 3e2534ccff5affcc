"""Linear blend skinning, and its spatial Jacobian in one pass.

Skinning is linear in each of its inputs. With ``g`` the gradient of the posed points, everything follows from

    phi(g, p, weights, bones) = g . M [p; h]        M = sum_j weights_j bones_j

whose derivative along ``g`` is one Function and whose derivatives along the other three are another; ``h`` is one for
points and zero for directions. Each is the gradient of the other, so the two close under differentiation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.arguments import require_like
from selfrecon_warp.kernels.internal.blending import (
    STRIP,
    add_strips,
    blend,
    blend_bones,
    bones_across,
    launch_blocks,
    padded_joints,
    prepare_blend,
)
from selfrecon_warp.kernels.internal.skinning_kernels import (
    skin_points_jacobian_kernel,
    skin_points_jacobian_vjp_kernel,
    skin_points_kernel,
    skin_points_vjp_kernel,
)
from selfrecon_warp.kernels.interop import (
    MAT34,
    SCALAR,
    SPLIT_GRAIN,
    VEC3,
    absent,
    cleared,
    lanes,
    launch_split,
    mat33s,
    mat34s,
    scalars,
    vec3s,
)


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
        (B, J), P = rows.shape[:2], points.shape[1]
        if 0 in (B, P):
            return tuple(
                torch.zeros_like(x) if n else None for x, n in zip((points, weights, rows), needed, strict=True)
            )
        strips, padded = -(-P // STRIP), padded_joints(J)
        grad_points = torch.empty_like(points) if needed[0] else None
        grad_weights = weights.new_empty(*weights.shape[:2], padded) if needed[1] else None
        parts = cleared(rows, strips, *rows.shape) if needed[2] else None
        across = lanes(bones_across(rows) if needed[1] else rows.new_empty(1, 1, padded), padded)
        inputs = [vec3s(grad_posed), vec3s(points), mat34s(matrices), scalars(weights), across]
        inputs += [SCALAR[points.dtype](h), STRIP]
        outputs = [
            absent(VEC3[points.dtype], 2) if grad_points is None else vec3s(grad_points),
            absent(across.dtype, 3) if grad_weights is None else lanes(grad_weights, padded),
            absent(MAT34[points.dtype], 3) if parts is None else mat34s(parts),
        ]
        launch_split(skin_points_vjp_kernel, points, (strips,), inputs, outputs, grain=SPLIT_GRAIN // STRIP)
        return (
            grad_points,
            None if grad_weights is None else grad_weights[..., :J],
            None if parts is None else add_strips(parts),
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
