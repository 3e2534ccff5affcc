"""Score a fitted avatar in poses that its capture does not show.

The learned offset knows the frames of the capture alone. In any other pose an avatar takes the mean of their codes:
what the frames have in common stays, what one frame alone needed goes. It is skinned with the weights that the
exported mesh has, :mod:`selfrecon_warp.asset.cloth_weights`.

A fit and the ground truth agree on a pose only up to one turn of every joint in its own frame, and one shift of the
whole: both can be traded for another shape at rest, and no picture tells them apart. Scores are therefore taken twice:
in the true poses **as given**, and **calibrated**, with the mean turn and shift by which the fit's poses of the
capture's own frames differ from the true ones. No held-out frame takes part in that.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from rich.table import Table
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from selfrecon_warp.asset.animate import AVATAR
from selfrecon_warp.asset.cloth_weights import cloth_weights
from selfrecon_warp.asset.relit import pictures_in_its_light
from selfrecon_warp.asset.rigged import RiggedMesh
from selfrecon_warp.capture.ground_truth import GroundTruth, NovelPoses
from selfrecon_warp.checks import require_shapes
from selfrecon_warp.errors import RunError
from selfrecon_warp.train.run_folder import RunFolder
from selfrecon_warp.view.metrics import (
    AvatarScore,
    ColourScore,
    mean_colour_score,
    score_colours,
    score_geometry,
    silhouette_iou,
)
from selfrecon_warp.view.reconstruction import Reconstruction
from selfrecon_warp.view.render import Canvas, render_mask

SUPERSAMPLE = 2
ROWS = (
    ("chamfer_aligned_cm", "Chamfer distance, aligned [cm] ↓", 2),
    ("normal_consistency_aligned", "Normal consistency, aligned ↑", 3),
    ("silhouette_iou", "Silhouette IoU ↑", 3),
    ("psnr_db", "PSNR of the colour network [dB] ↑", 1),
    ("textured_psnr_db", "PSNR of the textured avatar [dB] ↑", 1),
)
"""Rows of the printed table: name in ``metrics.json``, title, decimals."""


@dataclass(frozen=True)
class Calibration:
    """What turns true poses into those of a fit's skeleton.

    Attributes:
        turns: Applied to every joint in its own frame, axis-angle [rad], ``[J, 3]``.
        shift: Added to the translation [m], ``[3]``.
    """

    turns: Tensor
    shift: Tensor

    def apply(self, poses: Tensor, trans: Tensor) -> tuple[Tensor, Tensor]:
        """Poses ``[N, J, 3]`` [rad] and translations ``[N, 3]`` [m] as the fit's skeleton takes them."""
        turns = Rotation.from_rotvec(np.tile(_numpy(self.turns), (len(poses), 1)))
        turned = Rotation.from_rotvec(_numpy(poses).reshape(-1, 3)) * turns
        calibrated = torch.from_numpy(turned.as_rotvec().reshape(poses.shape)).to(poses)
        return calibrated, trans + self.shift.to(trans)


@dataclass(frozen=True)
class NovelScore:
    """Scores in one set of poses.

    Attributes:
        avatar: Of the reconstruction, painted by the colour network.
        textured: Colours of the textured avatar; ``None`` where the run has none.
    """

    avatar: AvatarScore
    textured: ColourScore | None

    def as_dict(self) -> dict[str, Any]:
        """For ``metrics.json``."""
        values = self.avatar.as_dict()
        if self.textured is not None:
            values["textured_psnr_db"] = round(self.textured.psnr, 3)
            values["textured_ssim"] = round(self.textured.ssim, 5)
        return values


@dataclass(frozen=True)
class NovelScores:
    """Scores in held-out poses.

    Attributes:
        count: How many poses.
        given: In the true poses as given.
        calibrated: In the true poses carried over to the fit's skeleton.
    """

    count: int
    given: NovelScore
    calibrated: NovelScore

    def as_dict(self) -> dict[str, Any]:
        """For ``metrics.json``: scores as given, those calibrated beneath them."""
        return {**self.given.as_dict(), "calibrated": self.calibrated.as_dict()}

    def add_rows(self, table: Table) -> None:
        """Append to a table of scores: name, an empty cell, the score as given, the calibrated one."""
        given, calibrated = self.given.as_dict(), self.calibrated.as_dict()
        table.add_section()
        table.add_row(f"[bold]{self.count} poses unlike the capture[/]", "", "as given", "calibrated")
        for name, title, decimals in ROWS:
            if name in given:
                values = (f"{scores[name]:.{decimals}f}" for scores in (given, calibrated))
                table.add_row(title.replace("[", "\\["), "", *values)


@torch.no_grad()
def calibration(poses: Tensor, trans: Tensor, true_poses: Tensor, true_trans: Tensor) -> Calibration:
    """The constant turns and the shift by which a fit's poses differ from the true ones.

    Args:
        poses: Fitted, axis-angle [rad], ``[N, J, 3]``.
        trans: Fitted [m], ``[N, 3]``.
        true_poses: ``[N, J, 3]``.
        true_trans: ``[N, 3]``.

    Raises:
        ValueError: The shapes disagree.
    """
    require_shapes(
        poses=(poses, "N J 3"), trans=(trans, "N 3"), true_poses=(true_poses, "N J 3"), true_trans=(true_trans, "N 3")
    )
    turns = []
    for joint in range(poses.shape[1]):
        fitted, true = (Rotation.from_rotvec(_numpy(values[:, joint])) for values in (poses, true_poses))
        turns.append((true.inv() * fitted).mean().as_rotvec())
    shift = (trans.cpu() - true_trans.cpu()).mean(0)
    return Calibration(torch.from_numpy(np.array(turns)).float(), shift)


def in_poses(reconstruction: Reconstruction, poses: Tensor, trans: Tensor) -> Reconstruction:
    """The reconstruction with other frames than its capture's: any poses, under the mean code, with cloth weights.

    Args:
        reconstruction: A fitted avatar; left as it is.
        poses: Axis-angle [rad], ``[N, J, 3]``.
        trans: World translation [m], ``[N, 3]``.

    Raises:
        ValueError: A shape disagrees.
    """
    fitted = reconstruction.avatar
    require_shapes(poses=(poses, f"N {fitted.poses.shape[1]} 3"), trans=(trans, "N 3"))
    avatar = copy.deepcopy(fitted)
    frames = {"poses": poses.to(fitted.poses), "trans": trans.to(fitted.trans)}
    frames |= {name: getattr(fitted, name).mean(0).expand(len(poses), -1) for name in ("codes", "colour_codes")}
    for name, values in frames.items():
        setattr(avatar, name, nn.Parameter(values.clone(), requires_grad=False))
    posed = reconstruction.with_weights(cloth_weights(fitted, reconstruction.vertices, reconstruction.faces))
    posed.avatar = avatar
    return posed


def score_novel_poses(
    run: RunFolder, reconstruction: Reconstruction, truth: GroundTruth, progress: Progress
) -> NovelScores | None:
    """Score a fit in the held-out poses of its ground truth, ``None`` where it has none.

    Args:
        run: The run; its ``avatar`` folder is scored too where there is one.
        reconstruction: The fitted avatar, in the capture's frames.
        truth: Ground truth of that capture.
        progress: Told how far this is.

    Raises:
        CaptureError: The held-out poses are damaged.
        RunError: The run's textured avatar is damaged or has another skeleton.
    """
    novel = truth.novel
    if novel is None or not novel.names:
        return None
    avatar = reconstruction.avatar
    textured = _textured(run, avatar.poses.shape[1])
    own = calibration(avatar.poses, avatar.trans, truth.poses, truth.trans)
    task = progress.add_task("poses unlike the capture", total=2 * len(novel.names))
    scores = [
        _score(reconstruction, textured, truth, novel, *poses, tell=lambda: progress.advance(task))
        for poses in ((novel.poses, novel.trans), own.apply(novel.poses, novel.trans))
    ]
    return NovelScores(len(novel.names), *scores)


def _score(
    reconstruction: Reconstruction,
    textured: RiggedMesh | None,
    truth: GroundTruth,
    novel: NovelPoses,
    poses: Tensor,
    trans: Tensor,
    tell: Callable[[], None],
) -> NovelScore:
    posed = in_poses(reconstruction, poses, trans)
    frames = range(len(novel.names))
    paint = None if textured is None else _painted(textured, posed, poses, trans)
    overlaps: list[float] = []
    colours: list[ColourScore] = []
    textures: list[ColourScore] = []
    for frame in frames:
        vertices = posed.posed([frame])
        image, mask = novel.load_image(frame), novel.load_mask(frame)
        overlaps.append(float(silhouette_iou(render_mask(vertices[0], posed.faces, posed.avatar.camera), mask)))
        canvas = Canvas(vertices[0], posed.faces, posed.avatar.camera, SUPERSAMPLE)
        picture = canvas.painted(*posed.pixel_colours(canvas, posed.jacobians([frame], vertices)[0]))
        colours.append(score_colours(picture, image, mask))
        if paint is not None:
            textures.append(score_colours(paint(frame), image, mask))
        tell()
    geometry = score_geometry(lambda f: (posed.posed([f])[0], posed.faces), truth.canonical, novel.meshes, frames)
    avatar = AvatarScore(geometry, None, float(np.mean(overlaps)), mean_colour_score(colours))
    return NovelScore(avatar, mean_colour_score(textures) if textures else None)


def _painted(textured: RiggedMesh, posed: Reconstruction, poses: Tensor, trans: Tensor) -> Callable[[int], np.ndarray]:
    """Pictures of the textured avatar, pose by pose, from the capture's camera and in the capture's light."""
    camera, device = posed.avatar.camera, posed.vertices.device
    picture = pictures_in_its_light(textured, camera, device)

    def paint(frame: int) -> np.ndarray:
        vertices = textured.posed(_numpy(poses[frame : frame + 1]), _numpy(trans[frame : frame + 1]))[0]
        return picture(torch.from_numpy(vertices).to(device))

    return paint


def _textured(run: RunFolder, joint_count: int) -> RiggedMesh | None:
    folder = run.path / AVATAR
    if not folder.is_dir():
        return None
    textured = RiggedMesh.load(folder)
    if len(textured.parents) != joint_count:
        raise RunError(
            f"{folder}: has {len(textured.parents)} joints, the run's body {joint_count}; write it again with "
            "`selfrecon texture`"
        )
    return textured


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()
