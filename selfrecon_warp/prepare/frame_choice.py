"""Which frames of a video become a capture: sharp ones, spread evenly over one turn of the person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d, median_filter

from selfrecon_warp.prepare.survey import Survey

FULL_TURN = np.radians(340)
"""What counts as all around: the last frame of a turn is not its first."""
LEAST_CONFIDENCE = 0.3
NEIGHBOURS = 5
STEADY = 0.02
"""Share of the frames over which headings are smoothed: networks err by some 15 degrees, people turn steadily."""
PULL = 0.3
"""What a frame at the rim of its share of the turn loses against one in the middle, in units of relative sharpness."""


@dataclass(frozen=True)
class Turn:
    """The stretch of a video in which the person turns once.

    Attributes:
        rows: Rows of the survey that are usable and belong to it, increasing, ``[T]``.
        progress: How far the person has turned at each, 0 at the first, never decreasing, ``[T]`` [rad]; without 3D
            keypoints the time takes its place.
        angle: How far altogether [rad]; NaN when it cannot be told.
    """

    rows: np.ndarray
    progress: np.ndarray
    angle: float


def headings(survey: Survey, names: tuple[str, ...]) -> np.ndarray:
    """Which way the person faces in every frame, unwrapped over the frames, ``[M]`` [rad]; NaN where unknown.

    The heading is that of the line from the right to the left shoulder and hip, seen from above: 0 towards the camera.
    """
    heading = np.full(len(survey.frames), np.nan)
    lines = np.zeros((len(survey.frames), 2))
    for part in ("shoulder", "hip"):
        left, right = names.index(f"left_{part}"), names.index(f"right_{part}")
        line = (survey.keypoints3d[:, left] - survey.keypoints3d[:, right])[:, [0, 2]]
        lines += line / np.maximum(np.linalg.norm(line, axis=-1, keepdims=True), 1e-6)
    known = np.isfinite(lines).all(-1) & survey.found
    lines = lines[known]
    if len(lines) >= NEIGHBOURS:  # where the network takes front for back in a few frames, the others outvote them
        lines = median_filter(lines, (NEIGHBOURS, 1), mode="nearest")
    heading[known] = np.unwrap(np.arctan2(lines[:, 1], lines[:, 0]))
    return heading


def find_turn(survey: Survey, usable: np.ndarray, names: tuple[str, ...], times: np.ndarray) -> Turn:
    """The shortest stretch that holds a full turn, or everything where there is none.

    Args:
        survey: The video.
        usable: Rows that may be taken, ``[M]`` bool.
        names: Of the keypoints.
        times: Of the rows [s], ``[M]``.
    """
    rows = np.flatnonzero(usable)
    heading = headings(survey, names)[rows]
    if np.isnan(heading).any() or len(rows) < 2:
        return Turn(rows, times[rows] - times[rows[0]], float("nan"))
    if heading[-1] < heading[0]:
        heading = -heading
    heading = gaussian_filter1d(heading, STEADY * len(heading), mode="nearest")
    steps = len(rows) / (len(rows) - 1)  # the last frame of a turn is one step short of the first
    turned = min(float(heading.max() - heading.min()) * steps, 2 * np.pi)
    ahead = np.maximum.accumulate(heading)
    first, last = 0, len(rows) - 1
    if ahead[-1] - ahead[0] > 2 * np.pi:
        ends = np.searchsorted(ahead, ahead + 2 * np.pi)
        starts = np.flatnonzero(ends < len(rows))
        durations = times[rows[ends[starts]]] - times[rows[starts]]
        first = int(starts[durations.argmin()])
        last = int(ends[first]) - 1
        turned = 2 * np.pi
    chosen = slice(first, last + 1)
    return Turn(rows[chosen], ahead[chosen] - ahead[first], turned)


def choose_frames(turn: Turn, survey: Survey, count: int) -> np.ndarray:
    """Rows of the survey, increasing, at most ``count``: the sharpest in every share of the turn.

    Sharpness is compared with that of the neighbouring frames, because front, back and sides differ in detail.
    """
    rows = turn.rows
    if len(rows) <= count:
        return rows
    sharp = survey.sharpness[rows]
    usual = np.maximum(median_filter(sharp, min(4 * NEIGHBOURS + 1, len(rows)), mode="nearest"), 1e-9)
    quality = sharp / usual
    # Where somebody stands still progress stops; a little of the time keeps such frames apart.
    steps = turn.progress + 1e-3 * np.arange(len(rows)) / len(rows)
    edges = np.linspace(steps[0], steps[-1], count + 1)
    middles, width = 0.5 * (edges[1:] + edges[:-1]), edges[1] - edges[0]
    share = np.clip(np.searchsorted(edges, steps, side="right") - 1, 0, count - 1)
    offset = np.abs(steps - middles[share]) / width
    score = quality - PULL * offset
    best = {int(part): int(np.flatnonzero(share == part)[score[share == part].argmax()]) for part in np.unique(share)}
    taken = np.zeros(len(rows), bool)
    taken[list(best.values())] = True
    # Shares without a frame (a quick part of the turn) give theirs to the frames that are farthest from taken ones.
    while taken.sum() < count:
        places = np.flatnonzero(taken)
        free = np.flatnonzero(~taken)
        gap = np.abs(steps[free, None] - steps[None, places]).min(1)
        taken[free[gap.argmax()]] = True
    return np.asarray(rows[taken])
