"""How well one surface matches another.

Scores are means over area-weighted samples, with fixed seeds, and only as good as the ground truth's faces: pass the
faces that are seen from outside.

* **Chamfer**: mean of both directions' mean distances between two clouds of ``CLOUD_POINTS`` samples. Finite clouds
  never touch: two clouds of one and the same person score 2.2 to 2.5 mm, not zero.
* **Point to surface**: mean distance from samples of one surface to the nearest point of the other surface; no floor.
* **Normal consistency**: mean ``|n1 . n2|`` of face normals at those nearest points, mean of both directions; the
  absolute value because open layers of cloth and hair have no agreed outside.
* **Aligned**: after the one rigid motion of the predicted surface, found with iterated closest points from predicted to
  true, that leaves what depth ambiguity and root pose do not explain.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.closest_point import closest_point

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
