"""Fill the illustrated report of a run from what fit, infer and evaluate have left in its folder."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from selfrecon_warp.capture.dataset import Capture, read_capture
from selfrecon_warp.capture.ground_truth import GroundTruth
from selfrecon_warp.capture.image_file import read_image
from selfrecon_warp.capture.overlap import sample_frames
from selfrecon_warp.errors import RunError
from selfrecon_warp.train.run_folder import RunFolder
from selfrecon_warp.view.evaluate import Evaluation
from selfrecon_warp.view.mesh_io import Mesh, read_ply
from selfrecon_warp.view.render import contact_strip, person_box, render_shaded, turntable
from selfrecon_warp.view.report import (
    FitLog,
    FrameRow,
    Picture,
    ReportContent,
    overlap_problems,
    read_log,
    write_report,
)
from selfrecon_warp.view.video import read_video

FRAMES_SHOWN = 6
STRIP_VIEWS = 6
CURVES = ("iou", "contour_px", "colour", "normal", "eikonal", "rigidity", "explicit", "pull")
"""Logged values that are drawn, in this order."""


def report_run(
    run: RunFolder, evaluation: Evaluation, truth: GroundTruth, *, device: torch.device, title: str, summary: str = ""
) -> Path:
    """Write ``report.html``: scores, turntable, frames beside ground truth, videos, loss curves, settings.

    Args:
        run: A run that `selfrecon infer` has been through.
        evaluation: Its scores.
        truth: Ground truth of its capture.
        device: What the fit ran on, for the record.
        title: Headline.
        summary: A sentence or two beneath it.

    Returns:
        The file.

    Raises:
        RunError: A result of `selfrecon infer` is missing, or the file cannot be written.
        CaptureError: Capture or ground truth are damaged.
    """
    capture = read_capture(run.capture_folder)
    mesh = read_ply(run.canonical_mesh)
    log = read_log(run.log_file)
    overlaps = dict(enumerate(evaluation.overlaps.tolist()))
    content = ReportContent(
        title=title,
        summary=summary,
        fit=evaluation.fit,
        initial=evaluation.initial,
        frames=_frame_rows(run, capture, truth, evaluation.overlaps),
        turntable_video=run.infer / "turntable.mp4",
        turntable_strip=_strip(run.infer / "turntable.mp4", mesh),
        videos={
            "Input and rendered colours": run.infer / "colour.mp4",
            "Input and shape": run.infer / "shaded.mp4",
            "Input and normals": run.infer / "normals.mp4",
        },
        log=_chosen(log),
        facts=_facts(run, capture, mesh, device),
        problems=overlap_problems(overlaps),
    )
    write_report(run.report_file, content)
    return run.report_file


def _strip(video: Path, mesh: Mesh) -> np.ndarray:
    """A row of coloured views over a row of the same in clay."""
    frames = read_video(video)
    coloured = [frames[round(view * len(frames) / STRIP_VIEWS)] for view in range(STRIP_VIEWS)]
    height, width = coloured[0].shape[:2]
    clay = turntable(mesh.vertices, mesh.faces, STRIP_VIEWS, height, width)
    return contact_strip([*coloured, *clay], STRIP_VIEWS)


def _frame_rows(run: RunFolder, capture: Capture, truth: GroundTruth, overlaps: np.ndarray) -> list[FrameRow]:
    known = truth.meshes.frames
    frames = [known[index] for index in sample_frames(len(known), FRAMES_SHOWN)]
    box = person_box([capture.load_mask(frame) for frame in frames])
    rows = []
    for frame in frames:
        shape = _true_shape(capture, truth, frame)
        normals = truth.load_normals(capture.names[frame])
        given = [
            ("Input", capture.load_image(frame), "the photograph"),
            ("Colours", _result(run, "colour", frame), "the avatar's colours"),
            ("Shape", _result(run, "shaded", frame), "the avatar's surface"),
            ("True shape", shape, "the ground-truth surface"),
            ("Normals", _result(run, "normals", frame), "the avatar's normals"),
            ("True normals", normals, "the ground-truth normals"),
        ]
        pictures = [Picture(label, np.ascontiguousarray(image[box]), text) for label, image, text in given]
        rows.append(FrameRow(frame, pictures, f"overlap with the mask {overlaps[frame]:.3f}"))
    return rows


def _result(run: RunFolder, name: str, frame: int) -> np.ndarray:
    path = run.infer / name / f"{frame:06d}.png"
    if not path.is_file():
        raise RunError(f"{path} is missing; run `selfrecon infer {run.path}` again")
    return read_image(path)


def _true_shape(capture: Capture, truth: GroundTruth, frame: int) -> np.ndarray:
    vertices: Tensor = truth.meshes.vertices(frame)
    return render_shaded(vertices, truth.canonical.faces, capture.camera)


def _chosen(log: FitLog) -> FitLog:
    curves = {curve.name: curve for curve in log.curves}
    return FitLog([curves[name] for name in CURVES if name in curves], log.stages, log.seconds)


def _facts(run: RunFolder, capture: Capture, mesh: Mesh, device: torch.device) -> dict[str, dict[str, str]]:
    config, provenance = run.config, run.provenance
    height, width = capture.image_size
    return {
        "Capture": {
            "frames": str(len(capture)),
            "size": f"{width} x {height} px",
            "body": provenance["body"]["name"],
        },
        "Fit": {
            "stages": ", ".join(f"{stage.name} {stage.iterations}" for stage in config.stages),
            "signed distance": config.model.sdf.type,
            "offset": config.model.offset.type,
            "colours": config.model.appearance.type,
            "seed": str(config.seed),
            "canonical mesh": f"{len(mesh.vertices):,} vertices, {len(mesh.faces):,} faces",
        },
        "Made with": {
            **{name.replace("_", "-"): version for name, version in provenance["versions"].items()},
            **({"commit": provenance["commit"][:12]} if provenance["commit"] else {}),
            "device": _device_name(device),
            "system": platform.platform(),
        },
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {len(_usable_cores())} cores"


def _usable_cores() -> Sequence[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return range(os.cpu_count() or 1)
