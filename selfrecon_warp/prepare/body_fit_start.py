"""First poses from keypoints in space: the trunk from hips and shoulders, then limbs, bone by bone."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from selfrecon_warp.model.body import BodyModel
from selfrecon_warp.prepare.rotations import Floats

LIMBS = (
    (16, 18, "left_shoulder", "left_elbow"),
    (17, 19, "right_shoulder", "right_elbow"),
    (18, 20, "left_elbow", "left_wrist"),
    (19, 21, "right_elbow", "right_wrist"),
    (1, 4, "left_hip", "left_knee"),
    (2, 5, "right_hip", "right_knee"),
    (4, 7, "left_knee", "left_ankle"),
    (5, 8, "right_knee", "right_ankle"),
)
"""Joint that turns, joint at the bone's end, and the keypoints between which the bone lies."""


def filled(values: Floats) -> Floats:
    """Gaps (NaN) of ``[N, K, C]`` filled along time from the nearest frames; zero where a keypoint is never seen."""
    result = np.array(values)
    frames = np.arange(len(values))
    for k in range(values.shape[1]):
        seen = np.isfinite(values[:, k]).all(-1)
        for c in range(values.shape[2]):
            result[:, k, c] = np.interp(frames, frames[seen], values[seen, k, c]) if seen.any() else 0.0
    return result


def lifted(keypoints: Floats, names: tuple[str, ...]) -> Floats:
    """A guess of places in space [m] from pixels alone: the trunk's turn from its width and the nose, all else flat.

    Args:
        keypoints: ``[N, K, 2]`` [px], without gaps.
        names: What they are.
    """
    at = {name: keypoints[:, column] for column, name in enumerate(names)}
    shoulders, hips = ((at[f"left_{part}"], at[f"right_{part}"]) for part in ("shoulder", "hip"))
    middle = 0.5 * (hips[0] + hips[1])
    trunk = np.median(np.linalg.norm(0.5 * (shoulders[0] + shoulders[1]) - middle, axis=-1))
    metres = 0.5 / max(float(trunk), 1e-6)
    space = np.zeros((*keypoints.shape[:2], 3))
    space[..., :2] = (keypoints - middle[:, None]) * metres
    across = (shoulders[0] - shoulders[1])[:, 0] + (hips[0] - hips[1])[:, 0]
    nose = at.get("nose", 0.5 * (shoulders[0] + shoulders[1]))
    ahead = nose[:, 0] - 0.5 * (shoulders[0] + shoulders[1])[:, 0]
    turn = np.arctan2(ahead / max(np.abs(ahead).max(), 1e-6), across / max(np.abs(across).max(), 1e-6))
    for part, half in (("shoulder", 0.17), ("hip", 0.1)):
        for side, sign in (("left", 1), ("right", -1)):
            space[:, names.index(f"{side}_{part}"), 2] = sign * half * np.sin(turn)
    return space


def trunk_axes(space: Floats, names: tuple[str, ...]) -> Floats:
    """Axes (left, up, forward) of the trunk as columns, ``[N, 3, 3]``, of keypoints ``[N, K, 3]`` in any frame."""
    at = {name: space[:, column] for column, name in enumerate(names)}
    up = at["left_shoulder"] + at["right_shoulder"] - at["left_hip"] - at["right_hip"]
    left = at["left_shoulder"] - at["right_shoulder"] + at["left_hip"] - at["right_hip"]
    up /= np.maximum(np.linalg.norm(up, axis=-1, keepdims=True), 1e-9)
    left -= (left * up).sum(-1, keepdims=True) * up
    left /= np.maximum(np.linalg.norm(left, axis=-1, keepdims=True), 1e-9)
    return np.stack((left, up, np.cross(left, up)), -1)


def first_poses(space: Floats, names: tuple[str, ...], body: BodyModel, betas: torch.Tensor) -> Floats:
    """Poses, axis-angle [rad] ``[N, 24, 3]``, of keypoints in space.

    Args:
        space: In the axes of the world [m], any origin, ``[N, K, 3]``, without gaps.
        names: What they are.
        body: Body model.
        betas: Its shape.
    """
    rest = body.shaped(betas)[1].double().numpy()
    at = {name: space[:, column] for column, name in enumerate(names)}
    trunk = Rotation.from_matrix(trunk_axes(space, names))
    N = len(space)
    local = [Rotation.identity(N) for _ in range(body.joint_count)]
    local[0] = trunk
    world = {0: trunk}
    ends = {joint: (end, start, stop) for joint, end, start, stop in LIMBS}
    for joint in range(1, body.joint_count):
        parent = world[body.parents[joint]]
        if joint in ends and all(name in at for name in ends[joint][1:]):
            end, start, stop = ends[joint]
            wanted = parent.inv().apply(at[stop] - at[start])
            local[joint] = _swing(rest[end] - rest[joint], wanted)
        world[joint] = parent * local[joint]
    return np.stack([rotation.as_rotvec() for rotation in local], 1)


def _swing(rest: Floats, wanted: Floats) -> Rotation:
    """Least rotations that turn direction ``rest [3]`` into directions ``wanted [N, 3]``."""
    source = rest / np.linalg.norm(rest)
    target = wanted / np.maximum(np.linalg.norm(wanted, axis=-1, keepdims=True), 1e-9)
    axis = np.cross(source, target)
    sine = np.linalg.norm(axis, axis=-1, keepdims=True)
    angle = np.arctan2(sine, (target @ source)[:, None])
    return Rotation.from_rotvec(axis / np.maximum(sine, 1e-9) * angle)


def first_translations(
    relative: Floats, keypoints: Floats, weight: Floats, focal: tuple[float, float], principal: tuple[float, float]
) -> Floats:
    """Where points in camera axes (x right, y down, z forward) must be moved to meet their pixels, ``[N, 3]`` [m].

    Args:
        relative: ``[N, K, 3]`` [m].
        keypoints: ``[N, K, 2]`` [px], without gaps.
        weight: ``[N, K]``.
        focal: (fx, fy) [px].
        principal: (cx, cy) [px].
    """
    slopes = (keypoints - np.asarray(principal)) / np.asarray(focal)
    N, K = relative.shape[:2]
    rows = np.zeros((N, K, 2, 3))
    rows[..., 0, 0] = rows[..., 1, 1] = 1.0
    rows[..., 2] = -slopes
    right = slopes * relative[..., 2:] - relative[..., :2]
    scaled = rows * weight[..., None, None]
    left = np.einsum("nkci,nkcj->nij", scaled, rows) + 1e-9 * np.eye(3)
    return np.asarray(np.linalg.solve(left, np.einsum("nkci,nkc->ni", scaled, right)[..., None])[..., 0])
