"""One optimisation step, in the method's order: explicit branch, vertex step, rays, implicit branch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from selfrecon_warp.config import Config, StageConfig
from selfrecon_warp.kernels.rasterize import pixel_barycentrics, visible_faces
from selfrecon_warp.kernels.silhouette import soft_silhouette
from selfrecon_warp.model.avatar import Avatar
from selfrecon_warp.surface.intersection import Intersection, attach_implicit_gradient, intersect, inverse_3x3
from selfrecon_warp.train.explicit import ExplicitMesh, loss_contour
from selfrecon_warp.train.losses import (
    loss_colour,
    loss_consistency,
    loss_eikonal,
    loss_mask_iou,
    loss_normal,
    loss_rigidity,
    loss_temporal,
)
from selfrecon_warp.train.observations import Observations

PULLED_VERTICES = 4096
NOISE_M = 0.01


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
        rate: Factor on the explicit vertices' learning rate.

    Returns:
        Loss terms and figures, detached.
    """
    optimiser.zero_grad(set_to_none=True)
    explicit, figures, rays = _explicit_branch(avatar, mesh, observations, frames, stage, generator)
    explicit.backward()
    mesh.step(config.optimiser.vertices * rate, config.optimiser.smoothing)
    implicit, terms = _implicit_branch(avatar, mesh, observations, rays, stage, clips, generator)
    implicit.backward()
    optimiser.step()
    return {"explicit": explicit.detach(), **figures, **terms}


def _explicit_branch(
    avatar: Avatar,
    mesh: ExplicitMesh,
    observations: Observations,
    frames: Tensor,
    stage: StageConfig,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor], Rays]:
    """Silhouettes of the posed mesh against the masks."""
    weights = stage.losses
    posed, displacement = avatar.deformation(mesh.vertices, avatar.codes[frames], avatar.bones(frames), mesh.weights)
    vertices_pixel = avatar.camera.project(posed)
    H, W = observations.masks.shape[1:]
    face_index = visible_faces(vertices_pixel, mesh.faces, H, W)
    total = weights.consistency * loss_consistency(displacement, weights.consistency_scale)
    figures = {}
    if weights.contour > 0:
        contour, mean_px = loss_contour(
            vertices_pixel, mesh, face_index, observations, frames, weights.contour_scale_px
        )
        total = total + weights.contour * contour
        figures["contour_px"] = mean_px
    masks = observations.masks[frames]
    if weights.mask > 0:
        rendered = soft_silhouette(vertices_pixel, mesh.faces, face_index, mesh.edges)
        total = total + weights.mask * loss_mask_iou(rendered, masks.float())
    covered = face_index >= 0
    figures["iou"] = ((covered & masks).sum((1, 2)) / (covered | masks).sum((1, 2)).clamp_min(1)).mean()
    return total, figures, _sample_rays(mesh, vertices_pixel.detach(), face_index, masks, frames, stage.rays, generator)


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
    clips: list[tuple[int, int]],
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Colour, normals and regularisers at the rays' exact meeting points with the deformed surface."""
    weights = stage.losses
    frames, codes, bones = rays.frames, avatar.codes[rays.frames], avatar.bones(rays.frames)
    B, R = rays.pixels.shape[:2]
    directions = avatar.camera.rays(rays.pixels.float())
    centre = avatar.camera.centre()
    hit = _solve(avatar, rays.start, directions, centre, codes, bones, stage.solve_steps)

    sample = avatar.sdf.sample(hit.points.view(-1, 3))
    gradient = sample.gradient.view(B, R, 3)
    posed, jacobian, offset_jacobian = avatar.deformation.with_jacobian(hit.points, codes, bones)
    points, regular = attach_implicit_gradient(
        hit.points, sample.value.view(B, R), gradient.detach(), posed, jacobian.detach(), directions, centre
    )
    valid = (hit.converged & regular).float()
    row = frames[:, None].expand(B, R)
    u, v = rays.pixels.unbind(-1)

    normals = F.normalize(gradient, dim=-1)
    inverse, _ = inverse_3x3(jacobian.detach())
    towards = F.normalize((inverse @ directions.detach()[..., None])[..., 0], dim=-1)
    terms: dict[str, Tensor] = {}
    total = hit.points.new_zeros(())
    if weights.colour > 0:
        colour = avatar.appearance(points.view(-1, 3), towards.view(-1, 3), normals.view(-1, 3), sample.feature).view(
            B, R, 3
        )
        terms["colour"] = loss_colour(colour, observations.images[row, v, u].float() / 255.0, valid)
        total = total + weights.colour * terms["colour"]
    if weights.normal > 0:
        observed = observations.normals[row, v, u].float() / 127.0
        known = (observed.norm(dim=-1) > 0.5).float()
        posed_normal = F.normalize((inverse.transpose(-1, -2) @ gradient.detach()[..., None])[..., 0], dim=-1)
        facing = -(posed_normal * directions.detach()).sum(-1)
        trust = valid * known * facing.clamp(0.0, 1.0) ** 2
        terms["normal"] = loss_normal(gradient, jacobian, observed, trust)
        total = total + weights.normal * terms["normal"]
    if weights.eikonal > 0:
        terms["eikonal"] = loss_eikonal(avatar.sdf.sample(_eikonal_points(avatar, hit.points, generator)).gradient)
        total = total + weights.eikonal * terms["eikonal"]
    if weights.rigidity > 0:
        terms["rigidity"] = loss_rigidity(offset_jacobian, weights.rigidity_scale)
        total = total + weights.rigidity * terms["rigidity"]
    if weights.temporal > 0 and avatar.poses.requires_grad:
        terms["temporal"] = loss_temporal(avatar.joints(), clips)
        total = total + weights.temporal * terms["temporal"]
    if weights.pull > 0:
        pick = torch.randint(len(mesh.vertices), (PULLED_VERTICES,), generator=generator).to(hit.points.device)
        terms["pull"] = avatar.sdf(mesh.vertices.detach()[pick]).abs().mean()
        total = total + weights.pull * terms["pull"]
    figures = {name: value.detach() for name, value in terms.items()}
    return total, {**figures, "converged": hit.converged.float().mean()}


@torch.no_grad()
def _solve(
    avatar: Avatar, start: Tensor, directions: Tensor, centre: Tensor, codes: Tensor, bones: Tensor, steps: int
) -> Intersection:
    def field(points: Tensor) -> tuple[Tensor, Tensor]:
        sample = avatar.sdf.sample(points.reshape(-1, 3))
        return sample.value.view(points.shape[:-1]), sample.gradient.view(points.shape)

    return intersect(
        start,
        directions,
        centre,
        field,
        lambda points: avatar.deformation(points, codes, bones)[0],
        avatar.deformation.skinning_jacobian(start, bones),
        steps=steps,
        distance_tolerance=1e-3,
        angle_tolerance=4.0 * avatar.camera.angular_tolerance(),
    )


def _eikonal_points(avatar: Avatar, surface: Tensor, generator: torch.Generator) -> Tensor:
    """Half the surface points, jittered, and a sixth as many anywhere in the box."""
    near = surface.reshape(-1, 3)[::2]
    near = near + NOISE_M * torch.randn(near.shape, generator=generator).to(near)
    anywhere = torch.rand(len(near) // 6, 3, generator=generator).to(near)
    return torch.cat([near, avatar.lower + anywhere * (avatar.upper - avatar.lower)])
