"""Colours of what no photograph shows, from what lies around it on the surface."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import spsolve
from torch import Tensor

from selfrecon_warp.asset.unwrap import TexelMap
from selfrecon_warp.surface.mesh import vertex_normals

TRUSTED_WEIGHT = 2e-4
"""Weight, of 1 for the best view there can be, at which a point's own colour and its surroundings' count alike."""
SMOOTHNESS, FAINT = 1e-2, 1e-9
"""Weights of neighbours' likeness, and of the mean colour, beside what is known."""
CREASE_M = 0.05
"""Radius of a hollow in which two things are held to meet rather than one to bend."""
CONTRAST, ROUNDS = 0.02, 6
"""Difference of neighbours' colours, of 1, that is taken for a border, and how often this is weighed anew."""


def fill_unseen(colours: Tensor, weights: Tensor, texels: TexelMap, vertices: Tensor, faces: Tensor) -> Tensor:
    """Colours of all texels: those little seen take what spreads from their surroundings over the surface.

    Args:
        colours: In [0, 1], ``[T, 3]``.
        weights: How much stands behind them, ``[T]``.
        texels: What they show.
        vertices: Of the mesh before it was cut [m], so that colours cross the charts' borders, ``[V, 3]``.
        faces: Its vertex indices, ``[F, 3]``.

    Returns:
        ``[T, 3]`` in [0, 1]. Where not one texel is seen, mid grey.
    """
    around = texels.interpolate(spread_colours(colours, weights, texels, vertices, faces), faces)
    share = own_share(weights)[:, None]
    return (share * colours + (1 - share) * around).clamp(0, 1)


def own_share(weights: Tensor) -> Tensor:
    """Share of a point's own colour beside that of its surroundings, for what stands behind it, ``[T]``."""
    return weights / (weights + TRUSTED_WEIGHT)


def spread_colours(colours: Tensor, weights: Tensor, texels: TexelMap, vertices: Tensor, faces: Tensor) -> Tensor:
    """Colours of all vertices in [0, 1] ``[V, 3]``, also of those around which no texel has any weight.

    Arguments as those of :func:`fill_unseen`.
    """
    corners = faces.long().index_select(0, texels.face_index.long())
    known = colours.new_zeros(len(vertices), 4)
    values = torch.cat((colours * weights[:, None], weights[:, None]), -1)
    for k in range(3):
        known.index_add_(0, corners[:, k], texels.barycentrics[:, k : k + 1] * values)
    return spread(known[:, :3] / known[:, 3:].clamp(min=1e-20), known[:, 3], vertices, faces)


def spread(colours: Tensor, weights: Tensor, vertices: Tensor, faces: Tensor) -> Tensor:
    """Colours of all vertices in [0, 1] ``[V, 3]``, also of those without any weight.

    They differ little between neighbours, yet may jump between two regions as the known ones do: a border that runs
    into what nobody saw goes on as a border instead of as a mixture. Along creases they may differ more: where a leg
    comes out of a skirt or a neck out of a collar one thing ends, over the edge of a hem it goes on.

    Args:
        colours: In [0, 1], ``[V, 3]``; any where the weight is 0.
        weights: How much is known of them, ``[V]``.
        vertices: Positions [m], ``[V, 3]``.
        faces: Vertex indices, outward oriented, ``[F, 3]``.

    Source: total variation by lagged diffusivity, Vogel and Oman 1996.
    """
    known, weight = (values.double().cpu().numpy() for values in (colours, weights))
    if not weight.any():
        return torch.full_like(colours, 0.5)
    index = faces.long().cpu().numpy()
    sides = np.concatenate((index[:, :2], index[:, 1:], index[:, ::2]))
    sides = np.unique(np.sort(sides, axis=1), axis=0)
    places, normals = (values.double().cpu().numpy() for values in (vertices, vertex_normals(vertices, faces)))
    joined = _joined(places, normals, sides)
    return torch.from_numpy(_spread(known, weight, sides, joined)).to(colours)


def _joined(vertices: np.ndarray, normals: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """How much the ends of edges ``[E, 2]`` are one thing: 1, and less the sharper the crease between them, ``[E]``."""
    along, turn = (values[sides[:, 1]] - values[sides[:, 0]] for values in (vertices, normals))
    curvature = (along * turn).sum(1) / np.maximum(np.square(along).sum(1), 1e-12)
    return np.asarray(1 / (1 + np.square(np.minimum(curvature, 0) * CREASE_M)) ** 2)


def _spread(known: np.ndarray, weight: np.ndarray, sides: np.ndarray, joined: np.ndarray) -> np.ndarray:
    first, second = sides.T
    count, scale = len(known), weight[weight > 0].mean()
    mean = (known * weight[:, None]).sum(0) / weight.sum()
    right = known * (weight / scale)[:, None] + FAINT * mean
    alike = np.ones(len(sides))
    for _ in range(ROUNDS):
        graph = coo_matrix((SMOOTHNESS * joined * alike, (first, second)), shape=(count, count)).tocsr()
        graph = graph + graph.T
        system = diags(weight / scale + FAINT + np.asarray(graph.sum(1)).reshape(-1)) - graph
        found = np.asarray(spsolve(system.tocsc(), right))
        alike = CONTRAST / np.sqrt(np.square(found[first] - found[second]).sum(1) + CONTRAST**2)
    return np.clip(found, 0, 1)
