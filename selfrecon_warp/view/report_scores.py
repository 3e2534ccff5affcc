"""The score table of the report: which measures there are, what each means, and how a value is shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfrecon_warp.errors import RunError
from selfrecon_warp.view.metrics import AvatarScore
from selfrecon_warp.view.metrics_surface import CLOUD_POINTS

MINUS, NOTHING = "\u2212", "\u2013"
MEASURES = (
    (
        "chamfer_aligned_cm",
        *("Chamfer distance, aligned", "cm", "lower", 2),
        f"Mean distance between {CLOUD_POINTS:,} points on either surface, both ways, after one rigid motion a frame. "
        "Two clouds of one and the same surface lie about 0.25 apart, so that is as good as it gets.",
    ),
    (
        "predicted_to_truth_aligned_cm",
        *("Reconstruction to truth, aligned", "cm", "lower", 2),
        "How far the reconstruction lies from the true surface. Large: it has what is not there.",
    ),
    (
        "truth_to_predicted_aligned_cm",
        *("Truth to reconstruction, aligned", "cm", "lower", 2),
        "How far the true surface lies from the reconstruction. Large: something is missing.",
    ),
    (
        "normal_consistency_aligned",
        *("Normal consistency, aligned", "", "higher", 3),
        "How well the surfaces' directions agree, 1 is perfect. It tells folds and faces from smooth shapes.",
    ),
    (
        "chamfer_cm",
        *("Chamfer distance", "cm", "lower", 2),
        "The same distance without the rigid motion: depth and place count as well.",
    ),
    (
        "normal_consistency",
        *("Normal consistency", "", "higher", 3),
        "The same agreement without the rigid motion.",
    ),
    (
        "joint_error_cm",
        *("Joint error", "cm", "lower", 2),
        "Mean distance of the skeleton's joints from the true ones.",
    ),
    (
        "joint_error_procrustes_cm",
        *("Joint error after Procrustes", "cm", "lower", 2),
        "The same after rotation, translation and scale are taken out: the pose alone.",
    ),
    (
        "silhouette_iou",
        *("Silhouette IoU", "", "higher", 3),
        "Share of the outline's area that reconstruction and mask have in common, 1 is perfect.",
    ),
    (
        "psnr_db",
        *("PSNR on the person", "dB", "higher", 1),
        "How close the drawn colours are to the photographs, inside the mask. 6 dB more is half the difference.",
    ),
    (
        "ssim",
        *("SSIM on the person", "", "higher", 3),
        "Whether the same patterns are where they are in the photographs, 1 is perfect.",
    ),
    (
        "textured_psnr_db",
        *("PSNR of the textured avatar", "dB", "higher", 1),
        "The same of the textured mesh, which is what is taken away.",
    ),
    (
        "textured_ssim",
        *("SSIM of the textured avatar", "", "higher", 3),
        "The same of the textured mesh.",
    ),
)
"""Rows of the score table: name in ``metrics.json``, title, unit, what is better, decimals, meaning."""
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
        meaning: What the number says, in words.
        initial: Value of the body before the fit, if measured.
        fit: Value of the fit.
    """

    name: str
    title: str
    unit: str
    better: str
    decimals: int
    meaning: str
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


Scores = AvatarScore | Mapping[str, Any]
"""What was measured, as such or as ``metrics.json`` holds it."""


@dataclass(frozen=True)
class SavedScores:
    """What ``metrics.json`` holds; empty where it holds nothing.

    Attributes:
        fit: Of the fit.
        initial: Of the body it began with.
        novel: In poses that the capture does not show, in the true poses as given.
        calibrated: The same in the true poses carried over to the fit's skeleton.
    """

    fit: Mapping[str, Any] = field(default_factory=dict)
    initial: Mapping[str, Any] = field(default_factory=dict)
    novel: Mapping[str, Any] = field(default_factory=dict)
    calibrated: Mapping[str, Any] = field(default_factory=dict)


def score_rows(fit: Scores | None, initial: Scores | None = None) -> list[ScoreRow]:
    """The score table, the telling rows first; only what was measured of the fit."""
    after, before = _flat(fit), _flat(initial)
    return [
        ScoreRow(name, title, unit, better, decimals, meaning, before.get(name), after[name])
        for name, title, unit, better, decimals, meaning in MEASURES
        if name in after
    ]


def headline_rows(rows: list[ScoreRow], most: int = 4) -> list[ScoreRow]:
    """The few rows that say most, in that order."""
    return [row for name in HEADLINES for row in rows if row.name == name][:most]


def read_scores(path: Path) -> SavedScores:
    """What ``metrics.json`` tells; nothing when there is none.

    Raises:
        RunError: The file cannot be read or holds something else.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        novel = record.get("novel", {})
        parts = (record["fit"], record.get("initial", {}), novel, novel.get("calibrated", {}))
        for name, *_ in MEASURES:
            if not all(isinstance(part.get(name, 0.0), (int, float)) for part in parts):
                raise TypeError(f"{name} is no number")
    except FileNotFoundError:
        return SavedScores()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"{path}: cannot be read ({error}); write it again with `selfrecon evaluate`") from error
    return SavedScores(*parts)


def _flat(scores: Scores | None) -> Mapping[str, Any]:
    if scores is None:
        return {}
    return scores.as_dict() if isinstance(scores, AvatarScore) else scores
