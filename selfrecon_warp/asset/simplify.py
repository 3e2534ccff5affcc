"""Fewer triangles for the same surface."""

from __future__ import annotations

import fast_simplification
import numpy as np
import torch

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.surface.extraction import largest_components

WELD_M = 1e-6
"""Vertices nearer than this along every axis are one."""
LEAST_FACES = 4


def simplified(
    vertices: np.ndarray, faces: np.ndarray, face_count: int, min_fraction: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Clean a mesh and collapse its edges until few enough faces are left.

    Vertices in the same place become one, faces without area and unused vertices go, then small pieces, then edges in
    the order of the error their collapse causes. A mesh that has few faces already is only cleaned.

    Args:
        vertices: Positions [m], ``[V, 3]``.
        faces: Vertex indices, ``[F, 3]``.
        face_count: Faces wanted; the result has about as many, or fewer.
        min_fraction: Smallest piece kept, in vertices, as a fraction of the largest.

    Returns:
        Vertices ``[V, 3]`` float32 and faces ``[F, 3]`` int32.

    Raises:
        ValueError: A shape disagrees, a vertex is not finite, no face has an area or ``face_count`` is below 4.

    Source: quadric error metrics, Garland and Heckbert 1997, by ``fast-simplification``.
    """
    require_shapes(vertices=(vertices, "V 3"), faces=(faces, "F 3"))
    if face_count < LEAST_FACES:
        raise ValueError(f"face_count must be at least {LEAST_FACES}, got {face_count}")
    if not np.isfinite(vertices).all():
        raise ValueError("vertices must be finite, got nan or inf")
    vertices, faces = _welded(vertices.astype(np.float64), faces.astype(np.int64))
    if len(faces) == 0:
        raise ValueError("faces must hold at least one face with an area, got none")
    kept, index = largest_components(torch.from_numpy(vertices), torch.from_numpy(faces), min_fraction)
    vertices, faces = kept.numpy(), index.numpy()
    if len(faces) > face_count:
        vertices, faces = fast_simplification.simplify(vertices, faces.astype(np.int32), target_count=face_count)
        vertices, faces = _welded(np.asarray(vertices, np.float64), np.asarray(faces, np.int64))
    return vertices.astype(np.float32), faces.astype(np.int32)


def _welded(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mesh with one vertex a place, no face without area and no unused vertex; order is kept."""
    _, first, label = np.unique(np.round(vertices / WELD_M), axis=0, return_index=True, return_inverse=True)
    faces = first[label.reshape(-1)][faces]
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    distinct = (faces != np.roll(faces, 1, axis=1)).all(1)
    faces = faces[distinct & (np.cross(b - a, c - a) != 0).any(1)]
    used = np.unique(faces)
    renumbered = np.zeros(len(vertices), np.int64)
    renumbered[used] = np.arange(len(used))
    return vertices[used], renumbered[faces]
