"""Where the keypoints that networks find lie on a body in SMPL format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from selfrecon_warp.errors import PrepareError

JOINTS = 24


@dataclass(frozen=True)
class _Place:
    """A keypoint of the left side or the middle.

    Attributes:
        bone: Joint whose bone carries it.
        joint: Joint it lies at.
        offset: From that joint [m], canonical body: left, up, forward.
        loose: How far the offset may be from the truth, one standard deviation [m].
        noise: Error of a detection, relative to that of a joint of the limbs.
    """

    bone: int
    joint: int
    offset: tuple[float, float, float]
    loose: float
    noise: float = 1.0


# Networks put a joint where people who looked at pictures put it: shoulders on top, hips at the trousers' crease. The
# figures are means over rendered people whose skeleton is known; each person's own are found in the fit.
_PLACES = {
    "nose": _Place(15, 15, (0.0, 0.013, 0.102), 0.015),
    "left_eye_inner": _Place(15, 15, (0.015, 0.045, 0.080), 0.015, 1.5),
    "left_eye": _Place(15, 15, (0.024, 0.045, 0.077), 0.015, 1.5),
    "left_eye_outer": _Place(15, 15, (0.034, 0.043, 0.072), 0.015, 1.5),
    "left_ear": _Place(15, 15, (0.049, 0.032, 0.027), 0.015),
    "mouth_left": _Place(15, 15, (0.017, -0.020, 0.086), 0.015, 1.5),
    "left_shoulder": _Place(13, 16, (0.0, 0.033, -0.006), 0.02),
    "left_elbow": _Place(16, 18, (0.0, 0.0, 0.0), 0.015),
    "left_wrist": _Place(18, 20, (0.0, -0.010, 0.0), 0.01),
    "left_pinky": _Place(20, 22, (-0.012, 0.005, -0.005), 0.015, 1.5),
    "left_index": _Place(20, 22, (-0.020, 0.003, 0.008), 0.015, 1.5),
    "left_thumb": _Place(20, 22, (-0.040, 0.023, 0.012), 0.015, 1.5),
    "left_hip": _Place(0, 1, (0.0, -0.025, 0.025), 0.02),
    "left_knee": _Place(1, 4, (0.0, -0.015, 0.0), 0.02),
    "left_ankle": _Place(4, 7, (0.0, 0.020, 0.0), 0.015),
    "left_heel": _Place(7, 7, (0.0, -0.035, -0.036), 0.015),
    "left_foot_index": _Place(7, 10, (-0.013, 0.002, 0.027), 0.015),
}

_MIRRORED_JOINT = [0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20, 23, 22]

GROUND = ("left_heel", "left_foot_index", "right_heel", "right_foot_index")


def mirrored_name(name: str) -> str:
    """The same keypoint on the other side."""
    if "left" in name:
        return name.replace("left", "right")
    return name.replace("right", "left")


@dataclass(frozen=True)
class Landmarks:
    """``K`` keypoints on the body; left and right ones share the offset, mirrored.

    Attributes:
        columns: Which of the detector's keypoints, ``[K]``.
        names: What they are.
        bones: Joint whose bone carries each, ``[K]``.
        joints: Joint at which each lies, ``[K]``.
        groups: Which of the ``G`` offsets each has, ``[K]``.
        signs: Mirror of each, ``[K, 3]``.
        offsets: Expected offsets [m], ``[G, 3]``.
        loose: Their standard deviation [m], ``[G]``.
        noise: Relative error of a detection, ``[K]``.
    """

    columns: np.ndarray
    names: tuple[str, ...]
    bones: Tensor
    joints: Tensor
    groups: Tensor
    signs: Tensor
    offsets: Tensor
    loose: Tensor
    noise: Tensor

    def index(self, name: str) -> int:
        """Which landmark has a name; -1 when none."""
        return self.names.index(name) if name in self.names else -1

    def positions(self, joints: Tensor, offsets: Tensor) -> Tensor:
        """On the canonical body with ``joints [J, 3]`` and ``offsets [G, 3]``, ``[K, 3]``."""
        return joints[self.joints] + self.signs * offsets[self.groups]


def landmarks_of(names: Sequence[str]) -> Landmarks:
    """The landmarks for a detector's keypoints; none for none.

    Raises:
        PrepareError: There are some, but too few to tell a pose.
    """
    found: list[tuple[int, str, str, _Place, bool]] = []
    for column, name in enumerate(names):
        left = name if name in _PLACES else mirrored_name(name)
        if left in _PLACES:
            found.append((column, name, left, _PLACES[left], left != name))
    lacking = [side + part for part in ("shoulder", "hip") for side in ("left_", "right_") if side + part not in names]
    if lacking and names:
        raise PrepareError(f"the keypoints lack {', '.join(lacking)}; a body cannot be placed without")
    groups = sorted({left for _, _, left, _, _ in found})
    signs = [(0.0 if left == "nose" else -1.0 if right else 1.0, 1.0, 1.0) for _, _, left, _, right in found]
    return Landmarks(
        columns=np.array([column for column, *_ in found], int),
        names=tuple(name for _, name, *_ in found),
        bones=_indices([_MIRRORED_JOINT[p.bone] if right else p.bone for *_, p, right in found]),
        joints=_indices([_MIRRORED_JOINT[p.joint] if right else p.joint for *_, p, right in found]),
        groups=_indices([groups.index(left) for _, _, left, _, _ in found]),
        signs=torch.tensor(signs).reshape(-1, 3),
        offsets=torch.tensor([_PLACES[left].offset for left in groups]).reshape(-1, 3),
        loose=torch.tensor([_PLACES[left].loose for left in groups]),
        noise=torch.tensor([p.noise for *_, p, _ in found]),
    )


def _indices(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.long)
