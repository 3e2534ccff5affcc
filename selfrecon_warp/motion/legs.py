"""Legs that reach: hip, knee and ankle rotations that put the feet where they are wanted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from selfrecon_warp.motion.joints import JOINT
from selfrecon_warp.motion.rotations import Floats
from selfrecon_warp.motion.skeleton import SIDES, Skeleton

STRAIGHT = 0.997
"""Longest reach of a leg, of the sum of its bones: a knee keeps about nine degrees."""


@dataclass(frozen=True)
class FootPath:
    """Where one foot is.

    Attributes:
        ankles: World positions [m], ``[N, 3]``.
        rotations: World rotation of the foot, ``[N, 3, 3]``.
        toes: World rotation of the toes, ``[N, 3, 3]``.
    """

    ankles: Floats
    rotations: Floats
    toes: Floats


def highest_pelvis(
    skeleton: Skeleton, pelvis: Floats, turns: Floats, feet: tuple[FootPath, FootPath], standing: Floats
) -> Floats:
    """Greatest height of the pelvis from which every standing leg still reaches its ankle [m], ``[N]``.

    Args:
        skeleton: The skeleton.
        pelvis: Positions; their height is not read, ``[N, 3]``.
        turns: World rotations of the pelvis, ``[N, 3, 3]``.
        feet: The left and the right foot.
        standing: Which foot carries, ``[N, 2]`` bool.
    """
    height = np.full(len(pelvis), np.inf)
    for side, foot, stands in zip(SIDES, feet, standing.T, strict=True):
        hip, reach = _leg(skeleton, side)[0], STRAIGHT * sum(_lengths(skeleton, side))
        arm = (turns @ (hip - skeleton.joints[0])[:, None])[..., 0]
        across = pelvis + arm - foot.ankles
        rise = np.sqrt(np.maximum(reach**2 - across[:, 0] ** 2 - across[:, 2] ** 2, 0.0))
        height = np.where(stands, np.minimum(height, foot.ankles[:, 1] + rise - arm[:, 1]), height)
    return height


def reach(skeleton: Skeleton, rotations: Floats, pelvis: Floats, feet: tuple[FootPath, FootPath]) -> None:
    """Fill in the rotations of hips, knees, ankles and toes; knees point where the feet do.

    Args:
        skeleton: The skeleton.
        rotations: World rotations with the pelvis' in place, ``[N, 24, 3, 3]``; changed.
        pelvis: Positions of the pelvis [m], ``[N, 3]``.
        feet: The left and the right foot.

    Source: law of cosines in the plane of hip, ankle and the foot's direction.
    """
    for side, foot in zip(SIDES, feet, strict=True):
        hip_rest, knee_rest, ankle_rest = _leg(skeleton, side)
        thigh, shin = _lengths(skeleton, side)
        hip = pelvis + (rotations[:, 0] @ (hip_rest - skeleton.joints[0])[:, None])[..., 0]
        towards = foot.ankles - hip
        distance = np.minimum(np.linalg.norm(towards, axis=1), STRAIGHT * (thigh + shin))[:, None]
        towards = towards / np.linalg.norm(towards, axis=1, keepdims=True)
        forward = foot.rotations[..., 2] * [1.0, 0.0, 1.0]
        sideways = _unit(forward - (forward * towards).sum(1, keepdims=True) * towards)
        cosine = (thigh**2 + distance**2 - shin**2) / (2 * thigh * distance)
        upper = cosine * towards + np.sqrt(np.maximum(1 - cosine**2, 0.0)) * sideways
        lower = _unit(distance * towards - thigh * upper)
        for part, direction, rest in (("hip", upper, knee_rest - hip_rest), ("knee", lower, ankle_rest - knee_rest)):
            rest_frame = _frame(rest[None], np.array([[0.0, 0.0, 1.0]]))
            rotations[:, JOINT[f"{side}_{part}"]] = _frame(direction, forward) @ rest_frame.swapaxes(1, 2)
        rotations[:, JOINT[f"{side}_ankle"]], rotations[:, JOINT[f"{side}_foot"]] = foot.rotations, foot.toes


def _leg(skeleton: Skeleton, side: str) -> tuple[Floats, Floats, Floats]:
    hip, knee, ankle = (skeleton.joints[JOINT[f"{side}_{part}"]] for part in ("hip", "knee", "ankle"))
    return hip, knee, ankle


def _lengths(skeleton: Skeleton, side: str) -> tuple[float, float]:
    hip, knee, ankle = _leg(skeleton, side)
    return float(np.linalg.norm(knee - hip)), float(np.linalg.norm(ankle - knee))


def _frame(down: Floats, forward: Floats) -> Floats:
    """Rotations ``[N, 3, 3]`` whose y axis points against ``down`` and whose z axis is closest to ``forward``."""
    up = -_unit(down)
    front = _unit(forward - (forward * up).sum(1, keepdims=True) * up)
    return np.stack((np.cross(up, front), up, front), -1)


def _unit(directions: Floats) -> Floats:
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)
