"""The reference's skinning caches, ``initial_skinner_{pose type}.pth``, and how any file of its is read.

A cache is a dictionary:

==============  =====================================================================================
``ws``          weights ``[1, 24, Z, Y, X]`` at voxel centres
``bmins``       lower corner of their box [m], ``[1, 3]`` or ``[3]``; ``bmaxs`` the upper one
``Js``          rest joints [m], ``[24, 3]``
``parents``     parent of each joint, numpy integers or a tensor ``[24]``; the root's is any of -1 and 2^32 - 1
``init_pose``   inverse canonical bones ``[24, 4, 4]``, or the canonical pose, axis-angle [rad], ``[24, 3]``
``tmpBodyVs``   canonical body [m], ``[6890, 3]``; ``tmpBodyFs`` its triangles
==============  =====================================================================================

Its checkpoints hold the same box, joints and bones among the networks' state, as ``deformer.defs.1.b_min`` and so on;
their weights are left there, as the reference's own loader does.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfrecon_warp.config import ModelConfig
from selfrecon_warp.errors import RunError
from selfrecon_warp.model.body import BodyModel
from selfrecon_warp.model.rotation import rotation_from_axis_angle

POSE_TOLERANCE = 1e-3
"""Largest difference of a rotation's entries at which two canonical poses are the same."""
JOINT_TOLERANCE_M = 0.25
"""Joints further than this from the body model's are taken for another person's, or other units."""


@dataclass(frozen=True)
class PublishedSkinner:
    """The canonical body's skeleton and the weights around it.

    Attributes:
        path: File it came from.
        weights: Skinning weights at voxel centres, ``[X, Y, Z, J]``; ``None`` where the file has none to take.
        lower: Corner of their box [m], ``[3]``.
        upper: Opposite corner [m], ``[3]``.
        joints: Rest joints [m], ``[J, 3]``.
        rotations: World-from-joint rotations of the canonical pose, ``[J, 3, 3]``; ``None`` where the file has none.
        parents: Parent of every joint but the root, ``J - 1`` of them; ``None`` where the file has none.
    """

    path: Path
    weights: Tensor | None
    lower: Tensor
    upper: Tensor
    joints: Tensor
    rotations: Tensor | None
    parents: list[int] | None

    def placed(self, config: ModelConfig) -> ModelConfig:
        """The configuration with this box and resolution."""
        changes: dict[str, Any] = {"box": (tuple(self.lower.tolist()), tuple(self.upper.tolist()))}
        if self.weights is not None:
            changes["skinning_resolution"] = tuple(self.weights.shape[:3])
        return config.model_copy(update=changes)

    def joint_offsets(self, body: BodyModel, betas: Tensor, pose_type: int) -> Tensor:
        """What to add to a body model's rest joints so that they are these [m], ``[J, 3]``.

        Raises:
            RunError: The skeleton is another one, or stands in another canonical pose.
        """
        if self.parents is not None and self.parents != body.parents[1:]:
            raise RunError(f"{self.path}: parents are not those of {body.name}; give the SMPL body it was made with")
        canonical = body.canonical(betas, pose_type)
        if self.rotations is not None:
            expected = canonical.bones_inverse[:, :3, :3].transpose(1, 2)
            if float((self.rotations - expected).abs().max()) > POSE_TOLERANCE:
                raise RunError(
                    f"{self.path}: init_pose is not canonical pose {pose_type}; set train.skinner_pose_type in "
                    "config.conf to the pose it was made in"
                )
        offsets = self.joints - canonical.joints_rest
        if float(offsets.norm(dim=-1).max()) > JOINT_TOLERANCE_M:
            raise RunError(
                f"{self.path}: Js are up to {float(offsets.norm(dim=-1).max()):.2f} m from the joints of {body.name}; "
                "give the cache of this capture, in metres"
            )
        return offsets


def read_published_skinner(path: Path) -> PublishedSkinner:
    """Read an ``initial_skinner_*.pth`` without running any code in it.

    Raises:
        RunError: The file is missing, damaged, or not such a cache; the message names the entry.
    """
    content = read_published_file(path, "a skinning cache of the reference, such as initial_skinner_1.pth")
    found = content if isinstance(content, dict) else {}
    values = {name: _tensor(path, found, name) for name in ("ws", "bmins", "bmaxs", "Js", "parents", "init_pose")}
    weights = values["ws"].float()
    if weights.dim() != 5 or len(weights) != 1 or weights.shape[1] != values["parents"].numel():
        joints = values["parents"].numel()
        raise RunError(f"{path}: ws must have shape [1, {joints}, Z, Y, X], got {list(weights.shape)}")
    sums = weights.sum(1)
    if not bool(torch.isfinite(weights).all()) or float((sums - 1.0).abs().max()) > 1e-2:
        raise RunError(f"{path}: ws must sum to one in every voxel, got {float(sums.min()):.3g} to {sums.max():.3g}")
    skinner = skeleton_of(path, values["bmins"], values["bmaxs"], values["Js"], values["init_pose"], values["parents"])
    return PublishedSkinner(
        path,
        weights[0].permute(3, 2, 1, 0).contiguous(),
        skinner.lower,
        skinner.upper,
        skinner.joints,
        skinner.rotations,
        skinner.parents,
    )


def skeleton_of(
    path: Path, lower: Tensor, upper: Tensor, joints: Tensor, pose: Tensor | None, parents: Tensor | None = None
) -> PublishedSkinner:
    """Box and skeleton in the reference's layout, without weights.

    Raises:
        RunError: A shape does not fit; the message names the entry.
    """
    count = joints.numel() // 3
    for name, value, size in (("bmins", lower, 3), ("bmaxs", upper, 3), ("Js", joints, 3 * count)):
        if value.numel() != size or not bool(torch.isfinite(value).all()):
            raise RunError(f"{path}: {name} must hold {size} finite numbers, got shape {list(value.shape)}")
    lower, upper = lower.float().flatten(), upper.float().flatten()
    if not bool((upper > lower).all()):
        raise RunError(f"{path}: bmaxs must exceed bmins on every axis, got {lower.tolist()} to {upper.tolist()}")
    up = None if parents is None else [int(parent) for parent in parents.flatten().tolist()[1:]]
    return PublishedSkinner(
        path, None, lower, upper, joints.float().reshape(-1, 3), _rotations(path, pose, count, up), up
    )


def _rotations(path: Path, pose: Tensor | None, count: int, parents: list[int] | None) -> Tensor | None:
    """World-from-joint rotations of a canonical pose in either of the forms it is stored in."""
    if pose is None:
        return None
    if pose.numel() == 16 * count:
        return pose.float().reshape(count, 4, 4)[:, :3, :3].transpose(1, 2)
    if pose.numel() != 3 * count or parents is None:
        raise RunError(f"{path}: init_pose must have shape [{count}, 4, 4] or [{count}, 3], got {list(pose.shape)}")
    local = rotation_from_axis_angle(pose.float().reshape(count, 3))
    turned = [local[0]]
    for joint, parent in enumerate(parents, 1):
        turned.append(turned[parent] @ local[joint])
    return torch.stack(turned)


def read_published_file(path: Path, what: str) -> Any:
    """Content of a ``.pth`` of the reference: tensors, numbers, and numpy arrays of numbers; no code is run.

    Args:
        path: The file.
        what: What is expected, for the message.

    Raises:
        RunError: The file is missing, damaged, or holds something else.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such file; give {what}")
    try:
        with _arrays_allowed():
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises many kinds: zip, pickle, runtime, end of file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"{path}: damaged, or more than plain tensors ({reason}); get the file anew") from error


def _arrays_allowed() -> AbstractContextManager[Any]:
    """Tells torch's restricted reader how numpy rebuilds arrays of numbers, under its old and new names."""
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        return nullcontext()  # its reader knows no names but a function's own
    rebuild = np.ndarray(0).__reduce__()[0]
    kinds = {type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}
    allowed: list[Any] = [np.ndarray, np.dtype, *kinds]
    allowed += [(rebuild, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    return torch.serialization.safe_globals(allowed)


def _tensor(path: Path, content: dict[str, Any], name: str) -> Tensor:
    value = content.get(name)
    if isinstance(value, np.ndarray) and value.dtype.kind in "iuf":
        value = torch.from_numpy(value.astype(np.int64 if value.dtype.kind in "iu" else np.float32))
    if not isinstance(value, Tensor):
        found = "nothing" if value is None else type(value).__name__
        raise RunError(f"{path}: no skinning cache of the reference: {name} must be a tensor, got {found}")
    return value
