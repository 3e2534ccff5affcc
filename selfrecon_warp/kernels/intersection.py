"""The small linear algebra of rays that meet a deformed surface: one thread a ray.

Unknown canonical point ``p`` with ``f(p) = 0`` and ``D(p)`` on the ray ``c + t v``; ``J = dD/dp``, ``n`` the gradient
of ``f``. With ``w = J^-1 v`` the linearised system has the solution

    dp = -J^-1 r + w (n . J^-1 r - f) / (n . w),        r = the part of D - c perpendicular to v

both for the step towards the solution and for its derivative. The inverse by cofactors and the singular values by
one-sided Jacobi rotations (Hestenes 1958) serve the losses as well.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.interop import SCALAR, bools, launch_split, mat33s, require_like, scalars, vec3s

THRESHOLD = 1e-4
"""Least magnitude of a determinant that counts as regular."""
STEP_SLOPE = 0.05
"""Least change of the field along a canonical ray, per metre of the posed one, that a step slides by."""
GRADIENT_SLOPE = 1e-3
"""The same for a derivative to exist."""
SWEEPS = 12
"""Jacobi sweeps at most; six settle any 3 x 3 matrix in float64."""


class RayStep(NamedTuple):
    """Where rays stand after a Gauss-Newton step."""

    points: Tensor
    """Canonical positions after the step [m], ``[B, R, 3]``; converged and singular rays stay where they were."""
    converged: Tensor
    """Both residuals were within tolerance before the step, ``[B, R]`` bool."""


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


@wp.kernel(enable_backward=False, module="unique")
def ray_step_kernel(
    first: wp.int32,
    points: wp.array[Any],  # [N] vec3
    value: wp.array[Any],  # [N]
    gradient: wp.array[Any],  # [N] vec3
    posed: wp.array[Any],  # [N] vec3
    directions: wp.array[Any],  # [N] vec3
    centre: wp.array[Any],  # [1] vec3
    inverse: wp.array[Any],  # [N] mat33
    regular: wp.array[wp.bool],  # [N]
    distance_tolerance: Any,
    angle_tolerance: Any,
    least_slope: Any,
    max_step: Any,
    # outputs
    moved: wp.array[Any],  # [N] vec3
    converged: wp.array[wp.bool],  # [N]
):
    """Test a ray for convergence; move it if it has not converged."""
    i = first + wp.tid()
    point = points[i]
    direction = directions[i]
    offset = posed[i] - centre[0]
    error = offset - wp.dot(offset, direction) * direction
    angle = wp.length(error) / wp.max(wp.length(offset), value.dtype(1e-9))
    converged[i] = wp.abs(value[i]) < distance_tolerance and angle < angle_tolerance
    if regular[i] and not converged[i]:
        along = inverse[i] * direction
        update = -(inverse[i] * error)
        slope = wp.dot(gradient[i], along)
        if wp.abs(slope) > least_slope:
            update -= (value[i] + wp.dot(gradient[i], update)) / slope * along
        length = wp.length(update)
        if length > max_step:
            update *= max_step / length
        point += update
    moved[i] = point


@wp.kernel(enable_backward=False, module="unique")
def regular_inverse_kernel(
    first: wp.int32,
    gradient: wp.array[Any],  # [N] vec3
    jacobian: wp.array[Any],  # [N] mat33
    directions: wp.array[Any],  # [N] vec3
    threshold: Any,
    least_slope: Any,
    # outputs
    regular: wp.array[wp.bool],  # [N]
):
    """Whether the 3 x 3 form has a derivative at a ray."""
    i = first + wp.tid()
    inverse, determinant = cofactor_inverse(jacobian[i], threshold)
    slope = wp.dot(gradient[i], inverse * directions[i])
    regular[i] = wp.abs(determinant) > threshold and wp.abs(slope) > least_slope


@wp.kernel(enable_backward=False, module="unique")
def implicit_inverse_vjp_kernel(
    first: wp.int32,
    gradient: wp.array[Any],  # [N] vec3
    posed: wp.array[Any],  # [N] vec3
    jacobian: wp.array[Any],  # [N] mat33
    directions: wp.array[Any],  # [N] vec3
    centre: wp.array[Any],  # [1] vec3
    regular: wp.array[wp.bool],  # [N]
    threshold: Any,
    grad_points: wp.array[Any],  # [N] vec3
    # outputs
    grad_value: wp.array[Any],  # [N]
    grad_posed: wp.array[Any],  # [N] vec3
    grad_directions: wp.array[Any],  # [N] vec3
):
    """Gradient of the solved point by the 3 x 3 form; that of the centre is the negated sum of ``grad_posed``."""
    i = first + wp.tid()
    if regular[i]:
        inverse, _determinant = cofactor_inverse(jacobian[i], threshold)
        along = inverse * directions[i]
        share = wp.dot(grad_points[i], along) / wp.dot(gradient[i], along)
        pull = wp.transpose(inverse) * (share * gradient[i] - grad_points[i])
        grad_value[i] = -share
        grad_posed[i] = pull
        grad_directions[i] = -wp.dot(posed[i] - centre[0], directions[i]) * pull


@wp.func
def normal_matrix(gradient: Any, jacobian: Any, direction: Any):
    """``B^T B`` of the 4 x 3 system ``B = [n^T; [v]x J]``, and ``[v]x J``."""
    across = wp.skew(direction) * jacobian
    return wp.outer(gradient, gradient) + wp.transpose(across) * across, across


@wp.kernel(enable_backward=False, module="unique")
def regular_least_squares_kernel(
    first: wp.int32,
    gradient: wp.array[Any],  # [N] vec3
    jacobian: wp.array[Any],  # [N] mat33
    directions: wp.array[Any],  # [N] vec3
    threshold: Any,
    # outputs
    regular: wp.array[wp.bool],  # [N]
):
    """Whether the 4 x 3 form has a derivative at a ray."""
    i = first + wp.tid()
    matrix, _across = normal_matrix(gradient[i], jacobian[i], directions[i])
    regular[i] = wp.abs(wp.determinant(matrix)) > threshold


@wp.kernel(enable_backward=False, module="unique")
def implicit_least_squares_vjp_kernel(
    first: wp.int32,
    gradient: wp.array[Any],  # [N] vec3
    posed: wp.array[Any],  # [N] vec3
    jacobian: wp.array[Any],  # [N] mat33
    directions: wp.array[Any],  # [N] vec3
    centre: wp.array[Any],  # [1] vec3
    regular: wp.array[wp.bool],  # [N]
    threshold: Any,
    grad_points: wp.array[Any],  # [N] vec3
    # outputs
    grad_value: wp.array[Any],  # [N]
    grad_posed: wp.array[Any],  # [N] vec3
    grad_directions: wp.array[Any],  # [N] vec3
):
    """Gradient of the solved point by the 4 x 3 form; that of the centre is the negated sum of ``grad_posed``."""
    i = first + wp.tid()
    if regular[i]:
        matrix, across = normal_matrix(gradient[i], jacobian[i], directions[i])
        inverse, _determinant = cofactor_inverse(matrix, threshold)
        solved = inverse * grad_points[i]
        turned = across * solved
        grad_value[i] = -wp.dot(gradient[i], solved)
        grad_posed[i] = wp.cross(directions[i], turned)
        grad_directions[i] = wp.cross(turned, posed[i] - centre[0])


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


class _ImplicitGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        points: Tensor,
        _value: Tensor,
        gradient: Tensor,
        posed: Tensor,
        jacobian: Tensor,
        directions: Tensor,
        centre: Tensor,
        form: str,
        threshold: float,
    ) -> tuple[Tensor, Tensor]:
        regular = torch.zeros(points.shape[:-1], dtype=torch.bool, device=points.device)
        scalar = SCALAR[points.dtype]
        inputs = [vec3s(gradient.view(-1, 3)), mat33s(jacobian.view(-1, 3, 3)), vec3s(directions.view(-1, 3))]
        kernel = regular_least_squares_kernel
        if form == "inverse":
            kernel = regular_inverse_kernel
            inputs += [scalar(threshold), scalar(GRADIENT_SLOPE)]
        else:
            inputs.append(scalar(threshold))
        launch_split(kernel, points, (regular.numel(),), inputs, [bools(regular.view(-1))])
        ctx.save_for_backward(gradient, posed, jacobian, directions, centre, regular)
        ctx.form, ctx.threshold = form, threshold
        ctx.mark_non_differentiable(regular)
        return points.clone(), regular

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_points: Tensor, _: None) -> tuple[Tensor | None, ...]:
        gradient, posed, jacobian, directions, centre, regular = ctx.saved_tensors
        to_value, to_posed, to_directions = (torch.zeros_like(x) for x in (regular.to(posed), posed, directions))
        kernel = implicit_inverse_vjp_kernel if ctx.form == "inverse" else implicit_least_squares_vjp_kernel
        inputs = [vec3s(gradient.view(-1, 3)), vec3s(posed.view(-1, 3)), mat33s(jacobian.view(-1, 3, 3))]
        inputs += [vec3s(directions.view(-1, 3)), vec3s(centre.view(1, 3)), bools(regular.view(-1))]
        inputs += [SCALAR[posed.dtype](ctx.threshold), vec3s(grad_points.contiguous().view(-1, 3))]
        outputs = [scalars(to_value.view(-1)), vec3s(to_posed.view(-1, 3)), vec3s(to_directions.view(-1, 3))]
        launch_split(kernel, posed, (regular.numel(),), inputs, outputs)
        return None, to_value, None, to_posed, None, to_directions, -to_posed.flatten(0, -2).sum(0), None, None


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


def ray_step(
    points: Tensor,
    value: Tensor,
    gradient: Tensor,
    posed: Tensor,
    directions: Tensor,
    centre: Tensor,
    inverse: Tensor,
    regular: Tensor,
    *,
    distance_tolerance: float,
    angle_tolerance: float,
    max_step: float,
) -> RayStep:
    """Test rays for convergence and take one Gauss-Newton step with those that have not converged.

    The step cancels the error off the ray and slides along it to where the linearised field vanishes. It does not slide
    where the field hardly changes along the ray.

    Args:
        points: Canonical points ``p`` [m], ``[B, R, 3]``.
        value: Signed distance ``f(p)`` [m], ``[B, R]``.
        gradient: Its gradient, ``[B, R, 3]``.
        posed: ``D(p)`` [m], ``[B, R, 3]``.
        directions: Unit ray directions in the world, ``[B, R, 3]``.
        centre: Camera centre in the world [m], ``[3]``.
        inverse: Inverse of ``dD/dp`` at or near ``p``, ``[B, R, 3, 3]``.
        regular: Rays whose ``inverse`` holds, ``[B, R]`` bool; the others stay where they are.
        distance_tolerance: Allowed ``|f|`` [m].
        angle_tolerance: Allowed angle between ray and posed point [rad].
        max_step: Longest step [m].

    Returns:
        Points after the step, and which rays had converged before it; no gradient. Values that are not finite never
        converge and spoil their own ray only.

    Raises:
        ValueError: A shape, dtype or device disagrees; the message names the argument.

    Source: SelfRecon, section 3.4 (the equations).
    """
    require_shapes(
        points=(points, "B R 3"),
        value=(value, "B R"),
        gradient=(gradient, "B R 3"),
        posed=(posed, "B R 3"),
        directions=(directions, "B R 3"),
        centre=(centre, "3"),
        inverse=(inverse, "B R 3 3"),
        regular=(regular, "B R"),
    )
    others = {"value": value, "gradient": gradient, "posed": posed, "directions": directions, "centre": centre}
    require_like("points", points, **others, inverse=inverse)
    if (regular.dtype, regular.device) != (torch.bool, points.device):
        found = f"{regular.dtype} on {regular.device}"
        raise ValueError(f"regular must be bool on {points.device} like points, got {found}; pass inverse_3x3's mask")
    moved, converged = points.new_empty(points.shape), regular.new_empty(regular.shape)
    scalar = SCALAR[points.dtype]
    inputs = [
        vec3s(points.contiguous().view(-1, 3)),
        scalars(value.contiguous().view(-1)),
        *(vec3s(x.contiguous().view(-1, 3)) for x in (gradient, posed, directions, centre)),
        mat33s(inverse.contiguous().view(-1, 3, 3)),
        bools(regular.contiguous().view(-1)),
        *(scalar(x) for x in (distance_tolerance, angle_tolerance, STEP_SLOPE, max_step)),
    ]
    outputs = [vec3s(moved.view(-1, 3)), bools(converged.view(-1))]
    launch_split(ray_step_kernel, points, (regular.numel(),), inputs, outputs)
    return RayStep(moved, converged)


def implicit_gradient(
    points: Tensor,
    value: Tensor,
    gradient: Tensor,
    posed: Tensor,
    jacobian: Tensor,
    directions: Tensor,
    centre: Tensor,
    form: Literal["inverse", "least_squares"] = "inverse",
    threshold: float = THRESHOLD,
) -> tuple[Tensor, Tensor]:
    """Give solved points their derivative by field, deformation and camera.

    Args:
        points: Solved canonical points [m], used as constants, ``[B, R, 3]``.
        value: ``f(points)``, ``[B, R]``.
        gradient: Gradient of ``f``, used as a constant, ``[B, R, 3]``.
        posed: ``D(points)`` [m], ``[B, R, 3]``.
        jacobian: ``dD/dp``, used as a constant, ``[B, R, 3, 3]``.
        directions: Unit ray directions, ``[B, R, 3]``.
        centre: Camera centre [m], ``[3]``.
        form: ``inverse`` solves with the inverse of ``jacobian``; ``least_squares`` is the published system of four
            equations. Both give the same on points that lie on their rays.
        threshold: Least magnitude of the determinant, of ``jacobian`` or of the 3 x 3 normal matrix, that is solved.

    Returns:
        Points equal to ``points``, differentiable once in ``value``, ``posed``, ``directions`` and ``centre``, and the
        mask ``[B, R]`` of rays whose system is regular; the others, values that are not finite among them, carry no
        gradient. Singular rays are counted by ``(~mask).sum()``.

    Raises:
        ValueError: A shape, dtype, device or form disagrees; the message names the argument.

    Source: SelfRecon (Jiang et al. 2022), section 3.4 and its supplement.
    """
    require_shapes(
        points=(points, "B R 3"),
        value=(value, "B R"),
        gradient=(gradient, "B R 3"),
        posed=(posed, "B R 3"),
        jacobian=(jacobian, "B R 3 3"),
        directions=(directions, "B R 3"),
        centre=(centre, "3"),
    )
    inputs = {"value": value, "gradient": gradient, "posed": posed, "jacobian": jacobian}
    inputs |= {"directions": directions, "centre": centre}
    require_like("points", points, **inputs)
    if form not in ("inverse", "least_squares"):
        raise ValueError(f"form must be 'inverse' or 'least_squares', got {form!r}")
    found: tuple[Tensor, Tensor] = _ImplicitGradient.apply(
        points.detach().contiguous(), *(x.contiguous() for x in inputs.values()), form, threshold
    )
    return found
