"""From the skeleton of a BVH file to ours: joints by name, rest poses by the directions of their bones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from selfrecon_warp.errors import MotionError
from selfrecon_warp.motion.bvh import Hierarchy, read_bvh
from selfrecon_warp.motion.clip import Motion
from selfrecon_warp.motion.joints import JOINT, JOINT_NAMES, PARENTS, known_joints
from selfrecon_warp.motion.rotations import Floats, between
from selfrecon_warp.motion.skeleton import Skeleton, leg_length

ALONG_AXIS = 0.97
"""Cosine to an axis from which on a rest pose is taken to face along it."""

_NEEDED = (
    *("pelvis", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
)
_LIMBS = {"hip": "knee", "knee": "ankle", "shoulder": "elbow", "elbow": "wrist"}
"""Joints whose bones are turned onto ours, and where the bone ends. Trunk, head and feet stand upright in every rest
pose, whatever directions their bones have."""
_FOLLOWERS = {"wrist": "elbow", "hand": "elbow"}
_SPINE = tuple(JOINT[name] for name in ("spine1", "spine2", "spine3"))


def read_bvh_motion(path: Path, skeleton: Skeleton, *, frame_rate: float | None = None) -> Motion:
    """Read a BVH file and carry its rotations over to our skeleton.

    The rest pose may be a T-pose, an A-pose or arms hanging, facing anywhere, with any axis up and in any unit of
    length. Joints that the file lacks follow their parent.

    Args:
        path: The file, with joints named as in SMPL, CMU's or Mixamo's skeletons.
        skeleton: Whose bones the file's bones are matched to.
        frame_rate: Frames a second, instead of what the file tells.

    Raises:
        MotionError: The file is not understood, a joint is missing or the rest pose no standing body.
    """
    file = read_bvh(path)
    sources = _sources(path, file)
    rest = file.rest()
    basis = _basis(path, rest, sources)
    rest = rest @ basis.T
    rotations, places = file.forward()
    turned = basis @ rotations @ basis.T
    ours = np.empty((len(turned), len(JOINT_NAMES), 3, 3))
    for joint, parent in enumerate(PARENTS):
        source = sources.get(joint)
        if source is None:
            ours[:, joint] = ours[:, parent]
        else:
            ours[:, joint] = turned[:, source] @ _alignment(joint, rest, sources, skeleton)
    legs = np.zeros((len(JOINT_NAMES), 3))
    for joint, source in sources.items():
        legs[joint] = rest[source]
    pelvis = places[:, sources[JOINT["pelvis"]]] @ basis.T
    return Motion(path.stem, skeleton.local(ours), pelvis, frame_rate or file.frame_rate, leg_length(legs))


def _sources(path: Path, file: Hierarchy) -> Mapping[int, int]:
    """Index of the file's joint by ours."""
    index = {name: place for place, name in reversed(list(enumerate(file.names))) if name}
    sources = {joint: index[name] for joint, name in known_joints(index).items()}
    missing = [name for name in _NEEDED if JOINT[name] not in sources]
    if missing:
        raise MotionError(
            f"{path}: has no joint known as {', '.join(missing)}; joints must be named as in SMPL, CMU's or Mixamo's "
            f"skeletons, found {', '.join(name for name in file.names if name)}"
        )
    spine = _spine(file.parents, sources)
    chosen = {0: (), 1: _SPINE[1:2], 2: _SPINE[::2]}.get(len(spine), _SPINE)
    if len(spine) > len(_SPINE):
        spine = [spine[0], spine[len(spine) // 2], spine[-1]]
    limbs = {joint: source for joint, source in sources.items() if joint not in _SPINE}
    return {**limbs, **dict(zip(chosen, spine, strict=True))}


def _spine(parents: Sequence[int], sources: Mapping[int, int]) -> list[int]:
    """The file's joints from above the pelvis to where the arms part."""

    def above(joint: int) -> list[int]:
        chain = [joint]
        while parents[chain[-1]] >= 0:
            chain.append(parents[chain[-1]])
        return chain

    pelvis = above(sources[JOINT["pelvis"]])
    left, right = (above(sources[JOINT[f"{side}_shoulder"]]) for side in ("left", "right"))
    return [joint for joint in left if joint in right and joint not in pelvis][::-1]


def _basis(path: Path, rest: Floats, sources: Mapping[int, int]) -> Floats:
    """Rotation ``[3, 3]`` from the file's axes to ours: y up, facing +z."""
    hips = [rest[sources[JOINT[f"{side}_hip"]]] for side in ("left", "right")]
    ankles = [rest[sources[JOINT[f"{side}_ankle"]]] for side in ("left", "right")]
    shoulders = [rest[sources[JOINT[f"{side}_shoulder"]]] for side in ("left", "right")]
    trunk, legs = np.mean(shoulders, 0) - np.mean(hips, 0), np.mean(hips, 0) - np.mean(ankles, 0)
    standing = trunk + legs
    axis = int(np.abs(standing).argmax())
    up = np.zeros(3)
    up[axis] = np.sign(standing[axis])
    left = hips[0] - hips[1]
    left -= (left @ up) * up
    upright = min(trunk @ up / max(np.linalg.norm(trunk), 1e-9), legs @ up / max(np.linalg.norm(legs), 1e-9))
    if upright < 0.7 or not np.linalg.norm(left) > 0.1 * np.linalg.norm(hips[0] - hips[1]) > 0:
        raise MotionError(
            f"{path}: the offsets describe no standing body (as where all bones lie along one axis); export the "
            "motion again with a T-pose or A-pose as rest pose"
        )
    left /= np.linalg.norm(left)
    if np.abs(left).max() > ALONG_AXIS:  # people are not quite alike on both sides
        left = np.rint(left)
    return np.stack((left, up, np.cross(left, up)))


def _alignment(joint: int, rest: Floats, sources: Mapping[int, int], skeleton: Skeleton) -> Floats:
    """Rotation ``[3, 3]`` from our rest pose to the file's, for one joint."""
    side, _, part = JOINT_NAMES[joint].partition("_")
    start = _FOLLOWERS.get(part, part)
    if start not in _LIMBS:
        return np.eye(3)
    first, last = JOINT[f"{side}_{start}"], JOINT[f"{side}_{_LIMBS[start]}"]
    theirs = rest[sources[last]] - rest[sources[first]]
    return between(skeleton.joints[last] - skeleton.joints[first], theirs) if theirs.any() else np.eye(3)
