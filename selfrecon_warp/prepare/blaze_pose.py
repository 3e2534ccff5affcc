"""People found by the networks that MediaPipe 0.10.14's wheel carries, run by LiteRT.

BlazePose (Bazarevsky et al. 2020) in two steps: a single-shot detector on the whole picture gives the middle of the
hips and a point that tells the size and the upright direction; the square they span, turned upright, goes to a second
network that gives 33 keypoints, the same in metres, and a mask. Decoding follows MediaPipe's documentation.

The network files are no part of this package: ``selfrecon prepare networks`` takes them out of that wheel.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from selfrecon_warp.prepare.network_files import network_file, require_runtime
from selfrecon_warp.prepare.observations import BODY_33
from selfrecon_warp.prepare.person import Person

DETECTOR_SIZE = 224
DETECTOR_STRIDES = ((8, 2), (16, 2), (32, 6))
"""Stride [px] and anchors a cell."""
LEAST_SCORE = 0.5
SAME_PERSON = 0.3
"""Overlap (intersection over union) from which on two detections are of one person."""

LANDMARK_SIZE = 256
LANDMARKS = 33
ROI_SCALE = 1.25
HEATMAP_KERNEL = 7
HEATMAP_LEAST = 0.5
LEAST_PRESENCE = 0.5


@dataclass(frozen=True)
class Square:
    """A turned square in a picture; edges of pixels count, so pixel i reaches from i - 0.5 to i + 0.5.

    Attributes:
        centre: [px], ``[2]``.
        size: Side [px].
        angle: By which its upright direction is turned from the picture's, clockwise [rad].
    """

    centre: np.ndarray
    size: float
    angle: float

    @classmethod
    def spanned(cls, centre: np.ndarray, reach: np.ndarray) -> Square:
        """About ``centre``, with ``reach`` upwards of it on the way to its edge."""
        across, down = reach - centre
        return cls(centre, float(2 * ROI_SCALE * np.hypot(across, down)), float(np.arctan2(across, -down)))

    def picture_from_square(self, side: int) -> np.ndarray:
        """Affine map ``[2, 3]`` from pixels of a picture of the square, ``side`` [px] wide, to those around it."""
        scale = self.size / side
        cos, sin = np.cos(self.angle) * scale, np.sin(self.angle) * scale
        turn = np.array([[cos, -sin], [sin, cos]])
        middle = 0.5 * (side - 1)
        return np.column_stack((turn, self.centre - turn @ (middle, middle)))


class BlazePose:
    """The installed networks.

    Args:
        threads: CPU threads.
        folder: Where the network files are; where ``selfrecon prepare networks`` puts them when absent.

    Raises:
        PrepareError: Runtime or networks are not installed.
    """

    name = "BlazePose full, MediaPipe 0.10.14"
    names = BODY_33

    def __init__(self, threads: int = 2, folder: Path | None = None) -> None:
        interpreter = require_runtime()
        self._detector = _Network(interpreter, network_file("pose_detection.tflite", folder), threads)
        self._landmarks = _Network(interpreter, network_file("pose_landmark_full.tflite", folder), threads)
        self._anchors = anchors()

    def find(self, picture: np.ndarray) -> Sequence[Person]:
        """People in a picture; see :class:`selfrecon_warp.prepare.person.PersonFinder`."""
        looks = [self._look(picture, square) for square in self._detect(picture)]
        people = [person for person in looks if person is not None]
        return sorted(people, key=lambda person: -_prominence(person))

    def _detect(self, picture: np.ndarray) -> list[Square]:
        """Where people are, the surest first."""
        height, width = picture.shape[:2]
        whole = Square(np.array([0.5 * (width - 1), 0.5 * (height - 1)]), float(max(height, width)), 0.0)
        coded, logits = self._detector(_view(picture, whole, DETECTOR_SIZE) * 2 - 1)
        scores = _sigmoid(logits.reshape(-1))
        kept = np.flatnonzero(scores > LEAST_SCORE)
        if len(kept) == 0:
            return []
        values = coded.reshape(-1, 12)[kept] / DETECTOR_SIZE
        middle = values[:, :2] + self._anchors[kept]
        boxes = np.concatenate((middle - values[:, 2:4] / 2, middle + values[:, 2:4] / 2), -1)
        points = values[:, 4:8].reshape(-1, 2, 2) + self._anchors[kept][:, None]
        squares = []
        left = np.argsort(-scores[kept])
        while len(left):
            near = box_overlap(boxes[left[0]], boxes[left]) >= SAME_PERSON
            group = left[near]
            # Overlapping detections are of one person and are averaged by their scores.
            points_mean = np.average(points[group], axis=0, weights=scores[kept][group])
            hips, reach = points_mean * whole.size + (whole.centre - whole.size / 2)
            squares.append(Square.spanned(hips, reach))
            left = left[~near]
        return squares

    def _look(self, picture: np.ndarray, square: Square) -> Person | None:
        landmarks, presence, logits, heatmap, metric = self._landmarks(_view(picture, square, LANDMARK_SIZE))
        if float(presence.reshape(())) < LEAST_PRESENCE:
            return None
        rows = landmarks.reshape(-1, 5)[:LANDMARKS].astype(np.float64)
        to_picture = square.picture_from_square(LANDMARK_SIZE)
        keypoints = refined(rows[:, :2] - 0.5, heatmap[0]) @ to_picture[:, :2].T + to_picture[:, 2]
        turn = to_picture[:, :2] / np.sqrt(np.linalg.det(to_picture[:, :2]))
        points3d = metric.reshape(-1, 3)[:LANDMARKS].astype(np.float64)
        points3d[:, :2] = points3d[:, :2] @ turn.T
        probability = _sigmoid(logits.reshape(LANDMARK_SIZE, LANDMARK_SIZE))
        height, width = picture.shape[:2]
        placed = cv2.warpAffine(probability, to_picture, (width, height), flags=cv2.INTER_LINEAR)
        return Person(
            box=np.concatenate((keypoints.min(0), keypoints.max(0))),
            score=float(presence.reshape(())),
            keypoints=keypoints,
            confidence=_sigmoid(rows[:, 3]) * _sigmoid(rows[:, 4]),
            keypoints3d=points3d,
            probability=placed,
        )


def anchors() -> np.ndarray:
    """Middles of the detector's anchors over the picture, 0 to 1, ``[2254, 2]``."""
    middles = []
    for stride, count in DETECTOR_STRIDES:
        cells = (np.arange(DETECTOR_SIZE // stride) + 0.5) * stride / DETECTOR_SIZE
        grid = np.stack(np.meshgrid(cells, cells), -1).reshape(-1, 1, 2)
        middles.append(np.repeat(grid, count, 1).reshape(-1, 2))
    return np.concatenate(middles)


def refined(points: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """Keypoints ``[K, 2]`` [px of the network's input] moved to the mean of the heatmap ``[h, w, K]`` around them."""
    height, width = heatmap.shape[:2]
    scale = LANDMARK_SIZE / width
    moved = points.copy()
    reach = HEATMAP_KERNEL // 2
    for index, (x, y) in enumerate((points + 0.5) / scale):
        column, row = int(x), int(y)
        if not (0 <= column < width and 0 <= row < height):
            continue
        rows = np.arange(max(row - reach, 0), min(row + reach + 1, height))
        columns = np.arange(max(column - reach, 0), min(column + reach + 1, width))
        weights = _sigmoid(heatmap[rows[:, None], columns, index])
        if weights.max() >= HEATMAP_LEAST:
            mean = (weights.sum(0) @ columns, weights.sum(1) @ rows)
            moved[index] = np.array(mean) / weights.sum() * scale - 0.5
    return moved


def box_overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a box (left, top, right, bottom) with others ``[N, 4]``, ``[N]``."""
    shared = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    both = shared.clip(0).prod(-1)
    areas = (others[:, 2:] - others[:, :2]).prod(-1)
    return np.asarray(both / ((box[2:] - box[:2]).prod() + areas - both))


class _Network:
    """One network: a picture ``[h, w, 3]`` in, its outputs by their order in the file."""

    def __init__(self, interpreter: Any, file: Path, threads: int) -> None:
        with _quiet():
            self._runner = interpreter(model_path=str(file), num_threads=threads)
            self._runner.allocate_tensors()
        self._input = self._runner.get_input_details()[0]["index"]
        self._outputs = [each["index"] for each in sorted(self._runner.get_output_details(), key=lambda x: x["name"])]

    def __call__(self, picture: np.ndarray) -> list[np.ndarray]:
        self._runner.set_tensor(self._input, picture[None])
        self._runner.invoke()
        return [self._runner.get_tensor(index) for index in self._outputs]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what LiteRT writes to the process's standard error when it starts from the user."""
    kept = os.dup(2)
    silence = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(silence, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(silence)
        os.close(kept)


def _view(picture: np.ndarray, square: Square, side: int) -> np.ndarray:
    """The square's content upright, ``[side, side, 3]`` float32, 0 to 1; black beside the picture."""
    shrink = square.size / side
    to_picture = square.picture_from_square(side)
    if shrink > 2:  # so that bilinear sampling skips no pixel
        factor = 2 / shrink
        height, width = picture.shape[:2]
        small = (max(round(width * factor), 1), max(round(height * factor), 1))
        scale = np.array([small[0] / width, small[1] / height])
        picture = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
        to_picture = to_picture * scale[:, None]
        to_picture[:, 2] += 0.5 * (scale - 1)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(picture, to_picture, (side, side), flags=flags), np.float32) / 255


def _prominence(person: Person) -> float:
    return float(person.score * (person.box[3] - person.box[1]))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
