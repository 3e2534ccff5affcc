"""Algebra of 3 x 3 matrices, one thread a matrix: the inverse by cofactors and the singular values.

Singular values come from one-sided Jacobi rotations (Hestenes 1958).
"""

from __future__ import annotations

from typing import Any

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.kernels.arguments import require_like
from selfrecon_warp.kernels.interop import SCALAR, bools, launch_split, mat33s, vec3s

THRESHOLD = 1e-4
"""Least magnitude of a determinant that counts as regular."""
SWEEPS = 12
"""Jacobi sweeps at most; six settle any 3 x 3 matrix in float64."""


@wp.func
def cofactor_inverse(matrix: Any, threshold: Any):
    """Inverse and determinant; the inverse is zero where the determinant's magnitude is not above ``threshold``."""
    columns = wp.transpose(matrix)
    rows = wp.matrix_from_rows(
        wp.cross(columns[1], columns[2]), wp.cross(columns[2], columns[0]), wp.cross(columns[0], columns[1])
    )
    determinant = wp.dot(columns[0], rows[0])
    scale = matrix.dtype(0.0)
    if wp.abs(determinant) > threshold:
        scale = matrix.dtype(1.0) / determinant
    return rows * scale, determinant


@wp.kernel(enable_backward=False, module="unique")
def inverse_3x3_kernel(
    first: wp.int32,
    matrices: wp.array[Any],  # [N] mat33
    threshold: Any,
    # outputs
    inverse: wp.array[Any],  # [N] mat33
    regular: wp.array[wp.bool],  # [N]
):
    """Invert by cofactors where the determinant allows."""
    i = first + wp.tid()
    inverted, determinant = cofactor_inverse(matrices[i], threshold)
    regular[i] = wp.abs(determinant) > threshold
    if regular[i]:
        inverse[i] = inverted


@wp.kernel(enable_backward=False, module="unique")
def inverse_3x3_vjp_kernel(
    first: wp.int32,
    inverse: wp.array[Any],  # [N] mat33
    regular: wp.array[wp.bool],  # [N]
    grad_inverse: wp.array[Any],  # [N] mat33
    # outputs
    grad_matrices: wp.array[Any],  # [N] mat33
):
    """Gradient of the inverse carried back to the matrix: ``-X^T G X^T``."""
    i = first + wp.tid()
    if regular[i]:
        turned = wp.transpose(inverse[i])
        grad_matrices[i] = -(turned * grad_inverse[i] * turned)


@wp.func
def made_orthogonal(a: Any, b: Any, v: Any, w: Any, least: Any):
    """Columns ``a`` and ``b``, and ``v`` and ``w`` with them, turned until the first two are orthogonal.

    Last comes the squared sine of the turn: what a sweep leaves over is of its size, as Jacobi's method converges
    quadratically.
    """
    one = a.dtype(1.0)
    mixed = wp.dot(a, b)
    own_a = wp.dot(a, a)
    own_b = wp.dot(b, b)
    cosine = one
    sine = a.dtype(0.0)
    if wp.abs(mixed) > least * wp.sqrt(own_a * own_b):
        ratio = (own_b - own_a) / (mixed + mixed)
        tangent = wp.where(ratio < a.dtype(0.0), -one, one) / (wp.abs(ratio) + wp.sqrt(one + ratio * ratio))
        cosine = one / wp.sqrt(one + tangent * tangent)
        sine = cosine * tangent
    return cosine * a - sine * b, sine * a + cosine * b, cosine * v - sine * w, sine * v + cosine * w, sine * sine


@wp.func
def longer_first(a: Any, b: Any, v: Any, w: Any):
    """Columns ``a`` and ``b``, and ``v`` and ``w`` with them, the longer of the first two ahead."""
    if wp.dot(a, a) < wp.dot(b, b):
        return b, a, w, v
    return a, b, v, w


@wp.kernel(enable_backward=False, module="unique")
def singular_values_kernel(
    first: wp.int32,
    matrices: wp.array[Any],  # [N] mat33
    least: Any,
    sweeps: wp.int32,
    # outputs
    values: wp.array[Any],  # [N] vec3
    left: wp.array[Any],  # [N] mat33, singular vectors in rows
    right: wp.array[Any],  # [N] mat33, singular vectors in rows
):
    """Turn the columns of a matrix until they are orthogonal; their lengths are its singular values."""
    i = first + wp.tid()
    zero = values.dtype.dtype(0.0)
    columns = wp.transpose(matrices[i])
    scale = zero
    unknown = zero  # becomes NaN where an entry is not finite
    for row in range(3):
        scale = wp.max(scale, wp.max(wp.abs(columns[row])))
        unknown += (columns[row, 0] + columns[row, 1] + columns[row, 2]) * zero
    if scale > zero:
        columns = columns / scale
    frame = wp.identity(n=3, dtype=values.dtype.dtype)
    a = columns[0]
    b = columns[1]
    c = columns[2]
    u = frame[0]
    v = frame[1]
    w = frame[2]
    for _sweep in range(sweeps):
        a, b, u, v, turned_ab = made_orthogonal(a, b, u, v, least)
        a, c, u, w, turned_ac = made_orthogonal(a, c, u, w, least)
        b, c, v, w, turned_bc = made_orthogonal(b, c, v, w, least)
        if wp.max(turned_ab, wp.max(turned_ac, turned_bc)) <= least:
            break
    a, b, u, v = longer_first(a, b, u, v)
    b, c, v, w = longer_first(b, c, v, w)
    a, b, u, v = longer_first(a, b, u, v)
    lengths = values.dtype(wp.length(a), wp.length(b), wp.length(c))
    values[i] = lengths * scale + values.dtype(unknown, unknown, unknown)
    left[i] = wp.matrix_from_rows(wp.normalize(a), wp.normalize(b), wp.normalize(c))
    right[i] = wp.matrix_from_rows(u, v, w)


@wp.kernel(enable_backward=False, module="unique")
def singular_values_vjp_kernel(
    first: wp.int32,
    left: wp.array[Any],  # [N] mat33
    right: wp.array[Any],  # [N] mat33
    grad_values: wp.array[Any],  # [N] vec3
    # outputs
    grad_matrices: wp.array[Any],  # [N] mat33
):
    """Gradient of the singular values carried back to the matrix: ``sum_i g_i u_i v_i^T``."""
    i = first + wp.tid()
    grad_matrices[i] = wp.transpose(left[i]) * wp.diag(grad_values[i]) * right[i]


class _Inverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrices: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        inverse = torch.zeros_like(matrices)
        regular = torch.zeros(len(matrices), dtype=torch.bool, device=matrices.device)
        inputs = [mat33s(matrices), SCALAR[matrices.dtype](threshold)]
        launch_split(inverse_3x3_kernel, matrices, (len(matrices),), inputs, [mat33s(inverse), bools(regular)])
        ctx.save_for_backward(inverse, regular)
        ctx.mark_non_differentiable(regular)
        return inverse, regular

    @staticmethod
    def backward(ctx: Any, grad_inverse: Tensor, _: None) -> tuple[Tensor, None]:
        return _InverseVjp.apply(*ctx.saved_tensors, grad_inverse.contiguous()), None


class _InverseVjp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inverse: Tensor, regular: Tensor, grad_inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse, regular, grad_inverse)
        grad_matrices = torch.zeros_like(inverse)
        inputs = [mat33s(inverse), bools(regular), mat33s(grad_inverse)]
        launch_split(inverse_3x3_vjp_kernel, inverse, (len(inverse),), inputs, [mat33s(grad_matrices)])
        return grad_matrices

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor, None, Tensor]:
        inverse, regular, grad_inverse = ctx.saved_tensors
        direction, turned = torch.where(regular[:, None, None], direction, 0.0), inverse.mT
        to_inverse = -(grad_inverse @ turned @ direction.mT + direction.mT @ turned @ grad_inverse)
        return to_inverse, None, -(inverse @ direction @ inverse)


class _SingularValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrices: Tensor) -> Tensor:
        values = matrices.new_zeros(len(matrices), 3)
        left, right = torch.empty_like(matrices), torch.empty_like(matrices)
        least = SCALAR[matrices.dtype](torch.finfo(matrices.dtype).eps)
        outputs = [vec3s(values), mat33s(left), mat33s(right)]
        launch_split(singular_values_kernel, matrices, (len(matrices),), [mat33s(matrices), least, SWEEPS], outputs)
        ctx.save_for_backward(left, right)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_values: Tensor) -> Tensor:
        left, right = ctx.saved_tensors
        grad_matrices = torch.zeros_like(left)
        inputs = [mat33s(left), mat33s(right), vec3s(grad_values.contiguous())]
        launch_split(singular_values_vjp_kernel, left, (len(left),), inputs, [mat33s(grad_matrices)])
        return grad_matrices


def _flat_matrices(matrices: Tensor) -> Tensor:
    """Checked matrices ``[N, 3, 3]``, contiguous."""
    if matrices.dim() < 2 or tuple(matrices.shape[-2:]) != (3, 3):
        raise ValueError(f"matrices must have shape [..., 3, 3], got {list(matrices.shape)}")
    require_like("matrices", matrices)
    return matrices.reshape(matrices.shape[:-2].numel(), 3, 3).contiguous()


def inverse_3x3(matrices: Tensor, threshold: float = THRESHOLD) -> tuple[Tensor, Tensor]:
    """Invert small matrices by cofactors.

    Args:
        matrices: ``[..., 3, 3]``.
        threshold: Least magnitude of the determinant that counts as regular.

    Returns:
        The inverse ``[..., 3, 3]``, zero and without gradient where singular or not finite, and the mask ``[...]`` of
        the regular ones; the inverse is differentiable twice.

    Raises:
        ValueError: The shape or dtype disagrees.
    """
    inverse, regular = _Inverse.apply(_flat_matrices(matrices), threshold)
    return inverse.view(matrices.shape), regular.view(matrices.shape[:-2])


def singular_values_3x3(matrices: Tensor) -> Tensor:
    """Singular values of small matrices.

    Args:
        matrices: ``[..., 3, 3]``.

    Returns:
        Singular values in falling order, ``[..., 3]``; NaN where an entry is not finite. Differentiable once, by
        ``sum_i g_i u_i v_i^T``. That is finite everywhere, and the derivative of every symmetric function of the values
        also where they repeat, as at the identity: such a function weighs equal values equally, and the sum then does
        not depend on which singular vectors stand for them. A function that tells equal values apart has no derivative
        there; it gets that of one choice of vectors. A value of zero counts as constant.

    Raises:
        ValueError: The shape or dtype disagrees.

    Source: one-sided Jacobi rotations (Hestenes 1958).
    """
    values: Tensor = _SingularValues.apply(_flat_matrices(matrices))
    return values.view(*matrices.shape[:-2], 3)
