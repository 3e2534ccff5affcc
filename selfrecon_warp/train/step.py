"""One optimisation step, in the method's order: explicit branch, vertex step, rays, implicit branch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from selfrecon_warp.config import Config, MethodConfig, StageConfig
from selfrecon_warp.kernels.intersection import inverse_3x3
from selfrecon_warp.kernels.laplacian import loss_laplacian
from selfrecon_warp.kernels.mesh_losses import loss_edge_length, loss_normal_consistency
from selfrecon_warp.kernels.rasterize import pixel_barycentrics, visible_faces
from selfrecon_warp.kernels.silhouette import antialiased_silhouette, splatted_silhouette
from selfrecon_warp.kernels.skinning import skin_points
from selfrecon_warp.model.avatar import Avatar
from selfrecon_warp.surface.intersection import Intersection, attach_implicit_gradient, intersect
from selfrecon_warp.surface.polyak import intersect_polyak
from selfrecon_warp.train.explicit import ExplicitMesh, loss_contour
from selfrecon_warp.train.losses import (
    loss_colour,
    loss_consistency,
    loss_eikonal,
    loss_mask_iou,
    loss_normal,
    loss_offset,
    loss_rigidity,
    loss_temporal,
)
from selfrecon_warp.train.observations import Observations

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
        rate: Factor on the explicit vertices' learning rate; plain SGD keeps its own.

    Returns:
        Loss terms and figures, detached.
    """
    optimiser.zero_grad(set_to_none=True)
    explicit, figures, rays = _explicit_branch(avatar, mesh, observations, frames, stage, config.method, generator)
    explicit.backward()
    if config.method.vertex_optimiser == "sgd":
        mesh.descend(config.optimiser.vertices)
    else:
        mesh.step(config.optimiser.vertices * rate, config.optimiser.smoothing)
    implicit, terms = _implicit_branch(avatar, mesh, observations, rays, stage, config.method, clips, generator)
    implicit.backward()
    optimiser.step()
    return {"explicit": explicit.detach(), **figures, **terms}


def _explicit_branch(
    avatar: Avatar,
    mesh: ExplicitMesh,
    observations: Observations,
    frames: Tensor,
    stage: StageConfig,
    method: MethodConfig,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor], Rays]:
    """Silhouettes of the posed mesh against the masks."""
    weights = stage.losses
    bones = avatar.bones(frames)
    posed, displacement = avatar.deformation(mesh.vertices, avatar.codes[frames], bones, mesh.weights)
    if method.posed_consistency:
        displacement = posed - skin_points(mesh.vertices, mesh.weights, bones)
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
        rendered, target = compared_masks(vertices_pixel, mesh, masks, stage.splat_radius, method, face_index)
        figures["mask"] = loss_mask_iou(rendered, target)
        total = total + weights.mask * figures["mask"]
    for weight, loss in (
        (weights.laplacian, loss_laplacian),
        (weights.edge, loss_edge_length),
        (weights.normal_consistency, loss_normal_consistency),
    ):
        if weight > 0:
            total = total + weight * loss(mesh.vertices, mesh.faces)
    covered = face_index >= 0
    figures = {name: value.detach() for name, value in figures.items()}
    figures["iou"] = ((covered & masks).sum((1, 2)) / (covered | masks).sum((1, 2)).clamp_min(1)).mean()
    return total, figures, _sample_rays(mesh, vertices_pixel.detach(), face_index, masks, frames, stage.rays, generator)


def compared_masks(
    vertices_pixel: Tensor,
    mesh: ExplicitMesh,
    masks: Tensor,
    splat_radius: float,
    method: MethodConfig,
    face_index: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The mesh's soft masks and what they are compared with, ``[B, H, W]`` each.

    Args:
        vertices_pixel: (u, v, z), ``[B, V, 3]``.
        mesh: The mesh whose vertices those are.
        masks: Given masks of the frames, ``[B, H, W]`` bool.
        splat_radius: Radius of splatted points, by half the shorter image side.
        method: Which form the masks have.
        face_index: Visible faces ``[B, H, W]``, where they are known already.
    """
    H, W = masks.shape[1:]
    target = masks.to(vertices_pixel.dtype)
    if method.silhouette == "antialiased":
        rendered = antialiased_silhouette(vertices_pixel, mesh.faces, H, W, face_index=face_index, edges=mesh.edges)
        return rendered, target
    radius = splat_radius * min(H, W) / 2.0
    if method.dilate_masks:
        reach = round(radius / 1.2)
        target = F.max_pool2d(target[:, None], 2 * reach + 1, stride=1, padding=reach)[:, 0]
    rendered = splatted_silhouette(
        vertices_pixel, mesh.faces, H, W, radius=radius, points_per_pixel=method.splats_per_pixel
    )
    return rendered, target


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
    """Colour, normals and regularisers at the rays' exact meeting points with the deformed surface."""
    weights = stage.losses
    frames, codes, bones = rays.frames, avatar.codes[rays.frames], avatar.bones(rays.frames)
    B, R = rays.pixels.shape[:2]
    directions = avatar.camera.rays(rays.pixels.float())
    centre = avatar.camera.centre()
    hit = _solve(avatar, rays.start, directions, centre, codes, bones, stage, method)

    sample = avatar.sdf.sample(hit.points.view(-1, 3))
    value, gradient = sample.value.view(B, R) + stage.shrink, sample.gradient.view(B, R, 3)
    posed, jacobian, offset_jacobian = avatar.deformation.with_jacobian(hit.points, codes, bones)
    points, regular = attach_implicit_gradient(
        hit.points, value, gradient.detach(), posed, jacobian.detach(), directions, centre
    )
    if not method.implicit_gradient:
        points = points.detach()
    valid = (hit.converged & regular).float()
    row = frames[:, None].expand(B, R)
    u, v = rays.pixels.unbind(-1)

    normals = F.normalize(gradient, dim=-1)
    terms: dict[str, Tensor] = {}
    if weights.colour > 0:
        towards = _canonical_directions(jacobian, directions, method.view_gradient)
        flat_points, towards, flat_normals = (x.reshape(-1, 3) for x in (points, towards, normals))
        colour = avatar.colours(flat_points, towards, flat_normals, sample.feature, row.flatten()).view(B, R, 3)
        terms["colour"] = loss_colour(colour, observations.images[row, v, u].float() / 255.0, valid)
    if weights.normal > 0:
        observed = observations.normals[row, v, u].float() / 127.0
        trust = valid * (observed.norm(dim=-1) > 0.5).float()
        if method.weighted_normals:
            inverse, _ = inverse_3x3(jacobian.detach())
            posed_normal = F.normalize((inverse.transpose(-1, -2) @ gradient.detach()[..., None])[..., 0], dim=-1)
            trust = trust * (-(posed_normal * directions.detach()).sum(-1)).clamp(0.0, 1.0) ** 2
        terms["normal"] = loss_normal(gradient, jacobian, observed, trust)
    surface = _with_vertices(hit.points, mesh, method.regularised_vertices, generator)
    if weights.eikonal > 0:
        terms["eikonal"] = loss_eikonal(avatar.sdf.sample(_eikonal_points(avatar, surface, method, generator)).gradient)
    if weights.rigidity > 0:
        terms["rigidity"] = _rigidity(
            avatar, surface, offset_jacobian, codes, weights.rigidity_scale, method, generator
        )
    if weights.offset > 0:
        terms["offset"] = loss_offset(avatar.deformation.offset(hit.points, codes))
    if weights.temporal > 0 and avatar.poses.requires_grad:
        joints = avatar.joints(with_translation=method.temporal_translation)
        terms["temporal"] = loss_temporal(joints, clips, method.temporal_window, method.temporal_kept)
    if weights.pull > 0:
        pulled = mesh.vertices.detach()
        if method.pulled_vertices is not None:
            pulled = pulled[
                torch.randint(len(pulled), (method.pulled_vertices,), generator=generator).to(pulled.device)
            ]
        terms["pull"] = (avatar.sdf(pulled) + stage.shrink).abs().mean()
    total = hit.points.new_zeros(())
    for name, term in terms.items():
        total = total + getattr(weights, name) * term
    figures = {name: term.detach() for name, term in terms.items()}
    singular = (~regular).float().mean()
    return total, {**figures, "converged": hit.converged.float().mean(), "singular": singular}


def _canonical_directions(jacobian: Tensor, directions: Tensor, differentiable: bool) -> Tensor:
    """Unit viewing directions carried back to canonical space, ``[B, R, 3]``; world directions where ``J`` is singular.

    Source: SelfRecon, Eq. 12.
    """
    if not differentiable:
        jacobian, directions = jacobian.detach(), directions.detach()
    inverse, regular = inverse_3x3(jacobian)
    carried = F.normalize((inverse @ directions[..., None])[..., 0], dim=-1)
    return torch.where(regular[..., None], carried, directions.detach())


def _with_vertices(points: Tensor, mesh: ExplicitMesh, count: int, generator: torch.Generator) -> Tensor:
    """The rays' points ``[B, R, 3]``, the same random vertices of the mesh appended in every frame."""
    if count == 0:
        return points
    pick = torch.randint(len(mesh.vertices), (count,), generator=generator).to(points.device)
    return torch.cat([points, mesh.vertices.detach()[pick].expand(len(points), -1, -1)], 1)


def _rigidity(
    avatar: Avatar,
    surface: Tensor,
    offset_jacobian: Tensor,
    codes: Tensor,
    scale: float,
    method: MethodConfig,
    generator: torch.Generator,
) -> Tensor:
    """Rigidity of the offset map at the rays' points, whose Jacobian is known, and at those that join them."""
    rays = offset_jacobian.shape[1]
    further = surface[:, rays:]
    if method.jittered_rigidity:
        jittered = surface + NOISE_M * torch.randn(surface.shape, generator=generator).to(surface)
        further = torch.cat([further, jittered], 1)
    if further.shape[1]:
        _, jacobian = avatar.deformation.offset.with_jacobian(further, codes)
        offset_jacobian = torch.cat([offset_jacobian, jacobian + torch.eye(3).to(jacobian)], 1)
    return loss_rigidity(offset_jacobian, scale)


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

    solve = partial(
        intersect_polyak if method.solver == "polyak" else intersect,
        start,
        directions,
        centre,
        field,
        deform,
        steps=stage.solve_steps,
        distance_tolerance=method.distance_tolerance,
        angle_tolerance=method.angle_tolerance * avatar.camera.angular_tolerance(),
    )
    if method.solver == "polyak":
        return solve()
    return solve(jacobian=avatar.deformation.skinning_jacobian(start, bones))


def _eikonal_points(avatar: Avatar, surface: Tensor, method: MethodConfig, generator: torch.Generator) -> Tensor:
    """A share of the surface points, jittered, and a sixth as many anywhere in the box."""
    near = surface.reshape(-1, 3)[:: round(1.0 / method.eikonal_share)]
    near = near + NOISE_M * torch.randn(near.shape, generator=generator).to(near)
    anywhere = torch.rand(len(near) // 6, 3, generator=generator).to(near)
    if method.eikonal_box is None:
        return torch.cat([near, avatar.lower + anywhere * (avatar.upper - avatar.lower)])
    return torch.cat([near, method.eikonal_box * (2.0 * anywhere - 1.0)])
