"""A drawn figure that turns around, and a finder that knows how it is drawn: videos of people without networks."""

from collections.abc import Sequence

import cv2
import numpy as np

from selfrecon_warp.prepare.observations import BODY_33
from selfrecon_warp.prepare.person import Person

SIZE = (168, 120)
HEIGHT = 124
GREEN = 210
PLACES = {
    "nose": (0.0, 0.07),
    "shoulder": (0.13, 0.2),
    "elbow": (0.22, 0.36),
    "wrist": (0.3, 0.5),
    "hip": (0.08, 0.52),
    "knee": (0.09, 0.74),
    "ankle": (0.1, 0.95),
    "heel": (0.09, 0.98),
    "foot_index": (0.12, 0.98),
}
"""Aside from the middle and below the crown, over the height, facing the camera."""
NAMES = tuple(name for name in BODY_33 if name.removeprefix("left_").removeprefix("right_") in PLACES)


def draw(
    heading: float,
    size: tuple[int, int] = SIZE,
    middles: Sequence[float] = (0.5,),
    height: int = HEIGHT,
    top: int | None = None,
    blur: int = 0,
) -> np.ndarray:
    """People facing ``heading`` [rad] (0 to 2 pi, told by their blue) before a dotted wall, RGB ``[H, W, 3]`` uint8."""
    rng = np.random.default_rng(0)
    picture = rng.integers(90, 150, (size[0] // 4 + 1, size[1] // 4 + 1), np.uint8)
    picture = np.repeat(cv2.resize(picture, size[::-1])[..., None], 3, -1)
    first = (size[0] - height) // 2 if top is None else top
    colour = (20, GREEN, round(20 + 150 * heading / (2 * np.pi)))
    for middle in middles:
        x = round(middle * size[1])
        cv2.circle(picture, (x, first + round(0.07 * height)), round(0.07 * height), colour, -1)
        trunk = (x - round(0.12 * height), first + round(0.13 * height)), (x + round(0.12 * height), first + height - 1)
        cv2.rectangle(picture, *trunk, colour, -1)
        cloth = picture[trunk[0][1] : trunk[1][1], trunk[0][0] : trunk[1][0], 0]
        cloth[:] = rng.integers(0, 130, cloth.shape, np.uint8)
    return cv2.GaussianBlur(picture, (0, 0), blur) if blur else picture


def turn(count: int, degrees: float = 360.0, **drawn) -> list[np.ndarray]:
    """``count`` pictures of a turn by so many degrees."""
    return [draw(np.radians(degrees) * index / count % (2 * np.pi), **drawn) for index in range(count)]


def outline(picture: np.ndarray) -> np.ndarray:
    """Where the figures are, ``[H, W]`` bool."""
    return picture[..., 1].astype(int) > picture[..., 2].astype(int) + 35


class DrawnFinder:
    """Finds the figures; see :class:`selfrecon_warp.prepare.person.PersonFinder`.

    Args:
        interrupt_at: The call at which to be interrupted, as Ctrl-C does.
        flat: Give no 3D keypoints.
        lifted: How far above the figure the keypoints are [px].
    """

    name = "drawn people"
    names = NAMES

    def __init__(self, interrupt_at: int = 0, flat: bool = False, lifted: float = 0.0) -> None:
        self.calls, self._interrupt_at, self._flat, self._lifted = 0, interrupt_at, flat, lifted

    def find(self, picture: np.ndarray) -> Sequence[Person]:
        self.calls += 1
        if self.calls == self._interrupt_at:
            raise KeyboardInterrupt
        count, labels, stats, _ = cv2.connectedComponentsWithStats(outline(picture).astype(np.uint8))
        parts = [part for part in range(1, count) if stats[part, cv2.CC_STAT_AREA] > 200]
        people = [self._person(picture, labels == part) for part in parts]
        return sorted(people, key=lambda person: person.box[1] - person.box[3])

    def _person(self, picture: np.ndarray, mask: np.ndarray) -> Person:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        top, height, middle = rows[0], rows[-1] - rows[0] + 1, 0.5 * (columns[0] + columns[-1])
        heading = (np.median(picture[mask][:, 2]) - 20) / 150 * 2 * np.pi
        flat, space = [], []
        for name in NAMES:
            aside, below = PLACES[name.removeprefix("left_").removeprefix("right_")]
            aside *= -1 if name.startswith("right_") else 1
            flat.append((middle + aside * np.cos(heading) * height, top + below * height - self._lifted))
            space.append((1.7 * aside * np.cos(heading), 1.7 * (below - 0.52), 1.7 * aside * np.sin(heading)))
        return Person(
            box=np.array([columns[0], rows[0], columns[-1], rows[-1]], float),
            score=1.0,
            keypoints=np.array(flat),
            confidence=np.ones(len(NAMES)),
            keypoints3d=None if self._flat else np.array(space),
            probability=mask.astype(np.float32),
        )
