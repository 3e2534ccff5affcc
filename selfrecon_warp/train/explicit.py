"""The explicit branch: a canonical mesh with its own optimiser, fitted to the silhouettes between two extractions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from selfrecon_warp.kernels.contour import MeshEdges, contour_edges, mesh_edges, nearest_contour
from selfrecon_warp.surface.mesh import Smoothing
from selfrecon_warp.train.losses import geman_mcclure
from selfrecon_warp.train.observations import Observations, sample_image_with_gradient

MATCH_RADIUS_PX = 20.0
MATCH_COSINE = 0.5


@dataclass
class ExplicitMesh:
    """Vertices that move by their own first-order optimiser until the next extraction.

    The gradient is smoothed over the mesh and divided by one second moment for all vertices, so that a step is a smooth
    field of about ``learning_rate``: no folds, no noise.

    Source: SelfRecon, section 3.2; preconditioning after Nicolet et al. 2021, Large Steps in Inverse Rendering.
    """

    vertices: Tensor
    faces: Tensor
    weights: Tensor
    edges: MeshEdges
    smoothing: Smoothing
    momentum: Tensor
    scale: Tensor
    steps: int = 0

    @classmethod
    def start(cls, vertices: Tensor, faces: Tensor, weights: Tensor) -> ExplicitMesh:
        """Begin at extracted ``vertices [V, 3]``, ``faces [F, 3]`` with skinning ``weights [V, J]``."""
        edges = mesh_edges(faces)
        return cls(
            vertices.detach().clone().requires_grad_(),
            faces,
            weights,
            edges,
            Smoothing(edges.vertex_index, len(vertices)),
            torch.zeros_like(vertices),
            vertices.new_zeros(()),
        )

    @torch.no_grad()
    def descend(self, learning_rate: float, momentum: float = 0.9) -> None:
        """One step of gradient descent with momentum along ``vertices.grad``, which is consumed: the published step."""
        if self.vertices.grad is None:
            return
        self.momentum.mul_(momentum).add_(self.vertices.grad)
        self.vertices -= learning_rate * self.momentum
        self.vertices.grad = None

    @torch.no_grad()
    def step(self, learning_rate: float, passes: int) -> None:
        """One step along the smoothed gradient in ``vertices.grad``, which is consumed."""
        gradient = self.vertices.grad
        if gradient is None:
            return
        gradient = self.smoothing(gradient, passes)
        self.steps += 1
        self.momentum.mul_(0.9).add_(gradient, alpha=0.1)
        self.scale.mul_(0.99).add_(0.01 * gradient.square().sum(-1).max())
        first = self.momentum / (1.0 - 0.9**self.steps)
        second = self.scale / (1.0 - 0.99**self.steps)
        self.vertices -= learning_rate * first / (second.sqrt() + 1e-12)
        self.vertices.grad = None


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
    distance, slope = sample_image_with_gradient(observations.distance[..., None], frames[row], fixed)
    own = distance[:, 0] + (slope[:, 0] * (midpoints - fixed)).sum(-1)
    loss_edges = (lengths * geman_mcclure(own, scale_px)).sum() / lengths.sum().clamp_min(1e-6)

    starts, ends_ = observations.contour_start[frames], observations.contour_start[frames + 1]
    index = torch.cat([torch.arange(int(a), int(b), device=row.device) for a, b in zip(starts, ends_, strict=True)])
    owner = torch.repeat_interleave(torch.arange(len(frames), device=row.device), ends_ - starts)
    targets, outward = observations.contour_pixels[index], observations.contour_normals[index]
    direction = torch.nn.functional.normalize(slope[:, 0], dim=-1)
    match = nearest_contour(targets, owner, outward, fixed, row, direction, MATCH_RADIUS_PX, MATCH_COSINE)
    matched = match >= 0
    gap = ((midpoints[match[matched]] - targets[matched]) * outward[matched]).sum(-1)
    loss_points = geman_mcclure(gap, scale_px).sum() / max(len(targets), 1)
    mean_px = (own.detach().abs() * lengths).sum() / lengths.sum().clamp_min(1e-6)
    return loss_edges + loss_points, mean_px
