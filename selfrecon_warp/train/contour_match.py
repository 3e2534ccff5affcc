"""Silhouette edges of a drawn mesh against the masks' contours, matched both ways: once for losses and residuals."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from selfrecon_warp.kernels.contour import nearest_contour
from selfrecon_warp.train.observations import Observations, sample_image_with_gradient

MATCH_RADIUS_PX = 20.0
"""Contour points further than this from every silhouette edge have no partner."""
MATCH_COSINE = 0.5
"""Least cosine between the directions in which an edge and a contour point face."""


@dataclass(frozen=True)
class ContourMatch:
    """What ``E`` silhouette edges and ``K`` contour points know of each other.

    Attributes:
        distance: Signed distance of the edges' midpoints to the mask's contour [px], negative inside, ``[E]``.
        slope: Its derivative by (u, v), ``[E, 2]``.
        edge: Edge matched to a contour point, ``[M]``.
        target: That contour point (u, v) [px], ``[M, 2]``.
        outward: The contour's outward unit normal there, ``[M, 2]``.
        contour_count: Contour points K, matched or not.
    """

    distance: Tensor
    slope: Tensor
    edge: Tensor
    target: Tensor
    outward: Tensor
    contour_count: int

    def edge_distances(self, moved: Tensor) -> Tensor:
        """Signed distances [px] of all edges after their midpoints moved by ``[E, 2]`` px, to first order, ``[E]``."""
        return self.distance + (self.slope * moved).sum(-1)

    def contour_gaps(self, midpoints: Tensor) -> Tensor:
        """How far matched edges at ``midpoints [E, 2]`` lie outside their contour points, along its normal, ``[M]``."""
        return ((midpoints[self.edge] - self.target) * self.outward).sum(-1)


@torch.no_grad()
def match_contours(observations: Observations, frames: Tensor, row: Tensor, midpoints: Tensor) -> ContourMatch:
    """Look silhouette edges up in the masks' distances, and find the nearest edge of each contour point.

    An edge and a contour point are partners where they lie near and face alike, so that an arm before the trunk is not
    matched to the trunk's outline.

    Args:
        observations: The capture.
        frames: Frames that were drawn, ``[B]``.
        row: Which of them each edge belongs to, ``[E]``, ascending.
        midpoints: The edges' midpoints (u, v) [px], ``[E, 2]``.
    """
    midpoints = midpoints.contiguous()
    distance, slope = sample_image_with_gradient(observations.distance[..., None], frames[row], midpoints)
    starts, ends = observations.contour_start[frames], observations.contour_start[frames + 1]
    index = torch.cat([torch.arange(int(a), int(b), device=row.device) for a, b in zip(starts, ends, strict=True)])
    owner = torch.repeat_interleave(torch.arange(len(frames), device=row.device), ends - starts)
    targets, outward = observations.contour_pixels[index], observations.contour_normals[index]
    match = nearest_contour(
        targets, owner, outward, midpoints, row, normalize(slope[:, 0], dim=-1), MATCH_RADIUS_PX, MATCH_COSINE
    )
    matched = match >= 0
    return ContourMatch(
        distance[:, 0], slope[:, 0], match[matched], targets[matched], outward[matched], contour_count=len(targets)
    )
