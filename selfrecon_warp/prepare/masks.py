"""Masks in whatever form segmentation tools store them, and which one belongs to which frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from selfrecon_warp.errors import PrepareError
from selfrecon_warp.prepare.frames import Frame, FrameSource, Video, frame_number, open_frames

THRESHOLD = 0.5
SECOND_PERSON = 0.3
"""Area over that of the largest part from which on another part of a mask may be another person."""
LARGEST_STRETCH = 0.01
"""How far a mask's aspect ratio may be from the picture's."""


class MaskSource:
    """Masks of some frames, from a folder, a video, or the pictures' own alpha.

    Args:
        path: Folder of pictures or a video; ``None`` for the alpha channel of the frames.
        frames: The frames they belong to.
        threshold: Share of full white from which on a pixel counts as the person.

    Raises:
        PrepareError: Nothing there, or masks and frames cannot be paired.
    """

    def __init__(self, path: Path | None, frames: FrameSource, threshold: float = THRESHOLD) -> None:
        if not 0 < threshold < 1:
            raise PrepareError(f"--mask-threshold must lie between 0 and 1, got {threshold}")
        self._frames, self._threshold = frames, threshold
        self._source = None if path is None else open_frames(path)
        self._index = list(range(len(frames.names))) if self._source is None else pair(frames, self._source, "masks")

    def read(self, indices: Sequence[int]) -> Iterator[tuple[Frame, np.ndarray]]:
        """Frame and mask ``[H, W]`` bool of some increasing frame indices.

        Raises:
            PrepareError: Missing, damaged, empty, of another shape, or the pictures have no alpha.
        """
        if self._source is None:
            for frame in self._frames.read(indices):
                if frame.alpha is None:
                    raise PrepareError(
                        f"{self._frames.path}: frame {frame.name} has no transparent background to take as its mask; "
                        "give --masks DIR"
                    )
                yield frame, self._checked(frame.alpha >= self._threshold * 255, frame, self._frames.path)
            return
        missing = [self._frames.names[index] for index in indices if self._index[index] is None]
        if missing:
            raise PrepareError(f"{self._source.path} holds no mask for frame {missing[0]}; write one mask per picture")
        places = [place for place in (self._index[index] for index in indices) if place is not None]
        if places != sorted(places):
            raise PrepareError(f"{self._source.path}: masks and pictures are numbered in different orders; rename them")
        for frame, stored in zip(self._frames.read(indices), self._source.read(places), strict=True):
            mask = foreground(stored, self._threshold)
            yield frame, self._checked(self._fitted(mask, frame), frame, self._source.path)

    def _fitted(self, mask: np.ndarray, frame: Frame) -> np.ndarray:
        """The mask in the picture's size, when it is the same picture in another resolution."""
        if mask.shape == frame.pixels.shape[:2]:
            return mask
        (height, width), wanted = mask.shape, frame.pixels.shape[:2]
        if abs(height * wanted[1] / (width * wanted[0]) - 1) > LARGEST_STRETCH:
            raise PrepareError(
                f"{self._path()}: the mask of frame {frame.name} is {width}x{height}, the picture "
                f"{wanted[1]}x{wanted[0]}; "
                "masks must show the whole picture"
            )
        soft = cv2.resize(mask.astype(np.float32), wanted[::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray(soft >= 0.5)

    def _checked(self, mask: np.ndarray, frame: Frame, path: Path) -> np.ndarray:
        if not mask.any():
            raise PrepareError(
                f"{path}: the mask of frame {frame.name} is empty: nobody in the picture? Leave such frames out with "
                "--start, --stop and --step, or lower --mask-threshold"
            )
        return mask

    def _path(self) -> Path:
        return self._frames.path if self._source is None else self._source.path


def foreground(stored: Frame, threshold: float = THRESHOLD) -> np.ndarray:
    """The person's pixels of a mask picture, ``[H, W]`` bool.

    Transparency decides where it varies. Otherwise the brightest channel does: two levels, the lower of them black,
    mean background and person whatever the higher is (0 and 1, 0 and 255, black and a label colour); more levels are
    compared with the threshold.
    """
    level = stored.pixels.max(-1) if stored.alpha is None else stored.alpha
    values = np.unique(level)
    if len(values) <= 2 and values[0] == 0:
        return np.asarray(level > 0)
    return np.asarray(level >= threshold * 255)


def mask_remarks(masks: Sequence[np.ndarray]) -> list[str]:
    """What some masks ``[H, W]`` bool show that a user should know: people cut off, more than one person."""
    remarks = []
    cut = sum(bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()) for mask in masks)
    if cut:
        remarks.append(
            f"the person is cut off by the picture's border in {cut} of {len(masks)} frames looked at; what is cut is "
            "not learned"
        )
    several = 0
    for mask in masks:
        areas = np.sort(cv2.connectedComponentsWithStats(mask.astype(np.uint8))[2][1:, cv2.CC_STAT_AREA])[::-1]
        several += len(areas) > 1 and areas[1] > SECOND_PERSON * areas[0]
    if several:
        remarks.append(
            f"the masks show more than one large part in {several} of {len(masks)} frames looked at; two people? A "
            "mask must "
            "show the one person alone"
        )
    return remarks


def pair(frames: FrameSource, others: FrameSource, what: str) -> list[int | None]:
    """Index in ``others`` of every frame: by name, else by number, else, with equal counts, by order.

    Numbers may start at another value than the frames' (masks 1 to N for frames 0 to N-1).

    Raises:
        PrepareError: None of these works.
    """
    if not isinstance(frames, Video) and not isinstance(others, Video):
        by_name = {name: index for index, name in enumerate(others.names)}
        found = [by_name.get(name) for name in frames.names]
        if any(index is not None for index in found):
            return found
    if len(others.names) == len(frames.names):
        return list(range(len(frames.names)))
    ours = [index if isinstance(frames, Video) else frame_number(name) for index, name in enumerate(frames.names)]
    theirs = [frame_number(name) for name in others.names]
    if None not in ours and None not in theirs and len(set(theirs)) == len(theirs):
        by_number = {number: index for index, number in enumerate(theirs)}
        found = [by_number.get(number) for number in ours]
        if sum(index is not None for index in found) == len(theirs):
            return found
    raise PrepareError(
        f"{others.path} holds {len(others.names)} {what}, {frames.path} {len(frames.names)} frames, and their names "
        "do not "
        "tell which belong together; give them equal names (or frame numbers from 0 for a video)"
    )
