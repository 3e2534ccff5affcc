"""The body of a capture fitted anew to its masks, and to keypoints where there are any."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from selfrecon_warp import __version__
from selfrecon_warp.capture.camera import read_arrays, write_camera
from selfrecon_warp.capture.dataset import Capture, parallel, read_capture
from selfrecon_warp.capture.overlap import intersection_over_union, sample_frames, silhouettes
from selfrecon_warp.errors import PrepareError
from selfrecon_warp.model.body import BodyModel, load_body
from selfrecon_warp.prepare.body_fit import OVERLAP_FRAMES, fit_body
from selfrecon_warp.prepare.body_fit_solver import with_focal
from selfrecon_warp.prepare.capture_writer import CaptureFolder
from selfrecon_warp.prepare.observations import KEYPOINTS, PersonObservations, read_keypoints
from selfrecon_warp.staging import replacing_file, replacing_folder
from selfrecon_warp.view.infer import progress_bars

_DRAWN_FROM_THE_BODY = ("contact_sheet.png",)


@dataclass(frozen=True)
class Refined:
    """What came of it.

    Attributes:
        folder: The capture written.
        frames: Its frames.
        overlap_before: Mean intersection over union of body and masks before.
        overlap: The same after.
        focal: Focal length [px].
        remarks: What the user should know.
    """

    folder: Path
    frames: int
    overlap_before: float
    overlap: float
    focal: float
    remarks: tuple[str, ...]


def refine_capture(
    folder: Path,
    out: Path | None = None,
    *,
    overwrite: bool = False,
    height_cm: float | None = None,
    focal_free: bool = False,
    keypoints: Path | None = None,
    body_models: Path | None = None,
    console: Console | None = None,
) -> Refined:
    """Fit a capture's poses, translations and shape, and its focal length if wanted, from the ones it has.

    Args:
        folder: The capture.
        out: Where the refined one goes; the capture itself when absent.
        overwrite: Replace what ``out`` holds, or the capture's own body.
        height_cm: Height of the person; the given body's, more or less, when absent.
        focal_free: Whether the focal length is a guess.
        keypoints: File for :func:`read_keypoints`; the capture's own ``keypoints.npz`` when absent and there is one.
        body_models: SMPL files; the CC0 body of the package when absent.
        console: Where progress is shown; standard error when absent.

    Raises:
        SelfReconError: The capture is damaged, the keypoints do not fit it, or the place is taken.
    """
    capture = read_capture(folder)
    if out is None or out.resolve() == folder.resolve():
        if not overwrite:
            raise PrepareError(f"give --out CAPTURE, or --overwrite to replace the body that {folder} holds")
        out = None
    else:
        CaptureFolder.require_available(out, overwrite=overwrite)
    body = load_body(body_models, capture.gender)
    masks = np.stack(parallel(capture.load_mask, range(len(capture))))
    own = folder / KEYPOINTS
    file = keypoints or (own if own.is_file() else None)
    observations = _masks_alone(masks) if file is None else read_keypoints(file, masks)
    before = _overlap(capture, body, masks)
    with progress_bars(console) as bars:
        task = bars.add_task("body", total=None)
        fitted = fit_body(
            observations,
            capture.camera,
            body,
            height_cm=height_cm,
            initial=(capture.poses.numpy(), capture.trans.numpy(), capture.betas.numpy()),
            focal_free=focal_free,
            clips=capture.clips,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    stored = read_arrays(folder / "smpl_rec.npz")
    shape = np.zeros_like(stored["shape"], np.float32)
    shape.reshape(-1)[: len(fitted.betas)] = fitted.betas
    changed = {"poses": fitted.poses.astype(np.float32), "trans": fitted.trans.astype(np.float32), "shape": shape}
    camera = with_focal(capture.camera, fitted.focal / float(capture.camera.focal[0]))
    remarks = list(fitted.remarks)
    if fitted.overlap < before:
        remarks.append(
            f"body and masks overlap by {fitted.overlap:.3f}, before by {before:.3f}: keypoints or height and masks "
            "disagree"
        )
    record = _record(folder, fitted.overlap, before, fitted.focal, height_cm, file, remarks)

    def write(into: Path) -> None:
        np.savez(into / "smpl_rec.npz", allow_pickle=False, **{**stored, **changed})
        write_camera(into / "camera.npz", camera)
        (into / "prepared.json").write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")

    if out is None:
        with replacing_file(folder / "smpl_rec.npz") as staged:
            write(staged.parent)
        for name in _DRAWN_FROM_THE_BODY:
            (folder / name).unlink(missing_ok=True)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing_folder(out) as staging:
            _copy(folder, staging)
            if keypoints is not None:
                shutil.copyfile(keypoints, staging / KEYPOINTS)
            write(staging)
            read_capture(staging)
    return Refined(out or folder, len(capture), before, fitted.overlap, fitted.focal, tuple(remarks))


def _masks_alone(masks: np.ndarray) -> PersonObservations:
    N = len(masks)
    return PersonObservations(
        masks=masks,
        keypoints=np.zeros((N, 0, 2), np.float32),
        confidence=np.zeros((N, 0), np.float32),
        keypoints3d=None,
        names=(),
        times=np.arange(N, dtype=np.float64),
    )


@torch.no_grad()
def _overlap(capture: Capture, body: BodyModel, masks: np.ndarray) -> float:
    chosen = sample_frames(len(capture), OVERLAP_FRAMES)
    vertices = body.posed(capture.betas[: body.shape_count], capture.poses[chosen], capture.trans[chosen])[0]
    return float(intersection_over_union(silhouettes(vertices, body, capture.camera), masks[chosen]).mean())


def _copy(folder: Path, staging: Path) -> None:
    """Everything of a capture but what was made from its body."""
    for item in sorted(folder.iterdir()):
        if item.name in _DRAWN_FROM_THE_BODY or item.name.startswith((".", "initial_s")):
            continue
        if item.is_dir():
            shutil.copytree(item, staging / item.name)
        else:
            shutil.copyfile(item, staging / item.name)


def _record(
    folder: Path,
    overlap: float,
    before: float,
    focal: float,
    height_cm: float | None,
    keypoints: Path | None,
    remarks: list[str],
) -> dict[str, Any]:
    """``prepared.json``: what it told, and what was refined."""
    try:
        record = json.loads((folder / "prepared.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = {}
    if not isinstance(record, dict):
        record = {}
    record["refined"] = {
        "by": f"selfrecon prepare refine, version {__version__}",
        "from": folder,
        "keypoints": keypoints,
        "height [cm]": height_cm,
        "focal length [px]": round(focal, 2),
        "overlap of body and masks before": round(before, 4),
        "overlap of body and masks": round(overlap, 4),
        "remarks": remarks,
    }
    return record
