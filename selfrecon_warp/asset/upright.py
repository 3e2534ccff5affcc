"""From the capture's world, which may hang upside down from its camera, to one every program shows standing.

Metres, right-handed, y up, floor at y = 0. In the canonical pose the person faces +z; in the first frame as well, with
the pelvis above the origin.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from selfrecon_warp.asset.rigged import RiggedMesh
from selfrecon_warp.model.rotation import rotation_from_axis_angle

SECTORS = 12
FLOOR_SAMPLES = 24


def upright(rigged: RiggedMesh) -> tuple[RiggedMesh, np.ndarray]:
    """Set a captured person on the floor, in the canonical pose and in the motion.

    Up is the mean of the pelvis' vertical axis over all headings, each counting alike, so that over a full turn a
    pelvis that is always tilted forward cancels out. The floor is the median over the frames of the lowest vertex.

    Args:
        rigged: As fitted, in any world.

    Returns:
        The mesh with moved vertices, skeleton, poses and translations, and the capture-from-asset transform, ``[4, 4]``
        float64, which takes its motion back into the capture's world.
    """
    turns = _matrices(rigged.poses[:, 0])
    basis = _basis(turns)  # rows: the asset's axes in the capture's world
    lift = np.array([0.0, -float(rigged.vertices[:, 1].min()), 0.0])
    bind = rigged.bind.astype(np.float64)
    bind[:, :3, 3] += lift
    pelvis = rigged.bind[0, :3, 3] + rigged.trans.astype(np.float64)
    sampled = np.unique(np.linspace(0, rigged.frame_count - 1, FLOOR_SAMPLES).astype(int))
    lowest = [rigged.posed(rigged.poses[[n]], rigged.trans[[n]])[0].astype(np.float64) @ basis[1] for n in sampled]
    floor = np.median([heights.min() for heights in lowest])
    origin = np.array([basis[0] @ pelvis[0], floor, basis[2] @ pelvis[0]])
    poses = rigged.poses.copy()
    poses[:, 0] = _vectors(basis @ turns)
    moved = replace(
        rigged,
        vertices=(rigged.vertices + lift).astype(np.float32),
        bind=bind,
        poses=poses,
        trans=(pelvis @ basis.T - origin - bind[0, :3, 3]).astype(np.float32),
    )
    capture_from_asset = np.eye(4)
    capture_from_asset[:3, :3], capture_from_asset[:3, 3] = basis.T, basis.T @ origin
    return moved, capture_from_asset


def _basis(turns: np.ndarray) -> np.ndarray:
    """The upright world's axes as rows, ``[3, 3]``, from the pelvis' orientation in every frame, ``[N, 3, 3]``."""
    up, front = turns[:, :, 1].mean(0), turns[:, :, 2]
    rough = _frame(up, front[0])
    heading = np.arctan2(front @ rough[0], front @ rough[2])
    sector = np.rint(heading / (2 * np.pi) * SECTORS).astype(int) % SECTORS
    share = 1.0 / np.bincount(sector, minlength=SECTORS)[sector]
    return _frame(share @ turns[:, :, 1], front[0])


def _frame(up: np.ndarray, front: np.ndarray) -> np.ndarray:
    """Axes as rows: y along ``up``, z towards ``front`` as far as that is level."""
    y = up / np.linalg.norm(up)
    x = np.cross(y, front)
    x /= np.linalg.norm(x)
    return np.stack((x, y, np.cross(x, y)))


def _matrices(vectors: np.ndarray) -> np.ndarray:
    return rotation_from_axis_angle(torch.from_numpy(vectors.astype(np.float64))).numpy()


def _vectors(matrices: np.ndarray) -> np.ndarray:
    return np.asarray(Rotation.from_matrix(matrices).as_rotvec(), np.float32)
