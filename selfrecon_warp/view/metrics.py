"""Scores of a reconstruction against ground truth: surfaces, joints, silhouettes, colours.

Lengths are metres here and centimetres in ``metrics.json``. Surface scores are means over area-weighted samples, with
fixed seeds, and only as good as the ground truth's faces: pass the faces that are seen from outside.

* **Chamfer**: mean of both directions' mean distances between two clouds of ``CLOUD_POINTS`` samples. Finite clouds
  never touch: two clouds of one and the same person score 2.2 to 2.5 mm, not zero.
* **Point to surface**: mean distance from samples of one surface to the nearest point of the other surface; no floor.
* **Normal consistency**: mean ``|n1 . n2|`` of face normals at those nearest points, mean of both directions; the
  absolute value because open layers of cloth and hair have no agreed outside.
* **Aligned**: after the one rigid motion of the predicted surface, found frame by frame with iterated closest points
  from predicted to true, that leaves what depth ambiguity and root pose do not explain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.closest_point import closest_point

if TYPE_CHECKING:
    from selfrecon_warp.capture.ground_truth import ClothedMesh, PosedMeshes

CLOUD_POINTS = 80_000
"""Samples on each surface for the chamfer distance; a larger number lowers the score's floor."""
QUERY_POINTS = 12_000
"""Samples of each surface whose distance to the other surface is averaged."""
ALIGNMENT_POINTS = 3_000
ALIGNMENT_STEPS = 40
ALIGNMENT_TOLERANCE = 2e-5  # metres of mean motion in a step

Surface = tuple[Tensor, Tensor]
"""Vertices [m] ``[V, 3]`` and faces ``[F, 3]``."""


@dataclass(frozen=True)
class SurfaceScore:
    """How well one surface matches another.

    Attributes:
        chamfer: Mean of both directions' mean distances between sample clouds [m].
        predicted_to_truth: Mean distance from the predicted surface to the true one [m].
        truth_to_predicted: Mean distance from the true surface to the predicted one [m].
        normal_consistency: Mean absolute cosine between normals at closest points, 1 is best.
    """

    chamfer: float
    predicted_to_truth: float
    truth_to_predicted: float
    normal_consistency: float


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


class _Cloud:
    """Samples of one surface, with what is asked of them more than once."""

    def __init__(self, vertices: Tensor, faces: Tensor, seed: int) -> None:
        self.vertices, self.faces = vertices.detach().cpu().float(), faces.detach().cpu().long()
        points, face_index = sample_surface(self.vertices, self.faces, CLOUD_POINTS, seed)
        self.points = points.double().numpy()
        self.tree = cKDTree(self.points)
        stride = CLOUD_POINTS // QUERY_POINTS
        self.queries, self.query_faces = self.points[::stride], face_index[::stride]
        self.normals = _face_normals(self.vertices, self.faces)


def sample_surface(vertices: Tensor, faces: Tensor, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points spread over a surface in proportion to area, the same for the same seed.

    Args:
        vertices: Positions [m], ``[V, 3]``.
        faces: Vertex indices, ``[F, 3]``.
        count: Points wanted, ``P``.
        seed: Of the generator.

    Returns:
        Points ``[P, 3]`` in the vertices' precision and the face of each, ``[P]`` int64.

    Raises:
        ValueError: A shape disagrees, or the surface has no area.
    """
    require_shapes(vertices=(vertices, "V 3"), faces=(faces, "F 3"))
    corners = vertices[faces.long()]
    areas = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=-1).double()
    total = areas.sum()
    if not (total > 0 and torch.isfinite(total)):
        raise ValueError(f"vertices and faces must describe a surface with area, got {len(faces)} faces of none")
    generator = torch.Generator().manual_seed(seed)
    random = torch.rand(3, count, generator=generator, dtype=torch.float64).to(vertices.device)
    strata = (torch.arange(count, device=vertices.device) + random[0]) * (total / count)
    face_index = torch.searchsorted(areas.cumsum(0), strata).clamp(max=len(faces) - 1)
    root = random[1].sqrt()
    weights = torch.stack((1 - root, root * (1 - random[2]), root * random[2]), -1).to(vertices.dtype)
    return torch.einsum("pk,pkc->pc", weights, corners[face_index]), face_index


def rigid_alignment(points: np.ndarray, targets: np.ndarray, scaled: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The motion that carries points onto their targets with the least squared error.

    Args:
        points: ``[P, 3]``.
        targets: ``[P, 3]``.
        scaled: Allow a uniform scale.

    Returns:
        Linear part ``[3, 3]`` and translation ``[3]``: ``points @ linear.T + translation``; no reflection.

    Source: Umeyama 1991.
    """
    middle, target_middle = points.mean(0), targets.mean(0)
    centred = points - middle
    left, stretch, right = np.linalg.svd((targets - target_middle).T @ centred)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    linear = (left * signs) @ right
    if scaled:
        linear = linear * ((stretch * signs).sum() / max((centred**2).sum(), 1e-30))
    return linear, target_middle - linear @ middle


def align_surface(predicted: Surface, truth: Surface) -> tuple[Tensor, Tensor]:
    """The rigid motion of a predicted surface that brings it closest to the true one.

    Args:
        predicted: Vertices [m] ``[V, 3]`` and faces.
        truth: Vertices [m] ``[V, 3]`` and faces.

    Returns:
        Rotation ``[3, 3]`` and translation [m] ``[3]``, float64: ``vertices @ rotation.T + translation``.
    """
    rotation, translation = _align(_Cloud(*predicted, seed=0), _Cloud(*truth, seed=1))
    return torch.from_numpy(rotation), torch.from_numpy(translation)


def score_surface(predicted: Surface, truth: Surface) -> tuple[SurfaceScore, SurfaceScore]:
    """Score one surface against another, as it is and after the best rigid motion.

    Args:
        predicted: Vertices [m] ``[V, 3]`` and faces.
        truth: Vertices [m] ``[V, 3]`` and the faces to score against.

    Returns:
        The scores as predicted and aligned.

    Raises:
        ValueError: A shape disagrees, or a surface has no area.
    """
    clouds = _Cloud(*predicted, seed=0), _Cloud(*truth, seed=1)
    still = np.eye(3), np.zeros(3)
    return _score(*clouds, *still), _score(*clouds, *_align(*clouds))


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


def _align(predicted: _Cloud, truth: _Cloud) -> tuple[np.ndarray, np.ndarray]:
    points = predicted.points[:: CLOUD_POINTS // ALIGNMENT_POINTS]
    rotation, translation = np.eye(3), np.zeros(3)
    moved = points
    for _ in range(ALIGNMENT_STEPS):
        rotation, translation = rigid_alignment(points, truth.points[truth.tree.query(moved)[1]])
        before, moved = moved, points @ rotation.T + translation
        if np.linalg.norm(moved - before, axis=1).mean() < ALIGNMENT_TOLERANCE:
            break
    return rotation, translation


def _score(predicted: _Cloud, truth: _Cloud, rotation: np.ndarray, translation: np.ndarray) -> SurfaceScore:
    """Distances under a rigid motion of the predicted surface; each side's queries are carried to the other's space."""
    carried = (
        (predicted.queries @ rotation.T + translation, predicted, truth, rotation),
        ((truth.queries - translation) @ rotation, truth, predicted, rotation.T),
    )
    cloud: list[float] = []
    surface: list[float] = []
    consistency: list[float] = []
    for queries, source, target, turn in carried:
        cloud.append(float(target.tree.query(queries)[0].mean()))
        distance, face_index, _ = closest_point(torch.from_numpy(queries).float(), target.vertices, target.faces)
        normals = source.normals[source.query_faces] @ torch.from_numpy(turn).float().T
        surface.append(float(distance.double().mean()))
        consistency.append(float((normals * target.normals[face_index.long()]).sum(-1).abs().double().mean()))
    return SurfaceScore(sum(cloud) / 2, surface[0], surface[1], sum(consistency) / 2)


def _face_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    first, second, third = vertices[faces].unbind(1)
    return torch.nn.functional.normalize(torch.linalg.cross(second - first, third - first), dim=-1, eps=1e-20)


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
