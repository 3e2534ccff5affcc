"""Colours of a surface's texels from photographs.

A photograph counts for a texel by how frontally and how near it sees it, and by the trust in its pixel. What the
capture's light does to the colour is taken out first, so that photographs of a person who turns agree. A sample that
looks much more like what lies beyond the nearest outline than like the surface around the texel is held to be just
that. From the best few photographs comes a weighted mean that outliers leave.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from selfrecon_warp.asset.photographs import COLOUR, Photographs, sample_pictures
from selfrecon_warp.asset.unwrap import TexelMap
from selfrecon_warp.kernels.best_views import best_views

VIEWS = 16
"""Photographs whose colours are combined at a point."""
COSINE_POWER = 2.0
DEPTH_TOLERANCE_M = 5e-3
SPREAD, ROUNDS = 0.08, 3
"""Difference of colours, of 1, at which a photograph begins to be disbelieved, and how often this is weighed anew."""
NOISE = 0.03
"""Differences of colours, of 1, that tell little."""
DOUBT = 4.0
"""A sample is doubted where its squared difference from what lies beyond is below the sum of both over this."""
POINTS_AT_ONCE = 1 << 17


@torch.no_grad()
def bake_colours(
    texels: TexelMap,
    faces: Tensor,
    seen: Photographs,
    light: Tensor | None = None,
    expected: Tensor | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """The colour of every texel from the photographs that show it best.

    Args:
        texels: What they show.
        faces: Vertex indices, ``[F, 3]``.
        seen: The photographs.
        light: That falls on every vertex in every photograph and is taken out, ``[N, V, 3]``; 1 when absent.
        expected: Colours the vertices have about, in light 1, ``[V, 3]``; when absent, no sample is doubted beforehand.
        progress: Told the number of texels done, now and then.

    Returns:
        Colours in [0, 1] ``[T, 3]``, zeros where no photograph shows the texel, and their weight ``[T]``: 1 when a
        frontal view of all trust stands behind it, 0 when none does.
    """
    colours = texels.barycentrics.new_zeros(len(texels.texel), 3)
    weights = torch.zeros_like(colours[:, 0])
    real = texels.interpolate(seen.real[:, None], faces)
    about = None if expected is None else texels.interpolate(expected, faces)
    distance = seen.depth[seen.depth > 0]
    unit = float(distance.median()) ** 2 if len(distance) else 1.0
    for start in range(0, len(texels.texel), POINTS_AT_ONCE):
        some = slice(start, start + POINTS_AT_ONCE)
        at = texels.barycentrics[some]
        corners = faces.long().index_select(0, texels.face_index[some].long())
        found = best_views(
            seen.vertices_pixel,
            seen.cosines,
            faces,
            texels.face_index[some],
            at,
            seen.depth,
            seen.trust,
            VIEWS + 1,
            sharpness=COSINE_POWER,
            tolerance=DEPTH_TOLERANCE_M,
            slope_tolerance=2 * seen.footprint,
        )
        weight = (found.weight - found.weight[:, -1:])[:, :-1] * unit  # the last one's goes to 0 before it is replaced
        picture, pixel = found.picture[:, :-1], found.pixel[:, :-1]
        samples = sample_pictures(seen.images, picture, pixel)
        falling = 1.0 if light is None else _interpolate(light, picture, corners, at)
        if about is not None:
            weight = weight * _own(samples, about[some, None] * falling, seen.beyond, picture, pixel)
        weight = weight * real[some]
        colours[some] = robust_mean(samples / falling, weight)
        weights[some] = weight.sum(1).clamp(max=1)
        if progress is not None:
            progress(min(some.stop, len(texels.texel)))
    return colours, weights


def _interpolate(values: Tensor, picture: Tensor, corners: Tensor, barycentrics: Tensor) -> Tensor:
    """Vertex values of pictures ``[N, V, C]`` at points of faces with ``corners [T, 3]`` in pictures ``[T, K]``."""
    flat = values.reshape(-1, values.shape[-1])
    first = picture.clamp(min=0).long() * values.shape[1]
    total = barycentrics.new_zeros(*picture.shape, values.shape[-1])
    for k in range(3):
        index = first + corners[:, k : k + 1]
        total += barycentrics[:, k, None, None] * flat.index_select(0, index.view(-1)).view(*index.shape, -1)
    return total


def _own(samples: Tensor, about: Tensor, beyond: Tensor, picture: Tensor, pixel: Tensor) -> Tensor:
    """Belief, 0 to 1, that samples ``[T, K, 3]`` show a surface that looks like ``about``, not what lies beyond it."""
    H, W = beyond.shape[1:3]
    u, v = pixel.round().long().unbind(-1)
    index = (picture.clamp(min=0).long() * H + v.clamp(0, H - 1)) * W + u.clamp(0, W - 1)
    there = beyond.view(-1, 4).index_select(0, index.view(-1)).view(*index.shape, 4)
    from_there = (samples - there[..., :3] / 255).square().sum(-1) + NOISE**2
    from_here = (samples - about).square().sum(-1) + NOISE**2
    belief = (DOUBT * from_there / (from_there + from_here)).clamp(max=1).square()
    return torch.where((there[..., 3] & COLOUR) > 0, belief, 1.0)


def robust_mean(samples: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of colours that those far from the others leave, ``[T, 3]``; zeros where no weight is.

    Args:
        samples: ``[T, K, 3]``.
        weight: At least 0, ``[T, K]``.

    Source: iteratively reweighted least squares from the weighted median, with the weights of Geman and McClure 1987.
    """
    order = samples.argsort(1)
    shares = weight[..., None].expand_as(samples).gather(1, order).cumsum(1)
    middle = (2 * shares >= shares[:, -1:]).int().argmax(1, keepdim=True)
    mean = samples.gather(1, order.gather(1, middle))[:, 0]
    for _ in range(ROUNDS):
        away = (samples - mean[:, None]).square().sum(-1)
        believed = weight / (1 + away / SPREAD**2).square()
        mean = torch.einsum("tk,tkc->tc", believed, samples) / believed.sum(1, keepdim=True).clamp(min=1e-12)
    return torch.where(weight.sum(1, keepdim=True) > 0, mean, 0)
