"""One optimisation step, in the method's order: explicit branch, vertex step, rays, implicit branch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from selfrecon_warp.config import Config, MethodConfig, StageConfig
from selfrecon_warp.kernels.laplacian import loss_laplacian
from selfrecon_warp.kernels.mesh_losses import loss_edge_length, loss_normal_consistency
from selfrecon_warp.kernels.rasterize import pixel_barycentrics, visible_faces
from selfrecon_warp.kernels.skinning import skin_points
from selfrecon_warp.kernels.small_matrices import inverse_3x3
from selfrecon_warp.kernels.topology import mesh_topology
from selfrecon_warp.model.avatar import Avatar
from selfrecon_warp.surface.intersection import Intersection, attach_implicit_gradient, intersect
from selfrecon_warp.surface.polyak import intersect_polyak
from selfrecon_warp.train.explicit import ExplicitMesh
from selfrecon_warp.train.losses import loss_colour, loss_consistency, loss_normal
from selfrecon_warp.train.observations import Observations
from selfrecon_warp.train.regularisers import draw, regulariser_terms
from selfrecon_warp.train.silhouettes import silhouette_loss

TRIAL_STEPS = 3
"""Steps of the ray solve that every ray takes; later ones are for rays that have not converged by then."""


@dataclass(frozen=True)
class Rays:
    """Pixels of one step and where their rays start on the canonical mesh."""

    frames: Tensor  # [B]
    pixels: Tensor  # [B, R, 2] integers
    start: Tensor  # [B, R, 3]


def fit_step(
    avatar: Avatar,
    mesh: ExplicitMesh,
    observations: Observations,
    frames: Tensor,
    stage: StageConfig,
    config: Config,
    optimiser: torch.optim.Optimizer,
    clips: list[tuple[int, int]],
    generator: torch.Generator,
    rate: float,
) -> dict[str, Tensor]:
    """Move explicit vertices, field, offset, colours, codes, poses and camera once.

    Args:
        avatar: What is learned.
        mesh: The explicit mesh.
        observations: The capture.
        frames: Frames of this batch, ``[B]``.
        stage: Sizes and weights.
        config: Learning rates.
        optimiser: Adam over ``avatar``.
        clips: Continuous frame ranges.
        generator: Source of random numbers, on the CPU.
        rate: Factor on the explicit vertices' learning rate; plain SGD keeps its own.

    Returns:
        Loss terms and figures, detached.
    """
    optimiser.zero_grad(set_to_none=True)
    with _matmul_precision("high" if config.method.tf32 else torch.get_float32_matmul_precision()):
        explicit, figures, rays = _explicit_branch(avatar, mesh, observations, frames, stage, config.method, generator)
        if explicit.requires_grad:  # it does not where every term of the branch is switched off
            explicit.backward()
        if config.method.vertex_optimiser == "sgd":
            mesh.descend(config.optimiser.vertices)
        else:
            mesh.step(config.optimiser.vertices * rate, config.optimiser.smoothing)
        implicit, terms = _implicit_branch(avatar, mesh, observations, rays, stage, config.method, clips, generator)
        if implicit.requires_grad:
            implicit.backward()
    optimiser.step()
    return {"explicit": explicit.detach(), **figures, **terms}


@contextmanager
def _matmul_precision(precision: str) -> Iterator[None]:
    """How exactly float32 matrices are multiplied inside the block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _explicit_branch(
    avatar: Avatar,
    mesh: ExplicitMesh,
    observations: Observations,
    frames: Tensor,
    stage: StageConfig,
    method: MethodConfig,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor], Rays]:
    """Silhouettes of the posed mesh against the masks, and how far the offset carries it."""
    weights, masks = stage.losses, observations.masks[frames]
    drawn = partial(_drawn, avatar, mesh, avatar.codes[frames], avatar.bones(frames), method)
    with torch.set_grad_enabled(not method.lean):
        vertices_pixel, displacement = drawn()
    face_index = visible_faces(vertices_pixel, mesh.faces, *masks.shape[1:])
    compare = partial(
        silhouette_loss,
        mesh=mesh,
        face_index=face_index,
        observations=observations,
        frames=frames,
        stage=stage,
        method=method,
    )
    if method.lean:
        total, figures, displacement = _lean_silhouettes(vertices_pixel, compare, drawn, method, generator)
    else:
        total, figures = compare(vertices_pixel)
    total = total + weights.consistency * loss_consistency(displacement, weights.consistency_scale)
    mesh_losses = (
        (weights.laplacian, loss_laplacian),
        (weights.edge, loss_edge_length),
        (weights.normal_consistency, loss_normal_consistency),
    )
    if any(weight > 0 for weight, _ in mesh_losses):
        topology = mesh_topology(mesh.faces, len(mesh.vertices))
        total = total + sum(weight * loss(mesh.vertices, topology) for weight, loss in mesh_losses if weight > 0)
    covered = face_index >= 0
    figures["iou"] = ((covered & masks).sum((1, 2)) / (covered | masks).sum((1, 2)).clamp_min(1)).mean()
    return total, figures, _sample_rays(mesh, vertices_pixel.detach(), face_index, masks, frames, stage.rays, generator)


def _drawn(
    avatar: Avatar, mesh: ExplicitMesh, codes: Tensor, bones: Tensor, method: MethodConfig, index: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Projected vertices (u, v, z), and the displacement that the consistency term measures, ``[B, V, 3]`` each.

    With ``index [P]``, of those vertices alone.
    """
    vertices, weights = (mesh.vertices, mesh.weights) if index is None else (mesh.vertices[index], mesh.weights[index])
    posed, displacement = avatar.deformation(vertices, codes, bones, weights)
    if method.posed_consistency:
        here = avatar.deformation.skinning_weights(vertices)
        displacement = posed - skin_points(vertices, here, bones)
    return avatar.camera.project(posed), displacement


def _lean_silhouettes(
    vertices_pixel: Tensor,
    compare: Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]],
    drawn: Callable[[Tensor], tuple[Tensor, Tensor]],
    method: MethodConfig,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """The silhouettes' loss with its gradient carried by the vertices it moves alone.

    Nearly all vertices lie inside the outline, where the loss is flat. It is differentiated by the drawn positions
    first; only vertices that it moves most, and random ones for the consistency term, are then deformed with a graph.

    Returns:
        The loss, its figures, and the displacement of the random vertices, ``[B, P, 3]``.
    """
    leaf = vertices_pixel.detach().requires_grad_()
    loss, figures = compare(leaf)
    slope = torch.autograd.grad(loss, leaf)[0] if loss.requires_grad else torch.zeros_like(leaf)
    strength = slope.norm(dim=-1).amax(0)
    strongest = strength.topk(min(method.lean_vertices, len(strength))).indices
    moved = strongest[strength[strongest] > 0]
    random = draw(len(strength), method.lean_points, generator).to(moved.device)
    positions, displacement = drawn(torch.cat([moved, random]))
    positions = positions[:, : len(moved)]
    carried = (slope[:, moved] * (positions - positions.detach())).sum()
    return loss.detach() + carried, figures, displacement[:, len(moved) :]


def _sample_rays(
    mesh: ExplicitMesh,
    vertices_pixel: Tensor,
    face_index: Tensor,
    masks: Tensor,
    frames: Tensor,
    count: int,
    generator: torch.Generator,
) -> Rays:
    """Random pixels that the mesh and the mask both cover, and the canonical points the mesh shows there."""
    B, _, W = face_index.shape
    both = ((face_index >= 0) & masks).flatten(1)
    pixels, flat = [], []
    for b in range(B):
        candidates = both[b].nonzero()[:, 0]
        if len(candidates) == 0:
            candidates = torch.zeros(1, dtype=torch.long, device=both.device)
        pick = candidates[torch.randint(len(candidates), (count,), generator=generator).to(candidates.device)]
        pixels.append(torch.stack([pick % W, pick // W], -1))
        flat.append(pick)
    chosen = torch.stack(pixels)
    face = face_index.flatten(1).gather(1, torch.stack(flat)).flatten()
    row = torch.arange(B, device=face.device).repeat_interleave(count)
    barycentrics, _ = pixel_barycentrics(vertices_pixel, mesh.faces, row, chosen.flatten(0, 1).float(), face)
    corners = mesh.vertices.detach()[mesh.faces[face.long().clamp_min(0)].long()]
    start = (barycentrics[..., None] * corners).sum(1)
    return Rays(frames, chosen, start.view(B, count, 3))


def _implicit_branch(
    avatar: Avatar,
    mesh: ExplicitMesh,
    observations: Observations,
    rays: Rays,
    stage: StageConfig,
    method: MethodConfig,
    clips: list[tuple[int, int]],
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Colour, normals and regularisers at the rays' exact meeting points with the deformed surface.

    With ``method.follow_points`` colour and normals have been differentiated at fixed points by the time it returns,
    and what is returned carries their derivative by the points instead.
    """
    weights = stage.losses
    frames, codes, bones = rays.frames, avatar.codes[rays.frames], avatar.bones(rays.frames)
    B, R = rays.pixels.shape[:2]
    directions = avatar.camera.rays(rays.pixels.to(rays.start))
    centre = avatar.camera.centre()
    hit = _solve(avatar, rays.start, directions, centre, codes, bones, stage, method)

    follow = method.follow_points and method.implicit_gradient
    solved = hit.points.detach().requires_grad_(follow)
    sample = avatar.sdf.sample(solved.view(-1, 3))
    value, gradient = sample.value.view(B, R) + stage.shrink, sample.gradient.view(B, R, 3)
    posed, jacobian, offset_jacobian = avatar.deformation.with_jacobian(solved, codes, bones)
    moving, regular = attach_implicit_gradient(
        hit.points, value, gradient.detach(), posed, jacobian.detach(), directions, centre
    )
    points = moving if method.implicit_gradient and not follow else solved
    valid = (hit.converged & regular).float()
    row = frames[:, None].expand(B, R)
    u, v = rays.pixels.unbind(-1)

    normals = F.normalize(gradient, dim=-1)
    terms: dict[str, Tensor] = {}
    if weights.colour > 0:
        towards = canonical_directions(jacobian, directions, method.view_gradient)
        flat_points, towards, flat_normals = (x.reshape(-1, 3) for x in (points, towards, normals))
        colour = avatar.colours(flat_points, towards, flat_normals, sample.feature, row.flatten()).view(B, R, 3)
        terms["colour"] = loss_colour(colour, observations.images[row, v, u].to(jacobian) / 255.0, valid)
        if method.published_scales:
            terms["colour"] = 2.0 * terms["colour"]
    if weights.normal > 0:
        observed = observations.normals[row, v, u].to(jacobian) / 127.0
        seen = valid * (observed.norm(dim=-1) > 0.5).float()
        trust = seen
        if method.weighted_normals:
            inverse, _ = inverse_3x3(jacobian.detach())
            posed_normal = F.normalize((inverse.transpose(-1, -2) @ gradient.detach()[..., None])[..., 0], dim=-1)
            trust = trust * (-(posed_normal * directions.detach()).sum(-1)).clamp(0.0, 1.0) ** 2
        terms["normal"] = loss_normal(gradient, jacobian, observed, trust)
        if method.published_scales:
            terms["normal"] = terms["normal"] * trust.sum() / seen.sum().clamp_min(1.0)
    total = sum((getattr(weights, name) * term for name, term in terms.items()), hit.points.new_zeros(()))
    if follow and total.requires_grad:
        total.backward(retain_graph=True)
        assert solved.grad is not None
        total = (moving * solved.grad).sum()
    regular_terms = regulariser_terms(avatar, mesh, hit.points, offset_jacobian, codes, stage, method, clips, generator)
    total = sum((getattr(weights, name) * term for name, term in regular_terms.items()), total)
    terms |= regular_terms
    figures = {name: term.detach() for name, term in terms.items()}
    singular = (~regular).float().mean()
    return total, {**figures, "converged": hit.converged.float().mean(), "singular": singular}


def canonical_directions(jacobian: Tensor, directions: Tensor, differentiable: bool) -> Tensor:
    """Unit viewing directions carried back to canonical space, ``[B, R, 3]``; world directions where ``J`` is singular.

    Source: SelfRecon, Eq. 12.
    """
    if not differentiable:
        jacobian, directions = jacobian.detach(), directions.detach()
    inverse, regular = inverse_3x3(jacobian)
    carried = F.normalize((inverse @ directions[..., None])[..., 0], dim=-1)
    return torch.where(regular[..., None], carried, directions.detach())


@torch.no_grad()
def _solve(
    avatar: Avatar,
    start: Tensor,
    directions: Tensor,
    centre: Tensor,
    codes: Tensor,
    bones: Tensor,
    stage: StageConfig,
    method: MethodConfig,
) -> Intersection:
    def field(points: Tensor) -> tuple[Tensor, Tensor]:
        sample = avatar.sdf.sample(points.reshape(-1, 3))
        return sample.value.view(points.shape[:-1]) + stage.shrink, sample.gradient.view(points.shape)

    def deform(points: Tensor) -> Tensor:
        return avatar.deformation(points, codes.detach(), bones.detach())[0]

    polyak = method.solver == "polyak"
    jacobian = None if polyak else avatar.deformation.skinning_jacobian(start, bones)

    def solve(points: Tensor, rays: Tensor, slopes: Tensor | None, steps: int) -> Intersection:
        tolerances = {
            "distance_tolerance": method.distance_tolerance,
            "angle_tolerance": method.angle_tolerance * avatar.camera.angular_tolerance(),
        }
        if slopes is None:
            return intersect_polyak(points, rays, centre, field, deform, steps=steps, **tolerances)
        return intersect(points, rays, centre, field, deform, slopes, steps=steps, **tolerances)

    with _matmul_precision("highest"):  # the tolerance is below what TF32 resolves
        if polyak or stage.solve_steps <= TRIAL_STEPS:
            return solve(start, directions, jacobian, stage.solve_steps)
        first = solve(start, directions, jacobian, TRIAL_STEPS)
        waiting = int((~first.converged).sum(1).max())
        if waiting == 0:
            return first
        index = first.converged.int().argsort(dim=1, stable=True)[:, :waiting]
        vectors = index[..., None].expand(-1, -1, 3)
        assert jacobian is not None
        slopes = jacobian.gather(1, index[..., None, None].expand(-1, -1, 3, 3))
        rest = solve(
            first.points.gather(1, vectors), directions.gather(1, vectors), slopes, stage.solve_steps - TRIAL_STEPS
        )
        points = first.points.scatter(1, vectors, rest.points)
        return Intersection(points, first.converged.scatter(1, index, rest.converged))
