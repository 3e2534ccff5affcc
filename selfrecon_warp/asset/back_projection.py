"""Sharper textures: what photographs and renders of the texture differ by, carried back onto the texture.

A mean of photographs is blurred twice, by their pixels and by reading between these; drawing it blurs it once more. So
the texture is drawn as every photograph shows it, and the differences are combined like the photographs were and added,
once: further rounds look sharper still, but show their gain in poses nearly like the photographed ones alone.

Source: iterative back-projection, Irani and Peleg 1991.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from selfrecon_warp.asset.bake import chunks, combined, look
from selfrecon_warp.asset.fill import own_share
from selfrecon_warp.asset.photographs import Photographs, sample_pictures
from selfrecon_warp.asset.unwrap import TexelMap

COUNTING = 0.2
"""Share of the heaviest view's weight from which on a view bounds the colour: without bounds, borders get fringes."""
COVERED = 0.999
ZERO = 128
"""Differences are held in bytes, so that they take no more room than the photographs."""


@torch.no_grad()
def sharpened(
    colours: Tensor,
    weights: Tensor,
    texels: TexelMap,
    faces: Tensor,
    seen: Photographs,
    light: Tensor,
    draw: Callable[[int], np.ndarray],
    progress: Callable[[float], None] | None = None,
) -> Tensor:
    """Bring a baked texture nearer to what its photographs show.

    Args:
        colours: Of the texels in even light, ``[T, 3]`` in [0, 1].
        weights: How much stands behind them, ``[T]``; what little does changes little.
        texels: What they show.
        faces: Vertex indices, ``[F, 3]``.
        seen: The photographs.
        light: That falls on every vertex in every photograph, ``[N, V, 3]``.
        draw: Takes the number of a photograph, gives the picture of the mesh with these colours in that one's light and
            pose: colour times coverage, and coverage, ``[H, W, 4]`` in [0, 1].
        progress: Told the share that is done.

    Returns:
        Colours in [0, 1], ``[T, 3]``.
    """
    count = len(seen.images)
    differences = torch.full_like(seen.images, ZERO)
    for n in range(count):
        drawn = torch.from_numpy(draw(n)).to(colours)
        away = seen.images[n].to(colours) - 255 * drawn[..., :3] + ZERO
        differences[n] = torch.where(drawn[..., 3:] > COVERED, away, ZERO).round().clamp(0, 255).byte()
        if progress is not None:
            progress((n + 1) / count / 2)
    sharp = torch.zeros_like(colours)
    for some in chunks(texels):
        views = look(texels, faces, seen, light, some)
        away = (sample_pictures(differences, views.picture, views.pixel) - ZERO / 255) / views.light
        change = own_share(weights[some])[:, None] * combined(away, views.weight, torch.zeros_like(colours[some]))
        shown = sample_pictures(seen.images, views.picture, views.pixel) / views.light
        sharp[some] = colours[some] + _within(change, colours[some], shown, views.weight)
        if progress is not None:
            progress((1 + some.stop / len(texels.texel)) / 2)
    return sharp.clamp(0, 1)


def _within(change: Tensor, colours: Tensor, samples: Tensor, weight: Tensor) -> Tensor:
    """Changes ``[T, 3]`` of colours, made smaller where they would lead out of the samples ``[T, K, 3]`` that count."""
    counts = (weight >= COUNTING * weight.amax(1, keepdim=True))[..., None]
    low, high = (torch.where(counts, samples, end) for end in (torch.inf, -torch.inf))
    room = torch.where(change > 0, high.amax(1) - colours, colours - low.amin(1)).clamp(min=0)
    return change * (room / change.abs().clamp(min=1e-6)).amin(1, keepdim=True).clamp(max=1)
