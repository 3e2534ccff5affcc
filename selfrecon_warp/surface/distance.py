"""Distance to the naked body."""

from __future__ import annotations

import torch
from torch import Tensor

from selfrecon_warp.kernels.closest_point import closest_point
from selfrecon_warp.model.body import CanonicalBody
from selfrecon_warp.surface.mesh import vertex_normals


def signed_distance_to_body(points: Tensor, body: CanonicalBody) -> Tensor:
    """Distance [m] of ``[P, 3]`` to the body's surface, negative inside; the sign comes from interpolated normals."""
    distance, face, barycentrics = closest_point(points, body.vertices, body.faces)
    corners = body.faces[face.long()]
    nearest = (barycentrics[..., None] * body.vertices[corners]).sum(1)
    normals = vertex_normals(body.vertices, body.faces)
    normal = (barycentrics[..., None] * normals[corners]).sum(1)
    return torch.where(((points - nearest) * normal).sum(-1) < 0, -distance, distance)
