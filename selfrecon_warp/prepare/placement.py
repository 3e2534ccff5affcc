"""What an estimator's numbers mean for the body in use: the reading that puts it onto the masks.

Estimators' translations move bodies whose origins lie up to 13 cm apart, were found for focal lengths that are not the
camera's, and come with shape coefficients of a shape space that need not be the body's. Which of these applies cannot
be told from a file, but it shows: every combination is projected into a few frames and compared with the masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.capture.overlap import intersection_over_union, silhouettes
from selfrecon_warp.model.body import BodyModel
from selfrecon_warp.prepare.body_track import PELVIS, BodyTrack
from selfrecon_warp.prepare.camera_file import Intrinsics
from selfrecon_warp.prepare.rotations import Floats

FRAMES_TRIED = 12
LONGEST_SIDE = 270
"""Masks are compared at this size, which tells overlaps to about 0.01."""
CLEAR_GAIN = 0.01
"""Overlap by which a later reading must beat an earlier, plainer one."""
SAME_ORIGIN = 0.02  # metres


@dataclass(frozen=True)
class Reading:
    """One way to read a track.

    Attributes:
        words: What it takes for granted, for people.
        trans: Translation of the body in use, camera axes [m], ``[N, 3]``.
        betas: Its shape, ``[K]``.
        overlap: Mean intersection over union of body and mask on the frames tried.
    """

    words: str
    trans: Floats
    betas: Floats
    overlap: float = float("nan")


def best_reading(
    track: BodyTrack, body: BodyModel, camera: Camera, rows: Sequence[int], masks: np.ndarray
) -> tuple[Reading, list[Reading]]:
    """The reading that meets the masks best, and all that were tried, each with its overlap.

    Args:
        track: What the estimator wrote.
        body: The body in use.
        camera: The capture's camera; the track is in its world.
        rows: Rows of the track whose masks are given.
        masks: ``[len(rows), H, W]`` bool.
    """
    factor = min(1.0, LONGEST_SIDE / max(camera.height, camera.width))
    small = (max(1, round(camera.height * factor)), max(1, round(camera.width * factor)))
    shrunk = camera.resized(*small)
    targets = np.stack([_resized(mask, small) for mask in masks])
    poses = torch.from_numpy(track.poses[list(rows)]).float()
    tried: list[Reading] = []
    for reading in readings(track, body, Intrinsics.of(camera)):
        overlap = _overlap(reading, poses, rows, body, shrunk, targets)
        tried.append(Reading(reading.words, reading.trans, reading.betas, overlap))
    best = tried[0]
    for reading in tried[1:]:
        if reading.overlap > best.overlap + CLEAR_GAIN:
            best = reading
    return best, tried


def readings(track: BodyTrack, body: BodyModel, intrinsics: Intrinsics) -> Iterator[Reading]:
    """Every way to read a track, the plainest first."""
    shapes = [("the file's shape", track.betas)]
    if track.model != "capture" and np.abs(track.betas).max(initial=0.0) > 0 and not _shares_shape(track, body):
        shapes.append(("the body's mean shape", np.zeros_like(track.betas)))
    own = _pelvis(body, track.betas)
    origins = [("", own)]
    if track.model in PELVIS:
        published = np.array(PELVIS[track.model])
        if np.linalg.norm(published - own) > SAME_ORIGIN and not _shares_shape(track, body):
            origins.append((f", moved from {track.model}'s origin to the body's", published))
    for path in track.paths:
        lenses = [("", False)]
        if path.intrinsics is not None and not path.intrinsics.near(intrinsics):
            lenses.append((f", depth rescaled from a focal length of {path.intrinsics.fx:.0f} px", True))
        for shape_words, betas in shapes:
            for origin_words, origin in origins:
                for lens_words, rescale in lenses:
                    pelvis = path.values + origin
                    if rescale and path.intrinsics is not None:
                        pelvis = refocused(pelvis, path.intrinsics, intrinsics)
                    words = f"{path.words}{lens_words}{origin_words}; {shape_words}"
                    yield Reading(words, pelvis - _pelvis(body, betas), betas)


def refocused(points: Floats, assumed: Intrinsics, real: Intrinsics) -> Floats:
    """Points ``[N, 3]`` moved so that the real camera sees them where, and as large as, the assumed one did."""
    across = assumed.fx * points[:, 0] / points[:, 2] + assumed.cx
    down = assumed.fy * points[:, 1] / points[:, 2] + assumed.cy
    depth = points[:, 2] * (real.fx + real.fy) / (assumed.fx + assumed.fy)
    return np.stack(((across - real.cx) * depth / real.fx, (down - real.cy) * depth / real.fy, depth), -1)


def _shares_shape(track: BodyTrack, body: BodyModel) -> bool:
    """Whether the body is of the model whose coefficients and origin the track uses."""
    return track.model == "SMPL" and not is_default_body(body)


def is_default_body(body: BodyModel) -> bool:
    """Whether this is the CC0 body, whose shape coefficients and origin are not SMPL's."""
    return body.name == "CC0 body"


@torch.no_grad()
def _pelvis(body: BodyModel, betas: Floats) -> Floats:
    given = torch.from_numpy(np.asarray(betas[: body.shape_count])).float()
    return np.asarray(body.shaped(given)[1][0].double().numpy())


@torch.no_grad()
def _overlap(
    reading: Reading, poses: torch.Tensor, rows: Sequence[int], body: BodyModel, camera: Camera, targets: np.ndarray
) -> float:
    trans = torch.from_numpy(reading.trans[list(rows)]).float()
    betas = torch.from_numpy(np.asarray(reading.betas[: body.shape_count])).float()
    vertices = body.posed(betas, poses, trans)[0]
    if float(camera.project(vertices)[..., 2].min()) <= 0:
        return 0.0
    return float(intersection_over_union(silhouettes(vertices, body, camera), targets).mean())


def _resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if mask.shape == size:
        return mask
    return np.asarray(cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA) >= 0.5)
