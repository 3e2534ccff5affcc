"""Skinning weights for poses that a capture does not show: the fit's own, spread where the surface hangs loose.

The fit's weights come from the nearest vertices of the body. They say little where the surface stands off the body:
hair beside the neck, the part of a skirt between the legs. There they spread along the surface, the farther the looser
it is, so that a ponytail hangs on the head and cloth between two legs follows both. Distance alone decides.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.closest_point import closest_point
from selfrecon_warp.model.avatar import Avatar

CLOSE_M = 0.01
"""Surface closer to the body than this keeps the body's weights."""
REACH = 1.0
"""How far weights spread along the surface, for each metre beyond that."""
MOST_COTANGENT = 20.0
"""Keeps slivers from tying vertices together."""


@torch.no_grad()
def cloth_weights(avatar: Avatar, vertices: Tensor, faces: Tensor) -> Tensor:
    """Skinning weights of a canonical mesh.

    Args:
        avatar: A fitted avatar.
        vertices: Canonical positions [m], ``[V, 3]``.
        faces: Vertex indices, ``[F, 3]``.

    Returns:
        ``[V, J]`` in the vertices' precision; rows sum to one, none is negative.

    Raises:
        ValueError: A shape disagrees.
    """
    require_shapes(vertices=(vertices, "V 3"), faces=(faces, "F 3"))
    body = avatar.canonical_body()
    weights = avatar.deformation.skinning_weights(vertices.to(body.vertices)).clamp_min(0.0)
    weights = weights / weights.sum(1, keepdim=True)
    distance = closest_point(vertices.to(body.vertices), body.vertices, body.faces)[0]
    return spread_weights(vertices, faces, weights, REACH * (distance - CLOSE_M).clamp_min(0.0)).to(vertices)


def spread_weights(vertices: Tensor, faces: Tensor, weights: Tensor, length: Tensor) -> Tensor:
    """Let weights spread along a surface, over a length of its own at every vertex.

    Solves ``w - length^2 (Laplace w) = weights`` where the length is positive; elsewhere weights stay as they are and
    are what the others join on to. By the maximum principle nothing lies outside the range of the given weights.

    Args:
        vertices: Positions [m], ``[V, 3]``.
        faces: Vertex indices, ``[F, 3]``.
        weights: Rows sum to one, ``[V, J]``.
        length: [m], ``[V]``.

    Returns:
        ``[V, J]`` like ``weights``; rows sum to one.

    Raises:
        ValueError: A shape disagrees.

    Source: implicit diffusion with a cotangent Laplacian, Desbrun et al. 1999.
    """
    require_shapes(vertices=(vertices, "V 3"), faces=(faces, "F 3"), weights=(weights, "V J"), length=(length, "V"))
    reach = length.detach().cpu().double().numpy()
    loose = np.flatnonzero(reach > 0)
    if not len(loose):
        return weights
    held = np.flatnonzero(reach <= 0)
    stiffness, area = _laplacian(vertices.detach().cpu().double().numpy(), faces.detach().cpu().long().numpy())
    given = weights.detach().cpu().double().numpy()
    used = np.flatnonzero(given.any(0))
    pull = np.maximum(area[loose], 1e-12) / reach[loose] ** 2
    rows = stiffness[loose]
    system = (rows[:, loose] + sparse.diags(pull)).tocsc()
    known = pull[:, None] * given[np.ix_(loose, used)] - rows[:, held] @ given[np.ix_(held, used)]
    spread = given.copy()
    spread[np.ix_(loose, used)] = splu(system, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}).solve(known)
    spread = np.clip(spread, 0.0, None)
    return torch.from_numpy(spread / spread.sum(1, keepdims=True)).to(weights)


def _laplacian(vertices: np.ndarray, faces: np.ndarray) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Cotangent stiffness, obtuse angles counted as right ones, and a third of the area at each vertex."""
    count = len(vertices)
    first, second, cotangents = [], [], []
    area = np.zeros(count)
    for corner in range(3):
        i, j, opposite = (faces[:, (corner + k) % 3] for k in range(3))
        along, across = vertices[i] - vertices[opposite], vertices[j] - vertices[opposite]
        double_area = np.linalg.norm(np.cross(along, across), axis=1)
        cotangent = (along * across).sum(1) / np.maximum(double_area, 1e-12)
        first.append(i)
        second.append(j)
        cotangents.append(np.clip(cotangent, 0.0, MOST_COTANGENT) / 2)
        area += np.bincount(i, double_area / 6, count)
    pairs = np.concatenate((*first, *second)), np.concatenate((*second, *first))
    edges = sparse.csr_matrix((np.concatenate(cotangents * 2), pairs), shape=(count, count))
    return sparse.csr_matrix(sparse.diags(np.asarray(edges.sum(1)).ravel()) - edges), area
