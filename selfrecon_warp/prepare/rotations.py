"""Joint rotations in whatever form an estimator stores them, as axis-angle vectors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from selfrecon_warp.errors import PrepareError

Floats = npt.NDArray[np.float64]

LARGEST_ERROR = 0.05
"""How far a stored matrix may be from a rotation, root mean square of its entries."""


def axis_angles(stored: np.ndarray, name: str) -> Floats:
    """Axis-angle vectors [rad], ``[F, J, 3]``, of one rotation per frame and joint.

    Args:
        stored: ``[F, J, 3]`` or ``[F, 3 J]`` axis-angle; ``[F, J, 3, 3]`` or ``[F, 9 J]`` matrices; ``[F, J, 6]``,
            ``[F, J, 3, 2]`` or ``[F, 6 J]`` the first two columns (or rows, whichever are orthonormal); ``[F, J, 4]``
            quaternions (w, x, y, z). J is 1, 21, 22, 23 or 24.
        name: What to call it in messages, file included.

    Raises:
        PrepareError: Another shape, NaN, or numbers that are no rotations.

    Source: six numbers, Zhou et al. 2019.
    """
    numbers = finite(stored, name)
    count, width = len(numbers), int(np.prod(numbers.shape[1:]))
    tail = numbers.shape[1:]
    if tail[-2:] == (3, 3) and _joints(width, 9):
        return _from_matrices(numbers.reshape(count, -1, 3, 3), name)
    if tail[-2:] == (3, 2) and _joints(width, 6):
        return _from_columns(numbers.reshape(count, -1, 3, 2), name)
    if numbers.ndim == 3 and tail[1] == 6 and _joints(width, 6):
        return _from_six(numbers, name)
    if numbers.ndim == 3 and tail[1] == 4 and _joints(width, 4):
        return _from_quaternions(numbers, name)
    if _joints(width, 3) and (numbers.ndim == 2 or tail[-1] == 3):
        return numbers.reshape(count, -1, 3)
    if numbers.ndim == 2 and _joints(width, 9):
        return _from_matrices(numbers.reshape(count, -1, 3, 3), name)
    if numbers.ndim == 2 and _joints(width, 6):
        return _from_six(numbers.reshape(count, -1, 6), name)
    raise PrepareError(
        f"{name} must hold one rotation for each frame and joint (axis-angle, matrix, 6 numbers or quaternion), got "
        "shape "
        f"{tuple(stored.shape)}"
    )


def finite(stored: np.ndarray, name: str) -> Floats:
    """The numbers in double precision, with at least one axis.

    Raises:
        PrepareError: They are none, or NaN or infinity is among them.
    """
    array = np.atleast_1d(np.asarray(stored))
    if array.dtype.kind not in "fiu":
        raise PrepareError(f"{name} must hold numbers, got {array.dtype}")
    if not np.isfinite(array).all():
        frame = int(np.argwhere(~np.isfinite(array))[0][0])
        raise PrepareError(f"{name} holds NaN or infinity, first in frame {frame}; estimate the body again")
    return array.astype(np.float64)


def _joints(width: int, numbers: int) -> bool:
    return width % numbers == 0 and width // numbers in (1, 21, 22, 23, 24)


def _from_matrices(matrices: Floats, name: str) -> Floats:
    gram = matrices @ matrices.swapaxes(-1, -2) - np.eye(3)
    error = np.sqrt((gram**2).mean((-1, -2)))
    wrong = (error > LARGEST_ERROR) | (np.linalg.det(matrices) < 0)
    if wrong.any():
        frame, joint = (int(index) for index in np.argwhere(wrong)[0])
        raise PrepareError(f"{name} must hold rotation matrices, that of frame {frame}, joint {joint} is none")
    return np.asarray(Rotation.from_matrix(matrices.reshape(-1, 3, 3)).as_rotvec()).reshape(matrices.shape[:-1])


def _from_six(numbers: Floats, name: str) -> Floats:
    """Columns stored one row after the other, or two rows: the reading whose vectors are nearer to orthonormal."""
    columns, rows = numbers.reshape(*numbers.shape[:2], 3, 2), numbers.reshape(*numbers.shape[:2], 2, 3)
    if _skew(columns) <= _skew(rows.swapaxes(-1, -2)):
        return _from_columns(columns, name)
    return np.asarray(-_from_columns(rows.swapaxes(-1, -2), name))


def _skew(columns: Floats) -> float:
    gram = columns.swapaxes(-1, -2) @ columns - np.eye(2)
    return float(np.sqrt((gram**2).mean()))


def _from_columns(columns: Floats, name: str) -> Floats:
    """Gram-Schmidt on two columns ``[..., 3, 2]``."""
    first, second = columns[..., 0], columns[..., 1]
    lengths = np.linalg.norm(first, axis=-1, keepdims=True)
    first = first / np.maximum(lengths, 1e-12)
    second = second - (first * second).sum(-1, keepdims=True) * first
    rest = np.linalg.norm(second, axis=-1, keepdims=True)
    if min(float(lengths.min()), float(rest.min())) < 1e-6:
        raise PrepareError(f"{name} must hold two independent directions for each joint; some are zero or parallel")
    second = second / rest
    return _from_matrices(np.stack((first, second, np.cross(first, second)), -1), name)


def _from_quaternions(quaternions: Floats, name: str) -> Floats:
    if np.abs(np.linalg.norm(quaternions, axis=-1) - 1).max() > LARGEST_ERROR:
        raise PrepareError(f"{name} must hold unit quaternions (w, x, y, z), some are of another length")
    turned = Rotation.from_quat(quaternions.reshape(-1, 4)[:, (1, 2, 3, 0)])
    return np.asarray(turned.as_rotvec()).reshape(*quaternions.shape[:-1], 3)
