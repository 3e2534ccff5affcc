"""How points that single bones carry move with the pose, for all frames at once, and how pixels move with points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.model.body import CanonicalBody
from selfrecon_warp.train.kinematics import Kinematics


@dataclass(frozen=True)
class Levers:
    """All frames' bones.

    Attributes:
        bones: World from canonical, ``[N, J, 4, 4]``.
        centres: Joints in the world [m], ``[N, J, 3]``.
        parent_rotations: World from the parent's frame, ``[N, J, 3, 3]``.
        descends: Whether the column's joint hangs on the row's, ``[J, J]``.
    """

    bones: Tensor
    centres: Tensor
    parent_rotations: Tensor
    descends: Tensor

    @classmethod
    def of(cls, kinematics: Kinematics, bones: Tensor, canonical: CanonicalBody) -> Levers:
        """Those of bones ``[N, J, 4, 4]``."""
        centres = (bones[..., :3, :3] @ canonical.joints[..., None])[..., 0] + bones[..., :3, 3]
        rotations = bones[..., :3, :3] @ canonical.bones_inverse[:, :3, :3].mT
        root = torch.eye(3).expand(len(bones), 1, 3, 3).to(bones)
        return cls(bones, centres, torch.cat([root, rotations[:, kinematics.parents[1:]]], 1), kinematics.descends)

    def rows(self, world: Tensor, joints: Tensor) -> Tensor:
        """Derivatives of points ``[N, P, 3]`` on the bones ``joints [P]`` by the frames' unknowns, ``[N, P, 3, D]``."""
        levers = (world[:, :, None] - self.centres[:, None]) * self.descends.T[joints][..., None]
        turns = -_cross_matrix(levers) @ self.parent_rotations[:, None]
        moves = torch.eye(3).to(world).expand(*world.shape[:2], 3, 3)
        return torch.cat([turns.permute(0, 1, 3, 2, 4).flatten(3), moves], -1)


def projection_slope(camera: Camera, uvz: Tensor) -> Tensor:
    """Derivative of (u, v) by place in the world, ``[..., 2, 3]``."""
    depth = uvz[..., 2].clamp_min(1e-3)
    slope = uvz.new_zeros(*uvz.shape[:-1], 2, 3)
    for axis in range(2):
        slope[..., axis, axis] = -camera.focal[axis] / depth
        slope[..., axis, 2] = (camera.principal[axis] - uvz[..., axis]) / depth
    return slope @ camera.rotation().T


def _cross_matrix(vectors: Tensor) -> Tensor:
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).view(*vectors.shape[:-1], 3, 3)
