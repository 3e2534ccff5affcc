"""The body model: shape, skeleton, canonical pose and the bones that carry canonical points into every frame.

Works on SMPL-format arrays, evaluated through ``smplx``. Model space: metres, y up, facing +z, left = +x. A pose is 24
axis-angle vectors; the root turns about the pelvis joint, which stays at its rest position until ``trans`` is added.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import smplx
import torch
from smplx.lbs import blend_shapes, lbs, vertices2joints
from torch import Tensor, nn

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.errors import BodyModelError
from selfrecon_warp.model.body_file import read_body_arrays
from selfrecon_warp.model.rotation import rotation_from_axis_angle

GENDERS = ("neutral", "female", "male")
MODELS_VARIABLE = "SELFRECON_BODY_MODELS"
DEFAULT_BODY = Path(__file__).resolve().parents[1] / "data" / "body_cc0.npz"

# Rotation about z [degrees] of (left hip, right hip, left shoulder, right shoulder), SMPL joints 1, 2, 16, 17.
CANONICAL_ANGLES = {0: (10.0, -10.0, -45.0, 45.0), 1: (7.0, -7.0, -55.0, 55.0)}
CANONICAL_JOINTS = (1, 2, 16, 17)


LOWER_ARMS = ((18, 20, 22), (19, 21, 23))
"""SMPL's elbow, wrist and hand joints, left and right."""
HAND_SHARE = 0.2
"""Where a hand begins between the wrist and the hand joint: beyond most sleeves, before the thumb leaves the palm."""


@dataclass(frozen=True)
class CanonicalBody:
    """The naked body in the canonical pose, root at its rest position, without translation.

    Attributes:
        vertices: With shape and the canonical pose's correctives [m], ``[V, 3]``.
        faces: Outward oriented, ``[F, 3]`` int64.
        weights: Skinning weights, rows sum to one, ``[V, J]``.
        joints: Joint positions in the canonical pose [m], ``[J, 3]``.
        joints_rest: Joint positions in the T-pose [m], ``[J, 3]``.
        bones_inverse: Joint-from-canonical transforms G_j(canonical)^-1, ``[J, 4, 4]``.
        pose: The canonical pose, axis-angle [rad], ``[J, 3]``.
    """

    vertices: Tensor
    faces: Tensor
    weights: Tensor
    joints: Tensor
    joints_rest: Tensor
    bones_inverse: Tensor
    pose: Tensor


class BodyModel(nn.Module):
    """SMPL-format body model, moved between devices and precisions like any module.

    Args:
        arrays: v_template ``[V, 3]``, shapedirs ``[V, 3, K]``, posedirs ``[V, 3, 9(J-1)]``, J_regressor ``[J, V]``,
            weights ``[V, J]``, kintree_table ``[2, J]`` and f ``[F, 3]``.
        name: What to call the model in messages and run records.
        fingerprint: SHA-256 of the file the arrays came from.

    Raises:
        ValueError: The arrays' shapes disagree.
    """

    ancestors: Tensor

    def __init__(self, arrays: dict[str, np.ndarray], name: str = "body", fingerprint: str = "") -> None:
        super().__init__()
        self.name, self.fingerprint = name, fingerprint
        with contextlib.redirect_stdout(io.StringIO()):
            self.smpl = smplx.SMPL(
                "unused",
                data_struct=smplx.utils.Struct(**arrays),
                create_betas=False,
                create_global_orient=False,
                create_body_pose=False,
                create_transl=False,
            )
        # Row k holds each joint's 2^k-th ancestor; index J stands for the world above the root.
        joint_count = len(self.smpl.parents)
        parents = self.smpl.parents.tolist()
        depth = [0] * joint_count
        for joint in range(1, joint_count):
            depth[joint] = depth[parents[joint]] + 1
        rows = [[joint_count, *parents[1:], joint_count]]
        while 2 ** len(rows) <= max(depth):
            rows.append([rows[-1][ancestor] for ancestor in rows[-1]])
        self.register_buffer("ancestors", torch.tensor(rows), persistent=False)

    @property
    def joint_count(self) -> int:
        """Number of joints J."""
        return len(self.smpl.parents)

    @property
    def shape_count(self) -> int:
        """Number of shape coefficients."""
        return int(self.smpl.num_betas)

    @property
    def parents(self) -> list[int]:
        """Parent of every joint; -1 for the root."""
        return [int(parent) for parent in self.smpl.parents.tolist()]

    @property
    def faces(self) -> Tensor:
        """Triangles, ``[F, 3]`` int64."""
        faces: Tensor = self.smpl.faces_tensor
        return faces

    @property
    def weights(self) -> Tensor:
        """Skinning weights, ``[V, J]``."""
        weights: Tensor = self.smpl.lbs_weights
        return weights

    def shaped(self, betas: Tensor) -> tuple[Tensor, Tensor]:
        """Vertices [m], ``[V, 3]``, and joints [m], ``[J, 3]``, of the T-pose for shape ``betas``; differentiable.

        Args:
            betas: Shape coefficients, ``[shape_count]``; fewer count as followed by zeros.
        """
        betas = self._betas(betas)
        vertices = self.smpl.v_template + blend_shapes(betas[None], self.smpl.shapedirs)[0]
        return vertices, vertices2joints(self.smpl.J_regressor, vertices[None])[0]

    def canonical_pose(self, pose_type: int = 1) -> Tensor:
        """The canonical A-pose, axis-angle [rad], ``[J, 3]``.

        Args:
            pose_type: 0 for hips +-10 and shoulders -+45 degrees about z; 1 (default) for +-7 and -+55 degrees.
        """
        if pose_type not in CANONICAL_ANGLES:
            raise ValueError(f"pose_type must be one of {', '.join(map(str, CANONICAL_ANGLES))}, got {pose_type}")
        pose = torch.zeros_like(self.smpl.v_template[:1]).repeat(self.joint_count, 1)
        for joint, degrees in zip(CANONICAL_JOINTS, CANONICAL_ANGLES[pose_type], strict=True):
            pose[joint, 2] = math.radians(degrees)
        return pose

    def canonical(self, betas: Tensor, pose_type: int = 1, joint_offsets: Tensor | None = None) -> CanonicalBody:
        """The naked body in the canonical pose; differentiable in shape and joint offsets.

        Args:
            betas: Shape coefficients, ``[shape_count]``.
            pose_type: See :meth:`canonical_pose`.
            joint_offsets: Correction added to the rest joints [m], ``[J, 3]``; vertices follow the corrected skeleton.

        Source: SelfRecon (Jiang et al. 2022), canonical space.
        """
        vertices, joints_rest = self.shaped(betas)
        if joint_offsets is not None:
            joints_rest = joints_rest + joint_offsets
        pose = self.canonical_pose(pose_type)
        rotations = rotation_from_axis_angle(pose)
        frames = self._joint_frames(rotations[None], joints_rest)[0]
        corrected = vertices + self._correctives(rotations[None])[0]
        from_rest = frames @ _translation(-joints_rest)
        blended = (self.weights @ from_rest.flatten(1)).reshape(-1, 4, 4)
        return CanonicalBody(
            vertices=(blended[:, :3, :3] @ corrected[:, :, None])[..., 0] + blended[:, :3, 3],
            faces=self.faces,
            weights=self.weights,
            joints=frames[:, :3, 3],
            joints_rest=joints_rest,
            bones_inverse=_inverse_rigid(frames),
            pose=pose,
        )

    def bones(self, poses: Tensor, trans: Tensor, joints_rest: Tensor | None, canonical: CanonicalBody) -> Tensor:
        """World-from-canonical transform of every joint: G_j(pose) G_j(canonical)^-1, translation included.

        Args:
            poses: Axis-angle [rad], ``[B, J, 3]``.
            trans: Translation [m], ``[B, 3]``.
            joints_rest: Rest joints [m], ``[J, 3]``, about which both poses turn, e.g. the canonical body's plus a
                learned correction; ``None`` for the canonical body's own, which is a little faster.
            canonical: The body that :meth:`canonical` returned.

        Returns:
            ``[B, J, 4, 4]``, differentiable in poses, translation and joints, also at zero rotation.
        """
        require_shapes(poses=(poses, f"B {self.joint_count} 3"), trans=(trans, "B 3"))
        if joints_rest is None or joints_rest is canonical.joints_rest:
            joints_rest, inverse = canonical.joints_rest, canonical.bones_inverse
        else:
            rotations = rotation_from_axis_angle(canonical.pose)
            inverse = _inverse_rigid(self._joint_frames(rotations[None], joints_rest)[0])
        frames = self._joint_frames(rotation_from_axis_angle(poses), joints_rest)
        return _translated(frames @ inverse, trans[:, None])

    def posed_joints(self, poses: Tensor, trans: Tensor, joints_rest: Tensor) -> Tensor:
        """Joint positions in the world [m], ``[B, J, 3]``.

        Args:
            poses: Axis-angle [rad], ``[B, J, 3]``.
            trans: Translation [m], ``[B, 3]``.
            joints_rest: Rest joints [m], ``[J, 3]``.
        """
        require_shapes(poses=(poses, f"B {self.joint_count} 3"), trans=(trans, "B 3"))
        return self._joint_frames(rotation_from_axis_angle(poses), joints_rest)[..., :3, 3] + trans[:, None]

    def posed(self, betas: Tensor, poses: Tensor, trans: Tensor) -> tuple[Tensor, Tensor]:
        """The naked body in any pose, pose correctives included: vertices ``[B, V, 3]`` and joints ``[B, J, 3]`` [m].

        Args:
            betas: Shape coefficients, ``[shape_count]``.
            poses: Axis-angle [rad], ``[B, J, 3]``.
            trans: Translation [m], ``[B, 3]``.

        Source: SMPL (Loper et al. 2015), evaluated by ``smplx``.
        """
        require_shapes(poses=(poses, f"B {self.joint_count} 3"), trans=(trans, "B 3"))
        rotations = rotation_from_axis_angle(poses)
        model = self.smpl
        vertices, joints = lbs(
            self._betas(betas).expand(len(poses), -1),
            rotations,
            model.v_template,
            model.shapedirs,
            model.posedirs,
            model.J_regressor,
            model.parents,
            model.lbs_weights,
            pose2rot=False,
        )
        return vertices + trans[:, None], joints + trans[:, None]

    def extra_repr(self) -> str:
        """One line for ``print(body)``."""
        return f"{self.name}, {len(self.weights)} vertices, {self.joint_count} joints, {self.shape_count} betas"

    def _betas(self, betas: Tensor) -> Tensor:
        if betas.ndim != 1 or len(betas) > self.shape_count:
            raise ValueError(f"betas must have shape [{self.shape_count}] for {self.name}, got {list(betas.shape)}")
        return torch.nn.functional.pad(betas, (0, self.shape_count - len(betas)))

    def _correctives(self, rotations: Tensor) -> Tensor:
        """Pose blend shapes [m], ``[B, V, 3]``, of joint rotations ``[B, J, 3, 3]``."""
        eye = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
        posedirs: Tensor = self.smpl.posedirs
        return ((rotations[:, 1:] - eye).flatten(1) @ posedirs).reshape(len(rotations), -1, 3)

    def _joint_frames(self, rotations: Tensor, joints_rest: Tensor) -> Tensor:
        """World-from-joint transforms G_j, ``[B, J, 4, 4]``, of local rotations ``[B, J, 3, 3]``.

        Doubles the length of every joint's chain at each step instead of walking the tree joint by joint.
        """
        parents = self.ancestors[0, 1:-1]
        origin = torch.cat((joints_rest[:1], joints_rest[1:] - joints_rest.index_select(0, parents)))
        local = torch.cat((rotations, origin.expand(len(rotations), -1, -1)[..., None]), -1)
        frames = torch.nn.functional.pad(local, (0, 0, 0, 1))
        frames = torch.cat((frames, frames.new_zeros(len(frames), 1, 4, 4)), 1) + _corner(self.joint_count, frames)
        for ancestors in self.ancestors:
            frames = frames.index_select(1, ancestors) @ frames
        return frames[:, :-1]


def hand_places(body: CanonicalBody) -> Tensor | None:
    """Where a body's hands begin [m] and, as unit vectors, where they point to, left and right, ``[2, 2, 3]``.

    ``None`` for a body without SMPL's joints.
    """
    if len(body.joints) <= max(max(arm) for arm in LOWER_ARMS):
        return None
    places = []
    for _, wrist, hand in LOWER_ARMS:
        along = body.joints[hand] - body.joints[wrist]
        places.append(torch.stack([body.joints[wrist] + HAND_SHARE * along, along / along.norm()]))
    return torch.stack(places)


def load_body(path: Path | None = None, gender: str = "neutral") -> BodyModel:
    """Load the body model of one gender.

    Args:
        path: A model file, or a folder with SMPL files under their published names. Without it, the folder that the
            environment variable ``SELFRECON_BODY_MODELS`` names; without that, the CC0 body shipped with the package,
            which serves every gender.
        gender: ``neutral``, ``female`` or ``male``.

    Raises:
        BodyModelError: No such file or gender, unsafe or damaged content, or arrays of the wrong shape.
    """
    if gender not in GENDERS:
        raise BodyModelError(f"gender must be one of {', '.join(GENDERS)}, got {gender!r}")
    if path is None and os.environ.get(MODELS_VARIABLE):
        path = Path(os.environ[MODELS_VARIABLE])
    file = DEFAULT_BODY if path is None else find_body_file(path, gender)
    arrays = read_body_arrays(file)
    name = "CC0 body" if file == DEFAULT_BODY else f"{file.stem} ({gender})"
    return BodyModel(arrays, name, hashlib.sha256(file.read_bytes()).hexdigest())


def body_file_names(gender: str) -> Sequence[str]:
    """File name patterns, in lower case, under which a gender's model is looked for; the first match wins."""
    initial = gender if gender == "neutral" else gender[0]
    stems = (gender, f"smpl_{gender}", f"basicmodel_{initial}_lbs_*", f"{gender}_smpl_with_cocoplus_reg")
    return [f"{stem}{suffix}" for stem in stems for suffix in (".npz", ".pkl", ".txt")]


def find_body_file(path: Path, gender: str) -> Path:
    """The model file of one gender: ``path`` itself or a file with a published name in the folder ``path``.

    Raises:
        BodyModelError: Neither exists.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise BodyModelError(f"{path} does not exist; give a body model file or a folder of SMPL files")
    folders = [path, *(path / name for name in ("smpl", "models", "smpl/models"))]
    files = [file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir())]
    for pattern in body_file_names(gender):
        for file in files:
            if file.is_file() and Path(file.name.lower()).match(pattern):
                return file
    raise BodyModelError(
        f"{path} holds no {gender} body model; expected one of {', '.join(body_file_names(gender))} there. "
        "Leave the folder out to use the CC0 body that comes with the package"
    )


def _corner(count: int, like: Tensor) -> Tensor:
    """Completes ``count`` affine matrices to 4x4 and adds one identity, ``[count + 1, 4, 4]``."""
    corner = like.new_zeros(count + 1, 4, 4)
    corner[:, 3, 3] = 1.0
    corner[count].fill_diagonal_(1.0)
    return corner


def _translation(offsets: Tensor) -> Tensor:
    """Pure translations, ``[..., 4, 4]``."""
    eye = torch.eye(4, dtype=offsets.dtype, device=offsets.device).expand(*offsets.shape[:-1], 4, 4)
    return _translated(eye, offsets)


def _translated(transforms: Tensor, offsets: Tensor) -> Tensor:
    """Affine transforms followed by translations that broadcast against them."""
    return transforms + torch.nn.functional.pad(offsets[..., None], (3, 0, 0, 1))


def _inverse_rigid(transforms: Tensor) -> Tensor:
    """Inverse of rigid transforms, ``[..., 4, 4]``."""
    rotation = transforms[..., :3, :3].transpose(-1, -2)
    affine = torch.cat((rotation, -rotation @ transforms[..., :3, 3:]), -1)
    return torch.cat((affine, transforms[..., 3:, :]), -2)
