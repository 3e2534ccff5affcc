"""Plain-torch twin of inverse skinning."""

from __future__ import annotations

import torch
from torch import Tensor

from selfrecon_warp.kernels.inverse_skinning import Unskinned
from selfrecon_warp.kernels.reference.grid_sample import grid_sample
from selfrecon_warp.kernels.reference.skinning import skin_points


def unskin_points(posed: Tensor, weights: Tensor, bones: Tensor, threshold: float = 1e-6) -> Unskinned:
    """Carry posed points back with weights that stay what they are."""
    matrices = torch.einsum("bpj,bjmn->bpmn", weights.expand(len(bones), *weights.shape[-2:]), bones)
    linear, shift = matrices[..., :3, :3], matrices[..., :3, 3]
    converged = (linear.det().abs() > threshold) & posed.isfinite().all(-1) & matrices.isfinite().flatten(-2).all(-1)
    eye = torch.eye(3).to(posed).expand_as(linear)
    solved = torch.linalg.solve(torch.where(converged[..., None, None], linear, eye), (posed - shift)[..., None])[
        ..., 0
    ]
    points = torch.where(converged[..., None], solved, posed.detach())
    residual = ((linear @ points[..., None])[..., 0] + shift - posed).norm(dim=-1).detach()
    return Unskinned(points, converged, residual)


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
    """Carry posed points back where weights vary in space, all points a step at a time."""

    def jacobian(points: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            moving = points.detach().requires_grad_()
            weights = grid_sample(volume.detach(), moving.flatten(0, 1), lower, upper).unflatten(0, moving.shape[:2])
            landed = skin_points(moving, weights, bones.detach())
            rows = [torch.autograd.grad(x.sum(), moving, retain_graph=True)[0] for x in landed.unbind(-1)]
        return landed.detach() - posed.detach(), torch.stack(rows, dim=-2)

    if isinstance(starts, int):
        starts = _ranked_starts(posed.detach(), volume.detach(), lower, upper, bones.detach(), starts, threshold)
    found = posed.detach().clone()
    least = torch.full(posed.shape[:2], torch.inf).to(posed)
    converged = torch.zeros(posed.shape[:2], dtype=torch.bool, device=posed.device)
    for start in starts.unbind(2):
        points = start.detach().clone()
        residual, matrix = jacobian(points)
        length = torch.ones_like(least)
        for _ in range(steps):
            regular = matrix.det().abs() > threshold
            moving = regular & (residual.norm(dim=-1) > tolerance)
            if not moving.any():
                break
            safe = torch.where(regular[..., None, None], matrix, torch.eye(3).to(matrix))
            trial = points - length[..., None] * torch.linalg.solve(safe, residual[..., None])[..., 0]
            trial = torch.where(moving[..., None], trial, points)
            trial_residual, trial_matrix = jacobian(trial)
            better = moving & (trial_residual.norm(dim=-1) < residual.norm(dim=-1))
            points = torch.where(better[..., None], trial, points)
            residual = torch.where(better[..., None], trial_residual, residual)
            matrix = torch.where(better[..., None, None], trial_matrix, matrix)
            length = torch.where(better, 1.0, 0.5 * length)
        distance = residual.norm(dim=-1)
        done = (distance <= tolerance) & (matrix.det().abs() > threshold)
        takes = ~converged & (done | (distance < least))
        found = torch.where(takes[..., None], points, found)
        least = torch.where(takes, distance, least)
        converged = converged | done
    least = torch.where(least.isfinite(), least, torch.nan)
    return Unskinned(_implicit(found, converged, posed, volume, lower, upper, bones, jacobian), converged, least)


def _ranked_starts(posed, volume, lower, upper, bones, count, threshold) -> Tensor:
    """Where single bones carry the points back to, those first whose weight is largest there."""
    regular = bones[..., :3, :3].det().abs() > threshold
    safe = torch.where(regular[..., None, None], bones, torch.eye(4).to(bones))
    lifted = torch.nn.functional.pad(posed, (0, 1), value=1.0)
    starts = torch.einsum("bjmn,bpn->bpjm", torch.linalg.inv(safe), lifted)[..., :3]
    weights = grid_sample(volume, starts.flatten(0, 2), lower, upper).view(*starts.shape[:3], -1)
    order = weights.diagonal(dim1=-2, dim2=-1).argsort(dim=-1, descending=True, stable=True)[..., :count]
    return torch.take_along_dim(starts, order[..., None], dim=2)


def _implicit(found, converged, posed, volume, lower, upper, bones, jacobian) -> Tensor:
    """One more Newton step that moves nothing and carries the derivative."""
    held = torch.where(converged[..., None], found, lower.to(found))
    _, matrix = jacobian(held)
    weights = grid_sample(volume, held.flatten(0, 1), lower, upper).unflatten(0, held.shape[:2])
    change = posed - skin_points(held, weights, bones)
    change = torch.where(converged[..., None], change - change.detach(), 0.0)
    eye = torch.eye(3).to(matrix)
    step = torch.linalg.solve(torch.where(converged[..., None, None], matrix, eye), change[..., None])[..., 0]
    return found + step
