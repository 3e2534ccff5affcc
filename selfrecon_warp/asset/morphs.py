"""The fit's pose-dependent offsets as a few shapes added to the canonical mesh, weighted anew in every frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from selfrecon_warp.model.avatar import Avatar

POINTS_AT_ONCE = 1 << 18
"""Points, over all frames, that the offset is asked for in one call."""


@dataclass(frozen=True)
class Morphs:
    """Offsets of the canonical mesh: frame n adds ``sum_k weights[n, k] offsets[k]`` before skinning.

    Attributes:
        offsets: Displacements [m] at weight one, ``[K, V, 3]`` float32.
        weights: In [0, 1], ``[N, K]`` float32.
        residual: Root mean square of what the K shapes leave out [m].
    """

    offsets: np.ndarray
    weights: np.ndarray
    residual: float

    def displacement(self, frame: int) -> np.ndarray:
        """What a frame adds to the canonical vertices [m], ``[V, 3]``."""
        return np.asarray(np.tensordot(self.weights[frame], self.offsets, 1))


@torch.no_grad()
def morphs_from_avatar(avatar: Avatar, vertices: np.ndarray, count: int) -> Morphs:
    """The ``count`` shapes that hold most of the learned offsets at canonical points; see :func:`principal_morphs`.

    Args:
        avatar: A fitted avatar.
        vertices: Canonical positions [m] in the fit's canonical space, ``[V, 3]``.
        count: K; there are no more than frames.
    """
    points = torch.from_numpy(vertices).to(avatar.codes)
    chunks = points.split(max(1, POINTS_AT_ONCE // len(avatar.codes)))
    moved = torch.cat([avatar.deformation.displacement(chunk, avatar.codes).cpu() for chunk in chunks], 1)
    return principal_morphs(moved.numpy(), count)


def principal_morphs(displacements: np.ndarray, count: int) -> Morphs:
    """Sum up displacements ``[N, V, 3]`` by ``count`` shapes.

    The first is on in every frame. The others are the principal components of what changes, strongest first, begun
    where their weight is least: Blender clamps weights below zero.
    """
    rows = displacements.reshape(len(displacements), -1).astype(np.float64)
    mean = rows.mean(0)
    _, vectors = np.linalg.eigh((rows - mean) @ (rows - mean).T)
    weights = vectors[:, ::-1][:, : min(count, len(rows)) - 1]
    shapes = weights.T @ (rows - mean)
    low, high = weights.min(0), weights.max(0)
    always = mean + low @ shapes
    offsets = np.concatenate((always[None], (high - low)[:, None] * shapes))
    scaled = np.concatenate((np.ones((len(rows), 1)), (weights - low) / (high - low)), 1)
    left = rows - scaled @ offsets
    return Morphs(
        offsets.reshape(-1, *displacements.shape[1:]).astype(np.float32),
        scaled.astype(np.float32),
        float(np.sqrt((left**2).sum() / (left.size / 3))),
    )
