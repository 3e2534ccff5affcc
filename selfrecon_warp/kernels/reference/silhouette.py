"""Plain-torch twin of ``kernels/silhouette.py``: every border pair, face or disc against every edge or pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from selfrecon_warp.kernels.contour import MeshEdges
from selfrecon_warp.kernels.internal.silhouette_blend import OPAQUE
from selfrecon_warp.kernels.reference.contour import mesh_edges, silhouette_edges
from selfrecon_warp.kernels.reference.rasterize import visible_faces
from selfrecon_warp.kernels.reference.rasterize_layers import rasterize_layers
from selfrecon_warp.kernels.reference.splat import splat_points
from selfrecon_warp.kernels.silhouette import TOLERANCE


def antialiased_silhouette(
    vertices_pixel: Tensor,
    faces: Tensor,
    height: int,
    width: int,
    *,
    face_index: Tensor | None = None,
    edges: MeshEdges | None = None,
) -> Tensor:
    """Mask of the mesh with an antialiased border, ``[B, H, W]``."""
    if face_index is None:
        face_index = visible_faces(vertices_pixel, faces, height, width)
    contour = silhouette_edges(vertices_pixel, faces, mesh_edges(faces) if edges is None else edges)
    covered = face_index >= 0
    mask = covered.to(vertices_pixel.dtype)
    for axis in (0, 1):
        step = torch.tensor([axis, 1 - axis], device=mask.device)
        rows, columns = (int(n) - s for n, s in zip(mask.shape[1:], step.tolist(), strict=True))
        near, far = covered[:, :rows, :columns], covered[:, axis:, 1 - axis :]
        for b, row, column in (near != far).nonzero().tolist():
            ends = vertices_pixel[b, contour.vertex_index[contour.frame_index == b], :2]
            line, first = (row, column) if axis == 0 else (column, row)
            across, beside = ends[..., axis], ends[..., 1 - axis]
            meets = (beside.amin(1) <= line) & (beside.amax(1) >= line) & (beside[:, 0] != beside[:, 1])
            across, beside = across[meets], beside[meets]
            slope = (across[:, 1] - across[:, 0]) / (beside[:, 1] - beside[:, 0])
            t = across[:, 0] + (line - beside[:, 0]) * slope - first
            weight = 1 / (1 + slope**2)
            between = (t >= -TOLERANCE) & (t <= 1 + TOLERANCE)
            if not between.any():
                continue
            t, weight = t[between], weight[between]
            outermost = (t if covered[b, row, column] else 1 - t).argmax()
            reach = t[outermost] - 0.5
            gain = weight[outermost] * (reach if covered[b, row, column] else -reach)
            beyond = bool(reach >= 0)
            place = (torch.tensor(b), torch.tensor(row + beyond * axis), torch.tensor(column + beyond * (1 - axis)))
            mask = mask.index_put(place, gain, accumulate=True)
    return mask.clamp(0, 1)


def blended_silhouette(
    vertices_pixel: Tensor,
    faces: Tensor,
    height: int,
    width: int,
    *,
    sigma: float,
    blur_radius: float,
    faces_per_pixel: int | None = None,
) -> Tensor:
    """Probability that any face covers a pixel, ``[B, H, W]``."""
    count = max(1, len(faces)) if faces_per_pixel is None else faces_per_pixel
    face_index, _, _, distance = rasterize_layers(
        vertices_pixel, faces, height, width, count, blur_radius=blur_radius, clip_barycentrics=True
    )
    covering = torch.where(face_index >= 0, torch.sigmoid(-distance / sigma), 0)
    light = (1 - covering).prod(-1)
    return 1 - torch.where(light > OPAQUE, light, 0)


def splatted_silhouette(
    vertices_pixel: Tensor,
    faces: Tensor,
    height: int,
    width: int,
    *,
    radius: float,
    points_per_pixel: int = 50,
) -> Tensor:
    """Vertices drawn as discs and composited front to back, ``[B, H, W]``."""
    del faces
    index, _, squared = splat_points(vertices_pixel, radius, height, width, points_per_pixel)
    alpha = torch.where(index >= 0, 1 - squared / radius**2, 0)
    return 1 - (1 - alpha).prod(-1)
