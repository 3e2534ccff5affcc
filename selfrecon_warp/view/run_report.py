"""Fill the illustrated report of a run from what fit, infer, texture and evaluate have left in its folder."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from selfrecon_warp.asset.rigged import AVATAR, RiggedMesh, rigged_mesh
from selfrecon_warp.capture.check import check_capture
from selfrecon_warp.capture.ground_truth import GroundTruth
from selfrecon_warp.errors import RunError
from selfrecon_warp.train.run_folder import RunFolder
from selfrecon_warp.train.saved import SavedFit, load_fit
from selfrecon_warp.view.infer import progress_bars
from selfrecon_warp.view.metrics import silhouette_iou
from selfrecon_warp.view.reconstruction import Reconstruction
from selfrecon_warp.view.render import contact_strip, render_mask, turntable
from selfrecon_warp.view.report import ReportContent, write_report
from selfrecon_warp.view.report_curves import Curve, FitLog, chosen_curves, read_log
from selfrecon_warp.view.report_frames import frame_rows
from selfrecon_warp.view.report_problems import (
    overlap_problems,
    progress_problems,
    score_problems,
    unsteady_problems,
)
from selfrecon_warp.view.report_scores import read_scores, score_rows
from selfrecon_warp.view.report_viewer import TEXELS, contact_sheet, viewer_content
from selfrecon_warp.view.video import read_video

STRIP_VIEWS = 6
VIDEOS = {
    "Input and rendered colours": "colour.mp4",
    "Input and shape": "shaded.mp4",
    "Input and normals": "normals.mp4",
}
"""Videos of `selfrecon infer` by title."""
VIDEO_BYTES = 6_000_000
"""Videos that together are larger stay outside the page."""
TURNTABLE, OVERLAPS = "turntable.mp4", "overlap.json"


def report_run(
    run: RunFolder,
    device: torch.device,
    *,
    truth: GroundTruth | None = None,
    title: str | None = None,
    summary: str = "",
    texels: int = TEXELS,
    out: Path | None = None,
    console: Console | None = None,
) -> Path:
    """Write ``report.html``: the avatar to turn and play, scores, problems, frames, videos, loss curves, settings.

    What is not there yet is left out or, where it is a matter of seconds, computed: pictures of a few frames and their
    overlaps without `selfrecon infer`, vertex colours without `selfrecon texture`. Scores are from ``metrics.json``.

    Args:
        run: A fitted run.
        device: Where to compute.
        truth: Ground truth of its capture, shown beside the results.
        title: Headline; the capture's name when absent.
        summary: A sentence or two beneath it.
        texels: Width and height at most of the texture inside the page.
        out: The file; ``RUN/report.html`` when absent.
        console: Where progress is shown; standard error when absent.

    Returns:
        The file.

    Raises:
        RunError: The run has no usable checkpoint, its capture is gone or changed, a result in it is damaged, or the
            file cannot be written.
        CaptureError: Capture or ground truth are damaged.
    """
    path = run.report_file if out is None else out
    if path.is_dir() or path.suffix.lower() not in (".html", ".htm"):
        raise RunError(f"--out {path}: must be a file ending in .html")
    scores = read_scores(run.metrics_file)
    log = chosen_curves(read_log(run.log_file))
    fit = load_fit(run, device)
    if truth is not None and len(truth.joints) != len(fit.capture):
        raise RunError(
            f"{truth.root}: holds {len(truth.joints)} frames but {run.path} was fitted to the {len(fit.capture)} of "
            f"{fit.capture.root}; give the ground truth of that capture"
        )
    textured = RiggedMesh.load(run.path / AVATAR) if (run.path / AVATAR).is_dir() else None
    reconstruction = Reconstruction(fit.avatar, fit.config.output_cell)
    with progress_bars(console) as progress:
        overlaps = _overlaps(fit, reconstruction, progress)
        rigged = textured or rigged_mesh(
            fit.avatar, reconstruction.vertices, reconstruction.faces, reconstruction.vertex_colours()
        )
        task = progress.add_task("report", total=4)
        frames = frame_rows(fit, reconstruction, overlaps, textured, truth)
        progress.advance(task)
        viewer = viewer_content(rigged, contact_sheet(fit.capture), texels)
        progress.advance(task)
        problems = _problems(fit, log, overlaps) + score_problems(score_rows(scores.fit, scores.initial))
        progress.advance(task)
        turning = run.infer / TURNTABLE
        videos, elsewhere = _videos(run)
        content = ReportContent(
            title=title or fit.capture.root.name,
            summary=summary or _summary(fit, textured is not None),
            viewer=viewer,
            fit=scores.fit,
            initial=scores.initial,
            novel=scores.novel,
            calibrated=scores.calibrated,
            frame_scores=_frame_scores(overlaps, scores.fit),
            frames=frames,
            turntable_video=turning if turning.is_file() else None,
            turntable_strip=_strip(turning, reconstruction) if turning.is_file() else None,
            videos=videos,
            videos_elsewhere=elsewhere,
            log=log,
            facts=_facts(fit, reconstruction, rigged, log, device),
            problems=problems,
        )
        write_report(path, content)
        progress.advance(task)
    return path


def _overlaps(fit: SavedFit, reconstruction: Reconstruction, progress: Progress) -> dict[int, float]:
    """Silhouette overlap of every frame: what `selfrecon infer` found, if it saw all of them, or drawn now."""
    known = _known_overlaps(fit.run.infer / OVERLAPS)
    frames = range(len(fit.capture))
    if set(known) == set(frames):
        return known
    task = progress.add_task("silhouettes", total=len(frames))
    found: dict[int, float] = {}
    for batch in reconstruction.batches(frames):
        for frame, vertices in zip(batch, reconstruction.posed(batch), strict=True):
            mask = render_mask(vertices, reconstruction.faces, fit.avatar.camera)
            found[frame] = float(silhouette_iou(mask, fit.capture.load_mask(frame)))
            progress.advance(task)
    return found


def _known_overlaps(path: Path) -> dict[int, float]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {int(frame): float(overlap) for frame, overlap in record["frames"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"{path}: cannot be read ({error}); write it again with `selfrecon infer`") from error


def _problems(fit: SavedFit, log: FitLog, overlaps: Mapping[int, float]) -> list[str]:
    areas = [float(fit.capture.load_mask(frame).mean()) for frame in range(len(fit.capture))]
    planned = sum(stage.steps(len(fit.capture)) for stage in fit.config.stages)
    return [
        *(progress_problems(fit.iteration, planned) if log.stages else []),
        *overlap_problems(overlaps),
        *unsteady_problems(areas, overlaps),
        *(f"{problem.message}." for problem in check_capture(fit.capture, fit.avatar.body).problems),
    ]


def _summary(fit: SavedFit, textured: bool) -> str:
    height, width = fit.capture.image_size
    looks = "textured" if textured else "not textured yet"
    return f"One person, reconstructed from {len(fit.capture)} pictures of {width}x{height}; {looks}."


def _videos(run: RunFolder) -> tuple[dict[str, Path], list[Path]]:
    """Videos for the page, and those too large for it."""
    left, videos, elsewhere = VIDEO_BYTES, {}, []
    for title, name in VIDEOS.items():
        file = run.infer / name
        if not file.is_file():
            continue
        left -= file.stat().st_size
        if left < 0:
            elsewhere.append(file)
        else:
            videos[title] = file
    return videos, elsewhere


def _strip(video: Path, reconstruction: Reconstruction) -> np.ndarray:
    """A row of coloured views over a row of the same in clay."""
    frames = read_video(video)
    coloured = [frames[round(view * len(frames) / STRIP_VIEWS)] for view in range(STRIP_VIEWS)]
    height, width = coloured[0].shape[:2]
    clay = turntable(reconstruction.vertices, reconstruction.faces, STRIP_VIEWS, height, width)
    return contact_strip([*coloured, *clay], STRIP_VIEWS)


def _frame_scores(overlaps: Mapping[int, float], scores: Mapping[str, Any]) -> list[Curve]:
    curves = []
    if len(overlaps) > 1:
        frames = sorted(overlaps)
        values = [overlaps[frame] for frame in frames]
        curves.append(Curve("Silhouette IoU", frames, values, "overlap with the mask, 1 is perfect", "frames"))
    known = sorted((int(frame), values) for frame, values in scores.get("frames", {}).items())
    for name, title, meaning in (
        ("chamfer_aligned_cm", "Chamfer distance, aligned", "to the true surface [cm]"),
        ("normal_consistency_aligned", "Normal consistency, aligned", "1 is perfect"),
    ):
        points = {frame: float(values[name]) for frame, values in known if name in values}
        if len(points) > 1:
            curves.append(Curve(title, list(points), list(points.values()), meaning, "frames"))
    return curves


def _facts(
    fit: SavedFit, reconstruction: Reconstruction, rigged: RiggedMesh, log: FitLog, device: torch.device
) -> dict[str, dict[str, str]]:
    config, provenance = fit.config, fit.run.provenance
    height, width = fit.capture.image_size
    texture = rigged.texture
    return {
        "Capture": {
            "frames": str(len(fit.capture)),
            "size": f"{width} x {height} px",
            "body": provenance["body"]["name"],
        },
        "Avatar": {
            "canonical mesh": _counts(reconstruction.vertices, reconstruction.faces),
            "rigged mesh": _counts(rigged.vertices, rigged.faces),
            "joints": str(len(rigged.parents)),
            "texture": "vertex colours" if texture is None else f"{texture.shape[1]} x {texture.shape[0]}",
        },
        "Fit": {
            "stages": ", ".join(f"{stage.name} {stage.steps(len(fit.capture))}" for stage in config.stages),
            "signed distance": config.model.sdf.type,
            "offset": config.model.offset.type,
            "colours": config.model.appearance.type,
            "seed": str(config.seed),
            **({"time": log.duration} if log.duration else {}),
        },
        "Made with": {
            **{name.replace("_", "-"): version for name, version in provenance["versions"].items()},
            **({"commit": provenance["commit"][:12]} if provenance["commit"] else {}),
            "report written on": _device_name(device),
            "system": platform.platform(),
        },
    }


def _counts(vertices: np.ndarray | torch.Tensor, faces: np.ndarray | torch.Tensor) -> str:
    return f"{len(vertices):,} vertices, {len(faces):,} faces"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {len(_usable_cores())} cores"


def _usable_cores() -> Sequence[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return range(os.cpu_count() or 1)
