"""Colours of a surface's texels from photographs.

A photograph counts for a texel by how frontally and how near it sees it, and by the trust in its pixel. What the
capture's light does to the colour is taken out first, so that photographs of a person who turns agree. A sample that
looks much more like what lies beyond the nearest outline than like the surface around the texel is held to be just
that. From the best few photographs comes a weighted mean that outliers leave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from selfrecon_warp.asset.photographs import COLOUR, Photographs, sample_pictures
from selfrecon_warp.asset.unwrap import TexelMap
from selfrecon_warp.kernels.best_views import best_views

VIEWS = 24
"""Photographs whose colours are combined at a point."""
COSINE_POWER = 2.0
DEPTH_TOLERANCE_M = 5e-3
SPREAD, ROUNDS = 0.16, 3
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
    about = None if expected is None else texels.interpolate(expected, faces)
    for some in chunks(texels):
        views = look(texels, faces, seen, light, some)
        samples = sample_pictures(seen.images, views.picture, views.pixel)
        weight = views.weight
        if about is not None:
            weight = weight * _own(samples, about[some, None] * views.light, seen.beyond, views.picture, views.pixel)
        colours[some] = robust_mean(samples / views.light, weight)
        weights[some] = weight.sum(1).clamp(max=1)
        if progress is not None:
            progress(some.stop)
    return colours, weights


class Views(NamedTuple):
    """The photographs that show texels best, ``[T, K]`` and more.

    Attributes:
        picture: Which, -1 for none, ``[T, K]``.
        pixel: Where in them, ``[T, K, 2]``.
        weight: 1 for a frontal view of all trust, 0 for none, ``[T, K]``.
        light: That falls there, ``[T, K, 3]``.
    """

    picture: Tensor
    pixel: Tensor
    weight: Tensor
    light: Tensor


def chunks(texels: TexelMap) -> Iterator[slice]:
    """All texels, some at a time."""
    count = len(texels.texel)
    return (slice(start, min(start + POINTS_AT_ONCE, count)) for start in range(0, count, POINTS_AT_ONCE))


def look(texels: TexelMap, faces: Tensor, seen: Photographs, light: Tensor | None, some: slice) -> Views:
    """Look some of the texels up in the photographs that show them best.

    Args:
        texels: What they show.
        faces: Vertex indices, ``[F, 3]``.
        seen: The photographs.
        light: That falls on every vertex in every photograph, ``[N, V, 3]``; 1 when absent.
        some: Which texels.
    """
    at, face_index = texels.barycentrics[some], texels.face_index[some]
    corners = faces.long().index_select(0, face_index.long())
    found = best_views(
        seen.vertices_pixel,
        seen.cosines,
        faces,
        face_index,
        at,
        seen.depth,
        seen.trust,
        VIEWS + 1,
        sharpness=COSINE_POWER,
        tolerance=DEPTH_TOLERANCE_M,
        slope_tolerance=2 * seen.footprint,
    )
    weight = (found.weight - found.weight[:, -1:])[:, :-1]  # the last one's goes to 0 before it is replaced
    real = (at * seen.real[corners]).sum(1, keepdim=True)
    weight = weight * seen.distance**2 * real
    picture, pixel = found.picture[:, :-1], found.pixel[:, :-1]
    ones = torch.ones_like(weight)[..., None].expand(*weight.shape, 3)
    return Views(picture, pixel, weight, ones if light is None else _interpolate(light, picture, corners, at))


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
    return combined(samples, weight, mean)


def combined(samples: Tensor, weight: Tensor, mean: Tensor) -> Tensor:
    """Weighted mean of samples ``[T, K, 3]`` that those far from ``mean`` leave, then those far from what comes out.

    Zeros where no weight is, ``[T, 3]``.
    """
    for _ in range(ROUNDS):
        away = (samples - mean[:, None]).square().sum(-1)
        believed = weight / (1 + away / SPREAD**2).square()
        mean = torch.einsum("tk,tkc->tc", believed, samples) / believed.sum(1, keepdim=True).clamp(min=1e-12)
    return torch.where(weight.sum(1, keepdim=True) > 0, mean, 0)
