"""One self-contained ``report.html``: what went in, what came out, how good it is.

Fill a :class:`ReportContent` and call :func:`write_report`. Pictures and the video are embedded; the page asks nothing
of the network, follows the reader's light or dark setting, and prints.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
from markupsafe import Markup

from selfrecon_warp.errors import RunError
from selfrecon_warp.view.metrics import CLOUD_POINTS, AvatarScore

CHART_WIDTH, CHART_HEIGHT = 360, 150
CHART_MARGIN = (10, 12, 22, 46)  # top, right, bottom, left
CHART_POINTS = 400
LOW_IOU = 0.95
MINUS, NOTHING = "\u2212", "\u2013"
MEASURES = (
    ("chamfer_aligned_cm", "Chamfer distance, aligned", "cm", "lower", 2),
    ("predicted_to_truth_aligned_cm", "Reconstruction to truth, aligned", "cm", "lower", 2),
    ("truth_to_predicted_aligned_cm", "Truth to reconstruction, aligned", "cm", "lower", 2),
    ("normal_consistency_aligned", "Normal consistency, aligned", "", "higher", 3),
    ("chamfer_cm", "Chamfer distance", "cm", "lower", 2),
    ("normal_consistency", "Normal consistency", "", "higher", 3),
    ("joint_error_cm", "Joint error", "cm", "lower", 2),
    ("joint_error_procrustes_cm", "Joint error after Procrustes", "cm", "lower", 2),
    ("silhouette_iou", "Silhouette IoU", "", "higher", 3),
    ("psnr_db", "PSNR on the person", "dB", "higher", 1),
    ("ssim", "SSIM on the person", "", "higher", 3),
)
"""Rows of the score table: name in ``metrics.json``, title, unit, what is better, decimals."""
SCORE_NOTE = (
    "Means over the frames with ground truth. Chamfer: mean distance to the nearest sample between clouds of "
    f"{CLOUD_POINTS:,} points, both ways; two clouds of one and the same surface lie about 0.25 cm apart. "
    "Aligned: after one rigid motion a frame. PSNR and SSIM: inside the mask."
)
HEADLINES = ("chamfer_aligned_cm", "normal_consistency_aligned", "silhouette_iou", "joint_error_cm", "psnr_db")


@dataclass(frozen=True)
class ScoreRow:
    """One line of the score table.

    Attributes:
        name: Of the measure in ``metrics.json``.
        title: For people.
        unit: Empty for a pure number.
        better: ``lower`` or ``higher``.
        decimals: Digits shown after the point.
        initial: Value of the body before the fit, if measured.
        fit: Value of the fit.
    """

    name: str
    title: str
    unit: str
    better: str
    decimals: int
    initial: float | None
    fit: float

    @property
    def improved(self) -> bool | None:
        """Whether the fit is better than the body it began with; ``None`` when that is unknown or nothing changed."""
        if self.initial is None or self.fit == self.initial:
            return None
        return (self.fit < self.initial) == (self.better == "lower")

    def shown(self, value: float | None, signed: bool = False) -> str:
        """A value as text."""
        if value is None:
            return NOTHING
        return f"{value:{'+' if signed else ''}.{self.decimals}f}".replace("-", MINUS)

    @property
    def difference(self) -> str:
        """Fit minus initial, signed."""
        return NOTHING if self.initial is None else self.shown(self.fit - self.initial, signed=True)


@dataclass(frozen=True)
class Picture:
    """One embedded picture.

    Attributes:
        label: Shown beneath it; frames are lined up by it.
        image: RGB or RGBA, ``[H, W, 3 or 4]`` uint8.
        description: What there is to see, for readers who do not.
    """

    label: str
    image: np.ndarray
    description: str


@dataclass(frozen=True)
class FrameRow:
    """Pictures of one frame, input first.

    Attributes:
        frame: Its number in the capture.
        pictures: In the order shown.
        note: A few words, such as the frame's overlap.
    """

    frame: int
    pictures: Sequence[Picture]
    note: str = ""


@dataclass(frozen=True)
class LossCurve:
    """One logged value over the fit.

    Attributes:
        name: As logged.
        iterations: Ascending.
        values: One a record.
    """

    name: str
    iterations: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class FitLog:
    """What ``log.jsonl`` tells.

    Attributes:
        curves: One for each logged value.
        stages: Name and first and last iteration of each stage.
        seconds: Time the fit took, if logged.
    """

    curves: Sequence[LossCurve] = ()
    stages: Sequence[tuple[str, float, float]] = ()
    seconds: float | None = None


@dataclass(frozen=True)
class ReportContent:
    """Everything on the page; what is empty is left out.

    Attributes:
        title: Name of the capture.
        summary: A sentence or two beneath the title.
        fit: Scores of the fit.
        initial: Scores of the body before the fit.
        score_note: What the scores were measured on.
        frames: Rows of the picture grid.
        turntable_video: MP4 of the canonical mesh turning.
        turntable_strip: The same as one picture, RGB or RGBA ``[H, W, C]`` uint8.
        videos: Further videos by title.
        log: Loss curves.
        facts: Groups of name and value: configuration, versions, hardware.
        problems: What a reader should know before trusting the result.
    """

    title: str
    summary: str = ""
    fit: AvatarScore | None = None
    initial: AvatarScore | None = None
    score_note: str = SCORE_NOTE
    frames: Sequence[FrameRow] = ()
    turntable_video: Path | None = None
    turntable_strip: np.ndarray | None = None
    videos: Mapping[str, Path] = field(default_factory=dict)
    log: FitLog = field(default_factory=FitLog)
    facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    problems: Sequence[str] = ()


def write_report(path: Path, content: ReportContent) -> None:
    """Write the page; appears whole or not at all.

    Args:
        path: Usually ``RUN/report.html``.
        content: What to show.

    Raises:
        RunError: A video is missing or the file cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("selfrecon_warp", "data"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "picture": picture_uri,
        "video": video_uri,
        "chart": lambda c: loss_chart(c, content.log.stages),
    }
    rows = score_rows(content.fit, content.initial)
    page = environment.get_template("report.html.j2").render(
        content=content,
        rows=rows,
        headlines=[row for name in HEADLINES for row in rows if row.name == name][:4],
        compared=any(row.initial is not None for row in rows),
        duration=_duration(content.log.seconds),
    )
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror or error})") from error


def score_rows(fit: AvatarScore | None, initial: AvatarScore | None = None) -> list[ScoreRow]:
    """The score table, the telling rows first; only what was measured of the fit."""
    after = {} if fit is None else fit.as_dict()
    before = {} if initial is None else initial.as_dict()
    return [
        ScoreRow(name, title, unit, better, decimals, before.get(name), after[name])
        for name, title, unit, better, decimals in MEASURES
        if name in after
    ]


def read_log(path: Path) -> FitLog:
    """Loss curves, stages and duration out of ``log.jsonl``; lines that are no step records are passed over.

    A step record holds ``iteration``, ``stage``, ``elapsed_s`` and the logged values, flat or under ``losses``.

    Raises:
        RunError: The file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror or error})") from error
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
    curves = [LossCurve(name, *columns) for name, columns in series.items() if len(columns[0]) > 1]
    return FitLog(curves, [(name, *span) for name, span in stages.items()], seconds)


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
    frames = "frame overlaps its mask" if len(low) == 1 else "frames overlap their masks"
    return [f"{len(low)} of {len(overlaps)} {frames} by less than {threshold:.2f}: {named}{rest}."]


def picture_uri(image: np.ndarray) -> str:
    """A picture as a data URI: JPEG, or WebP where it is transparent.

    Args:
        image: RGB or RGBA, ``[H, W, 3 or 4]`` uint8.

    Raises:
        ValueError: It is no such picture.
    """
    if image.ndim != 3 or image.shape[2] not in (3, 4) or image.dtype != np.uint8:
        raise ValueError(f"image must be [H, W, 3 or 4] uint8, got {image.dtype} {list(image.shape)}")
    if image.shape[2] == 3:
        kind, pixels, quality = "jpeg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88]
    else:
        kind, pixels, quality = "webp", cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA), [cv2.IMWRITE_WEBP_QUALITY, 88]
    data = cv2.imencode(f".{kind}", pixels, quality)[1].tobytes()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def video_uri(path: Path) -> str:
    """An MP4 as a data URI.

    Raises:
        RunError: The file is missing.
    """
    try:
        return f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror or error})") from error


def loss_chart(curve: LossCurve, stages: Sequence[tuple[str, float, float]] = ()) -> Markup:
    """A curve as inline SVG: logarithmic where every value is positive and they span a factor of ten, stages behind.

    Args:
        curve: What to draw.
        stages: Name, first and last iteration, shaded in turn.
    """
    top, right, bottom, left = CHART_MARGIN
    iterations, values = np.asarray(curve.iterations, float), np.asarray(curve.values, float)
    logarithmic = bool(values.min() > 0 and values.max() > 10 * values.min())
    heights = np.log10(values) if logarithmic else values
    low, high = float(heights.min()), float(heights.max())
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    first, last = float(iterations[0]), max(float(iterations[-1]), float(iterations[0]) + 1)

    def across(iteration: float) -> float:
        return left + (iteration - first) / (last - first) * (CHART_WIDTH - left - right)

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
    for iteration, anchor in ((first, "start"), (last, "end")):
        parts.append(
            f'<text x="{across(iteration):.1f}" y="{CHART_HEIGHT - 6}" text-anchor="{anchor}">{iteration:,.0f}</text>'
        )
    groups = min(CHART_POINTS, len(values))
    thinned = zip(*(np.array_split(column, groups) for column in (iterations, heights)), strict=True)
    points = " ".join(f"{across(i.mean()):.1f},{down(h.mean()):.1f}" for i, h in thinned)
    parts.append(f'<polyline class="curve" points="{points}"/>')
    parts.append(f'<circle class="end" cx="{across(iterations[-1]):.1f}" cy="{down(heights[-1]):.1f}" r="3"/>')
    scale = "logarithmic scale, " if logarithmic else ""
    label = f"{curve.name}: {scale}from {_short(values[0])} to {_short(values[-1])} over {last - first:,.0f} iterations"
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


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
