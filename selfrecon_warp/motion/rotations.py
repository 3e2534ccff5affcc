"""Rotations of whole motions: batches of quaternions through SciPy, any leading shape."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

Floats = npt.NDArray[np.float64]


def matrices(vectors: Floats) -> Floats:
    """Rotation matrices ``[..., 3, 3]`` of axis-angle vectors ``[..., 3]`` [rad]."""
    return np.asarray(Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix()).reshape(*vectors.shape, 3)


def vectors(rotations: Floats) -> Floats:
    """Axis-angle vectors ``[..., 3]`` [rad], shorter than half a turn, of rotation matrices ``[..., 3, 3]``."""
    flat = Rotation.from_matrix(rotations.reshape(-1, 3, 3)).as_rotvec()
    return np.asarray(flat).reshape(rotations.shape[:-1])


def about(axis: str, angles: Floats | float) -> Floats:
    """Rotation matrices ``[..., 3, 3]`` about the x, y or z axis by angles ``[...]`` [rad]."""
    angles = np.asarray(angles, np.float64)
    turned = np.zeros((*angles.shape, 3))
    turned[..., "xyz".index(axis)] = angles
    return matrices(turned)


def slerp(first: Floats, second: Floats, share: Floats) -> Floats:
    """Rotations on the shortest great arc between two, at constant angular speed.

    Args:
        first: Axis-angle at share 0 [rad], ``[N, J, 3]``.
        second: Axis-angle at share 1 [rad], ``[N, J, 3]``.
        share: In [0, 1], ``[N]``.

    Returns:
        Axis-angle [rad], ``[N, J, 3]``.

    Source: spherical linear interpolation, Shoemake 1985.
    """
    start, end = Rotation.from_rotvec(first.reshape(-1, 3)), Rotation.from_rotvec(second.reshape(-1, 3))
    turn = (start.inv() * end).as_rotvec() * np.repeat(share, first.shape[1])[:, None]
    return np.asarray((start * Rotation.from_rotvec(turn)).as_rotvec()).reshape(first.shape)


def between(first: Floats, second: Floats) -> Floats:
    """The smallest rotation ``[..., 3, 3]`` that turns directions ``[..., 3]`` into others; opposite ones turn about x.

    Args:
        first: Directions of any length but zero.
        second: Directions of any length but zero.
    """
    first = first / np.linalg.norm(first, axis=-1, keepdims=True)
    second = second / np.linalg.norm(second, axis=-1, keepdims=True)
    axis = np.cross(first, second)
    sine = np.linalg.norm(axis, axis=-1, keepdims=True)
    angle = np.arctan2(sine, (first * second).sum(-1, keepdims=True))
    fallback = np.cross(first, np.where(np.abs(first[..., :1]) < 0.9, [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]))
    fallback /= np.linalg.norm(fallback, axis=-1, keepdims=True)
    return matrices(np.where(sine > 1e-9, axis / np.maximum(sine, 1e-12), fallback) * angle)
