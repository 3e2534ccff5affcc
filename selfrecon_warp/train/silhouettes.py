"""How a drawn mesh's silhouettes are compared with the masks: by soft masks, or by contours in pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from selfrecon_warp.config import MethodConfig, StageConfig
from selfrecon_warp.kernels.contour import contour_edges
from selfrecon_warp.kernels.silhouette import antialiased_silhouette, splatted_silhouette
from selfrecon_warp.train.contour_match import match_contours
from selfrecon_warp.train.explicit import ExplicitMesh
from selfrecon_warp.train.losses import geman_mcclure, loss_mask_iou
from selfrecon_warp.train.observations import Observations


def silhouette_loss(
    vertices_pixel: Tensor,
    mesh: ExplicitMesh,
    face_index: Tensor,
    observations: Observations,
    frames: Tensor,
    stage: StageConfig,
    method: MethodConfig,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of the silhouette terms that are switched on, and their figures without gradient.

    Args:
        vertices_pixel: (u, v, z), ``[B, V, 3]``.
        mesh: The mesh whose vertices those are.
        face_index: Visible faces, ``[B, H, W]``.
        observations: The capture.
        frames: Frame of each row, ``[B]``.
        stage: Weights and radius.
        method: Which form the masks have.
    """
    weights = stage.losses
    total = vertices_pixel.new_zeros(())
    figures = {}
    if weights.contour > 0:
        contour, mean_px = loss_contour(
            vertices_pixel, mesh, face_index, observations, frames, weights.contour_scale_px
        )
        total = total + weights.contour * contour
        figures["contour_px"] = mean_px
    if weights.mask > 0:
        masks = observations.masks[frames]
        rendered, target = compared_masks(vertices_pixel, mesh, masks, stage.splat_radius, method, face_index)
        mask = loss_mask_iou(rendered, target)
        total = total + weights.mask * mask
        figures["mask"] = mask.detach()
    return total, figures


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


def loss_contour(
    vertices_pixel: Tensor,
    mesh: ExplicitMesh,
    face_index: Tensor,
    observations: Observations,
    frames: Tensor,
    scale_px: float,
) -> tuple[Tensor, Tensor]:
    """Distance between the mesh's silhouette edges and the masks' contours, both ways.

    Edges look their midpoint up in the mask's signed distance; contour points are matched to the nearest edge of
    similar direction and measured along the contour's normal. Nothing is rendered softly, and every silhouette pixel
    counts once.

    Args:
        vertices_pixel: (u, v, z), ``[B, V, 3]``.
        mesh: The mesh whose vertices those are.
        face_index: Visible faces, ``[B, H, W]``.
        observations: The capture.
        frames: Frame of each row, ``[B]``.
        scale_px: Geman-McClure scale [px].

    Returns:
        The loss and, without gradient, the mean absolute distance of the edges [px].
    """
    row, _, pair = contour_edges(vertices_pixel, mesh.faces, mesh.edges, face_index)
    if len(row) == 0:
        return vertices_pixel.sum() * 0.0, vertices_pixel.new_zeros(())
    ends = torch.stack([vertices_pixel[row, pair[:, 0], :2], vertices_pixel[row, pair[:, 1], :2]], 1)
    midpoints = ends.mean(1)
    lengths = (ends[:, 0] - ends[:, 1]).detach().norm(dim=-1)
    fixed = midpoints.detach()
    match = match_contours(observations, frames, row, fixed)
    own = match.edge_distances(midpoints - fixed)
    loss_edges = (lengths * geman_mcclure(own, scale_px)).sum() / lengths.sum().clamp_min(1e-6)
    loss_points = geman_mcclure(match.contour_gaps(midpoints), scale_px).sum() / max(match.contour_count, 1)
    mean_px = (own.detach().abs() * lengths).sum() / lengths.sum().clamp_min(1e-6)
    return loss_edges + loss_points, mean_px
