"""Where a pixel's ray meets the deformed implicit surface, and how that point moves with every parameter.

Unknown canonical point ``p`` with ``f(p) = 0`` and ``D(p)`` on the ray ``c + t v``. Solved by Gauss-Newton without a
graph; :func:`attach_implicit_gradient` then returns the same numbers with the implicit function theorem's derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from selfrecon_warp.kernels.intersection import implicit_gradient, ray_step
from selfrecon_warp.kernels.small_matrices import inverse_3x3

FieldFunction = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Canonical points ``[B, R, 3]`` to signed distance ``[B, R]`` and its gradient ``[B, R, 3]``."""
DeformFunction = Callable[[Tensor], Tensor]
"""Canonical points ``[B, R, 3]`` to posed positions ``[B, R, 3]``."""


class Intersection(NamedTuple):
    """Rays' meeting points with the surface."""

    points: Tensor
    """Canonical positions [m], ``[B, R, 3]``."""
    converged: Tensor
    """Both residuals within tolerance, ``[B, R]`` bool."""


@torch.no_grad()
def intersect(
    start: Tensor,
    directions: Tensor,
    centre: Tensor,
    field: FieldFunction,
    deform: DeformFunction,
    jacobian: Tensor,
    *,
    steps: int,
    distance_tolerance: float,
    angle_tolerance: float,
    max_step: float = 0.05,
) -> Intersection:
    """Gauss-Newton from a rasterised start.

    Each step solves the linearised system exactly: ``J dp`` must cancel the off-ray error up to a slide along the ray,
    and that slide is chosen so that the linearised field vanishes. ``J`` is taken once, near the start: rays begin
    within millimetres of their end, where it hardly changes, and a step that only needs values costs a fraction.

    Args:
        start: Canonical start points [m], ``[B, R, 3]``.
        directions: Unit ray directions in the world, ``[B, R, 3]``.
        centre: Camera centre in the world [m], ``[3]``.
        field: Signed distance and gradient.
        deform: Posed positions.
        jacobian: ``∂D/∂p`` at or near ``start``, ``[B, R, 3, 3]``.
        steps: Iterations at most.
        distance_tolerance: Allowed |f| [m].
        angle_tolerance: Allowed angle between ray and posed point [rad].
        max_step: Longest step [m].

    Returns:
        Points and their convergence; unconverged points keep their last iterate.

    Source: SelfRecon, section 3.4 (the equations); the step replaces its gradient descent.
    """
    points = start.clone()
    inverse, regular = inverse_3x3(jacobian)
    limits = {"distance_tolerance": distance_tolerance, "angle_tolerance": angle_tolerance, "max_step": max_step}
    for step in range(steps + 1):
        value, gradient = field(points)
        posed = deform(points)
        moved, converged = ray_step(points, value, gradient, posed, directions, centre, inverse, regular, **limits)
        if step == steps or bool(converged.all()):
            break
        points = moved
    return Intersection(points, converged)


def attach_implicit_gradient(
    points: Tensor,
    value: Tensor,
    gradient: Tensor,
    posed: Tensor,
    jacobian: Tensor,
    directions: Tensor,
    centre: Tensor,
) -> tuple[Tensor, Tensor]:
    """Give solved points their derivative by field, deformation and camera parameters.

    With ``w = J^-1 v``: ``dp = -J^-1 (dD - dc - t dv) + w (∇f·J^-1 (dD - dc - t dv) - df) / (∇f·w)``.

    Args:
        points: Solved canonical points [m], ``[B, R, 3]``.
        value: ``f(points)`` with its graph, ``[B, R]``.
        gradient: ``∇f``, used as a constant, ``[B, R, 3]``.
        posed: ``D(points)`` with its graph, ``[B, R, 3]``.
        jacobian: ``∂D/∂p``, used as a constant, ``[B, R, 3, 3]``.
        directions: Unit ray directions with their graph, ``[B, R, 3]``.
        centre: Camera centre with its graph, ``[3]``.

    Returns:
        Points equal in value to ``points`` and carrying the gradient, and the mask ``[B, R]`` of rays whose system is
        regular; the others carry none.

    Source: SelfRecon, section 3.4 and its supplement; the 3x3 form is algebraically equal to its 4x3 least squares.
    """
    return implicit_gradient(points, value, gradient, posed, jacobian, directions, centre)
