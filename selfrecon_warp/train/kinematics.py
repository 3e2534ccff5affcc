"""How joint turns, translations and body shape move points on the skinned surface: first derivatives, written out.

Every frame has ``3 J + 3`` unknowns: small rotations of the joints in their parent's frame, then the translation. Body
shape coefficients and rest-joint offsets are shared by all frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from scipy.spatial.transform import Rotation
from torch import Tensor

from selfrecon_warp.model.body import BodyModel, CanonicalBody
from selfrecon_warp.train.normal_equations import SharedRows

LARGEST_TURN = 0.3
"""Largest step of a joint [rad]."""
MARKER_REACH_M = 0.1
"""Markers sit on every joint and this far from it along three axes."""


@dataclass(frozen=True)
class Poses:
    """Everything registration moves.

    Attributes:
        poses: Axis-angle [rad], ``[N, J, 3]``.
        trans: Translation [m], ``[N, 3]``.
        betas: Shape coefficients, ``[K]``.
        joint_offsets: Correction of the rest joints [m], ``[J, 3]``.
    """

    poses: Tensor
    trans: Tensor
    betas: Tensor
    joint_offsets: Tensor


@dataclass(frozen=True)
class Skeleton:
    """One frame's bones.

    Attributes:
        bones: World from canonical, ``[J, 4, 4]``.
        centres: Joints in the world [m], ``[J, 3]``.
        parent_rotations: World from the parent's frame, ``[J, 3, 3]``.
        shared_bones: Derivative of the bones by the shared unknowns, ``[J, 3, 4, S]``; ``None`` where they stand still.
    """

    bones: Tensor
    centres: Tensor
    parent_rotations: Tensor
    shared_bones: Tensor | None


@dataclass(frozen=True)
class SurfacePoints:
    """Points on the canonical surface.

    Attributes:
        canonical: Positions [m], ``[P, 3]``.
        weights: Skinning weights, ``[P, J]``.
        normals: Unit normals, ``[P, 3]``.
        by_shape: Derivative of the positions by shape coefficients, ``[P, 3, K]``; ``None`` where they do
            not move them.
        by_bumps: Derivative of the positions along their normals by bumps' coefficients, ``[P, K]``; ``None`` where
            the surface holds still.
    """

    canonical: Tensor
    weights: Tensor
    normals: Tensor
    by_shape: Tensor | None = None
    by_bumps: sparse.csr_array | None = None

    def select(self, index: Tensor) -> SurfacePoints:
        """The points at ``index``, which may repeat."""
        return SurfacePoints(
            self.canonical[index],
            self.weights[index],
            self.normals[index],
            None if self.by_shape is None else self.by_shape[index],
            None if self.by_bumps is None else self.by_bumps[index.cpu().numpy()],
        )


class Kinematics:
    """Derivatives for one body model.

    Args:
        body: The body model.
        pose_type: Its canonical pose.
    """

    def __init__(self, body: BodyModel, pose_type: int) -> None:
        self.body = body
        self.pose_type = pose_type
        self.parents = body.parents
        descends = torch.eye(len(self.parents))
        for joint in range(len(self.parents) - 1, 0, -1):
            descends[self.parents[joint]] += descends[joint]
        self.descends = descends.to(body.weights)  # [J, J]: does the column's joint hang on the row's?
        self.markers = torch.cat([torch.zeros(1, 3), MARKER_REACH_M * torch.eye(3)]).to(self.descends)

    def canonical(self, estimate: Poses) -> CanonicalBody:
        """The canonical body of an estimate."""
        return self.body.canonical(estimate.betas, self.pose_type, estimate.joint_offsets)

    def shared_bones(self, estimate: Poses, frames: Tensor) -> Tensor:
        """Derivative of the bones by shape coefficients and joint offsets, ``[B, J, 3, 4, S]``."""
        K = len(estimate.betas)

        def bones(shared: Tensor) -> Tensor:
            canonical = self.body.canonical(shared[:K], self.pose_type, shared[K:].view(-1, 3))
            return self.body.bones(estimate.poses[frames], estimate.trans[frames], None, canonical)[..., :3, :]

        shared = torch.cat([estimate.betas, estimate.joint_offsets.flatten()])
        derivative: Tensor = torch.func.jacfwd(bones)(shared)
        return derivative

    def skeleton(self, bones: Tensor, canonical: CanonicalBody, shared_bones: Tensor | None) -> Skeleton:
        """One frame's skeleton from its bones ``[J, 4, 4]``."""
        centres = (bones[:, :3, :3] @ canonical.joints[..., None])[..., 0] + bones[:, :3, 3]
        rotations = bones[:, :3, :3] @ canonical.bones_inverse[:, :3, :3].transpose(-1, -2)
        root = torch.eye(3, dtype=bones.dtype, device=bones.device)[None]
        return Skeleton(bones, centres, torch.cat([root, rotations[self.parents[1:]]]), shared_bones)

    def _levers(self, skeleton: Skeleton, points: SurfacePoints) -> tuple[Tensor, Tensor]:
        """Weighted lever arms about every joint ``[P, J, 3]``, and the weight each joint carries along ``[P, J]``."""
        moved = torch.einsum("jab,pb->pja", skeleton.bones[:, :3, :3], points.canonical) + skeleton.bones[:, :3, 3]
        carried = points.weights @ self.descends.T
        sums = torch.einsum("kj,pja->pka", self.descends, points.weights[..., None] * moved)
        return sums - carried[..., None] * skeleton.centres, carried

    def point_rows(self, skeleton: Skeleton, points: SurfacePoints, gradients: Tensor) -> tuple[Tensor, SharedRows]:
        """Derivatives of ``C`` scalars at each point, given theirs by world position ``[P, C, 3]``.

        Returns:
            By the frame's unknowns ``[P, C, D]``, and by the shared ones ``[P C, S]``.
        """
        levers, _ = self._levers(skeleton, points)
        world = torch.linalg.cross(levers[:, None], gradients[:, :, None].expand(-1, -1, levers.shape[1], -1))
        local = torch.einsum("pcka,kab->pckb", world, skeleton.parent_rotations)
        rows = torch.cat([local.flatten(2), gradients], -1)
        rotations = torch.einsum("pj,jab->pab", points.weights, skeleton.bones[:, :3, :3])
        in_canonical = gradients @ rotations
        if points.by_bumps is not None:
            slope = (in_canonical @ points.normals[..., None]).cpu().numpy().ravel()
            repeated = np.repeat(np.arange(len(points.canonical)), gradients.shape[1])
            return rows, sparse.diags_array(slope) @ points.by_bumps[repeated]
        if skeleton.shared_bones is None:
            return rows, None
        homogeneous = torch.nn.functional.pad(points.canonical, (0, 1), value=1.0)
        pulled = torch.einsum("pj,pca,pb->pcjab", points.weights, gradients, homogeneous).flatten(2)
        shared = pulled @ skeleton.shared_bones.flatten(0, 2)
        if points.by_shape is not None:
            shape = in_canonical @ points.by_shape
            shared[..., : shape.shape[-1]] += shape
        return rows, shared.flatten(0, 1)

    def normal_rows(self, skeleton: Skeleton, points: SurfacePoints, normals: Tensor) -> Tensor:
        """Derivatives of the three normal components, ``[P, 3, D]``."""
        carried = points.weights @ self.descends.T
        eye = torch.eye(3, dtype=normals.dtype, device=normals.device)
        axes = torch.linalg.cross(normals[:, None].expand(-1, 3, -1), eye.expand(len(normals), 3, 3))
        local = torch.einsum("pca,kab,pk->pckb", axes, skeleton.parent_rotations, carried).flatten(2)
        return torch.nn.functional.pad(local, (0, 3))

    def marker_rows(self, skeleton: Skeleton, canonical: CanonicalBody) -> tuple[Tensor, Tensor]:
        """Positions ``[3 J M]`` of the markers on all bones [m], and their derivatives ``[3 J M, D]``."""
        J = len(self.parents)
        local = canonical.joints[:, None] + self.markers
        world = torch.einsum("jab,jmb->jma", skeleton.bones[:, :3, :3], local) + skeleton.bones[:, None, :3, 3]
        levers = (world[:, :, None] - skeleton.centres) * self.descends.T[:, None, :, None]
        turns = -_cross_matrix(levers) @ skeleton.parent_rotations
        moves = torch.eye(3, device=world.device).expand(J, len(self.markers), 3, 3)
        rows = torch.cat([turns.permute(0, 1, 3, 2, 4).flatten(3), moves], -1)
        return world.flatten(), rows.flatten(0, 2)


def turned(poses: Tensor, turns: Tensor) -> Tensor:
    """Joint rotations ``[N, J, 3]`` (axis-angle) turned on by rotation vectors in the parents' frames, ``[N, J, 3]``.

    A turn is shortened to :data:`LARGEST_TURN`.
    """
    turns = turns * (LARGEST_TURN / turns.norm(dim=-1, keepdim=True).clamp_min(LARGEST_TURN))
    return torch.from_numpy((rotations(turns) * rotations(poses)).as_rotvec()).to(poses).view_as(poses)


def relative_rotation(poses: Tensor, reference: Tensor) -> Tensor:
    """Rotation vectors that turn ``reference`` into ``poses``, ``[N, J, 3]`` (axis-angle) all of them."""
    relative = (rotations(poses) * rotations(reference).inv()).as_rotvec()
    return torch.from_numpy(relative).to(poses).view_as(poses)


def rotations(vectors: Tensor) -> Rotation:
    """Rotation vectors ``[..., 3]`` as one list of scipy's rotations."""
    return Rotation.from_rotvec(vectors.reshape(-1, 3).double().cpu().numpy())


def _cross_matrix(vectors: Tensor) -> Tensor:
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).view(*vectors.shape[:-1], 3, 3)
