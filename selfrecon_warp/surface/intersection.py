"""Where a pixel's ray meets the deformed implicit surface, and how that point moves with every parameter.

Unknown canonical point ``p`` with ``f(p) = 0`` and ``D(p)`` on the ray ``c + t v``. Solved by Gauss-Newton without a
graph; :func:`attach_implicit_gradient` then returns the same numbers with the implicit function theorem's derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

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


def inverse_3x3(matrices: Tensor, threshold: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Invert ``[..., 3, 3]`` by cofactors: the inverse, zero where singular, and the mask of the regular ones."""
    a, b, c = matrices.unbind(-1)
    rows = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], -2)
    determinant = (a * rows[..., 0, :]).sum(-1)
    regular = determinant.abs() > threshold
    safe = torch.where(regular, determinant, torch.ones_like(determinant))
    return torch.where(regular[..., None, None], rows / safe[..., None, None], torch.zeros_like(rows)), regular


def _off_ray(posed: Tensor, centre: Tensor, directions: Tensor) -> Tensor:
    """The part of ``posed - centre`` that is perpendicular to the ray, ``[B, R, 3]``."""
    offset = posed - centre
    return offset - (offset * directions).sum(-1, keepdim=True) * directions


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
    along = (inverse @ directions[..., None])[..., 0]
    for step in range(steps + 1):
        value, gradient = field(points)
        posed = deform(points)
        error = _off_ray(posed, centre, directions)
        angle = error.norm(dim=-1) / (posed - centre).norm(dim=-1).clamp_min(1e-9)
        converged = (value.abs() < distance_tolerance) & (angle < angle_tolerance)
        if step == steps or bool(converged.all()):
            break
        across = -(inverse @ error[..., None])[..., 0]
        slope = (gradient * along).sum(-1)
        usable = regular & (slope.abs() > 0.05)
        slide = -(value + (gradient * across).sum(-1)) / torch.where(usable, slope, torch.ones_like(slope))
        update = across + torch.where(usable, slide, torch.zeros_like(slide))[..., None] * along
        update = update * (max_step / update.norm(dim=-1, keepdim=True).clamp_min(max_step))
        points = torch.where((converged | ~regular)[..., None], points, points + update)
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
    with torch.no_grad():
        inverse, regular = inverse_3x3(jacobian)
        along = (inverse @ directions[..., None])[..., 0]
        slope = (gradient * along).sum(-1)
        regular = regular & (slope.abs() > 1e-3)
        safe = torch.where(regular, slope, torch.ones_like(slope))
        normal = gradient.detach()
        distance = ((posed - centre) * directions).sum(-1, keepdim=True)
    target = posed - centre - distance * directions
    change = target - target.detach()
    field_change = value - value.detach()
    pulled = (inverse @ change[..., None])[..., 0]
    slide = ((normal * pulled).sum(-1) - field_change) / safe
    moved = points.detach() - pulled + slide[..., None] * along
    return torch.where(regular[..., None], moved, points.detach()), regular
