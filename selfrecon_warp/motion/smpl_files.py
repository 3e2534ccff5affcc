"""Motions as SMPL's parameters: AMASS archives and bare pose arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from selfrecon_warp.errors import MotionError
from selfrecon_warp.motion.clip import Motion
from selfrecon_warp.motion.joints import JOINT_NAMES
from selfrecon_warp.motion.rotations import Floats, about, matrices, vectors

MEAN_LEG_M = 0.82
"""Hip to knee to ankle of SMPL's mean body: whose path these files hold, when they do not tell."""
DEFAULT_RATE = 30.0
POSE_KEYS = ("poses", "pose", "smpl_poses", "body_poses", "thetas", "smpl_thetas", "arr_0")
TRANS_KEYS = ("trans", "transl", "translation", "smpl_trans")
RATE_KEYS = ("mocap_framerate", "mocap_frame_rate", "frame_rate", "framerate", "fps")
_BODY_JOINTS = 22
"""Joints that SMPL, SMPL-H and SMPL-X have in common; fingers or face follow."""
_COUNTS = {24: "SMPL", 52: "SMPL-H", 55: "SMPL-X"}


def read_smpl_motion(path: Path, *, up: str | None = None, frame_rate: float | None = None) -> Motion:
    """Read poses from an ``.npz`` or ``.npy`` file.

    An archive holds poses (AMASS: ``poses [N, 156]`` or ``[N, 165]`` with the hands; ``[N, 72]``, ``[N, 24, 3]`` or
    rotation matrices ``[N, 24, 3, 3]``), optionally a path ``trans [N, 3]`` [m] and a frame rate. An ``.npy`` file
    holds poses alone. Hands stay straight.

    Args:
        path: The file.
        up: The world's vertical axis, ``y`` or ``z``. When absent: z where the file has AMASS's frame rate key, else y.
        frame_rate: Frames a second, instead of what the file tells.

    Raises:
        MotionError: Missing, damaged or pickled file, no poses in it, a wrong shape, or values that are not finite.
    """
    arrays = _read(path)
    key = next((key for key in POSE_KEYS if key in arrays), None)
    if key is None:
        raise MotionError(
            f"{path}: holds no poses; expected an array named {', '.join(POSE_KEYS[:3])}, found "
            f"{', '.join(arrays) or 'nothing'}"
        )
    poses = _poses(path, key, arrays[key])
    trans_key = next((name for name in TRANS_KEYS if name in arrays), None)
    trans = np.zeros((len(poses), 3)) if trans_key is None else _numbers(path, trans_key, arrays[trans_key])
    if trans.shape != (len(poses), 3):
        raise MotionError(f"{path}: {trans_key} must have shape ({len(poses)}, 3) like the poses, got {trans.shape}")
    rate_key = next((name for name in RATE_KEYS if name in arrays), None)
    if frame_rate is None:
        frame_rate = DEFAULT_RATE if rate_key is None else _rate(path, rate_key, arrays[rate_key])
    if up is None:
        up = "z" if rate_key in RATE_KEYS[:2] else "y"
    if up == "z":
        upright = about("x", -np.pi / 2)
        poses[:, 0] = vectors(upright @ matrices(poses[:, 0]))
        trans = trans @ upright.T
    return Motion(path.stem, poses, trans, frame_rate, MEAN_LEG_M)


def _read(path: Path) -> Mapping[str, npt.NDArray[np.generic]]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"poses": loaded}
        with loaded:
            wanted = [name for name in loaded.files if name in (*POSE_KEYS, *TRANS_KEYS, *RATE_KEYS)]
            return {name: loaded[name] for name in wanted} or dict.fromkeys(loaded.files, np.zeros(0))
    except FileNotFoundError:
        raise MotionError(f"{path}: no such file; give a motion file, or one of the motions that ship") from None
    except Exception as error:  # zip, zlib, numpy and the file system have no common base
        if "allow_pickle" in str(error) or "pickle" in str(error).lower():
            raise MotionError(
                f"{path}: holds pickled Python objects, which are never loaded; save plain arrays with numpy.savez"
            ) from error
        raise MotionError(f"{path}: damaged or no NumPy file ({error})") from error


def _numbers(path: Path, key: str, array: npt.NDArray[np.generic]) -> Floats:
    if array.dtype.kind not in "fiu":
        raise MotionError(f"{path}: {key} must hold numbers, got {array.dtype}")
    numbers = array.astype(np.float64)
    if not np.isfinite(numbers).all():
        frame = int(np.argwhere(~np.isfinite(numbers))[0][0])
        raise MotionError(f"{path}: {key} holds NaN or infinity, first in frame {frame}")
    return numbers


def _poses(path: Path, key: str, stored: npt.NDArray[np.generic]) -> Floats:
    """Axis-angle ``[N, 24, 3]`` of any layout."""
    numbers = _numbers(path, key, stored)
    vectors_of = numbers
    if numbers.ndim == 4 and numbers.shape[2:] == (3, 3):
        errors = np.abs(numbers @ numbers.swapaxes(-1, -2) - np.eye(3)).max() if numbers.size else 0.0
        if errors > 1e-2 or (np.linalg.det(numbers) < 0).any():
            raise MotionError(f"{path}: {key} of shape {stored.shape} must be rotation matrices, some are not")
        vectors_of = vectors(numbers)
    elif numbers.ndim == 2 and numbers.shape[1] % 3 == 0:
        vectors_of = numbers.reshape(len(numbers), numbers.shape[1] // 3, 3)
    count = vectors_of.shape[1] if vectors_of.ndim == 3 else 0
    if vectors_of.ndim != 3 or vectors_of.shape[2] != 3 or count not in _COUNTS or not len(vectors_of):
        layouts = ", ".join(f"{3 * joints} or {joints}, 3 ({name})" for joints, name in _COUNTS.items())
        raise MotionError(f"{path}: {key} must have shape (frames, {layouts}), got {stored.shape}")
    poses = np.zeros((len(vectors_of), len(JOINT_NAMES), 3))
    poses[:, :_BODY_JOINTS] = vectors_of[:, :_BODY_JOINTS]
    if count == len(JOINT_NAMES):
        poses[:, _BODY_JOINTS:] = vectors_of[:, _BODY_JOINTS:]
    return poses


def _rate(path: Path, key: str, stored: npt.NDArray[np.generic]) -> float:
    numbers = _numbers(path, key, stored)
    if numbers.size != 1 or not numbers.reshape(-1)[0] > 0:
        raise MotionError(f"{path}: {key} must be one positive number of frames a second, got {stored}")
    return float(numbers.reshape(-1)[0])
