"""Where motions come from: files by their kind, and those that ship."""

from __future__ import annotations

from pathlib import Path

from selfrecon_warp.errors import MotionError
from selfrecon_warp.motion.clip import Motion
from selfrecon_warp.motion.procedural import PROCEDURES
from selfrecon_warp.motion.retarget import read_bvh_motion
from selfrecon_warp.motion.skeleton import Skeleton
from selfrecon_warp.motion.smpl_files import read_smpl_motion

SUFFIXES = (".npz", ".npy", ".bvh")


def load_motion(
    source: str, skeleton: Skeleton, frame_rate: float, *, up: str | None = None, source_rate: float | None = None
) -> Motion:
    """A motion by name or file, at a frame rate.

    Args:
        source: ``walk``, ``sway``, or a file: AMASS or SMPL poses (``.npz``, ``.npy``) or ``.bvh``.
        skeleton: Who shall move.
        frame_rate: Frames a second of the result.
        up: Vertical axis of a file of SMPL poses, ``y`` or ``z``; found out when absent.
        source_rate: Frames a second of the file, instead of what it tells.

    Raises:
        MotionError: There is no such motion or file, or the file is not understood.
    """
    if source in PROCEDURES:
        return PROCEDURES[source](skeleton, frame_rate)
    path = Path(source)
    if path.suffix.lower() == ".bvh":
        motion = read_bvh_motion(path, skeleton, frame_rate=source_rate)
    elif path.suffix.lower() in SUFFIXES:
        motion = read_smpl_motion(path, up=up, frame_rate=source_rate)
    else:
        raise MotionError(
            f"{source}: no motion; give {', '.join(sorted(PROCEDURES))}, or a file ending in {', '.join(SUFFIXES)}"
        )
    return motion.resampled(frame_rate)
