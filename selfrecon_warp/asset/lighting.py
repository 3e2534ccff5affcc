"""The light a capture was taken in, and what a surface looks like without it.

Light comes from afar and stays where it is while the person turns before it, so the same skin is photographed under
many angles to it. Brightness is taken to be one smooth function of the normal in the world, for each colour: spherical
harmonics up to the second order, nine numbers. Colours of the surface and light are found in turns, each by least
squares; from what is far off both, such as highlights, belief is withdrawn. Their common scale is free: light is
scaled so that it is one on average over everything seen. A person who never turns tells light from colour nowhere;
there the light stays what a weak prior makes it, the same from all sides.

One lamp, infinitely far, casts shadows beside that: of many directions the one that explains the photographs best,
if it explains them clearly better than smooth light alone. What arms keep from the flanks so becomes no part of the
flanks' colour.

Source: harmonics, Ramamoorthi and Hanrahan 2001; belief, Geman and McClure 1987.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from selfrecon_warp.asset.photographs import Photographs, sample_pictures
from selfrecon_warp.asset.shadows import reached
from selfrecon_warp.checks import require_shapes

ORDERS = 9
ROUNDS = 8
PRIOR = 1e-3
"""Weight of light that is the same from all sides, beside everything seen."""
SPREAD = 0.1
"""Difference of colours, of 1, at which a sample begins to be disbelieved."""
DARKEST, BRIGHTEST = 0.3, 3.0
"""Light of a normal that no picture shows is a guess; it stays between these."""
LEAST_TRUST, LEAST_COSINE, GRAZING_COSINE = 2e-3, 0.15, 0.05
"""What decides on the light is seen better than that; what the light in a texture is, more grazingly too."""
DEPTH_TOLERANCE_M = 0.015
MOST_SAMPLES = 400_000
"""As many samples at most decide on the light."""
KEPT = 1e-4
"""Weight, of the mean weight of a vertex, with which the light in an ordinary texture tends to one: as much less than
what is known of a vertex as what makes a texel take its surroundings' colour."""
LAMP_FRAMES, LAMP_SAMPLES = 24, 60_000
"""Photographs and samples at most that decide where a lamp stands."""
DIRECTIONS = 64
"""Directions all around that are tried first; then six around the best, at each of these angles [rad]."""
NEARER = (0.21, 0.11, 0.05)
BEHIND_COSINE = -0.3
"""Lamps further behind the person than that light nothing that is seen."""
LEAST_GAIN = 0.03
"""Share of the squared deviation of brightness that a lamp's shadows must explain, or there is none."""
FRAMES_AT_ONCE = 16


@dataclass(frozen=True)
class Light:
    """Light and lit surface.

    Attributes:
        coefficients: Of the nine harmonics, for red, green and blue, ``[9, 3]``.
        lamp: Direction towards the lamp, unit, and its red, green and blue, ``[2, 3]``; zeros without one.
        colours: Of the vertices in even light, zeros where none was seen, ``[V, 3]``.
        weights: How much stands behind them, ``[V]``.
        usual: Light that the vertices were seen in but for shadows: times ``colours`` their usual look, ``[V, 3]``.
        falling: Light on every vertex in every photograph, ``[N, V, 3]``.
    """

    coefficients: Tensor
    lamp: Tensor
    colours: Tensor
    weights: Tensor
    usual: Tensor
    falling: Tensor


class Casters(NamedTuple):
    """What casts shadows in the photographs: a mesh of few faces will do.

    Attributes:
        points: World positions [m] of the photographed vertices, ``[N, V, 3]``.
        vertices: Of the mesh, ``[N, C, 3]``.
        faces: Its vertex indices, ``[F, 3]``.
    """

    points: Tensor
    vertices: Tensor
    faces: Tensor


class _Samples(NamedTuple):
    """Vertices that photographs show, ``[S]`` each, or ``[S, 3]`` and ``[S, 9]``."""

    frame: Tensor
    vertex: Tensor
    weight: Tensor
    colour: Tensor
    basis: Tensor

    def some(self, index: slice | Tensor) -> _Samples:
        return _Samples(*(values[index] for values in self))

    def thinned(self, most: int) -> _Samples:
        return self.some(slice(None, None, max(-(-len(self.vertex) // most), 1)))


def harmonics(normals: Tensor) -> Tensor:
    """Spherical harmonics of unit vectors ``[..., 3]`` up to a constant each, ``[..., 9]``."""
    x, y, z = normals.unbind(-1)
    values = (torch.ones_like(x), x, y, z, x * y, y * z, (3 * z * z - 1) / 2, x * z, (x * x - y * y) / 2)
    return torch.stack(values, -1)


def lit(
    coefficients: Tensor, normals: Tensor, lamp: Tensor | None = None, lamp_reaches: Tensor | float = 1.0
) -> Tensor:
    """Light ``[..., 3]`` that falls on surfaces with unit world normals ``[..., 3]``.

    Args:
        coefficients: See :class:`Light`, ``[9, 3]``.
        normals: In the world the light was found in.
        lamp: See :class:`Light`, ``[2, 3]``; none when absent.
        lamp_reaches: Share of the lamp's light that no shadow keeps away, ``[...]``.
    """
    require_shapes(coefficients=(coefficients, f"{ORDERS} 3"))
    light = harmonics(normals) @ coefficients.to(normals)
    if lamp is not None:
        require_shapes(lamp=(lamp, "2 3"))
        facing = (normals @ lamp[0].to(normals)).clamp_min(0.0) * lamp_reaches
        light = light + facing[..., None] * lamp[1].to(normals)
    return light.clamp(DARKEST, BRIGHTEST)


@torch.no_grad()
def find_light(seen: Photographs, casters: Casters | None = None) -> Light:
    """Find the light in photographs, and the vertices' colours without it.

    Args:
        seen: The photographs.
        casters: What may cast shadows; without it no lamp is looked for.

    Raises:
        ValueError: A shape disagrees.
    """
    V = seen.cosines.shape[1]
    samples = _samples(seen)
    direction = None if casters is None else _lamp_direction(seen, casters, samples)
    shares = torch.ones_like(seen.cosines)
    if casters is not None and direction is not None:
        shares = _reached(direction, casters)
        facing = (seen.normals @ direction).clamp_min(0.0) * shares
        column = facing[samples.frame, samples.vertex].to(samples.basis)
        samples = samples._replace(basis=torch.cat((samples.basis, column[:, None]), -1))
    coefficients = _in_turns(samples.thinned(MOST_SAMPLES), _even(samples.basis), ROUNDS, V)
    colours = _surface(samples, samples.weight, coefficients, V)
    for _ in range(2):
        away = samples.colour - colours.index_select(0, samples.vertex) * (samples.basis @ coefficients)
        colours = _surface(samples, samples.weight * _belief(away), coefficients, V)
    lamp = coefficients.new_zeros(2, 3)
    if direction is not None:
        lamp = torch.stack((direction.to(lamp), coefficients[ORDERS]))
    to, smooth = seen.cosines, coefficients[:ORDERS].to(seen.cosines)
    falling = lit(smooth, seen.normals, lamp, shares)
    any_seen = _samples(seen, 0.0, GRAZING_COSINE)
    light = lit(smooth, seen.normals, lamp)[any_seen.frame, any_seen.vertex].double()
    once, twice = (
        light.new_zeros(V, 3).index_add_(0, any_seen.vertex, any_seen.weight[:, None] * light**k) for k in (1, 2)
    )
    kept = KEPT * any_seen.weight.sum() / V + 1e-9
    return Light(
        smooth,
        lamp.to(to),
        colours.clamp(0, 1).to(to),
        colours.new_zeros(V).index_add_(0, samples.vertex, samples.weight).to(to),
        ((twice + kept) / (once + kept)).to(to),
        falling,
    )


def _samples(seen: Photographs, least_trust: float = LEAST_TRUST, least_cosine: float = LEAST_COSINE) -> _Samples:
    """Every vertex that a photograph shows and can be believed there."""
    H, W = seen.depth.shape[1:]
    u, v, z = seen.vertices_pixel.unbind(-1)
    inside = (u >= 0) & (v >= 0) & (u <= W - 1) & (v <= H - 1) & (seen.cosines > least_cosine)
    frame, vertex = torch.nonzero(inside, as_tuple=True)
    row, column = v[inside].round().long(), u[inside].round().long()
    depth, trust = (image[frame, row, column] for image in (seen.depth, seen.trust))
    shown = (depth > 0) & (depth > z[inside] - DEPTH_TOLERANCE_M) & (trust > least_trust)
    frame, vertex = frame[shown], vertex[shown]
    area = seen.cosines[inside] / z[inside] ** 2 * seen.real[None].expand_as(z)[inside]
    colour = sample_pictures(seen.images, frame[:, None], seen.vertices_pixel[frame, vertex, :2][:, None])[:, 0]
    basis = harmonics(seen.normals[frame, vertex]).double()
    return _Samples(frame, vertex, (area * trust)[shown].double(), colour.double(), basis)


def _lamp_direction(seen: Photographs, casters: Casters, samples: _Samples) -> Tensor | None:
    """Direction towards the lamp whose shadows explain the photographs best, ``[3]``; ``None`` if none does clearly."""
    N, V = seen.cosines.shape
    frames = torch.linspace(0, N - 1, min(N, LAMP_FRAMES)).round().long().to(samples.frame.device)
    few = samples.some(torch.isin(samples.frame, frames)).thinned(LAMP_SAMPLES)
    if not len(few.vertex):
        return None
    coefficients = _in_turns(few, _even(few.basis), ROUNDS, V)
    towards = normalize(seen.normals[few.frame, few.vertex].mean(0), dim=-1)
    directions = _all_around(DIRECTIONS).to(towards)
    directions = directions[directions @ towards > BEHIND_COSINE]
    best, most, facing = directions[0], 0.0, few.weight
    for angle in (0.0, *NEARER):
        if angle:
            directions = _ring(best, angle)
        columns = _facing(directions, seen, casters, few)
        gains = _gains(few, columns, coefficients, V)
        if float(gains.max()) > most:
            most = float(gains.max())
            best, facing = directions[gains.argmax()], columns[:, gains.argmax()]
    unshaded = (seen.normals[few.frame, few.vertex] @ best).clamp_min(0.0).to(few.basis)[:, None]
    if most < LEAST_GAIN + float(_gains(few, unshaded, coefficients, V)):
        return None
    lamplit = few._replace(basis=torch.cat((few.basis, facing[:, None]), -1))
    found = _in_turns(lamplit, torch.cat((coefficients, torch.zeros_like(coefficients[:1]))), ROUNDS, V)
    return best if bool((found[-1] > 0).all()) else None


def _facing(directions: Tensor, seen: Photographs, casters: Casters, samples: _Samples) -> Tensor:
    """Light of white lamps in directions ``[D, 3]`` on the samples, in the samples' precision, ``[S, D]``."""
    light = samples.weight.new_zeros(len(samples.vertex), len(directions))
    for frame in samples.frame.unique().tolist():
        here = samples.frame == frame
        vertex = samples.vertex[here]
        vertices, points = (
            positions.expand(len(directions), -1, -1)
            for positions in (casters.vertices[frame], casters.points[frame, vertex])
        )
        shares = reached(directions, vertices, casters.faces, points)
        light[here] = ((directions @ seen.normals[frame, vertex].T).clamp_min(0.0) * shares).T.to(light)
    return light


def _gains(samples: _Samples, columns: Tensor, coefficients: Tensor, count: int) -> Tensor:
    """How much of the squared deviation lamps alone would explain, colours and smooth light adapting, ``[D]``.

    One Gauss-Newton step on brightness: what the vertices' colours and the harmonics can make up for is projected out
    of the columns ``[S, D]``; lamps that would take light away explain nothing.
    """
    colours = _surface(samples, samples.weight, coefficients, count).index_select(0, samples.vertex)
    away = samples.colour - colours * (samples.basis @ coefficients)
    weight = (samples.weight * _belief(away))[:, None]
    colour, light, away = (values.mean(-1, keepdim=True) for values in (colours, samples.basis @ coefficients, away))
    given = torch.cat((colour * samples.basis, colour * columns, away), -1)
    total, square = (
        given.new_zeros(count, values.shape[1]).index_add_(0, samples.vertex, weight * light * values)
        for values in (given, light)
    )
    free = given - light * (total / square.clamp_min(1e-12)).index_select(0, samples.vertex)
    smooth, lamps, left = free[:, :ORDERS], free[:, ORDERS:-1], free[:, -1:]
    matrix = smooth.T @ (weight * smooth)
    matrix += PRIOR * matrix.diagonal().mean() * torch.eye(ORDERS).to(matrix)
    both = torch.cat((lamps, left), -1)
    both = both - smooth @ torch.linalg.solve(matrix, smooth.T @ (weight * both))
    lamps, left = both[:, :-1], both[:, -1:]
    along = (weight * lamps * left).sum(0).clamp_min(0.0)
    return along.square() / (weight * lamps.square()).sum(0).clamp_min(1e-12) / (weight * left.square()).sum()


def _reached(direction: Tensor, casters: Casters) -> Tensor:
    """Share of the lamp's light that reaches the vertices in every photograph, ``[N, V]``."""
    shares = []
    for start in range(0, len(casters.points), FRAMES_AT_ONCE):
        some = slice(start, start + FRAMES_AT_ONCE)
        vertices = casters.vertices[some]
        shares.append(reached(direction.expand(len(vertices), 3), vertices, casters.faces, casters.points[some]))
    return torch.cat(shares)


def _all_around(count: int) -> Tensor:
    """Directions spread evenly over the sphere, ``[count, 3]``."""
    step = torch.arange(count) + 0.5
    height = 1 - 2 * step / count
    angle = step * torch.pi * (3 - 5**0.5)
    across = (1 - height**2).sqrt()
    return torch.stack((across * angle.cos(), height, across * angle.sin()), -1)


def _ring(direction: Tensor, angle: float) -> Tensor:
    """Six directions an angle [rad] away from one, ``[6, 3]``."""
    aside = direction.new_zeros(3)
    aside[int(direction.abs().argmin())] = 1.0
    first = normalize(torch.linalg.cross(aside, direction), dim=-1)
    turns = torch.arange(6).to(direction) * (torch.pi / 3)
    across = turns.cos()[:, None] * first + turns.sin()[:, None] * torch.linalg.cross(direction, first)
    return normalize(direction + torch.tan(direction.new_tensor(angle)) * across, dim=-1)


def _belief(away: Tensor) -> Tensor:
    return 1 / (1 + away.square().sum(-1) / SPREAD**2).square()


def _even(basis: Tensor) -> Tensor:
    """Coefficients of light that is the same from all sides, ``[B, 3]``."""
    coefficients = basis.new_zeros(basis.shape[1], 3)
    coefficients[0] = 1.0
    return coefficients


def _in_turns(samples: _Samples, coefficients: Tensor, rounds: int, count: int) -> Tensor:
    """Coefficients ``[B, 3]`` found in turns with the colours of ``count`` vertices."""
    believed = samples.weight
    for _ in range(rounds if len(samples.vertex) else 0):
        colour = _surface(samples, believed, coefficients, count).index_select(0, samples.vertex)
        away = samples.colour - colour * (samples.basis @ coefficients)
        believed = samples.weight * _belief(away)
        coefficients = _light(colour, believed, samples.colour, samples.basis)
        coefficients /= (samples.weight[:, None] * (samples.basis @ coefficients)).sum(0) / samples.weight.sum()
    return coefficients


def _surface(samples: _Samples, weight: Tensor, coefficients: Tensor, count: int) -> Tensor:
    """Colours that explain the samples in the light, ``[V, 3]``."""
    light = samples.basis @ coefficients
    total, square = (
        light.new_zeros(count, 3).index_add_(0, samples.vertex, weight[:, None] * light * other)
        for other in (samples.colour, light)
    )
    return total / square.clamp(min=1e-12)


def _light(colour: Tensor, weight: Tensor, sample: Tensor, basis: Tensor) -> Tensor:
    """Coefficients ``[B, 3]`` that explain the samples on surfaces of these colours ``[S, 3]``."""
    found = []
    even = _even(basis)[:, 0]
    for channel in range(3):
        rows = basis * colour[:, channel : channel + 1]
        matrix = rows.T @ (rows * weight[:, None])
        prior = PRIOR * matrix[0, 0].clamp(min=1e-12)
        right = rows.T @ (weight * sample[:, channel]) + prior * even
        found.append(torch.linalg.solve(matrix + prior * torch.eye(len(even)).to(matrix), right))
    return torch.stack(found, 1)
