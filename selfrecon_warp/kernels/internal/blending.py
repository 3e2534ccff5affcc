"""Blended bone matrices ``M = sum_j weights_j bones_j`` at many points: what every form of skinning rests on.

Blending is a matrix product over joints, and its two gradients are products of the same three matrices:

    blend M_p = sum_j weights_pj R_j      to weights <grad M_p, R_j>      to bones sum_p weights_pj grad M_p

so that each is the gradient of the others and the three close under differentiation. The matrices are as thin as they
are long (tens of joints and twelve entries against many points): here four points share each bone that is loaded, and
the sum over points is taken strip by strip, each into a buffer of its own, so that no two threads add to one bone.

Tensors are made contiguous before they enter a Function, never inside it: what a Function saves must be what it was
given, or the second derivative is lost.

No operation of its own: reference, tests and benchmarks are those of ``skinning`` and ``inverse_skinning``.
"""

from __future__ import annotations

from typing import Any

import torch
import warp as wp
from torch import Tensor

from selfrecon_warp.kernels.interop import CPU_FLAGS, SPLIT_GRAIN, cleared, lanes, launch_split, mat34s, scalars

wp.set_module_options({"enable_backward": False, "cpu_compiler_flags": CPU_FLAGS})

BLOCK = wp.constant(4)
"""Points that share each bone that is loaded."""
STRIP = 128
"""Points that share one buffer of bone gradients."""
GROUP = 64
"""Buffers that one thread adds up. Torch's sum is as fast, but on a CPU it leaves its threads spinning for a while."""


@wp.func
def blended_at_four(
    weights: wp.array3d[Any],
    rows: wp.array2d[Any],
    b: wp.int32,
    p0: wp.int32,
    p1: wp.int32,
    p2: wp.int32,
    p3: wp.int32,
):
    """The bones of frame ``b`` blended at four points."""
    w = wp.min(b, weights.shape[0] - 1)
    m0 = rows.dtype()
    m1 = rows.dtype()
    m2 = rows.dtype()
    m3 = rows.dtype()
    for lane in range(weights.shape[2]):
        w0 = weights[w, p0, lane]
        w1 = weights[w, p1, lane]
        w2 = weights[w, p2, lane]
        w3 = weights[w, p3, lane]
        for k in range(len(w0)):
            bone = rows[b, lane * len(w0) + k]
            m0 += w0[k] * bone
            m1 += w1[k] * bone
            m2 += w2[k] * bone
            m3 += w3[k] * bone
    return m0, m1, m2, m3


@wp.func
def four_points(block: wp.int32, count: wp.int32):
    """Points of a block; past the last one it is repeated."""
    p = BLOCK * block
    last = count - 1
    return p, wp.min(p + 1, last), wp.min(p + 2, last), wp.min(p + 3, last)


@wp.func
def contracted_at_four(g0: Any, g1: Any, g2: Any, g3: Any, across: wp.array3d[Any], b: wp.int32, lane: wp.int32):
    """What the matrices' gradient at four points is along a lane of the bones of frame ``b``."""
    to_0 = across.dtype()
    to_1 = across.dtype()
    to_2 = across.dtype()
    to_3 = across.dtype()
    for k in range(12):
        bone = across[b, k, lane]
        to_0 += g0[k // 4, k % 4] * bone
        to_1 += g1[k // 4, k % 4] * bone
        to_2 += g2[k // 4, k % 4] * bone
        to_3 += g3[k // 4, k % 4] * bone
    return to_0, to_1, to_2, to_3


@wp.func
def add_four_to_bones(
    g0: Any,
    g1: Any,
    g2: Any,
    g3: Any,
    weights: wp.array3d[Any],
    w: wp.int32,
    p: wp.int32,
    s: wp.int32,
    b: wp.int32,
    grad_rows: wp.array3d[Any],
):
    """Add what four points from ``p`` on send to each bone, those past the last one nothing, to the strip's buffer."""
    count = weights.shape[1]
    if p + 3 < count:
        for j in range(weights.shape[2]):
            total = grad_rows[s, b, j]
            total += weights[w, p, j] * g0
            total += weights[w, p + 1, j] * g1
            total += weights[w, p + 2, j] * g2
            total += weights[w, p + 3, j] * g3
            grad_rows[s, b, j] = total
    else:
        for j in range(weights.shape[2]):
            total = grad_rows[s, b, j]
            total += weights[w, p, j] * g0
            if p + 1 < count:
                total += weights[w, p + 1, j] * g1
            if p + 2 < count:
                total += weights[w, p + 2, j] * g2
            grad_rows[s, b, j] = total


@wp.kernel
def blend_bones_kernel(
    first: wp.int32,
    weights: wp.array3d[Any],  # [1 or B, P, J / lane] lanes
    rows: wp.array2d[Any],  # [B, J] mat34
    # outputs
    matrices: wp.array2d[Any],  # [B, P] mat34
):
    """Blend the bones at four points."""
    p0, p1, p2, p3 = four_points(first + wp.tid(), matrices.shape[1])
    for b in range(matrices.shape[0]):
        m0, m1, m2, m3 = blended_at_four(weights, rows, b, p0, p1, p2, p3)
        matrices[b, p0] = m0
        matrices[b, p1] = m1
        matrices[b, p2] = m2
        matrices[b, p3] = m3


@wp.kernel
def blend_bones_to_weights_kernel(
    first: wp.int32,
    grad: wp.array2d[Any],  # [B, P] mat34
    rows: wp.array3d[Any],  # [B, 12, J / lane] lanes
    # outputs
    grad_weights: wp.array3d[Any],  # [1 or B, P, J / lane] lanes
):
    """Contract the matrices' gradient with each bone, summed over frames where they share the weights."""
    p0, p1, p2, p3 = four_points(first + wp.tid(), grad.shape[1])
    shared = grad.shape[0] // grad_weights.shape[0]
    for w in range(grad_weights.shape[0]):
        for lane in range(grad_weights.shape[2]):
            to_0 = grad_weights.dtype()
            to_1 = grad_weights.dtype()
            to_2 = grad_weights.dtype()
            to_3 = grad_weights.dtype()
            for b in range(w * shared, (w + 1) * shared):
                a0, a1, a2, a3 = contracted_at_four(grad[b, p0], grad[b, p1], grad[b, p2], grad[b, p3], rows, b, lane)
                to_0 += a0
                to_1 += a1
                to_2 += a2
                to_3 += a3
            grad_weights[w, p0, lane] = to_0
            grad_weights[w, p1, lane] = to_1
            grad_weights[w, p2, lane] = to_2
            grad_weights[w, p3, lane] = to_3


@wp.kernel
def blend_bones_to_bones_kernel(
    first: wp.int32,
    grad: wp.array2d[Any],  # [B, P] mat34
    weights: wp.array3d[Any],  # [1 or B, P, J]
    strip: int,
    # outputs
    grad_rows: wp.array3d[Any],  # [strips, B, J] mat34, zero before
):
    """Add up what one strip of points sends to each bone."""
    s = first + wp.tid()
    for b in range(grad.shape[0]):
        w = wp.min(b, weights.shape[0] - 1)
        for block in range(s * strip / BLOCK, wp.min((s + 1) * strip, grad.shape[1] + 3) / BLOCK):
            p0, p1, p2, p3 = four_points(block, grad.shape[1])
            add_four_to_bones(grad[b, p0], grad[b, p1], grad[b, p2], grad[b, p3], weights, w, p0, s, b, grad_rows)


@wp.kernel
def add_strips_kernel(
    first: wp.int32,
    parts: wp.array2d[Any],  # [S, B * J] mat34
    group: int,
    # outputs
    totals: wp.array2d[Any],  # [S / group, B * J] mat34
):
    """Add up one group of strips at one bone."""
    k, bone = wp.tid()
    k += first
    total = totals.dtype()
    for s in range(k * group, wp.min((k + 1) * group, parts.shape[0])):
        total += parts[s, bone]
    totals[k, bone] = total


def launch_blocks(kernel: Any, like: Tensor, points: int, inputs: list[Any], outputs: list[Any]) -> None:
    """Run one thread per block of points."""
    blocks = -(-points // BLOCK)
    launch_split(kernel, like, (blocks,), inputs, outputs, grain=SPLIT_GRAIN // BLOCK)


def blend(weights: Tensor, rows: Tensor) -> Tensor:
    """Matrices ``[B, P, 3, 4]`` of weights ``[1 or B, P, J]`` and rows ``[B, J, 3, 4]``."""
    matrices = weights.new_empty(len(rows), weights.shape[1], 3, 4)
    if len(rows):
        inputs = [lanes(weights, weights.shape[2]), mat34s(rows)]
        launch_blocks(blend_bones_kernel, weights, weights.shape[1], inputs, [mat34s(matrices)])
    return matrices


def padded_joints(joints: int) -> int:
    """Joints in whole lanes."""
    return -(-joints // 8) * 8


def bones_across(rows: Tensor) -> Tensor:
    """Rows ``[B, J, 3, 4]`` as ``[B, 12, J]``, with zeros for joints to whole lanes."""
    joints = rows.shape[1]
    across = cleared(rows, len(rows), 12, padded_joints(joints))
    across[..., :joints] = rows.flatten(-2).mT
    return across


def gradient_to_weights(grad: Tensor, rows: Tensor, sets: int) -> Tensor:
    """Gradient of the weights ``[sets, P, J]`` from that of the matrices and the rows.

    ``sets`` is 1 where all frames share their weights and B where each has its own. Joints are padded to whole lanes.
    """
    frames, joints = rows.shape[:2]
    points = grad.shape[1]
    padded = padded_joints(joints)
    if frames == 0:
        return grad.new_zeros(sets, points, joints)
    across = bones_across(rows)
    grad_weights = grad.new_empty(sets, points, padded)
    inputs = [mat34s(grad), lanes(across, padded)]
    launch_blocks(blend_bones_to_weights_kernel, grad, points, inputs, [lanes(grad_weights, padded)])
    return grad_weights[..., :joints]


def gradient_to_bones(grad: Tensor, weights: Tensor) -> Tensor:
    """Gradient of the rows ``[B, J, 3, 4]`` from that of the matrices ``[B, P, 3, 4]`` and the weights."""
    frames, points = grad.shape[:2]
    joints = weights.shape[2]
    if frames == 0 or points == 0:
        return grad.new_zeros(frames, joints, 3, 4)
    strips = -(-points // STRIP)
    parts = cleared(grad, strips, frames, joints, 3, 4)
    inputs = [mat34s(grad), scalars(weights), STRIP]
    launch_split(blend_bones_to_bones_kernel, grad, (strips,), inputs, [mat34s(parts)], grain=SPLIT_GRAIN // STRIP)
    return add_strips(parts)


def add_strips(parts: Tensor) -> Tensor:
    """Sum of the strips ``[S, B, J, 3, 4]``, at least one."""
    shape = parts.shape[1:]
    parts = parts.flatten(1, 2)
    while len(parts) > 1:
        totals = parts.new_empty(-(-len(parts) // GROUP), *parts.shape[1:])
        launch_split(add_strips_kernel, parts, tuple(totals.shape[:2]), [mat34s(parts), GROUP], [mat34s(totals)])
        parts = totals
    return parts.view(shape)


class _Blend(torch.autograd.Function):
    """Matrices ``[B, P, 3, 4]`` of weights ``[1 or B, P, J]`` and rows ``[B, J, 3, 4]``."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(weights, rows)
        return blend(weights, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights, rows = ctx.saved_tensors
        grad = grad.contiguous()
        return (
            _BlendToWeights.apply(grad, rows, len(weights)) if ctx.needs_input_grad[0] else None,
            _BlendToBones.apply(grad, weights) if ctx.needs_input_grad[1] else None,
        )


class _BlendToWeights(torch.autograd.Function):
    """Gradient of the weights."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, rows: Tensor, sets: int) -> Tensor:
        ctx.save_for_backward(grad, rows)
        return gradient_to_weights(grad, rows, sets)

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:
        grad, rows = ctx.saved_tensors
        direction = direction.contiguous()
        return (
            _Blend.apply(direction, rows) if ctx.needs_input_grad[0] else None,
            _BlendToBones.apply(grad, direction) if ctx.needs_input_grad[1] else None,
            None,
        )


class _BlendToBones(torch.autograd.Function):
    """Gradient of the rows."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(grad, weights)
        return gradient_to_bones(grad, weights)

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:
        grad, weights = ctx.saved_tensors
        direction = direction.contiguous()
        return (
            _Blend.apply(weights, direction) if ctx.needs_input_grad[0] else None,
            _BlendToWeights.apply(grad, direction, len(weights)) if ctx.needs_input_grad[1] else None,
        )


def prepare_blend(weights: Tensor, bones: Tensor) -> tuple[Tensor, Tensor]:
    """Weights ``[1 or B, P, J]`` and the upper rows ``[B, J, 3, 4]`` of the bones, contiguous."""
    return (weights if weights.dim() == 3 else weights[None]).contiguous(), bones[..., :3, :].contiguous()


def blend_bones(weights: Tensor, bones: Tensor) -> Tensor:
    """Blend the upper rows of the bones at every point.

    Args:
        weights: Skinning weights, ``[P, J]`` shared by all frames or ``[B, P, J]``.
        bones: Canonical-to-posed affine transforms, ``[B, J, 4, 4]``.

    Returns:
        ``[B, P, 3, 4]``; differentiable any number of times in both.
    """
    return _Blend.apply(*prepare_blend(weights, bones))
