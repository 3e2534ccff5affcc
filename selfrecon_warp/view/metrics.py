"""Scores of a reconstruction against ground truth: surfaces, joints, silhouettes, colours.

Lengths are metres here and centimetres in ``metrics.json``; ``metrics_surface`` tells what surface scores mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from torch import Tensor

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.view.metrics_surface import Surface, SurfaceScore, rigid_alignment, score_surface

if TYPE_CHECKING:
    from selfrecon_warp.capture.ground_truth import ClothedMesh, PosedMeshes


@dataclass(frozen=True)
class GeometryScore:
    """Surface scores, means over frames and frame by frame.

    Attributes:
        raw: As predicted.
        aligned: After one rigid motion a frame.
        frames: Frame index of every entry below.
        raw_frames: Frame by frame, as predicted.
        aligned_frames: Frame by frame, after the rigid motion.
    """

    raw: SurfaceScore
    aligned: SurfaceScore
    frames: tuple[int, ...]
    raw_frames: tuple[SurfaceScore, ...]
    aligned_frames: tuple[SurfaceScore, ...]


@dataclass(frozen=True)
class JointScore:
    """Mean distance of joints [m].

    Attributes:
        raw: In the world.
        procrustes: After the similarity (rotation, translation, scale) of each frame that fits best.
    """

    raw: float
    procrustes: float


@dataclass(frozen=True)
class ColourScore:
    """Agreement of colours on the person.

    Attributes:
        psnr: Peak signal-to-noise ratio over the mask's pixels [dB], at most 100.
        ssim: Structural similarity averaged over the mask's pixels, 1 is best.
    """

    psnr: float
    ssim: float


@dataclass(frozen=True)
class AvatarScore:
    """Everything known about one reconstruction; ``None`` where it was not or could not be measured.

    Attributes:
        geometry: Surfaces against ground truth.
        joints: Joints of the body inside against ground truth.
        silhouette_iou: Mean overlap of rendered and given masks.
        colour: Rendered colours against the photographs.
    """

    geometry: GeometryScore | None = None
    joints: JointScore | None = None
    silhouette_iou: float | None = None
    colour: ColourScore | None = None

    def as_dict(self) -> dict[str, Any]:
        """For ``metrics.json``: flat names that end in their unit, only what was measured."""
        values: dict[str, Any] = {}
        if self.geometry is not None:
            for suffix, score in (("", self.geometry.raw), ("_aligned", self.geometry.aligned)):
                values[f"chamfer{suffix}_cm"] = round(100 * score.chamfer, 4)
                values[f"predicted_to_truth{suffix}_cm"] = round(100 * score.predicted_to_truth, 4)
                values[f"truth_to_predicted{suffix}_cm"] = round(100 * score.truth_to_predicted, 4)
                values[f"normal_consistency{suffix}"] = round(score.normal_consistency, 5)
        if self.joints is not None:
            values["joint_error_cm"] = round(100 * self.joints.raw, 4)
            values["joint_error_procrustes_cm"] = round(100 * self.joints.procrustes, 4)
        if self.silhouette_iou is not None:
            values["silhouette_iou"] = round(self.silhouette_iou, 5)
        if self.colour is not None:
            values["psnr_db"] = round(self.colour.psnr, 3)
            values["ssim"] = round(self.colour.ssim, 5)
        if self.geometry is not None:
            values["frames"] = {
                str(frame): {
                    "chamfer_aligned_cm": round(100 * score.chamfer, 4),
                    "normal_consistency_aligned": round(score.normal_consistency, 5),
                }
                for frame, score in zip(self.geometry.frames, self.geometry.aligned_frames, strict=True)
            }
        return values


def score_geometry(
    predicted: Callable[[int], Surface],
    truth: ClothedMesh,
    meshes: PosedMeshes,
    frames: Sequence[int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> GeometryScore:
    """Score predicted meshes against the ground truth's exterior, frame by frame.

    Args:
        predicted: Gives the world-space mesh of a frame.
        truth: Faces of the ground truth.
        meshes: Posed vertices of the ground truth.
        frames: Frames to score; all that ``meshes`` holds by default.
        progress: Told the number of frames done after each.

    Raises:
        ValueError: No frames, or a predicted mesh of the wrong shape or without area.
        CaptureError: A frame has no ground-truth mesh.
    """
    chosen = tuple(meshes.frames if frames is None else frames)
    if not chosen:
        raise ValueError("frames must name at least one frame with a ground-truth mesh, got none")
    exterior = truth.faces[truth.face_exterior]
    raw: list[SurfaceScore] = []
    aligned: list[SurfaceScore] = []
    for done, frame in enumerate(chosen, 1):
        as_is, moved = score_surface(predicted(frame), (meshes.vertices(frame), exterior))
        raw.append(as_is)
        aligned.append(moved)
        if progress is not None:
            progress(done)
    return GeometryScore(_mean(raw), _mean(aligned), chosen, tuple(raw), tuple(aligned))


def score_joints(predicted: Tensor, truth: Tensor) -> JointScore:
    """Mean joint error, raw and after Procrustes alignment.

    Args:
        predicted: Joints [m], ``[N, J, 3]``.
        truth: Joints [m], ``[N, J, 3]``.

    Raises:
        ValueError: The shapes disagree.
    """
    require_shapes(predicted=(predicted, "N J 3"), truth=(truth, "N J 3"))
    given, wanted = (joints.detach().cpu().double().numpy() for joints in (predicted, truth))
    fitted = []
    for points, targets in zip(given, wanted, strict=True):
        linear, translation = rigid_alignment(points, targets, scaled=True)
        fitted.append(points @ linear.T + translation)
    errors = (np.linalg.norm(joints - wanted, axis=-1).mean() for joints in (given, np.array(fitted)))
    return JointScore(*map(float, errors))


def silhouette_iou(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection over union of masks.

    Args:
        predicted: True on the person, ``[..., H, W]`` bool.
        truth: True on the person, ``[..., H, W]`` bool.

    Returns:
        ``[...]``; 1 where both masks are empty.

    Raises:
        ValueError: The shapes disagree.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"predicted must have the shape of truth {list(truth.shape)}, got {list(predicted.shape)}")
    predicted, truth = predicted.astype(bool), truth.astype(bool)
    both, either = (predicted & truth).sum((-2, -1)), (predicted | truth).sum((-2, -1))
    return np.asarray(np.where(either > 0, both / np.maximum(either, 1), 1.0))


def score_colours(rendered: np.ndarray, image: np.ndarray, mask: np.ndarray) -> ColourScore:
    """Compare colours on the person; everything outside the mask is left out.

    Args:
        rendered: RGB, ``[H, W, 3]`` uint8.
        image: RGB, ``[H, W, 3]`` uint8.
        mask: True on the person, ``[H, W]`` bool.

    Raises:
        ValueError: The shapes disagree or the mask is empty.

    Source: SSIM as Wang et al. 2004 define it: Gaussian window of 1.5 px, 11 px wide, a mean of the three channels.
    """
    require_shapes(rendered=(rendered, "H W 3"), image=(image, "H W 3"), mask=(mask, "H W"))
    if not mask.any():
        raise ValueError("mask must hold at least one pixel of the person, got none")
    first, second = (np.where(mask[..., None], picture, 0).astype(np.float64) / 255 for picture in (rendered, image))
    error = ((first - second)[mask] ** 2).mean()
    return ColourScore(
        float(-10 * np.log10(max(error, 1e-10))), float(_structural_similarity(first, second)[mask].mean())
    )


def mean_colour_score(scores: Sequence[ColourScore]) -> ColourScore:
    """Mean over frames.

    Raises:
        ValueError: There are none.
    """
    if not scores:
        raise ValueError("scores must hold at least one frame, got none")
    return ColourScore(float(np.mean([s.psnr for s in scores])), float(np.mean([s.ssim for s in scores])))


def metrics_record(fit: AvatarScore, initial: AvatarScore | None = None, **facts: Any) -> dict[str, Any]:
    """The content of ``metrics.json``: the fit, the body it began with beside it, and any further facts."""
    record: Mapping[str, Any] = {"fit": fit.as_dict()} | ({} if initial is None else {"initial": initial.as_dict()})
    return {**record, **facts}


def _mean(scores: Sequence[SurfaceScore]) -> SurfaceScore:
    columns = zip(
        *((s.chamfer, s.predicted_to_truth, s.truth_to_predicted, s.normal_consistency) for s in scores), strict=True
    )
    return SurfaceScore(*(float(np.mean(column)) for column in columns))


def _structural_similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """SSIM of every pixel, mean over channels, ``[H, W]``, for values in [0, 1]."""

    def smooth(values: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.GaussianBlur(values, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT))

    mean1, mean2 = smooth(first), smooth(second)
    variance1, variance2 = smooth(first**2) - mean1**2, smooth(second**2) - mean2**2
    covariance = smooth(first * second) - mean1 * mean2
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mean1 * mean2 + c1) * (2 * covariance + c2)) / (
        (mean1**2 + mean2**2 + c1) * (variance1 + variance2 + c2)
    )
    return np.asarray(similarity.mean(-1))
