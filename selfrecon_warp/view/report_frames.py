"""Pictures of single frames for the report: what went in, what came out, what would have been right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch

from selfrecon_warp.asset.relit import pictures_in_its_light
from selfrecon_warp.asset.rigged import RiggedMesh
from selfrecon_warp.capture.ground_truth import GroundTruth
from selfrecon_warp.capture.image_file import read_image
from selfrecon_warp.capture.overlap import sample_frames
from selfrecon_warp.train.run_folder import RunFolder
from selfrecon_warp.train.saved import SavedFit
from selfrecon_warp.view.infer import SUPERSAMPLE
from selfrecon_warp.view.reconstruction import Reconstruction
from selfrecon_warp.view.render import Canvas, person_box, render_shaded
from selfrecon_warp.view.report import FrameRow, Picture

FRAMES_SHOWN = 6
PICTURE_HEIGHT = 900  # px at most
DRAWN = {
    "colour": ("Colours", "the avatar as its colour network paints it"),
    "shaded": ("Shape", "the avatar's surface"),
    "normals": ("Normals", "the avatar's normals"),
}
"""Pictures of `selfrecon infer`: their titles and what they show."""


def frame_rows(
    fit: SavedFit,
    reconstruction: Reconstruction,
    overlaps: Mapping[int, float],
    textured: RiggedMesh | None = None,
    truth: GroundTruth | None = None,
) -> list[FrameRow]:
    """Rows of pictures of a few frames; what `selfrecon infer` has not drawn is drawn here.

    Args:
        fit: The fit.
        reconstruction: Its mesh.
        overlaps: Silhouette IoU of frames, for the notes.
        textured: The textured avatar, if there is one.
        truth: Ground truth, if there is any; its frames are shown then, else the worst one as well.

    Raises:
        CaptureError: A picture is damaged.
    """
    known = range(len(fit.capture)) if truth is None else truth.meshes.frames
    frames = [known[index] for index in sample_frames(len(known), FRAMES_SHOWN)]
    if truth is None and overlaps:
        frames = sorted({*frames, min(overlaps, key=lambda frame: overlaps[frame])})
    box = person_box([fit.capture.load_mask(frame) for frame in frames])
    rows = []
    for frame in frames:
        given = [("Input", fit.capture.load_image(frame), "the photograph")]
        if textured is not None:
            given.append(("Texture", _textured(fit, textured, frame), "the textured avatar"))
        drawn = _drawn(fit.run, reconstruction, frame)
        given += [(DRAWN[name][0], image, DRAWN[name][1]) for name, image in drawn.items()]
        if truth is not None:
            given += _true(fit, truth, frame)
        pictures = [Picture(label, _fitting(image[box]), text) for label, image, text in given]
        note = f"overlap with the mask {overlaps[frame]:.3f}" if frame in overlaps else ""
        rows.append(FrameRow(frame, pictures, note))
    return rows


def _fitting(image: np.ndarray) -> np.ndarray:
    """A picture no higher than the page needs."""
    height, width = image.shape[:2]
    if height <= PICTURE_HEIGHT:
        return np.ascontiguousarray(image)
    size = max(1, round(width * PICTURE_HEIGHT / height)), PICTURE_HEIGHT
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def _drawn(run: RunFolder, reconstruction: Reconstruction, frame: int) -> dict[str, np.ndarray]:
    paths = {name: run.infer / name / f"{frame:06d}.png" for name in DRAWN}
    if all(path.is_file() for path in paths.values()):
        return {name: read_image(path) for name, path in paths.items()}
    posed = reconstruction.posed([frame])
    canvas = Canvas(posed[0], reconstruction.faces, reconstruction.avatar.camera, SUPERSAMPLE)
    jacobians = reconstruction.jacobians([frame], posed)[0]
    return {
        "colour": canvas.painted(*reconstruction.pixel_colours(canvas, jacobians)),
        "shaded": canvas.shaded(),
        "normals": canvas.normals(),
    }


@torch.no_grad()
def _textured(fit: SavedFit, mesh: RiggedMesh, frame: int) -> np.ndarray:
    """The textured mesh as the fit deforms it, pose-dependent offset included, in the capture's light."""
    avatar = fit.avatar
    index = torch.tensor([frame], device=avatar.poses.device)
    vertices, weights = (torch.from_numpy(array).to(avatar.poses) for array in (mesh.vertices, mesh.weights))
    posed = avatar.deformation(vertices, avatar.codes[index], avatar.bones(index), weights)[0]
    return pictures_in_its_light(mesh, avatar.camera, posed.device)(posed[0])


def _true(fit: SavedFit, truth: GroundTruth, frame: int) -> Sequence[tuple[str, np.ndarray, str]]:
    shape = render_shaded(truth.meshes.vertices(frame), truth.canonical.faces, fit.capture.camera)
    return [
        ("True shape", shape, "the ground-truth surface"),
        ("True normals", truth.load_normals(fit.capture.names[frame]), "the ground-truth normals"),
    ]
