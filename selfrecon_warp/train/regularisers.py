"""What holds the field, the offset and the motion in shape where no picture speaks."""

from __future__ import annotations

import torch
from torch import Tensor

from selfrecon_warp.config import MethodConfig, StageConfig
from selfrecon_warp.model.avatar import Avatar
from selfrecon_warp.train.explicit import ExplicitMesh
from selfrecon_warp.train.losses import loss_eikonal, loss_offset, loss_rigidity, loss_temporal

NOISE_M = 0.01
"""Spread of points drawn about the surface [m]."""


def regulariser_terms(
    avatar: Avatar,
    mesh: ExplicitMesh,
    points: Tensor,
    offset_jacobian: Tensor,
    codes: Tensor,
    stage: StageConfig,
    method: MethodConfig,
    clips: list[tuple[int, int]],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Unweighted regularisers that a stage switches on, by their name among its weights.

    Args:
        avatar: What is learned.
        mesh: The explicit mesh; its vertices count as constants.
        points: Where the rays met the surface, canonical [m], ``[B, R, 3]``; constants.
        offset_jacobian: Derivative of the offset map there, with its graph, ``[B, R, 3, 3]``.
        codes: Offset codes of the frames, ``[B, C]``.
        stage: Weights.
        method: Which form the terms have.
        clips: Continuous frame ranges.
        generator: Source of random numbers, on the CPU.
    """
    weights = stage.losses
    terms: dict[str, Tensor] = {}
    surface = _with_vertices(points, mesh, method.regularised_vertices, generator)
    if weights.eikonal > 0:
        terms["eikonal"] = loss_eikonal(avatar.sdf.sample(eikonal_points(avatar, surface, method, generator)).gradient)
    if weights.rigidity > 0:
        terms["rigidity"] = _rigidity(
            avatar, surface, offset_jacobian, codes, weights.rigidity_scale, method, generator
        )
    if weights.offset > 0:
        terms["offset"] = loss_offset(avatar.deformation.displacement(points, codes))
    if weights.temporal > 0 and avatar.poses.requires_grad:
        joints = avatar.joints(with_translation=method.temporal_translation)
        terms["temporal"] = loss_temporal(joints, clips, method.temporal_window, method.temporal_kept)
    if weights.pull > 0:
        pulled = mesh.vertices.detach()
        count = method.pulled_vertices or (method.lean_vertices if method.lean else None)
        if count is not None:
            pulled = pulled[draw(len(pulled), count, generator).to(pulled.device)]
        terms["pull"] = (avatar.sdf(pulled) + stage.shrink).abs().mean()
    return terms


def eikonal_points(avatar: Avatar, surface: Tensor, method: MethodConfig, generator: torch.Generator) -> Tensor:
    """A share of the surface points ``[B, P, 3]``, jittered, and a sixth as many anywhere in the box: ``[Q, 3]``."""
    near = surface.reshape(-1, 3)[:: round(1.0 / method.eikonal_share)]
    if method.lean and len(near) > method.lean_points:
        near = near[draw(len(near), method.lean_points, generator).to(near.device)]
    near = near + NOISE_M * torch.randn(near.shape, generator=generator).to(near)
    anywhere = torch.rand(len(near) // 6, 3, generator=generator).to(near)
    if method.eikonal_box is None:
        return torch.cat([near, avatar.lower + anywhere * (avatar.upper - avatar.lower)])
    return torch.cat([near, method.eikonal_box * (2.0 * anywhere - 1.0)])


def _with_vertices(points: Tensor, mesh: ExplicitMesh, count: int, generator: torch.Generator) -> Tensor:
    """The rays' points ``[B, R, 3]``, the same random vertices of the mesh appended in every frame."""
    if count == 0:
        return points
    pick = draw(len(mesh.vertices), count, generator).to(points.device)
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
    """Rigidity of the offset map at the rays' points, whose Jacobian is known, and at those that join them.

    A lean iteration draws from the latter and weighs the draw by what it stands for.
    """
    rays = offset_jacobian.shape[1]
    further = surface[:, rays:]
    if method.jittered_rigidity:
        jittered = surface + NOISE_M * torch.randn(surface.shape, generator=generator).to(surface)
        further = torch.cat([further, jittered], 1)
    count = further.shape[1]
    if count == 0:
        return loss_rigidity(offset_jacobian, scale)
    asked = max(method.lean_points // len(surface), 1)
    thinned = method.lean and count > asked
    if thinned:
        further = further[:, draw(count, asked, generator).to(further.device)]
    _, jacobian = avatar.deformation.offset.with_jacobian(further, codes)
    jacobian = jacobian + torch.eye(3).to(jacobian)
    if not thinned:
        return loss_rigidity(torch.cat([offset_jacobian, jacobian], 1), scale)
    known, drawn = loss_rigidity(offset_jacobian, scale), loss_rigidity(jacobian, scale)
    return (rays * known + count * drawn) / (rays + count)


def draw(total: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` indices below ``total``, with replacement."""
    return torch.randint(total, (count,), generator=generator)
