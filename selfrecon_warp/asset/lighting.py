"""The light a capture was taken in, and what a surface looks like without it.

Light comes from afar and stays where it is while the person turns before it, so the same skin is photographed under
many angles to it. Brightness is taken to be one smooth function of the normal in the world, for each colour: spherical
harmonics up to the second order, nine numbers. Colours of the surface and light are found in turns, each by least
squares; from what is far off both, such as cast shadows, belief is withdrawn. Their common scale is free: light is
scaled so that it is one on average over everything seen. A person who never turns tells light from colour nowhere;
there the light stays what a weak prior makes it, the same from all sides.

Source: harmonics, Ramamoorthi and Hanrahan 2001; belief, Geman and McClure 1987.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from selfrecon_warp.asset.photographs import Photographs, sample_pictures
from selfrecon_warp.checks import require_shapes

ORDERS = 9
ROUNDS = 8
PRIOR = 1e-3
"""Weight of light that is the same from all sides, beside everything seen."""
SPREAD = 0.1
"""Difference of colours, of 1, at which a sample begins to be disbelieved."""
DARKEST, BRIGHTEST = 0.3, 3.0
"""Light of a normal that no picture shows is a guess; it stays between these."""
LEAST_TRUST, LEAST_COSINE = 2e-3, 0.15
DEPTH_TOLERANCE_M = 0.015
MOST_SAMPLES = 400_000
"""As many samples at most decide on the light."""
KEPT = 0.02
"""Weight, of the mean weight of a vertex, with which the light in an ordinary texture tends to one."""


@dataclass(frozen=True)
class Light:
    """Light and lit surface.

    Attributes:
        coefficients: Of the nine harmonics, for red, green and blue, ``[9, 3]``.
        colours: Of the vertices in even light, zeros where none was seen, ``[V, 3]``.
        weights: How much stands behind them, ``[V]``.
        usual: Light that the vertices were seen in, ``[V, 3]``: times ``colours`` it is their usual look.
    """

    coefficients: Tensor
    colours: Tensor
    weights: Tensor
    usual: Tensor


def harmonics(normals: Tensor) -> Tensor:
    """Spherical harmonics of unit vectors ``[..., 3]`` up to a constant each, ``[..., 9]``."""
    x, y, z = normals.unbind(-1)
    values = (torch.ones_like(x), x, y, z, x * y, y * z, (3 * z * z - 1) / 2, x * z, (x * x - y * y) / 2)
    return torch.stack(values, -1)


def lit(coefficients: Tensor, normals: Tensor) -> Tensor:
    """Light ``[..., 3]`` that falls on surfaces with unit world normals ``[..., 3]``.

    Args:
        coefficients: See :class:`Light`, ``[9, 3]``.
        normals: In the world the light was found in.
    """
    require_shapes(coefficients=(coefficients, f"{ORDERS} 3"))
    return (harmonics(normals) @ coefficients.to(normals)).clamp(DARKEST, BRIGHTEST)


@torch.no_grad()
def find_light(seen: Photographs) -> Light:
    """Find the light in photographs, and the vertices' colours without it.

    Args:
        seen: The photographs.
    """
    V = seen.cosines.shape[1]
    frame, vertex, weight, sample = _samples(seen)
    basis = harmonics(seen.normals[frame, vertex]).double()
    coefficients = basis.new_zeros(ORDERS, 3)
    coefficients[0] = 1.0
    some = slice(None, None, -(-len(vertex) // MOST_SAMPLES) if len(vertex) else 1)
    few = (vertex[some], weight[some], sample[some], basis[some])
    believed = few[1]
    for _ in range(ROUNDS if len(vertex) else 0):
        colours = _surface(few[0], believed, few[2], few[3], coefficients, V)
        colour = colours.index_select(0, few[0])
        believed = few[1] * _belief(few[2] - colour * (few[3] @ coefficients))
        coefficients = _light(colour, believed, *few[2:])
        coefficients /= (few[1][:, None] * (few[3] @ coefficients)).sum(0) / few[1].sum()
    colours = _surface(vertex, weight, sample, basis, coefficients, V)
    for _ in range(2):
        away = sample - colours.index_select(0, vertex) * (basis @ coefficients)
        believed = weight * _belief(away)
        colours = _surface(vertex, believed, sample, basis, coefficients, V)
    light = (basis @ coefficients).clamp(DARKEST, BRIGHTEST)
    once, twice = (light.new_zeros(V, 3).index_add_(0, vertex, weight[:, None] * light**k) for k in (1, 2))
    kept = KEPT * weight.sum() / V + 1e-9
    to = seen.cosines
    return Light(
        coefficients.to(to),
        colours.clamp(0, 1).to(to),
        weight.new_zeros(V).index_add_(0, vertex, weight).to(to),
        ((twice + kept) / (once + kept)).to(to),
    )


def _samples(seen: Photographs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Frame, vertex, weight and colour of every vertex that a photograph shows and can be believed there."""
    H, W = seen.depth.shape[1:]
    u, v, z = seen.vertices_pixel.unbind(-1)
    inside = (u >= 0) & (v >= 0) & (u <= W - 1) & (v <= H - 1) & (seen.cosines > LEAST_COSINE)
    frame, vertex = torch.nonzero(inside, as_tuple=True)
    row, column = v[inside].round().long(), u[inside].round().long()
    depth, trust = (image[frame, row, column] for image in (seen.depth, seen.trust))
    shown = (depth > 0) & (depth > z[inside] - DEPTH_TOLERANCE_M) & (trust > LEAST_TRUST)
    frame, vertex = frame[shown], vertex[shown]
    area = seen.cosines[inside] / z[inside] ** 2 * seen.real[None].expand_as(z)[inside]
    sample = sample_pictures(seen.images, frame[:, None], seen.vertices_pixel[frame, vertex, :2][:, None])[:, 0]
    return frame, vertex, (area * trust)[shown].double(), sample.double()


def _belief(away: Tensor) -> Tensor:
    return 1 / (1 + away.square().sum(-1) / SPREAD**2).square()


def _surface(vertex: Tensor, weight: Tensor, sample: Tensor, basis: Tensor, coefficients: Tensor, count: int) -> Tensor:
    """Colours that explain the samples in the light, ``[V, 3]``."""
    light = basis @ coefficients
    total, square = (
        sample.new_zeros(count, 3).index_add_(0, vertex, weight[:, None] * light * other) for other in (sample, light)
    )
    return total / square.clamp(min=1e-12)


def _light(colour: Tensor, weight: Tensor, sample: Tensor, basis: Tensor) -> Tensor:
    """Coefficients ``[9, 3]`` that explain the samples on surfaces of these colours ``[S, 3]``."""
    found = []
    even = basis.new_zeros(ORDERS)
    even[0] = 1.0
    for channel in range(3):
        rows = basis * colour[:, channel : channel + 1]
        matrix = rows.T @ (rows * weight[:, None])
        prior = PRIOR * matrix[0, 0].clamp(min=1e-12)
        right = rows.T @ (weight * sample[:, channel]) + prior * even
        found.append(torch.linalg.solve(matrix + prior * torch.eye(ORDERS).to(matrix), right))
    return torch.stack(found, 1)
