"""The published ray solve: gradient descent with Polyak's step on field value and angle off the ray together."""

from __future__ import annotations

import torch
from torch import Tensor

from selfrecon_warp.surface.intersection import DeformFunction, FieldFunction, Intersection

FIELD_WEIGHT = 3.05
"""Weight of ``|f|`` [1/m] beside the sine of the angle off the ray."""


def intersect_polyak(
    start: Tensor,
    directions: Tensor,
    centre: Tensor,
    field: FieldFunction,
    deform: DeformFunction,
    *,
    steps: int,
    distance_tolerance: float,
    angle_tolerance: float,
) -> Intersection:
    """Descend ``e(p) = 3.05 |f(p)| + ‖u x v‖ / ‖u‖``, ``u = D(p) - c``, by ``e ∇e / ‖∇e‖²``, aiming at zero.

    Args:
        start: Canonical start points [m], ``[B, R, 3]``.
        directions: Unit ray directions in the world, ``[B, R, 3]``.
        centre: Camera centre in the world [m], ``[3]``.
        field: Signed distance and gradient.
        deform: Posed positions; differentiated here, so it must not stop the graph.
        steps: Iterations at most.
        distance_tolerance: Allowed |f| [m].
        angle_tolerance: Allowed angle between ray and posed point [rad].

    Returns:
        Points and their convergence, without graph; converged points stand still, the others keep their last iterate.

    Source: SelfRecon, section 3.4 and its reference implementation; step after Polyak 1969.
    """
    points, directions, centre = start.detach().clone(), directions.detach(), centre.detach()
    converged = torch.zeros(points.shape[:-1], dtype=torch.bool, device=points.device)
    for step in range(steps + 1):
        with torch.enable_grad():
            moving = points.requires_grad_()
            towards = deform(moving) - centre
            sine = torch.linalg.cross(towards, directions.expand_as(towards)).norm(dim=-1) / towards.norm(dim=-1)
            (slope,) = torch.autograd.grad(sine.sum(), moving)
        with torch.no_grad():
            value, gradient = field(points)
            converged = (value.abs() < distance_tolerance) & (sine < torch.sin(sine.new_tensor(angle_tolerance)))
            if step == steps or bool(converged.all()):
                break
            slope = slope.nan_to_num(0.0) + FIELD_WEIGHT * value.sign()[..., None] * gradient
            error = FIELD_WEIGHT * value.abs() + sine
            update = (error / slope.square().sum(-1).clamp_min(1e-12))[..., None] * slope
            points = torch.where(converged[..., None], points, points - update).detach()
    return Intersection(points.detach(), converged)
