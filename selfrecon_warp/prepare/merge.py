"""Several clips of one person become one capture.

A capture has one camera and one shape. Clips of the same camera are copied as they are; clips cut or scaled differently
are resampled into the first one's camera (an exact mapping of pixels, as long as the lens stood still), on a canvas
that holds everybody. Bodies are moved into the first one's world. Where clips begin is kept, so that no smoothness is
asked across.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from scipy.spatial.transform import Rotation

from selfrecon_warp import __version__
from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.capture.dataset import Capture, read_capture, valid_normals
from selfrecon_warp.capture.overlap import mask_box
from selfrecon_warp.errors import PrepareError
from selfrecon_warp.model.body import BodyModel, load_body
from selfrecon_warp.prepare.camera_file import Intrinsics
from selfrecon_warp.prepare.capture_writer import CaptureFolder, fingerprint
from selfrecon_warp.view.infer import progress_bars

MARGIN = 0.05
"""Room about the people of resampled clips, share of the first picture's longer side."""
OTHER_PERSON = 1.0
"""Difference of shape coefficients, root mean square, above which clips are suspected to show different people."""


@dataclass(frozen=True)
class _Mapping:
    """From a clip's pixels to the merged ones: ``u' = scale u + shift``; ``None`` when they are the same."""

    scale: np.ndarray
    shift: np.ndarray

    def affine(self) -> np.ndarray:
        """For ``cv2.warpAffine``."""
        return np.array([[self.scale[0], 0, self.shift[0]], [0, self.scale[1], self.shift[1]]])


def merge_captures(
    folders: Sequence[Path],
    out: Path,
    *,
    body_models: Path | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> tuple[int, list[str]]:
    """Write one capture of several.

    Args:
        folders: Captures of one person in the same clothes, at least two.
        out: Capture folder to make.
        body_models: SMPL files; needed where the clips' worlds differ.
        overwrite: Replace what ``out`` holds.
        console: Where progress is shown; standard error when absent.

    Returns:
        Frames written and what the user should know.

    Raises:
        SelfReconError: A capture is damaged, or they cannot be one person before one camera.
    """
    if len(folders) < 2:
        raise PrepareError("merge needs at least two captures")
    CaptureFolder.require_available(out, overwrite=overwrite)
    captures = [read_capture(folder) for folder in folders]
    genders = {capture.gender for capture in captures}
    if len(genders) > 1:
        raise PrepareError(f"the captures are of different genders ({', '.join(sorted(genders))}); one person has one")
    first = captures[0]
    remarks = []
    shapes = np.stack([capture.betas.numpy() for capture in captures])
    weights = np.array([len(capture) for capture in captures], float)
    if float(np.sqrt(((shapes - shapes[0]) ** 2).mean(1)).max()) > OTHER_PERSON:
        remarks.append("the captures' shapes differ by more than one person's would; is it the same person?")
    mappings = [_mapping(capture, first) for capture in captures]
    camera, mappings = _common_canvas(captures, mappings)
    if any(mapping is not None for mapping in mappings):
        remarks.append(f"the clips' cameras differ: pictures are resampled to {camera.width}x{camera.height}")
    body = load_body(body_models, first.gender)
    motions = [_into_world(capture, camera, body) for capture in captures]
    recipe = {"captures": [fingerprint(folder / "imgs") for folder in folders], "kind": "merge"}
    with CaptureFolder(out, overwrite=overwrite, recipe=recipe) as merged, progress_bars(console) as progress:
        task = progress.add_task("frames", total=int(weights.sum()))
        number = 0
        for capture, mapping in zip(captures, mappings, strict=True):
            for frame in range(len(capture)):
                if not merged.has("masks", number):
                    _copy(merged, number, capture, frame, mapping, (camera.height, camera.width))
                number += 1
                progress.update(task, completed=number)
        merged.camera(camera)
        ends = [
            start + end
            for start, capture in zip(accumulate([0, *map(len, captures[:-1])]), captures, strict=True)
            for _, end in capture.clips
        ]
        merged.body(
            np.concatenate([poses for poses, _ in motions]),
            np.concatenate([trans for _, trans in motions]),
            np.average(shapes, axis=0, weights=weights),
            first.gender,
            ends,
        )
        made_by = f"selfrecon prepare merge, version {__version__}"
        merged.note({"made by": made_by, "from": list(folders), "clip ends": ends, "remarks": remarks})
    return number, remarks


def _mapping(capture: Capture, first: Capture) -> _Mapping | None:
    ours, theirs = Intrinsics.of(first.camera), Intrinsics.of(capture.camera)
    if np.allclose((ours.fx, ours.fy, ours.cx, ours.cy), (theirs.fx, theirs.fy, theirs.cx, theirs.cy), atol=0.01):
        return None
    scale = np.array([ours.fx / theirs.fx, ours.fy / theirs.fy])
    return _Mapping(scale, np.array([ours.cx, ours.cy]) - scale * np.array([theirs.cx, theirs.cy]))


def _common_canvas(
    captures: Sequence[Capture], mappings: Sequence[_Mapping | None]
) -> tuple[Camera, list[_Mapping | None]]:
    """A camera whose picture holds the first capture's and everybody in the others, and the mappings into it."""
    first = captures[0]
    height, width = first.image_size
    low, high = np.zeros(2), np.array([width, height], float) - 1
    room = MARGIN * max(height, width)
    for capture, mapping in zip(captures[1:], mappings[1:], strict=True):
        if mapping is None and capture.image_size == first.image_size:
            continue
        boxes = np.array([mask_box(capture.load_mask(frame)) for frame in range(len(capture))], float).reshape(-1, 2, 2)
        if mapping is not None:
            boxes = boxes * mapping.scale + mapping.shift
        low, high = np.minimum(low, boxes[:, 0].min(0) - room), np.maximum(high, boxes[:, 1].max(0) + room)
    low, high = np.floor(low), np.ceil(high)
    size = (int(high[1] - low[1]) + 1, int(high[0] - low[0]) + 1)
    focal, principal = first.camera.focal.tolist(), np.array(first.camera.principal.tolist()) - low
    quat, T = first.camera.quat.tolist(), first.camera.T.tolist()
    camera = Camera(focal, principal.tolist(), quat, T, height=size[0], width=size[1])
    moved: list[_Mapping | None] = []
    for capture, mapping in zip(captures, mappings, strict=True):
        if mapping is None and not low.any() and capture.image_size == size:
            moved.append(None)
        else:
            same = mapping or _Mapping(np.ones(2), np.zeros(2))
            moved.append(_Mapping(same.scale, same.shift - low))
    return camera, moved


@torch.no_grad()
def _into_world(capture: Capture, camera: Camera, body: BodyModel) -> tuple[np.ndarray, np.ndarray]:
    """Poses and translations such that ``camera`` sees the body as the capture's own camera does."""
    poses, trans = capture.poses.double().numpy(), capture.trans.double().numpy()
    theirs, ours = capture.camera, camera
    turn = (ours.rotation() @ theirs.rotation().T).double().numpy()
    move = ((theirs.T - ours.T) @ ours.rotation().T).double().numpy()
    if np.allclose(turn, np.eye(3), atol=1e-6) and np.allclose(move, 0, atol=1e-6):
        return poses, trans
    pelvis = body.shaped(capture.betas)[1][0].double().numpy()
    poses = poses.copy()
    poses[:, 0] = (Rotation.from_matrix(turn) * Rotation.from_rotvec(poses[:, 0])).as_rotvec()
    return poses, (trans + pelvis) @ turn.T + move - pelvis


def _copy(
    merged: CaptureFolder, number: int, capture: Capture, frame: int, mapping: _Mapping | None, size: tuple[int, int]
) -> None:
    """One frame into its place, as it is or resampled; the mask last."""
    file = capture.image_files[frame]
    if mapping is None:
        merged.image(number, file.read_bytes(), file.suffix.lower())
        if capture.has_normals[frame]:
            merged.write(f"normals/{number:06d}.png", capture.normals_file(frame).read_bytes())
        merged.write(f"masks/{number:06d}.png", capture.mask_file(frame).read_bytes())
        return
    mask = capture.load_mask(frame)
    merged.image(number, _warped(capture.load_image(frame), mapping, size).astype(np.uint8), file.suffix.lower())
    if capture.has_normals[frame]:
        stored = capture.load_normals(frame)
        valid = valid_normals(torch.from_numpy(stored), torch.from_numpy(mask)).numpy()
        vectors = np.where(valid[..., None], stored / 127.5 - 1, 0).astype(np.float32)
        certain = _warped(valid.astype(np.float32), mapping, size) > 0.5
        merged.normals(number, _warped(vectors, mapping, size), certain)
    merged.mask(number, _warped(mask.astype(np.float32), mapping, size) >= 0.5)


def _warped(picture: np.ndarray, mapping: _Mapping, size: tuple[int, int]) -> np.ndarray:
    """A picture on the merged canvas; smoothed first where it shrinks, black outside."""
    shrink = 1 / float(mapping.scale.min())
    if shrink > 1:
        picture = cv2.GaussianBlur(picture, (0, 0), 0.4 * shrink)
    return np.asarray(cv2.warpAffine(picture, mapping.affine(), size[::-1], flags=cv2.INTER_LINEAR))
