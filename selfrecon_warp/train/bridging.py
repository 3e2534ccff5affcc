"""Frames whose pose went astray, started anew from their neighbours.

Registration follows outlines to the nearest edge. A limb that an estimate puts before the trunk, while the picture
shows it beside, has no outline of its own to be pulled by, and stays. Such frames overlap their masks less than the
frames around them, and motion is slow: between the frames before and after it lies a better start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.ndimage import median_filter
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

AROUND = 31
"""Frames whose median overlap is the usual one."""
LEAST_DROP = 0.01
"""Overlap below the usual by which a frame counts as astray, at least;"""
DROP_DEVIATIONS = 4.0
"""and in robust standard deviations of all frames' drops."""
LEAST_GAIN = 0.003
"""Overlap that a new start must gain."""


def astray_runs(overlap: np.ndarray, clips: Sequence[tuple[int, int]], longest: int) -> list[tuple[int, int]]:
    """First and one-past-last frame of every short run that overlaps its masks less than the frames around it.

    Args:
        overlap: Intersection over union of surface and mask, ``[N]``.
        clips: First and one-past-last frame of each continuous clip.
        longest: Longer runs are left alone: what lies between their ends is not known.
    """
    runs: list[tuple[int, int]] = []
    for first, last in clips:
        drop = median_filter(overlap[first:last], AROUND, mode="mirror") - overlap[first:last]
        spread = 1.4826 * np.median(np.abs(drop - np.median(drop)))
        astray = np.flatnonzero(drop > max(LEAST_DROP, DROP_DEVIATIONS * spread))
        for run in np.split(astray, np.flatnonzero(np.diff(astray) > 1) + 1):
            if 0 < len(run) <= longest and len(run) < last - first:
                runs.append((first + int(run[0]), first + int(run[-1]) + 1))
    return runs


def bridged(
    poses: Tensor,
    trans: Tensor,
    overlap: np.ndarray,
    clips: Sequence[tuple[int, int]],
    parents: Sequence[int],
    overlap_of: Callable[[Tensor, Tensor, Sequence[int]], np.ndarray],
    longest: int,
) -> tuple[Tensor, Tensor, int]:
    """Replace limbs that went astray by what their neighbours in time show, where that overlaps the masks better.

    Each limb alone is tried as in the last frame before, as in the first frame after and between the two; so is the
    whole body between them. Every frame takes what suits it best.

    Args:
        poses: Axis-angle [rad], ``[N, J, 3]``.
        trans: [m], ``[N, 3]``.
        overlap: Intersection over union of surface and mask, ``[N]``.
        clips: First and one-past-last frame of each continuous clip.
        parents: Of each joint.
        overlap_of: The overlap of other poses and translations, for some frames.
        longest: Longer runs of frames are left alone.

    Returns:
        Poses, translations, and how many frames were changed.
    """
    changed = 0
    for first, last in astray_runs(overlap, clips, longest):
        start, end = next(clip for clip in clips if clip[0] <= first < clip[1])
        ends = [frame for frame in (first - 1, last) if start <= frame < end]
        frames = list(range(first, last))
        between = _between(poses, ends, np.clip(frames, ends[0], ends[-1]))
        candidates = []
        for source in (between, *(poses[[frame]].expand(len(frames), -1, -1) for frame in ends)):
            for limb in limbs(parents):
                candidate = poses[frames].clone()
                candidate[:, limb] = source[:, limb]
                candidates.append((candidate, trans[frames]))
        candidates.append((between, _moved(trans, ends, np.clip(frames, ends[0], ends[-1]))))
        gains = []
        for candidate, place in candidates:
            tried, moved = poses.clone(), trans.clone()
            tried[frames], moved[frames] = candidate, place
            gains.append(overlap_of(tried, moved, frames) - overlap[frames])
        best = np.stack(gains)
        poses, trans = poses.clone(), trans.clone()
        for row, frame in enumerate(frames):
            choice = int(best[:, row].argmax())
            if best[choice, row] > LEAST_GAIN:
                poses[frame], trans[frame] = candidates[choice][0][row], candidates[choice][1][row]
                changed += 1
    return poses, trans, changed


def limbs(parents: Sequence[int]) -> list[list[int]]:
    """Joints of every chain that ends in a leaf and begins below a joint where the skeleton branches."""
    children = np.bincount([parent for parent in parents if parent >= 0], minlength=len(parents))
    chains = []
    for leaf in np.flatnonzero(children == 0).tolist():
        chain = [leaf]
        while parents[chain[-1]] >= 0 and children[parents[chain[-1]]] == 1:
            chain.append(int(parents[chain[-1]]))
        chains.append(chain)
    return chains


def _between(poses: Tensor, ends: list[int], times: np.ndarray) -> Tensor:
    """Joint rotations at ``times``, between those of the frames ``ends``, ``[T, J, 3]``."""
    if len(ends) == 1:
        return poses[ends].expand(len(times), -1, -1)
    joints = poses[ends].double().cpu().numpy()
    turned = [Slerp(ends, Rotation.from_rotvec(joints[:, j]))(times).as_rotvec() for j in range(joints.shape[1])]
    return torch.from_numpy(np.stack(turned, 1)).to(poses)


def _moved(trans: Tensor, ends: list[int], times: np.ndarray) -> Tensor:
    share = torch.from_numpy((times - ends[0]) / max(ends[-1] - ends[0], 1)).to(trans)[:, None]
    return (1.0 - share) * trans[ends[0]] + share * trans[ends[-1]]
