"""A motion: poses and translations over time, and how to bring it to another frame rate."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from selfrecon_warp.motion.joints import JOINT_NAMES
from selfrecon_warp.motion.rotations import Floats, slerp


@dataclass(frozen=True)
class Motion:
    """Poses of SMPL's joints; y up, the pelvis' path in some unit of length.

    Attributes:
        name: For messages and files.
        poses: Axis-angle relative to the parents, T-pose at zero [rad], ``[N, 24, 3]``.
        pelvis: Positions of the pelvis, ``[N, 3]``.
        frame_rate: Frames a second.
        leg_length: Hip to knee to ankle of whoever moved, in the unit of ``pelvis``.
        loops: The frame after the last one is the first one again.
        grounded: The path suits the skeleton and the floor is y = 0 already.
    """

    name: str
    poses: Floats
    pelvis: Floats
    frame_rate: float
    leg_length: float
    loops: bool = False
    grounded: bool = False

    def __post_init__(self) -> None:
        count = len(self.poses)
        if self.poses.shape != (count, len(JOINT_NAMES), 3) or self.pelvis.shape != (count, 3) or not count:
            raise ValueError(
                f"poses must have shape [N, {len(JOINT_NAMES)}, 3] and pelvis [N, 3], got {list(self.poses.shape)} and "
                f"{list(self.pelvis.shape)}"
            )
        if not self.frame_rate > 0:
            raise ValueError(f"frame_rate must be positive, got {self.frame_rate}")

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.poses)

    @property
    def seconds(self) -> float:
        """From the first frame to the last."""
        return (len(self) - 1) / self.frame_rate

    def resampled(self, frame_rate: float) -> Motion:
        """The motion at another frame rate: rotations by slerp, the path linearly.

        Args:
            frame_rate: Frames a second, positive.
        """
        if not frame_rate > 0:
            raise ValueError(f"frame_rate must be positive, got {frame_rate}")
        if frame_rate == self.frame_rate or len(self) == 1:
            return replace(self, frame_rate=frame_rate)
        last = len(self) - 1
        places = np.arange(int(self.seconds * frame_rate + 1e-6) + 1) * (self.frame_rate / frame_rate)
        places = np.minimum(places, last)
        before = np.minimum(np.floor(places).astype(int), last - 1)
        share = places - before
        poses = slerp(self.poses[before], self.poses[before + 1], share)
        pelvis = self.pelvis[before] + share[:, None] * (self.pelvis[before + 1] - self.pelvis[before])
        return replace(self, poses=poses, pelvis=pelvis, frame_rate=frame_rate)
