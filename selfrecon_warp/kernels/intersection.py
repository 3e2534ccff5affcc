"""The small linear algebra of rays that meet a deformed surface: one thread a ray.

Unknown canonical point ``p`` with ``f(p) = 0`` and ``D(p)`` on the ray ``c + t v``; ``J = dD/dp``, ``n`` the gradient
of ``f``. With ``w = J^-1 v`` the linearised system has the solution

    dp = -J^-1 r + w (n . J^-1 r - f) / (n . w),        r = the part of D - c perpendicular to v

both for the step towards the solution and for its derivative.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.arguments import require_like
from selfrecon_warp.kernels.interop import SCALAR, bools, launch_split, mat33s, scalars, vec3s
from selfrecon_warp.kernels.small_matrices import THRESHOLD, cofactor_inverse

STEP_SLOPE = 0.05
"""Least change of the field along a canonical ray, per metre of the posed one, that a step slides by."""


class RayStep(NamedTuple):
    """Where rays stand after a Gauss-Newton step."""

    points: Tensor
    """Canonical positions after the step [m], ``[B, R, 3]``; converged and singular rays stay where they were."""
    converged: Tensor
    """Both residuals were within tolerance before the step, ``[B, R]`` bool."""


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


@wp.func
def normal_matrix(gradient: Any, jacobian: Any, direction: Any):
    """``B^T B`` of the 4 x 3 system ``B = [n^T; [v]x J]``, and ``[v]x J``."""
    across = wp.skew(direction) * jacobian
    return wp.outer(gradient, gradient) + wp.transpose(across) * across, across


@wp.kernel(enable_backward=False, module="unique")
def regular_kernel(
    first: wp.int32,
    gradient: wp.array[Any],  # [N] vec3
    jacobian: wp.array[Any],  # [N] mat33
    directions: wp.array[Any],  # [N] vec3
    least_squares: wp.bool,
    threshold: Any,
    least_slope: Any,
    # outputs
    regular: wp.array[wp.bool],  # [N]
):
    """Whether the system of a ray has a derivative: the 4 x 3 form, or the 3 x 3 one."""
    i = first + wp.tid()
    if least_squares:
        matrix, _across = normal_matrix(gradient[i], jacobian[i], directions[i])
        regular[i] = wp.abs(wp.determinant(matrix)) > threshold
    else:
        inverse, determinant = cofactor_inverse(jacobian[i], threshold)
        slope = wp.dot(gradient[i], inverse * directions[i])
        regular[i] = wp.abs(determinant) > threshold and wp.abs(slope) > least_slope


@wp.func
def solved_vjp(
    least_squares: wp.bool,
    gradient: Any,
    offset: Any,
    jacobian: Any,
    direction: Any,
    threshold: Any,
    grad_point: Any,
):
    """Gradients of value, posed point and direction by either form, the point being ``offset`` from the centre."""
    if least_squares:
        matrix, across = normal_matrix(gradient, jacobian, direction)
        inverse, _determinant = cofactor_inverse(matrix, threshold)
        solved = inverse * grad_point
        turned = across * solved
        return -wp.dot(gradient, solved), wp.cross(direction, turned), wp.cross(turned, offset)
    inverse, _determinant = cofactor_inverse(jacobian, threshold)
    along = inverse * direction
    share = wp.dot(grad_point, along) / wp.dot(gradient, along)
    pull = wp.transpose(inverse) * (share * gradient - grad_point)
    return -share, pull, -wp.dot(offset, direction) * pull


@wp.kernel(enable_backward=False, module="unique")
def implicit_gradient_vjp_kernel(
    first: wp.int32,
    gradient: wp.array[Any],  # [N] vec3
    posed: wp.array[Any],  # [N] vec3
    jacobian: wp.array[Any],  # [N] mat33
    directions: wp.array[Any],  # [N] vec3
    centre: wp.array[Any],  # [1] vec3
    regular: wp.array[wp.bool],  # [N]
    least_squares: wp.bool,
    threshold: Any,
    grad_points: wp.array[Any],  # [N] vec3
    # outputs
    grad_value: wp.array[Any],  # [N]
    grad_posed: wp.array[Any],  # [N] vec3
    grad_directions: wp.array[Any],  # [N] vec3
):
    """Gradient of the solved point; that of the centre is the negated sum of ``grad_posed``."""
    i = first + wp.tid()
    if regular[i]:
        offset = posed[i] - centre[0]
        to_value, to_posed, to_direction = solved_vjp(
            least_squares, gradient[i], offset, jacobian[i], directions[i], threshold, grad_points[i]
        )
        grad_value[i] = to_value
        grad_posed[i] = to_posed
        grad_directions[i] = to_direction


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
        inputs += [form == "least_squares", scalar(threshold), scalar(threshold**0.5)]
        launch_split(regular_kernel, points, (regular.numel(),), inputs, [bools(regular.view(-1))])
        ctx.save_for_backward(gradient, posed, jacobian, directions, centre, regular)
        ctx.form, ctx.threshold = form, threshold
        ctx.mark_non_differentiable(regular)
        return points.clone(), regular

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_points: Tensor, _: None) -> tuple[Tensor | None, ...]:
        gradient, posed, jacobian, directions, centre, regular = ctx.saved_tensors
        to_value, to_posed, to_directions = (torch.zeros_like(x) for x in (regular.to(posed), posed, directions))
        inputs = [vec3s(gradient.view(-1, 3)), vec3s(posed.view(-1, 3)), mat33s(jacobian.view(-1, 3, 3))]
        inputs += [vec3s(directions.view(-1, 3)), vec3s(centre.view(1, 3)), bools(regular.view(-1))]
        inputs += [ctx.form == "least_squares", SCALAR[posed.dtype](ctx.threshold)]
        inputs.append(vec3s(grad_points.contiguous().view(-1, 3)))
        outputs = [scalars(to_value.view(-1)), vec3s(to_posed.view(-1, 3)), vec3s(to_directions.view(-1, 3))]
        launch_split(implicit_gradient_vjp_kernel, posed, (regular.numel(),), inputs, outputs)
        return None, to_value, None, to_posed, None, to_directions, -to_posed.flatten(0, -2).sum(0), None, None


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
            The latter is the square of the field's slope along the ray where ``jacobian`` is a rotation, so
            ``inverse`` asks for a slope of its square root too: rays that graze the surface carry no gradient.

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
