"""The avatar as the report's viewer needs it: one small GLB file, its surroundings, and the input beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import cv2
import numpy as np

from selfrecon_warp.asset.gltf import glb_bytes
from selfrecon_warp.asset.rigged import RiggedMesh
from selfrecon_warp.asset.upright import upright
from selfrecon_warp.capture.dataset import Capture
from selfrecon_warp.view.render import person_box

TEXELS = 1536
"""Width and height at most of the texture inside the page."""
BOX_POSES = 12
SHEET_TILES = 120
SHEET_COLUMNS = 12
TILE_HEIGHT = 216  # px


@dataclass(frozen=True)
class ContactSheet:
    """Input pictures of the motion in one picture, row by row.

    Attributes:
        image: RGB, ``[H, W, 3]`` uint8.
        columns: Tiles in a row.
        rows: Rows.
        step: Frames from one tile to the next.
        aspect: Width of a tile over its height.
    """

    image: np.ndarray
    columns: int
    rows: int
    step: int
    aspect: float


@dataclass(frozen=True)
class ViewerContent:
    """What the viewer shows.

    Attributes:
        glb: The file: y up, floor at 0, facing +z.
        low: Lower corner of a box around the person in all poses [m], ``[3]``.
        high: Upper corner, ``[3]``.
        frames: Number of poses.
        rate: Poses a second.
        textured: Whether it has a texture; vertex colours otherwise.
        sheet: The input.
    """

    glb: bytes
    low: Sequence[float]
    high: Sequence[float]
    frames: int
    rate: float
    textured: bool
    sheet: ContactSheet | None = None

    @property
    def settings(self) -> dict[str, object]:
        """For the script."""
        sheet = self.sheet
        tiles = None if sheet is None else {"columns": sheet.columns, "rows": sheet.rows, "step": sheet.step}
        return {
            "frames": self.frames,
            "rate": self.rate,
            "low": list(self.low),
            "high": list(self.high),
            "sheet": tiles,
        }


def viewer_content(rigged: RiggedMesh, sheet: ContactSheet | None = None, texels: int = TEXELS) -> ViewerContent:
    """Make the file for the page: set upright, textures made smaller, colours as JPEG.

    Args:
        rigged: The avatar, in the world of its capture.
        sheet: The input.
        texels: Width and height at most of the textures.
    """
    standing, _ = upright(rigged)
    small = replace(
        standing, texture=_smaller(standing.texture, texels), normal_map=_smaller(standing.normal_map, texels)
    )
    frames = np.unique(np.linspace(0, rigged.frame_count - 1, min(rigged.frame_count, BOX_POSES)).round().astype(int))
    posed = standing.posed(standing.poses[frames], standing.trans[frames])
    low, high = posed.min((0, 1)), posed.max((0, 1))
    return ViewerContent(
        glb_bytes(small),
        [round(float(value), 4) for value in low],
        [round(float(value), 4) for value in high],
        rigged.frame_count,
        rigged.frame_rate,
        rigged.texture is not None,
        sheet,
    )


def contact_sheet(capture: Capture) -> ContactSheet:
    """The capture's photographs around the person, small, at most ``SHEET_TILES`` of them."""
    step = ceil(len(capture) / SHEET_TILES)
    frames = range(0, len(capture), step)
    rows, columns = person_box([capture.load_mask(frame) for frame in frames])
    aspect = (columns.stop - columns.start) / (rows.stop - rows.start)
    height = min(TILE_HEIGHT, rows.stop - rows.start)
    size = (max(1, round(aspect * height)), height)
    tiles = [
        cv2.resize(capture.load_image(frame)[rows, columns], size, interpolation=cv2.INTER_AREA) for frame in frames
    ]
    across = min(SHEET_COLUMNS, len(tiles))
    down = ceil(len(tiles) / across)
    tiles += [np.zeros_like(tiles[0])] * (across * down - len(tiles))
    image = np.vstack([np.hstack(tiles[row * across : (row + 1) * across]) for row in range(down)])
    return ContactSheet(image, across, down, step, aspect)


def _smaller(image: np.ndarray | None, texels: int) -> np.ndarray | None:
    if image is None or image.shape[0] <= texels:
        return image
    return np.asarray(cv2.resize(image, (texels, texels), interpolation=cv2.INTER_AREA))
