"""What the body fit compares, believes and estimates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from selfrecon_warp.train.kinematics import Poses
from selfrecon_warp.train.observations import Observations


@dataclass(frozen=True)
class Evidence:
    """What the body is compared with.

    Attributes:
        keypoints: (u, v) [px], ``[N, K, 2]``.
        trust: 0 where unseen, ``[N, K]``.
        depth: Distance along the camera's axis to the middle of the hips [m], ``[N, K]``.
        depth_trust: 0 where unknown, ``[N, K]``.
        outlines: Masks' distances and contours, perhaps of smaller pictures; ``None`` leaves them out.
        outline_scale: Size of these pictures over the camera's.
        steps: Time between frames in units of a typical step, ``[N - 1]``.
        clips: First and one-past-last frame of each continuous clip.
        height: Of the standing person [m], ``None`` where unknown.
    """

    keypoints: Tensor
    trust: Tensor
    depth: Tensor
    depth_trust: Tensor
    outlines: Observations | None
    outline_scale: float
    steps: Tensor
    clips: tuple[tuple[int, int], ...]
    height: float | None


@dataclass(frozen=True)
class Trust:
    """Standard deviations of what is known.

    Attributes:
        keypoint_px: Detected keypoints.
        depth_m: Their depth against the hips.
        contour_m: Outline of the body against the mask.
        contour_count: Independent measurements that the outline of a frame counts as.
        acceleration_m: Second difference of markers on the bones.
        ground_m: Feet against the ground.
        height_m: Height of the person.
        shape: Shape coefficients.
        pose: Factor of the standard deviations of joint rotations.
        focal: Logarithm of the focal length; 0 holds it.
    """

    keypoint_px: float
    depth_m: float = 0.1
    contour_m: float = 0.01
    contour_count: float = 40.0
    acceleration_m: float = 0.006
    ground_m: float = 0.02
    height_m: float = 0.005
    shape: float = 1.0
    pose: float = 1.0
    focal: float = 0.0


@dataclass(frozen=True)
class Given:
    """An estimate that the person came with.

    Attributes:
        body: Its poses, translations and shape.
        turn: Standard deviation of its joint rotations [rad].
        move: Standard deviation of its translations [m].
    """

    body: Poses
    turn: float = float(np.deg2rad(6.0))
    move: float = 0.06


@dataclass(frozen=True)
class State:
    """The estimate.

    Attributes:
        body: Poses, translations and shape; rest joints are the body model's own.
        offsets: Of the landmarks [m], ``[G, 3]``.
        focal_scale: Focal length over that of the camera.
    """

    body: Poses
    offsets: Tensor
    focal_scale: float = 1.0


@dataclass(frozen=True)
class Figures:
    """How well a state explains the evidence: medians, NaN where there is none."""

    keypoint_px: float
    contour_px: float
    cost: float
