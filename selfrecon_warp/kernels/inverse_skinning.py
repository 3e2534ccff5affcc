"""Linear blend skinning undone: which canonical point lands at a posed one.

With weights held constant the blended matrix ``M`` is inverted in closed form. Where the weights are those of a volume
at the canonical point, ``F(p) = sum_j w_j(p) bones_j p`` is solved by Newton's method, each point in a thread of its
own from start to end: a step ``-J^-1 (F(p) - y)`` that does not shrink the residual is halved until it does. Folded
limbs have several preimages, so starts matter: by default a point starts where the single bones would carry it back
to, those bones first whose weight is largest there, and the first start that converges is kept.

Gradients follow from the implicit function theorem: ``dp = J^-1 (dy - dF)`` with ``F`` differentiated at fixed ``p``.
After the search for correspondences of Chen, Zheng, Black, Hilliges and Geiger, "SNARF: Differentiable Forward Skinning
for Animating Non-Rigid Neural Implicit Shapes" (2021), written independently.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.arguments import require_like
from selfrecon_warp.kernels.grid_sample import grid_sample, prepare_volume
from selfrecon_warp.kernels.internal.blending import blend_bones
from selfrecon_warp.kernels.internal.inverse_skinning_kernels import (
    rank_bones_kernel,
    unskin_points_in_volume_kernel,
    unskin_points_kernel,
    unskin_points_vjp_kernel,
)
from selfrecon_warp.kernels.internal.trilinear import Levels
from selfrecon_warp.kernels.interop import SCALAR, bools, lanes, launch_split, mat33s, mat34s, scalars, vec3s
from selfrecon_warp.kernels.skinning import skin_points

SOLVE_GRAIN = 256
"""Fewest points that a thread is given: each takes microseconds."""


class Unskinned(NamedTuple):
    """Canonical points found for posed ones."""

    points: Tensor
    """Canonical positions [m], ``[B, P, 3]``; where not converged the best seen, or the posed one if there is none."""
    converged: Tensor
    """The point lands within tolerance and the Jacobian there can be inverted, ``[B, P]`` bool; others get no
    gradient."""
    residual: Tensor
    """Distance at which the point lands from the posed one [m], ``[B, P]``; NaN where that is not finite."""


class _Unskin(torch.autograd.Function):
    """Points, convergence and residuals of posed points ``[B, P, 3]`` and matrices ``[B, P, 3, 4]``."""

    @staticmethod
    def forward(ctx: Any, posed: Tensor, matrices: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        points, inverse, converged, residual = _results(posed)
        inputs = [vec3s(posed.flatten(0, 1)), mat34s(matrices.flatten(0, 1)), SCALAR[posed.dtype](threshold)]
        outputs = [vec3s(points.flatten(0, 1)), mat33s(inverse.flatten(0, 1))]
        outputs += [bools(converged.flatten()), scalars(residual.flatten())]
        launch_split(unskin_points_kernel, posed, (converged.numel(),), inputs, outputs)
        ctx.save_for_backward(points, inverse, converged)
        ctx.mark_non_differentiable(converged, residual)
        return points, converged, residual

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_points: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        points, inverse, converged = ctx.saved_tensors
        grad_posed, grad_matrices = torch.zeros_like(points), points.new_zeros(*points.shape, 4)
        inputs = [vec3s(points.flatten(0, 1)), mat33s(inverse.flatten(0, 1)), bools(converged.flatten())]
        inputs.append(vec3s(grad_points.contiguous().flatten(0, 1)))
        outputs = [vec3s(grad_posed.flatten(0, 1)), mat34s(grad_matrices.flatten(0, 1))]
        launch_split(unskin_points_vjp_kernel, points, (converged.numel(),), inputs, outputs)
        return grad_posed, grad_matrices, None


class _UnskinInVolume(torch.autograd.Function):
    """Points, convergence and residuals of posed points, with gradients to them, the volume and the bones."""

    @staticmethod
    def forward(
        ctx: Any, posed: Tensor, volume: Tensor, bones: Tensor, box: tuple[Tensor, Tensor], starts: Any, settings: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        steps, tolerance, threshold = settings
        _, table, level = prepare_volume(volume, posed.flatten(0, 1), *box)
        table = table.contiguous()
        rows = bones[..., :3, :].contiguous()
        points, inverse, converged, residual = _results(posed)
        if isinstance(starts, int):
            starts = _ranked_starts(posed, table, level, rows, min(starts, bones.shape[1]), threshold)
        scalar = SCALAR[posed.dtype]
        inputs = [vec3s(posed), vec3s(starts), lanes(table, table.shape[1]), *level.places[:3], mat34s(rows)]
        inputs += [steps, scalar(tolerance), scalar(threshold)]
        outputs = [vec3s(points), mat33s(inverse), bools(converged), scalars(residual)]
        launch_split(
            unskin_points_in_volume_kernel, posed, tuple(posed.shape[:2]), inputs, outputs, axis=1, grain=SOLVE_GRAIN
        )
        ctx.save_for_backward(points, inverse, converged, volume, bones)
        ctx.box = box
        ctx.mark_non_differentiable(converged, residual)
        return points, converged, residual

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_points: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        points, inverse, converged, volume, bones = ctx.saved_tensors
        there = converged[..., None]
        pulled = torch.where(there, (grad_points[..., None, :] @ inverse)[..., 0, :], 0.0)
        leaves = [
            x.detach().requires_grad_(needed)
            for x, needed in zip((volume, bones), ctx.needs_input_grad[1:3], strict=True)
        ]
        grads: list[Tensor | None] = [None, None]
        if any(leaf.requires_grad for leaf in leaves):
            with torch.enable_grad():
                held = torch.where(there, points, ctx.box[0].to(points))
                weights = grid_sample(leaves[0], held.flatten(0, 1), *ctx.box).unflatten(0, held.shape[:2])
                landed = skin_points(held, weights, leaves[1])
            wanted = [leaf for leaf in leaves if leaf.requires_grad]
            found = iter(torch.autograd.grad(landed, wanted, -pulled))
            grads = [next(found) if leaf.requires_grad else None for leaf in leaves]
        return pulled, *grads, None, None, None


def _check(posed: Tensor, bones: Tensor) -> None:
    require_shapes(bones=(bones, "B J 4 4"), posed=(posed, "B P 3"))
    if bones.shape[1] == 0:
        raise ValueError(f"bones must hold at least one joint, got {list(bones.shape)}")
    require_like("posed", posed, bones=bones)


def _results(posed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Room for points, inverse Jacobians, convergence and residuals."""
    converged = torch.empty(posed.shape[:2], dtype=torch.bool, device=posed.device)
    return torch.empty_like(posed), posed.new_empty(*posed.shape, 3), converged, posed.new_empty(posed.shape[:2])


def _ranked_starts(posed: Tensor, table: Tensor, level: Levels, rows: Tensor, count: int, threshold: float) -> Tensor:
    """Starts ``[B, P, S, 3]`` from the bones of the largest weights."""
    starts = posed.new_empty(*posed.shape[:2], count, 3)
    weights = posed.new_empty(*posed.shape[:2], rows.shape[1])
    scalar = SCALAR[posed.dtype]
    inputs = [vec3s(posed), scalars(table), *level.places[:3], mat34s(rows), scalar(threshold)]
    launch_split(
        rank_bones_kernel,
        posed,
        tuple(posed.shape[:2]),
        inputs,
        [scalars(weights), vec3s(starts)],
        axis=1,
        grain=SOLVE_GRAIN,
    )
    return starts


def unskin_points(posed: Tensor, weights: Tensor, bones: Tensor, threshold: float = 1e-6) -> Unskinned:
    """Carry posed points back with weights that stay what they are: the inverse of ``skin_points`` in closed form.

    Args:
        posed: Posed positions [m], ``[B, P, 3]``.
        weights: Skinning weights of the points, ``[P, J]`` shared by all frames or ``[B, P, J]``.
        bones: Canonical-to-posed affine transforms, translation [m], ``[B, J, 4, 4]``; the last row is taken as 0 0 0
            1.
        threshold: Least magnitude of the blended matrix's determinant that counts as regular. Where it is less, or
            anything is not finite, a point stays where it is, is marked and gets no gradient.

    Returns:
        Canonical points, convergence mask and residuals; points differentiable once in posed points, weights and bones.

    Raises:
        ValueError: A shape, dtype or device disagrees; the message names the argument.
    """
    _check(posed, bones)
    pattern = "P J" if weights.dim() == 2 else "B P J"
    require_shapes(bones=(bones, "B J 4 4"), posed=(posed, "B P 3"), weights=(weights, pattern))
    require_like("posed", posed, weights=weights)
    return Unskinned(*_Unskin.apply(posed.contiguous(), blend_bones(weights, bones), threshold))


def unskin_points_in_volume(
    posed: Tensor,
    volume: Tensor,
    lower: Tensor,
    upper: Tensor,
    bones: Tensor,
    starts: Tensor | int = 4,
    steps: int = 20,
    tolerance: float = 1e-5,
    threshold: float = 1e-4,
) -> Unskinned:
    """Carry posed points back where weights vary in space: ``skin_points(p, grid_sample(volume, p), bones) = posed``.

    Args:
        posed: Posed positions [m], ``[B, P, 3]``.
        volume: Skinning weights in the canonical box, ``[X, Y, Z, J]``, looked up as ``grid_sample`` does.
        lower: Box corner of least coordinates [m], ``[3]``; taken as constant.
        upper: Box corner of greatest coordinates [m], ``[3]``; taken as constant.
        bones: Canonical-to-posed affine transforms, translation [m], ``[B, J, 4, 4]``; the last row is taken as 0 0 0
            1.
        starts: Canonical positions to start from [m], ``[B, P, S, 3]``, tried in order; or how many single bones to
            start from, those first whose weight is largest where they carry the point back to. Carries no gradient.
        steps: Newton steps from each start at most, halved ones included.
        tolerance: Residual at which a point has converged [m].
        threshold: Least magnitude of the Jacobian's determinant that counts as regular; a start stops at a lesser one.

    Returns:
        Canonical points, convergence mask and residuals; points differentiable once in posed points, volume and bones.
        Posed points that are not finite do not converge; ``(~converged).sum()`` counts the skipped ones.

    Raises:
        ValueError: A shape, dtype, device or count is out of range; the message names the argument.
    """
    _check(posed, bones)
    require_shapes(bones=(bones, "B J 4 4"), volume=(volume, "X Y Z J"), lower=(lower, "3"), upper=(upper, "3"))
    require_like("posed", posed, volume=volume)
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    if isinstance(starts, Tensor):
        require_shapes(bones=(bones, "B J 4 4"), posed=(posed, "B P 3"), starts=(starts, "B P S 3"))
        require_like("posed", posed, starts=starts)
        starts = starts.detach().contiguous()
    count = starts.shape[2] if isinstance(starts, Tensor) else starts
    if count < 1:
        raise ValueError(f"starts must be at least 1, got {count}")
    return Unskinned(
        *_UnskinInVolume.apply(posed.contiguous(), volume, bones, (lower, upper), starts, (steps, tolerance, threshold))
    )
