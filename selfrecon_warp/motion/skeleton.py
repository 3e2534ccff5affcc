"""The skeleton that motions are made for: rest joints, soles, and the pose of every joint in the world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from selfrecon_warp.errors import MotionError
from selfrecon_warp.motion.joints import JOINT, JOINT_NAMES, PARENTS
from selfrecon_warp.motion.rotations import Floats, matrices, vectors

FOOT_WEIGHT = 0.5
"""Vertices that an ankle and its foot carry to more than this share belong to the foot."""
SIDES = ("left", "right")


@dataclass(frozen=True)
class Foot:
    """Where a foot touches the ground, in the T-pose, relative to its ankle [m].

    Attributes:
        sole: Height of the sole, negative.
        heel: How far the heel reaches back, negative.
        ball: Where the foot bends, forward.
    """

    sole: float
    heel: float
    ball: float


@dataclass(frozen=True)
class Skeleton:
    """SMPL's 24 joints with one person's proportions, in the T-pose: y up, facing +z, left = +x, metres.

    Attributes:
        joints: Rest positions, ``[24, 3]``.
        feet: The left and the right foot.
    """

    joints: Floats
    feet: tuple[Foot, Foot]

    @classmethod
    def of_mesh(cls, bind: npt.ArrayLike, vertices: npt.ArrayLike, weights: npt.ArrayLike) -> Skeleton:
        """The skeleton of a skinned mesh in any pose.

        Args:
            bind: Global joint transforms in the mesh's pose, ``[24, 4, 4]``.
            vertices: Positions in that pose [m], ``[V, 3]``.
            weights: Skinning weights, ``[V, 24]``.

        Raises:
            ValueError: It has not 24 joints.
            MotionError: A foot has no vertices.
        """
        bind, vertices = np.asarray(bind, np.float64), np.asarray(vertices, np.float64)
        weights = np.asarray(weights, np.float64)
        if bind.shape != (len(JOINT_NAMES), 4, 4):
            raise ValueError(f"bind must have shape [{len(JOINT_NAMES)}, 4, 4], got {list(bind.shape)}")
        joints = np.zeros((len(JOINT_NAMES), 3))
        for joint, parent in enumerate(PARENTS):
            step = bind[joint] if parent < 0 else np.linalg.inv(bind[parent]) @ bind[joint]
            joints[joint] = step[:3, 3] + (joints[parent] if parent >= 0 else 0.0)
        feet = []
        for side in SIDES:
            ankle, ball = JOINT[f"{side}_ankle"], JOINT[f"{side}_foot"]
            mine = weights[:, [ankle, ball]].sum(1) > FOOT_WEIGHT
            if not mine.any():
                raise MotionError(f"the mesh has no {side} foot, so it cannot stand; fit the whole person")
            from_ankle = np.linalg.inv(bind[ankle])
            local = vertices[mine] @ from_ankle[:3, :3].T + from_ankle[:3, 3]
            lowest, back = local[:, 1].min(), np.quantile(local[:, 2], 0.02)
            feet.append(Foot(float(lowest), float(back), float(joints[ball, 2] - joints[ankle, 2])))
        return cls(joints, (feet[0], feet[1]))

    @property
    def leg_length(self) -> float:
        """Hip to knee to ankle, the mean of both legs [m]."""
        return leg_length(self.joints)

    def local(self, rotations: Floats) -> Floats:
        """Axis-angle poses relative to the parents ``[N, 24, 3]`` of global rotations ``[N, 24, 3, 3]``."""
        parents = np.asarray(PARENTS[1:])
        turned = rotations.copy()
        turned[:, 1:] = rotations[:, parents].swapaxes(-1, -2) @ rotations[:, 1:]
        return vectors(turned)

    def forward(self, poses: Floats, trans: Floats) -> tuple[Floats, Floats]:
        """Global rotations ``[N, 24, 3, 3]`` and joint positions ``[N, 24, 3]`` [m] of poses.

        Args:
            poses: Axis-angle [rad], ``[N, 24, 3]``.
            trans: Translations [m], ``[N, 3]``.
        """
        rotations = matrices(np.asarray(poses, np.float64))
        places = np.zeros(rotations.shape[:-1])
        places[:, 0] = self.joints[0] + trans
        for joint, parent in enumerate(PARENTS[1:], start=1):
            places[:, joint] = places[:, parent] + rotations[:, parent] @ (self.joints[joint] - self.joints[parent])
            rotations[:, joint] = rotations[:, parent] @ rotations[:, joint]
        return rotations, places


def leg_length(joints: Floats) -> float:
    """Hip to knee to ankle, the mean of both legs, in the unit of joints ``[24, 3]``."""
    chains = [[JOINT[f"{side}_{part}"] for part in ("hip", "knee", "ankle")] for side in SIDES]
    return float(np.mean([np.linalg.norm(np.diff(joints[chain], axis=0), axis=1).sum() for chain in chains]))
