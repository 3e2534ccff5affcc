"""How people hold their joints: where each rests, how far it strays, and where it stops.

Written from anatomy, about the axes of the parent joint of a body in SMPL format (x left, y up, z forward); no poses
were learned from.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_FREE = np.inf
_LEFT = {
    # joint: rests at, strays by [degrees]
    1: ((0.0, 0.0, 4.0), (40.0, 25.0, 20.0)),  # hip
    4: ((8.0, 0.0, 0.0), (40.0, 8.0, 6.0)),  # knee
    7: ((0.0, 8.0, 0.0), (15.0, 12.0, 10.0)),  # ankle
    10: ((0.0, 0.0, 0.0), (5.0, 3.0, 3.0)),  # toes
    13: ((0.0, 0.0, 0.0), (6.0, 8.0, 8.0)),  # collar bone
    16: ((0.0, 0.0, -55.0), (40.0, 40.0, 40.0)),  # shoulder
    18: ((0.0, -15.0, 0.0), (30.0, 45.0, 8.0)),  # elbow
    20: ((0.0, 0.0, 0.0), (10.0, 15.0, 15.0)),  # wrist
    22: ((0.0, 0.0, 0.0), (3.0, 3.0, 3.0)),  # hand
}
_MIDDLE = {0: _FREE, 3: 10.0, 6: 8.0, 9: 8.0, 12: 12.0, 15: 12.0}
_RIGHT_OF = {1: 2, 4: 5, 7: 8, 10: 11, 13: 14, 16: 17, 18: 19, 20: 21, 22: 23}
_STOP_DEGREES = 3.0
_KNEES, _LEFT_ELBOW, _RIGHT_ELBOW = (4, 5), 18, 19


def _tables() -> tuple[np.ndarray, np.ndarray]:
    centre, stray = np.zeros((24, 3)), np.full((24, 3), _FREE)
    for joint, degrees in _MIDDLE.items():
        stray[joint] = degrees
    for left, (rest, spread) in _LEFT.items():
        for joint, mirror in ((left, (1, 1, 1)), (_RIGHT_OF[left], (1, -1, -1))):
            centre[joint], stray[joint] = np.multiply(rest, mirror), spread
    return np.deg2rad(centre), np.deg2rad(stray)


_CENTRE, _STRAY = _tables()


def prior_centre(like: Tensor) -> Tensor:
    """Where joints rest, axis-angle [rad], ``[24, 3]``."""
    return torch.from_numpy(_CENTRE).to(like)


def prior_weight(like: Tensor) -> Tensor:
    """One over the square of how far they stray [rad], ``[24, 3]``; zero for the root."""
    return torch.from_numpy(1.0 / _STRAY**2).to(like)


def limits(relative: Tensor) -> tuple[Tensor, Tensor]:
    """How far knees and elbows are bent the wrong way [rad] and the weights of it, ``[N, 24, 3]`` both.

    Args:
        relative: Rotations against where the joints rest, ``[N, 24, 3]``.
    """
    angle = relative + prior_centre(relative)
    over = torch.zeros_like(angle)
    for knee in _KNEES:
        over[:, knee, 0] = angle[:, knee, 0].clamp_max(0.0)
    over[:, _LEFT_ELBOW, 1] = angle[:, _LEFT_ELBOW, 1].clamp_min(0.0)
    over[:, _RIGHT_ELBOW, 1] = angle[:, _RIGHT_ELBOW, 1].clamp_max(0.0)
    return over, (over != 0).to(over) / np.deg2rad(_STOP_DEGREES) ** 2
