"""Score a fitted run against ground truth, the body it began with beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table
from torch import Tensor

from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.capture.dataset import Capture
from selfrecon_warp.capture.ground_truth import GroundTruth, read_ground_truth
from selfrecon_warp.errors import RunError
from selfrecon_warp.model.body import BodyModel
from selfrecon_warp.train.run_folder import RunFolder
from selfrecon_warp.train.saved import load_fit
from selfrecon_warp.view.infer import progress_bars
from selfrecon_warp.view.metrics import (
    AvatarScore,
    ColourScore,
    mean_colour_score,
    metrics_record,
    score_colours,
    score_geometry,
    score_joints,
    silhouette_iou,
)
from selfrecon_warp.view.novel_poses import NovelScores, score_novel_poses
from selfrecon_warp.view.reconstruction import Reconstruction
from selfrecon_warp.view.render import Canvas, render_mask
from selfrecon_warp.view.report_scores import score_rows

COLOUR_STEP = 6
"""Every so many frames the rendered colours are compared with the photograph."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of a run.

    Attributes:
        fit: Of the fitted avatar.
        initial: Of the naked body that came with the capture.
        overlaps: Silhouette overlap of the avatar, ``[N]``.
        novel: In poses unlike the capture; ``None`` where the ground truth has none.
    """

    fit: AvatarScore
    initial: AvatarScore
    overlaps: np.ndarray
    novel: NovelScores | None = None

    def table(self) -> Table:
        """The scores side by side, for a terminal."""
        table = Table(title="Scores")
        table.add_column("measure")
        for column in ("given body", "fit", "difference"):
            table.add_column(column, justify="right")
        for row in score_rows(self.fit, self.initial):
            unit = f" [{row.unit}]" if row.unit else ""
            style = {True: "green", False: "red", None: ""}[row.improved]
            arrow = "↓" if row.better == "lower" else "↑"
            table.add_row(
                f"{row.title}{unit} {arrow}".replace("[", "\\["),
                row.shown(row.initial),
                row.shown(row.fit),
                f"[{style}]{row.difference}[/]" if style else row.difference,
            )
        if self.novel is not None:
            self.novel.add_rows(table)
        return table


def evaluate_run(
    run: RunFolder, ground_truth: Path, device: torch.device, *, console: Console | None = None
) -> Evaluation:
    """Score a run and write ``metrics.json``.

    Surfaces are compared in every frame that has a ground-truth mesh, joints and silhouettes in all frames, colours,
    painted over white, in every sixth; poses unlike the capture where the ground truth has them.

    Args:
        run: A fitted run; `selfrecon infer` need not have been through it.
        ground_truth: Folder ``gt`` of a rendered capture, or the capture folder.
        device: Where to compute.
        console: Where progress is shown; standard error when absent.

    Raises:
        RunError: The run has no usable checkpoint, its capture is gone or changed, the ground truth is of another
            capture, or ``metrics.json`` cannot be written.
        CaptureError: There is no ground truth, or it is damaged.
    """
    truth = read_ground_truth(ground_truth)
    fit = load_fit(run, device)
    if len(truth.joints) != len(fit.capture):
        raise RunError(
            f"{truth.root}: holds {len(truth.joints)} frames but {run.path} was fitted to the {len(fit.capture)} of "
            f"{fit.capture.root}; give the ground truth of that capture"
        )
    reconstruction = Reconstruction(fit.avatar, fit.config.output_cell)
    with progress_bars(console) as progress:
        fitted, overlaps = _score_avatar(reconstruction, fit.capture, truth, progress)
        initial = _score_body(fit.avatar.body, fit.capture, truth, device, progress)
        novel = score_novel_poses(run, reconstruction, truth, progress)
    record = metrics_record(
        fitted,
        initial,
        iteration=fit.iteration,
        capture=str(fit.capture.root),
        ground_truth=str(truth.root.resolve()),
        colour_frames=list(range(0, len(fit.capture), COLOUR_STEP)),
        **({} if novel is None else {"novel": novel.as_dict()}),
    )
    partial = run.metrics_file.with_name(f".{run.metrics_file.name}.partial")
    try:
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        partial.replace(run.metrics_file)
    except OSError as error:
        raise RunError(f"{run.metrics_file}: cannot be written ({error.strerror or error})") from error
    return Evaluation(fitted, initial, overlaps, novel)


def _score_avatar(
    reconstruction: Reconstruction, capture: Capture, truth: GroundTruth, progress: Progress
) -> tuple[AvatarScore, np.ndarray]:
    faces, avatar = reconstruction.faces, reconstruction.avatar
    overlaps = []
    task = progress.add_task("silhouettes", total=len(capture))
    for frames in reconstruction.batches(range(len(capture))):
        for frame, vertices in zip(frames, reconstruction.posed(frames), strict=True):
            mask = render_mask(vertices, faces, avatar.camera)
            overlaps.append(silhouette_iou(mask, capture.load_mask(frame)))
            progress.advance(task)
    colours = [
        _score_frame_colours(reconstruction, capture, frame)
        for frame in progress.track(range(0, len(capture), COLOUR_STEP), description="colours")
    ]
    task = progress.add_task("surfaces", total=len(truth.meshes.frames))
    geometry = score_geometry(
        lambda frame: (reconstruction.posed([frame])[0], faces),
        truth.canonical,
        truth.meshes,
        progress=_counter(progress, task),
    )
    joints = score_joints(avatar.joints(), truth.joints)
    return AvatarScore(geometry, joints, float(np.mean(overlaps)), mean_colour_score(colours)), np.array(overlaps)


def _score_frame_colours(reconstruction: Reconstruction, capture: Capture, frame: int) -> ColourScore:
    posed = reconstruction.posed([frame])
    canvas = Canvas(posed[0], reconstruction.faces, reconstruction.avatar.camera, supersample=2)
    picture = canvas.painted(*reconstruction.pixel_colours(canvas, reconstruction.jacobians([frame], posed)[0]))
    return score_colours(picture, capture.load_image(frame), capture.load_mask(frame))


@torch.no_grad()
def _score_body(
    body: BodyModel, capture: Capture, truth: GroundTruth, device: torch.device, progress: Progress
) -> AvatarScore:
    """The naked body that came with the capture."""
    poses, trans, betas = (values.to(device) for values in (capture.poses, capture.trans, capture.betas))
    camera: Camera = capture.camera.to(device)

    def posed(frame: int) -> tuple[Tensor, Tensor]:
        return body.posed(betas, poses[frame : frame + 1], trans[frame : frame + 1])

    overlaps, joints = [], []
    for frame in progress.track(range(len(capture)), description="body silhouettes"):
        vertices, frame_joints = posed(frame)
        joints.append(frame_joints)
        overlaps.append(silhouette_iou(render_mask(vertices[0], body.faces, camera), capture.load_mask(frame)))
    task = progress.add_task("body surfaces", total=len(truth.meshes.frames))
    geometry = score_geometry(
        lambda frame: (posed(frame)[0][0], body.faces),
        truth.canonical,
        truth.meshes,
        progress=_counter(progress, task),
    )
    return AvatarScore(geometry, score_joints(torch.cat(joints), truth.joints), float(np.mean(overlaps)))


def _counter(progress: Progress, task: TaskID) -> Callable[[int], None]:
    """Shows how many frames are done."""
    return lambda done: progress.update(task, completed=done)
