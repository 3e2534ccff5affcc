"""Plain-torch twin of ``kernels/silhouette.py``: every border pair of pixels against every silhouette edge."""

from __future__ import annotations

import torch
from torch import Tensor

from selfrecon_warp.kernels.contour import MeshEdges
from selfrecon_warp.kernels.reference.contour import mesh_edges, silhouette_edges
from selfrecon_warp.kernels.silhouette import TOLERANCE


def soft_silhouette(
    vertices_pixel: Tensor, faces: Tensor, face_index: Tensor, edges: MeshEdges | None = None
) -> Tensor:
    """Antialiased mask of the rendered mesh, ``[B, H, W]``."""
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
