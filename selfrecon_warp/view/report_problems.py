"""What a reader of the report should know before trusting a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from selfrecon_warp.view.report_scores import ScoreRow

LOW_IOU = 0.95
UNSTEADY_AREA = 0.08
"""Share by which a mask's area may stick out of the frames before and after."""
UNUSUAL = 3.0
"""How many times the usual difference between two frames that must be as well: few pictures of a turn differ more."""
UNSTEADY_IOU = 0.03
"""How much lower than before and after a frame's overlap may be."""


def overlap_problems(overlaps: Mapping[int, float], threshold: float = LOW_IOU, most: int = 10) -> list[str]:
    """A sentence about frames whose silhouette overlap is low, worst first; nothing when all are fine.

    Args:
        overlaps: Silhouette IoU of each frame.
        threshold: What counts as low.
        most: How many frames to name.
    """
    low = sorted((overlap, frame) for frame, overlap in overlaps.items() if overlap < threshold)
    if not low:
        return []
    named = ", ".join(f"{frame} ({overlap:.3f})" for overlap, frame in low[:most])
    rest = f" and {len(low) - most} more" if len(low) > most else ""
    frames = "frames overlaps its mask" if len(low) == 1 else "frames overlap their masks"
    return [f"{len(low)} of {len(overlaps)} {frames} by less than {threshold:.2f}: {named}{rest}."]


def unsteady_problems(areas: Sequence[float], overlaps: Mapping[int, float], most: int = 10) -> list[str]:
    """Sentences about single frames that stand out: masks whose area jumps, fits that lose their silhouette.

    Args:
        areas: Mask area of every frame, in any unit.
        overlaps: Silhouette IoU of frames.
        most: How many frames to name.
    """
    problems = []
    area = np.asarray(areas, float)
    usual = float(np.median(np.abs(np.diff(area)))) if len(area) > 1 else 0.0
    allowed = np.maximum(UNSTEADY_AREA * area, UNUSUAL * usual)
    jumps = np.flatnonzero(np.maximum(_sticks_out(area), _sticks_out(-area)) > allowed)
    if len(jumps):
        problems.append(
            f"The mask's area differs by more than {UNSTEADY_AREA:.0%} from just before and after in "
            f"{_frames(jumps.tolist(), most)}; look at the masks there."
        )
    frames = sorted(overlaps)
    values = np.array([overlaps[frame] for frame in frames])
    drops = np.flatnonzero(_sticks_out(-values) > UNSTEADY_IOU)
    if len(drops):
        named = _frames([frames[index] for index in drops], most)
        problems.append(f"The silhouette is unsteady: the overlap is lower than just before and after in {named}.")
    return problems


def score_problems(rows: Sequence[ScoreRow]) -> list[str]:
    """A sentence about the measures by which the body was better before the fit than after it."""
    worse = [f"{row.title} ({row.shown(row.initial)} before, {row.shown(row.fit)} after)" for row in rows]
    worse = [text for text, row in zip(worse, rows, strict=True) if row.improved is False]
    return [f"Worse than the body before the fit: {', '.join(worse)}."] if worse else []


def progress_problems(iteration: int, planned: int) -> list[str]:
    """A sentence about a fit that is not at its end."""
    if iteration >= planned:
        return []
    return [f"The fit is not finished: {iteration} of {planned} iterations; go on with `selfrecon fit --resume`."]


def _sticks_out(values: np.ndarray) -> np.ndarray:
    """By how much each value is above both its neighbours; negative where it is not, or has only one."""
    height = np.full(len(values), -np.inf)
    height[1:-1] = np.minimum(values[1:-1] - values[:-2], values[1:-1] - values[2:])
    return height


def _frames(frames: Sequence[int], most: int) -> str:
    named = ", ".join(map(str, frames[:most]))
    rest = f" and {len(frames) - most} more" if len(frames) > most else ""
    return f"frame {named}" if len(frames) == 1 else f"frames {named}{rest}"
