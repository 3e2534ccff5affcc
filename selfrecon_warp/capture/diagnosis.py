"""Why body and pictures disagree: change what usually goes wrong, one thing at a time, and see what helps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.capture.dataset import Capture
from selfrecon_warp.capture.overlap import (
    body_vertices,
    intersection_over_union,
    mask_box,
    sample_frames,
    silhouettes,
)
from selfrecon_warp.model.body import BodyModel

FRAMES_TRIED = 12


class Hypothesis(NamedTuple):
    """One change to a capture that might bring the body onto the masks."""

    change: str
    vertices: Tensor  # [B, V, 3] m
    camera: Camera
    masks: np.ndarray  # [B, H, W] bool
    convention: bool = True  # False where a number was fitted, which can make up for a body that is merely misplaced


class Cause(NamedTuple):
    """The change under which body and masks overlap best, and that overlap."""

    change: str
    overlap: float
    convention: bool


def likely_cause(capture: Capture, body: BodyModel) -> Cause:
    """Try every change on a few frames; whether the best is better than none is for the caller to judge."""
    frames = sample_frames(len(capture), FRAMES_TRIED)
    masks = np.stack([capture.load_mask(frame) for frame in frames])
    causes = []
    for tried in _hypotheses(capture, body, frames, masks):
        bodies = silhouettes(tried.vertices, body, tried.camera)
        causes.append(Cause(tried.change, float(intersection_over_union(bodies, tried.masks).mean()), tried.convention))
    return max(causes, key=lambda cause: cause.overlap)


def _hypotheses(capture: Capture, body: BodyModel, frames: list[int], masks: np.ndarray) -> list[Hypothesis]:
    camera = capture.camera
    vertices = body_vertices(capture, body, frames)
    reversed_vertices = body_vertices(capture, body, [len(capture) - 1 - frame for frame in frames])
    moved = capture.trans[torch.tensor(frames)][:, None]
    half_turn_x, half_turn_z = vertices.new_tensor((1.0, -1.0, -1.0)), vertices.new_tensor((-1.0, -1.0, 1.0))
    quat = camera.quat.tolist()
    tried = [
        Hypothesis(
            "y and z of the world point the other way (OpenGL axes for OpenCV axes)",
            vertices * half_turn_x,
            camera,
            masks,
        ),
        Hypothesis("x and y of the world point the other way", vertices * half_turn_z, camera, masks),
        Hypothesis(
            "the root rotations lack the half turn about x from y-up to y-down",
            (vertices - moved) * half_turn_x + moved,
            camera,
            masks,
        ),
        Hypothesis(
            "quat in camera.npz is world-to-camera, not camera-to-world",
            vertices,
            _with(camera, quat=[quat[0], *(-q for q in quat[1:])]),
            masks,
        ),
        Hypothesis(
            "camera.npz should say quat = (0, 0, 0, 1), T = 0 for OpenCV camera axes",
            vertices,
            _with(camera, quat=[0.0, 0.0, 0.0, 1.0], T=[0.0, 0.0, 0.0]),
            masks,
        ),
        Hypothesis("trans is in millimetres, not metres", vertices - 0.999 * moved, camera, masks),
        Hypothesis("trans is in centimetres, not metres", vertices - 0.99 * moved, camera, masks),
        Hypothesis("poses and images run in opposite order", reversed_vertices, camera, masks),
        Hypothesis("the masks are inverted", vertices, camera, ~masks),
    ]
    fitted = _fit_intrinsics(vertices, masks, camera)
    if fitted is not None:
        fx, fy, cx, cy = (round(value) for value in (*fitted.focal.tolist(), *fitted.principal.tolist()))
        change = f"camera.npz belongs to another image size or lens (fx {fx}, fy {fy}, cx {cx}, cy {cy} fit better)"
        tried.append(Hypothesis(change, vertices, fitted, masks, convention=False))
    return tried


def _with(camera: Camera, **changes: list[float]) -> Camera:
    """The camera with some parameters replaced."""
    values = {name: getattr(camera, name).tolist() for name in ("focal", "principal", "quat", "T")} | changes
    return Camera(**values, height=camera.height, width=camera.width)


def _fit_intrinsics(vertices: Tensor, masks: np.ndarray, camera: Camera) -> Camera | None:
    """Scale and shift that bring the bodies' boxes onto those of the masks; ``None`` with a body behind the camera."""
    with torch.no_grad():
        projected = camera.project(vertices).double().numpy()
    if projected[..., 2].min() <= 0:
        return None
    low, high = projected[..., :2].min(1), projected[..., :2].max(1)
    boxes = np.array([mask_box(mask) for mask in masks], float)
    scale = float(np.median((boxes[:, 3] - boxes[:, 1]) / (high - low)[:, 1]))
    offsets = (low + high) / 2 - np.array(camera.principal.tolist())
    principal = np.median((boxes[:, :2] + boxes[:, 2:]) / 2 - scale * offsets, axis=0)
    return _with(camera, focal=[scale * focal for focal in camera.focal.tolist()], principal=principal.tolist())
