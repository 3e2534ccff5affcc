"""Where a motion takes place: its path scaled to other legs, beginning at the origin, feet on the floor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from selfrecon_warp.motion.clip import Motion
from selfrecon_warp.motion.rotations import Floats, about, matrices, vectors
from selfrecon_warp.motion.skeleton import Skeleton

FLOOR_QUANTILE = 0.1
"""The lowest point of the body is on the floor in at least this share of the frames; the rest may jump."""
FLOOR_SAMPLES = 60


@dataclass(frozen=True)
class Placed:
    """Poses of one skeleton in a world with y up and the floor at y = 0.

    Attributes:
        poses: Axis-angle [rad], ``[N, 24, 3]``.
        trans: What the body model adds to all vertices [m], ``[N, 3]``.
        frame_rate: Frames a second.
    """

    poses: Floats
    trans: Floats
    frame_rate: float


def place(
    motion: Motion,
    skeleton: Skeleton,
    lowest: Callable[[Floats, Floats], Floats],
    *,
    path_scale: float | None = None,
) -> Placed:
    """Give a motion to a skeleton.

    The path is scaled by the ratio of the legs' lengths, which also converts its unit; it begins above the origin,
    the pelvis facing +z, and is raised or lowered as a whole so that the body stands on the floor.

    Args:
        motion: The motion.
        skeleton: Who moves.
        lowest: Height of the body's lowest point [m] ``[B]`` for poses ``[B, 24, 3]`` and translations ``[B, 3]``.
        path_scale: Metres a unit of the path, instead of the legs' ratio.
    """
    poses, path = motion.poses.copy(), motion.pelvis
    if motion.grounded:
        return Placed(poses, path - skeleton.joints[0], motion.frame_rate)
    path = (path - path[0]) * (skeleton.leg_length / motion.leg_length if path_scale is None else path_scale)
    root = matrices(poses[:, 0])
    left = root[0, :, 0]
    if np.hypot(left[0], left[2]) > 0.1:
        turn = about("y", np.arctan2(left[2], left[0]))
        poses[:, 0], path = vectors(turn @ root), path @ turn.T
    trans = path - skeleton.joints[0]
    some = np.unique(np.linspace(0, len(poses) - 1, min(FLOOR_SAMPLES, len(poses))).astype(int))
    trans[:, 1] -= np.quantile(lowest(poses[some], trans[some]), FLOOR_QUANTILE)
    return Placed(poses, trans, motion.frame_rate)
