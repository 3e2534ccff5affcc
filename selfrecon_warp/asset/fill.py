"""Colours of what no photograph shows, from what lies around it on the surface."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import spsolve
from torch import Tensor

from selfrecon_warp.asset.unwrap import TexelMap

TRUSTED_WEIGHT = 2e-3
"""Weight, of 1 for the best view there can be, at which a point's own colour and its surroundings' count alike."""
SMOOTHNESS, FAINT = 1e-2, 1e-9
"""Weights of neighbours' likeness, and of the mean colour, beside what is known."""
CONTRAST, ROUNDS = 0.02, 6
"""Difference of neighbours' colours, of 1, that is taken for a border, and how often this is weighed anew."""


def fill_unseen(colours: Tensor, weights: Tensor, texels: TexelMap, faces: Tensor, vertex_count: int) -> Tensor:
    """Colours of all texels: those little seen take what spreads from their surroundings over the surface.

    Args:
        colours: In [0, 1], ``[T, 3]``.
        weights: How much stands behind them, ``[T]``.
        texels: What they show.
        faces: Vertex indices of the mesh before it was cut, ``[F, 3]``, so that colours cross the charts' borders.
        vertex_count: Vertices of that mesh.

    Returns:
        ``[T, 3]`` in [0, 1]. Where not one texel is seen, mid grey.
    """
    around = texels.interpolate(spread_colours(colours, weights, texels, faces, vertex_count), faces)
    share = (weights / (weights + TRUSTED_WEIGHT))[:, None]
    return (share * colours + (1 - share) * around).clamp(0, 1)


def spread_colours(colours: Tensor, weights: Tensor, texels: TexelMap, faces: Tensor, vertex_count: int) -> Tensor:
    """Colours of all vertices in [0, 1] ``[V, 3]``, also of those around which no texel has any weight.

    Arguments as those of :func:`fill_unseen`.
    """
    corners = faces.long().index_select(0, texels.face_index.long())
    known = colours.new_zeros(vertex_count, 4)
    values = torch.cat((colours * weights[:, None], weights[:, None]), -1)
    for k in range(3):
        known.index_add_(0, corners[:, k], texels.barycentrics[:, k : k + 1] * values)
    return spread(known[:, :3] / known[:, 3:].clamp(min=1e-20), known[:, 3], faces)


def spread(colours: Tensor, weights: Tensor, faces: Tensor) -> Tensor:
    """Colours of all vertices in [0, 1] ``[V, 3]``, also of those without any weight.

    They differ little between neighbours, yet may jump between two regions as the known ones do: a border that runs
    into what nobody saw goes on as a border instead of as a mixture.

    Args:
        colours: In [0, 1], ``[V, 3]``; any where the weight is 0.
        weights: How much is known of them, ``[V]``.
        faces: Vertex indices, ``[F, 3]``.

    Source: total variation by lagged diffusivity, Vogel and Oman 1996.
    """
    return torch.from_numpy(
        _spread(colours.double().cpu().numpy(), weights.double().cpu().numpy(), faces.cpu().numpy())
    ).to(colours)


def _spread(known: np.ndarray, weight: np.ndarray, faces: np.ndarray) -> np.ndarray:
    if not weight.any():
        return np.full_like(known, 0.5)
    sides = np.concatenate((faces[:, :2], faces[:, 1:], faces[:, ::2]))
    sides = np.unique(np.sort(sides, axis=1), axis=0)
    first, second = sides.T
    count, scale = len(known), weight[weight > 0].mean()
    mean = (known * weight[:, None]).sum(0) / weight.sum()
    right = known * (weight / scale)[:, None] + FAINT * mean
    alike = np.ones(len(sides))
    for _ in range(ROUNDS):
        graph = coo_matrix((SMOOTHNESS * alike, (first, second)), shape=(count, count)).tocsr()
        graph = graph + graph.T
        system = diags(weight / scale + FAINT + np.asarray(graph.sum(1)).reshape(-1)) - graph
        found = np.asarray(spsolve(system.tocsc(), right))
        alike = CONTRAST / np.sqrt(np.square(found[first] - found[second]).sum(1) + CONTRAST**2)
    return np.clip(found, 0, 1)
