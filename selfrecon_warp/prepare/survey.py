"""A first look at a video: who is where, how sharp, how bright, and turned which way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np

from selfrecon_warp.prepare.frames import FrameSource
from selfrecon_warp.prepare.person import Person, PersonFinder

LOOKED_AT = 1080
"""Longer side of the pictures looked at [px]; larger ones are reduced."""
OTHER_PERSON = 0.35
"""Height over the main person's from which on somebody else counts."""
BRIGHT_SHARE = 90
"""Percentile of the person's brightness that is reported, so that dark clothes are no dark video."""
BLUR_WIDTH = 9
CORNERS = 200


@dataclass(frozen=True)
class Survey:
    """What some frames of a video show; ``M`` frames looked at, ``K`` keypoints.

    Attributes:
        frames: Their indices in the video, increasing, ``[M]``.
        people: How many people, ``[M]``.
        boxes: Left, top, right, bottom of the person's mask and keypoints [px of the video], NaN without, ``[M, 4]``.
        keypoints: [px of the video], ``[M, K, 2]``.
        confidence: ``[M, K]``.
        keypoints3d: [m], camera axes from the middle of the hips, NaN where unknown, ``[M, K, 3]``.
        sharpness: Variance of the Laplacian of the brightness on the person, ``[M]``.
        blur: Share of neighbouring pixels' differences that another blur leaves, 0 sharp to 1, ``[M]``.
        brightness: Of the person's brighter parts, 0 to 255, ``[M]``.
        shift: How far the background has moved since the first frame looked at [px of the video], NaN if unknown,
            ``[M]``.
    """

    frames: np.ndarray
    people: np.ndarray
    boxes: np.ndarray
    keypoints: np.ndarray
    confidence: np.ndarray
    keypoints3d: np.ndarray
    sharpness: np.ndarray
    blur: np.ndarray
    brightness: np.ndarray
    shift: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """Where there is a person, ``[M]`` bool."""
        return np.asarray(self.people > 0)

    def rows(self, chosen: np.ndarray) -> Survey:
        """Those of some rows."""
        return Survey(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def joined(self, other: Survey) -> Survey:
        """Both, in the order of the frames."""
        both = Survey(**{f.name: np.concatenate((getattr(self, f.name), getattr(other, f.name))) for f in fields(self)})
        return both.rows(np.argsort(both.frames))

    def save(self, path: Path) -> None:
        """Store it, whole or not at all."""
        partial = path.with_name(f"{path.stem}.partial.npz")
        np.savez_compressed(partial, **{field.name: getattr(self, field.name) for field in fields(self)})
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Survey:
        """Read what :meth:`save` stored."""
        with np.load(path, allow_pickle=False) as stored:
            return cls(**{field.name: stored[field.name] for field in fields(cls)})


class Surveyor:
    """Looks at frames of one video.

    Args:
        source: The video.
        finder: What finds people.
    """

    def __init__(self, source: FrameSource, finder: PersonFinder) -> None:
        self._source, self._finder = source, finder
        self._reference: tuple[np.ndarray, np.ndarray] | None = None

    def look(self, indices: Sequence[int], done: Callable[[], None] = lambda: None) -> Survey:
        """Look at some frames, given by increasing indices; ``done`` is called after each."""
        rows = []
        before: Person | None = None
        for frame in self._source.read(indices):
            row, before = self._frame(frame.index, frame.pixels, before)
            rows.append(row)
            done()
        return Survey(*(np.array(column) for column in zip(*rows, strict=True)))

    def _frame(
        self, index: int, picture: np.ndarray, before: Person | None
    ) -> tuple[tuple[object, ...], Person | None]:
        small, scale = reduced(picture)
        people = list(self._finder.find(small))
        count = len(self._finder.names)
        if not people:
            nothing = np.full(4, np.nan), np.full((count, 2), np.nan), np.zeros(count), np.full((count, 3), np.nan)
            return (index, 0, *nothing, 0.0, 1.0, 0.0, np.nan), None
        person = main_person(people, None if before is None else before.box)
        height = person.box[3] - person.box[1]
        others = [other for other in people if other is not person]
        present = 1 + sum(other.box[3] - other.box[1] >= OTHER_PERSON * height for other in others)
        box, mask = whole_box(person)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        points3d = np.full((count, 3), np.nan) if person.keypoints3d is None else person.keypoints3d
        shown = mask.any()
        row = (
            index,
            present,
            (box + 0.5) / np.tile(scale, 2) - 0.5,
            (person.keypoints + 0.5) / scale - 0.5,
            person.confidence,
            points3d,
            sharpness(grey, mask) if shown else 0.0,
            blur(grey, box),
            float(np.percentile(grey[mask], BRIGHT_SHARE)) if shown else 0.0,
            self._moved(grey, box) / float(scale.mean()),
        )
        return row, person

    def _moved(self, grey: np.ndarray, box: np.ndarray) -> float:
        """Median distance that corners beside the person have moved since the first picture."""
        if self._reference is None or self._reference[0].shape != grey.shape:
            beside = np.full(grey.shape, 255, np.uint8)
            pad = 0.1 * (box[3] - box[1])
            left, top = np.maximum(box[:2] - pad, 0).astype(int)
            right, bottom = np.maximum(box[2:] + pad, 0).astype(int)
            beside[top : bottom + 1, left : right + 1] = 0
            corners = cv2.goodFeaturesToTrack(grey, CORNERS, 0.01, 8, mask=beside)
            self._reference = grey, np.zeros((0, 1, 2), np.float32) if corners is None else corners
        before, corners = self._reference
        if len(corners) < 8:
            return float("nan")
        after, tracked, _ = cv2.calcOpticalFlowPyrLK(before, grey, corners, np.zeros_like(corners))
        good = tracked.ravel() == 1
        return (
            float(np.median(np.linalg.norm((after - corners)[good, 0], axis=-1))) if good.sum() >= 8 else float("nan")
        )


def reduced(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A picture of at most :data:`LOOKED_AT` px, and its size over the original's, horizontally and vertically."""
    height, width = picture.shape[:2]
    factor = min(1.0, LOOKED_AT / max(height, width))
    if factor == 1:
        return picture, np.ones(2)
    small = (max(round(width * factor), 1), max(round(height * factor), 1))
    return cv2.resize(picture, small, interpolation=cv2.INTER_AREA), np.array(small) / (width, height)


def main_person(people: Sequence[Person], before: np.ndarray | None) -> Person:
    """The one nearest to where somebody was, a box (left, top, right, bottom), or else the most prominent."""
    if before is None:
        return people[0]
    middle = before.reshape(2, 2).mean(0)
    return min(people, key=lambda person: float(np.linalg.norm(person.box.reshape(2, 2).mean(0) - middle)))


def whole_box(person: Person) -> tuple[np.ndarray, np.ndarray]:
    """Box of the mask [px] where there is one, else that of the keypoints, and the mask ``[H, W]`` bool."""
    mask = person.probability > 0.5
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return person.box.astype(np.float64), mask
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], np.float64), mask


def sharpness(grey: np.ndarray, mask: np.ndarray) -> float:
    """Variance of the Laplacian on a mask."""
    return float(cv2.Laplacian(grey, cv2.CV_32F)[mask].var())


def blur(grey: np.ndarray, box: np.ndarray) -> float:
    """How little another blur changes the person's box: 0 for the sharpest picture, 1 for an even one.

    Source: Crete, Dolmiere, Ladret, Nicolas: The blur effect, 2007.
    """
    left, top, right, bottom = (max(int(value), 0) for value in box)
    window = grey[top : bottom + 1, left : right + 1].astype(np.float32)
    if min(window.shape) < 2 * BLUR_WIDTH:
        return 1.0
    worst = 0.0
    for axis, kernel in ((0, (1, BLUR_WIDTH)), (1, (BLUR_WIDTH, 1))):
        before = np.abs(np.diff(window, axis=axis))
        after = np.abs(np.diff(cv2.blur(window, kernel), axis=axis))
        total = float(before.sum())
        lost = float(np.maximum(before - after, 0).sum())
        worst = max(worst, 1 - lost / total if total > 0 else 1.0)
    return worst
