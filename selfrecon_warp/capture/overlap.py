"""The capture's naked body as silhouettes, and how well they meet the masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.capture.dataset import Capture
from selfrecon_warp.kernels.rasterize import visible_faces
from selfrecon_warp.model.body import BodyModel


@torch.no_grad()
def body_vertices(capture: Capture, body: BodyModel, frames: Sequence[int]) -> Tensor:
    """The naked body in the world [m], ``[B, V, 3]``, with the capture's own shape, poses and translations."""
    index = torch.tensor(frames)
    return body.posed(capture.betas, capture.poses[index], capture.trans[index])[0]


@torch.no_grad()
def project_faces(vertices: Tensor, body: BodyModel, camera: Camera) -> np.ndarray:
    """Face of the body seen by every pixel, ``[B, H, W]`` int32, -1 where none."""
    seen: np.ndarray = visible_faces(camera.project(vertices), body.faces, camera.height, camera.width).numpy()
    return seen


def silhouettes(vertices: Tensor, body: BodyModel, camera: Camera) -> np.ndarray:
    """Pixels covered by the body, ``[B, H, W]`` bool."""
    return project_faces(vertices, body, camera) >= 0


def intersection_over_union(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Per frame, ``[B]``, of masks ``[B, H, W]``; 0 where both are empty."""
    union = (first | second).sum((1, 2))
    return np.asarray((first & second).sum((1, 2)) / np.maximum(union, 1))


def mask_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(left, top, right, bottom), inclusive [px], of a mask ``[H, W]``; zeros when empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def sample_frames(count: int, most: int) -> list[int]:
    """At most ``most`` frames spread evenly over ``count``."""
    return [int(frame) for frame in np.unique(np.linspace(0, count - 1, min(count, most)).round())]
