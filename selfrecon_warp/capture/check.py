"""What only shows when a capture's parts are put together: does the body lie on the person in the pictures?

Every file is decoded and the naked body of every frame is projected onto its mask. Where they do not meet, the likely
cause is looked for and named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from selfrecon_warp.capture.dataset import Capture, decode_normals, listed, parallel, valid_normals
from selfrecon_warp.capture.diagnosis import likely_cause
from selfrecon_warp.capture.overlap import (
    body_vertices,
    intersection_over_union,
    mask_box,
    project_faces,
    sample_frames,
    silhouettes,
)
from selfrecon_warp.errors import CaptureError
from selfrecon_warp.model.body import BodyModel

LEAST_OVERLAP = 0.3  # mean intersection over union of body and mask; below it the conventions must differ
SURE_OVERLAP = 0.6  # above it no other convention is tried
TELLING_GAIN = 0.15  # of overlap, by which a changed convention must win to be named
LEAST_MASK = 0.005  # of the image
LEAST_NORMALS = 0.5  # of the mask
LEAST_AGREEMENT = 0.5  # mean cosine between the normal images and the body's normals
FRAMES_AT_ONCE = 8
NORMAL_FRAMES = 8


@dataclass(frozen=True)
class Problem:
    """One finding: an ``error`` stops a fit, a ``warning`` does not."""

    severity: Literal["error", "warning"]
    message: str


@dataclass(frozen=True)
class CheckReport:
    """What was found, with one figure per frame.

    Attributes:
        root: The capture folder.
        problems: Errors first.
        mask_fraction: Share of the image that the mask covers, ``[N]``.
        touches_border: Whether the mask reaches the image border, ``[N]`` bool.
        mask_box: (left, top, right, bottom) of the mask [px], inclusive, ``[N, 4]`` int64.
        overlap: Intersection over union of mask and projected naked body, ``[N]``.
        body_visible: Whether any of the projected body lies inside the image, ``[N]`` bool.
        normal_agreement: Mean cosine between the normal images and the body's normals, NaN without normal images.
    """

    root: Path
    problems: tuple[Problem, ...]
    mask_fraction: np.ndarray
    touches_border: np.ndarray
    mask_box: np.ndarray
    overlap: np.ndarray
    body_visible: np.ndarray
    normal_agreement: float

    @property
    def errors(self) -> tuple[Problem, ...]:
        """Problems that make a fit pointless."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """Problems that a fit survives."""
        return tuple(problem for problem in self.problems if problem.severity == "warning")


def check_capture(capture: Capture, body: BodyModel) -> CheckReport:
    """Decode every file, project the body into every frame and report what does not fit together.

    Args:
        capture: An opened capture.
        body: The body model that its poses and shape belong to.

    Raises:
        CaptureError: A file cannot be decoded.
    """
    count = len(capture)
    parallel(lambda frame: _decodes(capture, frame), range(count))
    fraction, overlap, visible = np.zeros(count), np.zeros(count), np.zeros(count, bool)
    boxes = np.zeros((count, 4), np.int64)
    for start in range(0, count, FRAMES_AT_ONCE):
        frames = list(range(start, min(start + FRAMES_AT_ONCE, count)))
        masks = np.stack(parallel(capture.load_mask, frames))
        bodies = silhouettes(body_vertices(capture, body, frames), body, capture.camera)
        boxes[frames] = [mask_box(mask) for mask in masks]
        fraction[frames] = masks.mean((1, 2))
        overlap[frames] = intersection_over_union(bodies, masks)
        visible[frames] = bodies.any((1, 2))
    height, width = capture.image_size
    touches = (boxes[:, :2] == 0).any(1) | (boxes[:, 2] == width - 1) | (boxes[:, 3] == height - 1)
    body_problems = _check_body(capture, body, overlap, visible)
    agreement, normal_problems = _check_normals(capture, body, placed=not body_problems)
    problems = [
        *body_problems,
        *_check_masks(capture, fraction, touches),
        *normal_problems,
    ]
    problems.sort(key=lambda problem: problem.severity)
    return CheckReport(capture.root, tuple(problems), fraction, touches, boxes, overlap, visible, agreement)


def require_fit_ready(report: CheckReport) -> None:
    """Refuse a capture with errors.

    Raises:
        CaptureError: The report holds errors; the message lists them.
    """
    messages = [problem.message for problem in report.errors]
    if len(messages) > 1:
        raise CaptureError("\n- ".join([f"{report.root} cannot be fitted:", *messages]))
    if messages:
        raise CaptureError(messages[0])


def _decodes(capture: Capture, frame: int) -> None:
    """Raise if the image or the normals of a frame do not decode; keep neither."""
    capture.load_image(frame)
    capture.load_normals(frame)


def _check_body(capture: Capture, body: BodyModel, overlap: np.ndarray, visible: np.ndarray) -> list[Problem]:
    parameters = capture.root / "smpl_rec.npz"
    mean = float(overlap.mean())
    cause = likely_cause(capture, body) if mean < SURE_OVERLAP else None
    if cause is not None and (mean < LEAST_OVERLAP or cause.overlap > mean + TELLING_GAIN):
        outside = "" if visible.all() else f" and projects outside the image in {_frames(~visible)}"
        remedy = f"Likely cause: {cause.change}; with that changed it is {cause.overlap:.2f}"
        if cause.overlap < max(LEAST_OVERLAP, mean + TELLING_GAIN):
            remedy = "Check axis convention, focal length in pixels, and that poses and images share their frames"
        message = (
            f"{parameters}: the body overlaps the masks by only {mean:.2f} (intersection over union){outside}. {remedy}"
        )
        certain = mean < LEAST_OVERLAP or cause.convention
        return [Problem("error" if certain else "warning", message)]
    problems = []
    if not visible.all():
        message = f"{parameters}: the body projects outside the image in {_frames(~visible)}; correct or drop these"
        problems.append(Problem("error", message))
    poor = visible & (overlap < LEAST_OVERLAP)
    if poor.any():
        message = f"{parameters}: the body hardly meets the mask in {_frames(poor)}; pose or mask is wrong there"
        problems.append(Problem("warning", message))
    return problems


def _check_masks(capture: Capture, fraction: np.ndarray, touches: np.ndarray) -> list[Problem]:
    folder = capture.root / "masks"
    problems = []
    if touches.any():
        message = (
            f"{folder}: the person is cut off by the image border in {_frames(touches)}; what is cut is not learned"
        )
        problems.append(Problem("warning", message))
    if (fraction < LEAST_MASK).any():
        message = (
            f"{folder}: the person covers less than {LEAST_MASK:.1%} of the image in {_frames(fraction < LEAST_MASK)}"
        )
        problems.append(Problem("warning", message))
    surplus = len([file for file in folder.glob("*.png") if not file.name.startswith(".")]) - len(capture)
    if surplus > 0:
        problems.append(Problem("warning", f"{folder}: masks without an image: {surplus}, ignored"))
    return problems


@torch.no_grad()
def _check_normals(capture: Capture, body: BodyModel, placed: bool) -> tuple[float, list[Problem]]:
    """Mean agreement with the body's normals on a few frames, and what is wrong; ``placed``: trust the body."""
    folder = capture.root / "normals"
    available = np.flatnonzero(capture.has_normals)
    if len(available) == 0:
        return float("nan"), [
            Problem("warning", f"{folder}: no normal images; the fit has silhouettes and colours alone")
        ]
    problems = []
    if len(available) < len(capture):
        problems.append(Problem("warning", f"{folder}: no normals for {_frames(~capture.has_normals)}"))
    frames = [int(available[row]) for row in sample_frames(len(available), NORMAL_FRAMES)]
    vertices = body_vertices(capture, body, frames)
    corners = vertices[:, body.faces]
    facing = torch.linalg.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])
    facing = torch.nn.functional.normalize(facing, dim=-1)
    seen = torch.from_numpy(project_faces(vertices, body, capture.camera)).long()
    coverage, cosines = [], []
    for row, frame in enumerate(frames):
        encoded, mask = torch.from_numpy(capture.load_normals(frame)), torch.from_numpy(capture.load_mask(frame))
        valid = valid_normals(encoded, mask)
        coverage.append(valid.sum().item() / mask.sum().item())
        both = valid & (seen[row] >= 0)
        world = decode_normals(encoded[both], capture.camera.rotation())
        cosines.append((world * facing[row, seen[row][both]]).sum(-1))
    agreement = float(torch.cat(cosines).mean()) if sum(map(len, cosines)) else float("nan")
    if float(np.mean(coverage)) < LEAST_NORMALS:
        share = f"only {np.mean(coverage):.0%} of the mask holds usable normals"
        problems.append(Problem("warning", f"{folder}: {share}; store rgb = 127.5 (n + 1) with unit n"))
    if placed and agreement < LEAST_AGREEMENT:
        message = (
            f"{folder}: normals disagree with the body's (mean cosine {agreement:.2f}); expected "
            "rgb = 127.5 (n + 1) with n = (right, up, towards the camera)"
        )
        problems.append(Problem("warning", message))
    return agreement, problems


def _frames(chosen: np.ndarray) -> str:
    """Names some frames of a boolean row."""
    index: Sequence[int] = np.flatnonzero(chosen).tolist()
    return f"frame {index[0]}" if len(index) == 1 else f"{len(index)} frames ({listed(index)})"
