"""Plain-torch twin of the rays' linear algebra."""

from __future__ import annotations

import torch
from torch import Tensor

from selfrecon_warp.kernels.intersection import STEP_SLOPE, RayStep
from selfrecon_warp.kernels.reference.small_matrices import inverse_3x3
from selfrecon_warp.kernels.small_matrices import THRESHOLD


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
    """Test rays for convergence and take one Gauss-Newton step with those that have not converged."""
    along = (inverse @ directions[..., None])[..., 0]
    offset = posed - centre
    error = offset - (offset * directions).sum(-1, keepdim=True) * directions
    angle = error.norm(dim=-1) / offset.norm(dim=-1).clamp_min(1e-9)
    converged = (value.abs() < distance_tolerance) & (angle < angle_tolerance)
    across = -(inverse @ error[..., None])[..., 0]
    slope = (gradient * along).sum(-1)
    usable = regular & (slope.abs() > STEP_SLOPE)
    slide = -(value + (gradient * across).sum(-1)) / torch.where(usable, slope, torch.ones_like(slope))
    update = across + torch.where(usable, slide, torch.zeros_like(slide))[..., None] * along
    update = update * (max_step / update.norm(dim=-1, keepdim=True).clamp_min(max_step))
    return RayStep(torch.where((converged | ~regular)[..., None], points, points + update), converged)


def implicit_gradient(
    points: Tensor,
    value: Tensor,
    gradient: Tensor,
    posed: Tensor,
    jacobian: Tensor,
    directions: Tensor,
    centre: Tensor,
    form: str = "inverse",
    threshold: float = THRESHOLD,
) -> tuple[Tensor, Tensor]:
    """Give solved points their derivative by field, deformation and camera."""
    points, normal, jacobian = points.detach(), gradient.detach(), jacobian.detach()
    change = value - value.detach()
    if form == "least_squares":
        ray = directions.detach()[..., None, :].expand_as(jacobian)
        system = torch.cat([normal[..., None, :], torch.linalg.cross(ray, jacobian.mT).mT], -2)
        inverse, regular = inverse_3x3(system.mT @ system, threshold)
        off_ray = torch.linalg.cross(directions, posed - centre)
        residual = torch.cat([change[..., None], off_ray - off_ray.detach()], -1)
        return points - (inverse @ system.mT @ residual[..., None])[..., 0], regular
    inverse, regular = inverse_3x3(jacobian, threshold)
    along = (inverse @ directions.detach()[..., None])[..., 0]
    slope = (normal * along).sum(-1)
    regular = regular & (slope.abs() > threshold**0.5)
    distance = ((posed - centre) * directions).sum(-1, keepdim=True).detach()
    target = posed - centre - distance * directions
    pulled = (inverse @ (target - target.detach())[..., None])[..., 0]
    slide = ((normal * pulled).sum(-1) - change) / torch.where(regular, slope, torch.ones_like(slope))
    return torch.where(regular[..., None], points - pulled + slide[..., None] * along, points), regular
