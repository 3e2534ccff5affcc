"""What a network that looks at people must give; the door for other networks than the ones installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Person:
    """One person in one picture.

    Attributes:
        box: Left, top, right, bottom of the body [px], ``[4]``.
        score: How sure the network is that there is a person, 0 to 1.
        keypoints: ``[K, 2]`` [px], ``K`` as :attr:`PersonFinder.names`.
        confidence: That each keypoint is there and seen, ``[K]``, 0 to 1.
        keypoints3d: ``[K, 3]`` [m] from the middle of the hips, x right, y down, z forward; ``None`` if not estimated.
        probability: That a pixel shows the person, ``[H, W]`` float32, 0 to 1.
    """

    box: np.ndarray
    score: float
    keypoints: np.ndarray
    confidence: np.ndarray
    keypoints3d: np.ndarray | None
    probability: np.ndarray


class PersonFinder(Protocol):
    """Finds the people in a picture.

    Attributes:
        name: Network and version, for records.
        names: Standard names of the keypoints (``left_shoulder``, ``nose``...); both shoulders and hips must be among
            them, wrists, ankles, heels and the nose should.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def names(self) -> tuple[str, ...]: ...  # noqa: D102

    def find(self, picture: np.ndarray) -> Sequence[Person]:
        """People in an RGB picture ``[H, W, 3]`` uint8, the most prominent first; empty when there is nobody."""
