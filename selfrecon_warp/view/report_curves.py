"""Curves of the report: what ``log.jsonl`` tells, and how a curve is drawn."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from selfrecon_warp.errors import RunError
from selfrecon_warp.view.report_scores import MINUS

CHART_WIDTH, CHART_HEIGHT = 360, 150
CHART_MARGIN = (10, 12, 22, 52)  # top, right, bottom, left
CHART_POINTS = 400
LOSSES = {
    "iou": "overlap of silhouette and mask, 1 is perfect",
    "contour_px": "distance of the outlines [px]",
    "mask": "area where silhouette and mask differ",
    "colour": "difference of colours",
    "normal": "difference of normals",
    "eikonal": "how far the field is from one of distances",
    "rigidity": "stretching by the learned offset",
    "temporal": "change of poses from frame to frame",
    "explicit": "what the mesh's vertices are moved by",
    "pull": "distance of the field from those vertices",
}
"""Logged values that are drawn, in this order, and what they are."""


@dataclass(frozen=True)
class Curve:
    """One value that changes.

    Attributes:
        name: As logged, or a title.
        positions: Ascending.
        values: One a position.
        meaning: A few words.
        along: What the positions count.
    """

    name: str
    positions: Sequence[float]
    values: Sequence[float]
    meaning: str = ""
    along: str = "iterations"


@dataclass(frozen=True)
class FitLog:
    """What ``log.jsonl`` tells.

    Attributes:
        curves: One for each logged value.
        stages: Name and first and last iteration of each stage.
        seconds: Time the fit took, if logged.
    """

    curves: Sequence[Curve] = ()
    stages: Sequence[tuple[str, float, float]] = ()
    seconds: float | None = None

    @property
    def duration(self) -> str:
        """Time the fit took, for people; empty when unknown."""
        if self.seconds is None:
            return ""
        minutes, rest = divmod(round(self.seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def read_log(path: Path) -> FitLog:
    """Loss curves, stages and duration out of ``log.jsonl``; lines that are no step records are passed over.

    A step record holds ``iteration``, ``stage``, ``elapsed_s`` and the logged values, flat or under ``losses``.

    Raises:
        RunError: The file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    series: dict[str, tuple[list[float], list[float]]] = {}
    stages: dict[str, tuple[float, float]] = {}
    seconds: float | None = None
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if not isinstance(record, dict):
            continue
        seconds = _number(record.get("elapsed_s")) or seconds
        iteration = _number(record.get("iteration"))
        if iteration is None or record.get("event", "step") != "step":
            continue
        stage = str(record.get("stage", ""))
        stages[stage] = (stages.get(stage, (iteration, iteration))[0], iteration)
        values = {**record, **(record["losses"] if isinstance(record.get("losses"), dict) else {})}
        for name, value in values.items():
            number = _number(value)
            if number is not None and name not in ("iteration", "elapsed_s", "seconds"):
                iterations, numbers = series.setdefault(name, ([], []))
                iterations.append(iteration)
                numbers.append(number)
    curves = [Curve(name, *columns, LOSSES.get(name, "")) for name, columns in series.items() if len(columns[0]) > 1]
    return FitLog(curves, [(name, *span) for name, span in stages.items()], seconds)


def chosen_curves(log: FitLog) -> FitLog:
    """The log with the curves that are drawn alone."""
    curves = {curve.name: curve for curve in log.curves}
    return FitLog([curves[name] for name in LOSSES if name in curves], log.stages, log.seconds)


def chart(curve: Curve, stages: Sequence[tuple[str, float, float]] = ()) -> Markup:
    """A curve as inline SVG: logarithmic where every value is positive and they span a factor of ten, stages behind.

    Args:
        curve: What to draw.
        stages: Name, first and last position, shaded in turn.
    """
    top, right, bottom, left = CHART_MARGIN
    positions, values = np.asarray(curve.positions, float), np.asarray(curve.values, float)
    logarithmic = bool(values.min() > 0 and values.max() > 10 * values.min())
    heights = np.log10(values) if logarithmic else values
    low, high = float(heights.min()), float(heights.max())
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    first, last = float(positions[0]), max(float(positions[-1]), float(positions[0]) + 1)

    def across(position: float) -> float:
        return left + (position - first) / (last - first) * (CHART_WIDTH - left - right)

    def down(height: float) -> float:
        return top + (high - height) / (high - low) * (CHART_HEIGHT - top - bottom)

    parts = []
    for number, (name, begin, end) in enumerate(stages):
        start, stop = across(max(begin, first)), across(min(end, last))
        if stop <= start:
            continue
        parts.append(
            f'<rect class="stage{number % 2}" x="{start:.1f}" y="{top}" width="{stop - start:.1f}" '
            f'height="{CHART_HEIGHT - top - bottom}"><title>{escape(name)}</title></rect>'
        )
    for tick in _ticks(low, high, logarithmic):
        label = _short(10**tick if logarithmic else tick)
        parts.append(
            f'<line class="grid" x1="{left}" x2="{CHART_WIDTH - right}" y1="{down(tick):.1f}" y2="{down(tick):.1f}"/>'
            f'<text x="{left - 6}" y="{down(tick) + 3.5:.1f}" text-anchor="end">{label}</text>'
        )
    for position, anchor in ((first, "start"), (last, "end")):
        parts.append(
            f'<text x="{across(position):.1f}" y="{CHART_HEIGHT - 6}" text-anchor="{anchor}">{position:,.0f}</text>'
        )
    groups = min(CHART_POINTS, len(values))
    thinned = zip(*(np.array_split(column, groups) for column in (positions, heights)), strict=True)
    points = " ".join(f"{across(p.mean()):.1f},{down(h.mean()):.1f}" for p, h in thinned)
    parts.append(f'<polyline class="curve" points="{points}"/>')
    parts.append(f'<circle class="end" cx="{across(positions[-1]):.1f}" cy="{down(heights[-1]):.1f}" r="3"/>')
    scale = "logarithmic scale, " if logarithmic else ""
    span = f"from {_short(values[0])} to {_short(values[-1])}, {_short(values.min())} at least"
    label = f"{curve.name}: {scale}{span}, over {last - first:,.0f} {curve.along}"
    svg = f'<svg class="chart" role="img" viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" aria-label="{escape(label)}">'
    return Markup(svg + "".join(parts) + "</svg>")  # noqa: S704 - built from numbers and escaped names


def _ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    """A few round heights inside the range; powers of ten, or of ten and their 2s and 5s, on a logarithmic scale."""
    if logarithmic:
        powers = range(math.floor(low), math.ceil(high) + 1)
        for mantissas in ((1,), (1, 3), (1, 2, 5)):
            ticks = [power + math.log10(m) for power in powers for m in mantissas]
            inside = [tick for tick in ticks if low <= tick <= high]
            if len(inside) >= 3:
                break
        return inside[:: math.ceil(len(inside) / 4)] if inside else [low, high]
    step = 10.0 ** math.floor(math.log10(high - low))
    step *= next((m for m in (0.2, 0.5, 1, 2) if (high - low) / (m * step) < 5), 5)
    return [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _short(value: float) -> str:
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e").replace("-", MINUS)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)
