"""Frames in which a detector took left for right, or the back for the front, found over the whole sequence.

A picture taken from afar does not tell a body from its mirror image in depth with the sides exchanged: the person may
face the camera or turn the back to it. Detectors decide in each frame alone; people turn steadily.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from selfrecon_warp.prepare.body_fit_landmarks import mirrored_name
from selfrecon_warp.prepare.body_fit_start import filled, lifted, trunk_axes
from selfrecon_warp.prepare.observations import PersonObservations
from selfrecon_warp.prepare.rotations import Floats

AS_SEEN, TURNED, EXCHANGED = range(3)
"""As the detector says; sides exchanged and depth mirrored; sides exchanged alone."""

_START_COST = (0.0, 1.5, 1.5)
_FRAME_COST = (0.0, 0.03, 0.03)
_CHANGE_COST = 2.0
_REVERSAL_COST = 4.0
_YAW_NOISE = np.deg2rad(20.0)
_LARGEST_JUMP_COST = 4.0
_CHIRAL_COST = 2.0
_HIDDEN_FACE_COST = 0.4
_HIDDEN, _SHOWN = 0.3, 0.7


@dataclass(frozen=True)
class Unflipped:
    """Observations with every frame's sides as the sequence tells.

    Attributes:
        observations: The corrected ones.
        kinds: What was done to each frame, ``[N]`` of the constants above.
    """

    observations: PersonObservations
    kinds: np.ndarray


def unflip(observations: PersonObservations) -> Unflipped:
    """Find the most plausible reading of every frame by dynamic programming, and apply it.

    States are the reading of a frame and the direction in which the person turns. Readings cost by themselves, by
    disagreement of trunk and face, by a face seen from behind; steps cost by a turn that does not suit the
    direction, by a change of the reading, and most by a change of the direction.
    """
    readings = [_space(read_as(observations, kind)) for kind in (AS_SEEN, TURNED, EXCHANGED)]
    axes = [trunk_axes(space, observations.names) for space in readings]
    yaw = np.stack([np.arctan2(-a[:, 2, 0], a[:, 0, 0]) for a in axes], 1)
    own = np.stack([_own_cost(observations, space, a) for space, a in zip(readings, axes, strict=True)], 1)
    own += _FRAME_COST
    N = len(observations)
    pace = np.deg2rad(np.clip(360.0 / N, 1.0, 15.0))
    directions = np.array([-1.0, 0.0, 1.0]) * pace
    cost = own[0, :, None] + np.array(_START_COST)[:, None] + np.zeros(3)
    back = np.zeros((N, 3, 3), int)
    change = _CHANGE_COST * (1 - np.eye(3))
    reversal = _REVERSAL_COST * np.abs(np.subtract.outer(np.arange(3), np.arange(3))) / 2
    for frame in range(1, N):
        turn = _wrapped(yaw[frame][None] - yaw[frame - 1][:, None])  # [before, now]
        off = _wrapped(turn[..., None] - directions)
        step = np.minimum(0.5 * (off / _YAW_NOISE) ** 2, _LARGEST_JUMP_COST)  # [before, now, direction]
        total = (
            cost[:, :, None, None] + change[:, None, :, None] + reversal[None, :, None, :] + step[:, None, :, :]
        ).reshape(9, 3, 3)
        back[frame] = total.argmin(0)
        cost = total.min(0) + own[frame][:, None]
    state = int(cost.argmin())
    kinds = np.zeros(N, int)
    for frame in range(N - 1, -1, -1):
        kinds[frame] = state // 3
        state = int(back[frame].reshape(-1)[state])
    return Unflipped(_chosen(observations, kinds), kinds)


def read_as(observations: PersonObservations, kind: int) -> PersonObservations:
    """All frames under one reading."""
    if kind == AS_SEEN:
        return observations
    names = observations.names
    order = [names.index(mirrored_name(name)) if mirrored_name(name) in names else k for k, name in enumerate(names)]
    space = observations.keypoints3d
    if space is not None:
        space = space[:, order] * np.array([1, 1, -1 if kind == TURNED else 1], space.dtype)
    return replace(
        observations,
        keypoints=observations.keypoints[:, order],
        confidence=observations.confidence[:, order],
        keypoints3d=space,
    )


def _chosen(observations: PersonObservations, kinds: np.ndarray) -> PersonObservations:
    result = observations
    for kind in (TURNED, EXCHANGED):
        other, rows = read_as(observations, kind), kinds == kind
        space = result.keypoints3d
        if space is not None and other.keypoints3d is not None:
            space = np.where(rows[:, None, None], other.keypoints3d, space)
        result = replace(
            result,
            keypoints=np.where(rows[:, None, None], other.keypoints, result.keypoints),
            confidence=np.where(rows[:, None], other.confidence, result.confidence),
            keypoints3d=space,
        )
    return result


def _space(observations: PersonObservations) -> Floats:
    """Places in space, by the detector or guessed from pixels."""
    if observations.keypoints3d is not None:
        return filled(observations.keypoints3d.astype(np.float64))
    return lifted(filled(observations.keypoints.astype(np.float64)), observations.names)


def _own_cost(observations: PersonObservations, space: Floats, axes: Floats) -> Floats:
    """What speaks against a reading in each frame, ``[N]``."""
    at = {name: space[:, column] for column, name in enumerate(observations.names)}
    cost = np.zeros(len(space))
    if observations.keypoints3d is not None and all(name in at for name in ("nose", "left_ear", "right_ear")):
        ahead = at["nose"] - 0.5 * (at["left_ear"] + at["right_ear"])
        ahead /= np.maximum(np.linalg.norm(ahead, axis=-1, keepdims=True), 1e-9)
        cost += _CHIRAL_COST * np.clip(-(ahead * axes[..., 2]).sum(-1), 0.0, 1.0)
    if "nose" in at:
        nose = observations.confidence[:, observations.names.index("nose")]
        towards = -axes[:, 2, 2]
        if nose.min() < _HIDDEN and nose.max() > _SHOWN:  # otherwise the detector does not tell
            cost += _HIDDEN_FACE_COST * ((nose < _HIDDEN) & (towards > 0.3) | (nose > _SHOWN) & (towards < -0.3))
    return cost


def _wrapped(angle: Floats) -> Floats:
    return np.asarray((angle + np.pi) % (2 * np.pi) - np.pi)
