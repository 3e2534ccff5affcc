"""Where the camera is in every picture of a sequence: fixed, circling, or following somebody who walks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from selfrecon_warp.capture.camera import Camera, read_arrays, read_camera
from selfrecon_warp.errors import CaptureError, RunError
from selfrecon_warp.view.render import turn_about_vertical

ELEVATION = 9.0
"""How far above the horizon a circling or following camera stands [degrees]."""
FIELD_OF_VIEW = 25.0
"""Of such a camera, vertical [degrees]."""
MARGIN = 1.04
"""Part of the picture that stays free around what it follows."""
ORBIT_SECONDS = 6.0
"""Of one turn."""


@dataclass(frozen=True)
class Shot:
    """A camera that stands still, and how the world is moved before it.

    Attributes:
        camera: The camera.
        turns: World to the camera's, one a picture, ``[K, 3, 3]``.
        centres: What stands in the middle, one a picture [m], ``[K, 3]``; the world turns about it.
        stay: Where the middle is moved to [m], ``[3]``; ``None`` leaves it in its place.
    """

    camera: Camera
    turns: Tensor
    centres: Tensor
    stay: Tensor | None = None

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.turns)

    def seen_from(self, world: Tensor) -> Shot:
        """The same shot of a world that ``world`` ``[4, 4]``, rigid, makes out of the one it was set up for."""
        rotation, offset = world[:3, :3].to(self.turns), world[:3, 3].to(self.turns)
        stay = self.centres[0] if self.stay is None else self.stay
        return Shot(self.camera, self.turns @ rotation.T, self.centres @ rotation.T + offset, stay)

    def place(self, vertices: Tensor, picture: int) -> Tensor:
        """Positions ``[V, 3]`` [m] as they lie before the camera in one picture."""
        turn, centre = self.turns[picture].to(vertices), self.centres[picture].to(vertices)
        stay = centre if self.stay is None else self.stay.to(vertices)
        return (vertices - centre) @ turn.T + stay


def fixed_shot(camera: Camera, count: int) -> Shot:
    """A camera in the world itself, for ``count`` pictures."""
    return Shot(camera, torch.eye(3).expand(count, 3, 3), torch.zeros(count, 3))


def following_shot(
    low: Tensor,
    high: Tensor,
    centres: Tensor,
    height: int,
    width: int,
    *,
    orbit_pictures: int | None = None,
    elevation: float = ELEVATION,
) -> Shot:
    """A camera in front of somebody in a world with y up, which goes along with them.

    Args:
        low: Lower corner of a box around them, relative to ``centres`` [m], ``[3]``.
        high: Upper corner, ``[3]``.
        centres: What the camera looks at, ``[K, 3]``.
        height: Of the pictures [px].
        width: Of the pictures [px].
        orbit_pictures: Pictures of one turn around them; no turning when absent.
        elevation: Of the camera over the horizon [degrees].
    """
    corners = torch.cartesian_prod(*torch.stack((low, high), 1).float())
    tilt = math.radians(elevation)
    cosine, sine = math.cos(tilt), math.sin(tilt)
    down = torch.tensor([[1.0, 0.0, 0.0], [0.0, cosine, -sine], [0.0, sine, cosine]])
    turns = torch.stack(
        [
            down @ turn_about_vertical(0.0 if orbit_pictures is None else picture / orbit_pictures)
            for picture in range(len(centres))
        ]
    )
    shares = [0.0] if orbit_pictures is None else [share / 16 for share in range(16)]
    seen = torch.cat([corners @ (down @ turn_about_vertical(share)).T for share in shares])
    camera = _framing(seen, height, width)
    return Shot(camera, turns, centres.float(), torch.zeros(3))


def _framing(points: Tensor, height: int, width: int) -> Camera:
    """The nearest camera on the z axis, at the height of the middle of all points ``[P, 3]``, that sees them all."""
    slope = math.tan(math.radians(FIELD_OF_VIEW) / 2)
    middle = float((points[:, 1].amin() + points[:, 1].amax()) / 2)
    up = (points[:, 1] - middle).abs() / slope
    across = points[:, 0].abs() / (slope * width / height)
    distance = float((torch.maximum(up, across) * MARGIN + points[:, 2]).max())
    focal = height / 2 / slope
    centre = (width - 1) / 2, (height - 1) / 2
    return Camera((focal, focal), centre, (0.0, 0.0, 1.0, 0.0), (0.0, -middle, distance), height=height, width=width)


def smooth_path(points: np.ndarray, seconds: float, frame_rate: float) -> np.ndarray:
    """A path ``[N, 3]`` without what is faster than a time, so that a camera on it does not shake with every step."""
    count = len(points)
    if count < 3:
        return points
    line = np.linspace(0, 1, count)[:, None] * (points[-1] - points[0]) + points[0]
    reach = max(1, round(seconds * frame_rate))
    offsets = np.arange(-2 * reach, 2 * reach + 1)
    weights = np.exp(-0.5 * (offsets / reach) ** 2)
    index = np.clip(np.arange(count)[:, None] + offsets, 0, count - 1)
    return np.asarray(line + np.einsum("k,nkc->nc", weights / weights.sum(), (points - line)[index]))


def read_view(path: Path, height: int, width: int) -> Camera:
    """A camera file in the layout of captures, for ``--camera``.

    Args:
        path: ``.npz`` with fx, fy, cx, cy [px], quat (w, x, y, z) and T [m]; optionally height and width [px].
        height: Of the pictures when the file does not tell.
        width: Of the pictures when the file does not tell.

    Raises:
        RunError: The file is missing or no camera.
    """
    try:
        arrays = read_arrays(path)
        sizes = [arrays.get(name, np.array(default)) for name, default in (("height", height), ("width", width))]
        if any(size.size != 1 or size.dtype.kind not in "iu" or not 1 <= int(size.item()) <= 16384 for size in sizes):
            raise RunError(f"--camera {path}: height and width must be whole numbers of pixels")
        return read_camera(path, *(int(size.item()) for size in sizes))
    except CaptureError as error:
        raise RunError(f"--camera: {error}") from error
