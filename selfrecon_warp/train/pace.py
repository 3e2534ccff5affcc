"""How fast frames follow each other, told by the turn of the person."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation
from torch import Tensor

REFERENCE_TURN = 3.0
"""Turn between two frames [degrees] at which the configured acceleration holds: a full turn in 120 frames."""


def turn_per_frame(roots: Tensor, clips: list[tuple[int, int]]) -> float:
    """How far the person turns from one frame to the next [degrees], the median over all clips.

    Args:
        roots: Root rotations, axis-angle [rad], ``[N, 3]``.
        clips: First and one-past-last frame of each clip.
    """

    def pace(gap: int) -> float:
        """Measured over ``gap`` frames; zero where no clip is as long."""
        turns = [
            (clip[:-gap].inv() * clip[gap:]).magnitude() / gap
            for clip in (Rotation.from_rotvec(roots[a:b].double().cpu().numpy()) for a, b in clips if b - a > gap)
        ]
        return float(np.rad2deg(np.median(np.concatenate(turns)))) if turns else 0.0

    longest = int(90.0 / max(pace(1), 1e-3))  # further apart, a turn could be taken for its complement
    return pace(min(max(longest, 1), 8)) or pace(1) or REFERENCE_TURN


def acceleration_factor(degrees: float) -> float:
    """How much second differences in time grow by the frames' pace: its square, one at ``REFERENCE_TURN``."""
    return max((degrees / REFERENCE_TURN) ** 2, 0.25)
