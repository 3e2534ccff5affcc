"""Colours of cloth, skin, hair and leather, evaluated at every pixel from the place on the person it shows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from selfrecon_warp.synthesis.mesh_tools import Array
from selfrecon_warp.synthesis.noise import NoiseVolume, smoothstep

Chart = Callable[[Array, Array], tuple[Array, Array]]
Pattern = Callable[[Array, Array], Array]
Rgb = tuple[float, float, float]


def rgb(colour: Rgb | Array) -> Array:
    """An sRGB colour as an array."""
    return np.asarray(colour, np.float32)


def mix(base: Array, colour: Rgb | Array, amount: Array) -> Array:
    """Paint ``colour`` over ``base`` with opacity ``amount`` ``[P]``."""
    opacity = np.clip(amount, 0, 1)[:, None].astype(np.float32)
    return base + (rgb(colour) - base) * opacity


def line(value: Array, centre: float | Array, half_width: float | Array, soft: float = 0.0012) -> Array:
    """1 within ``half_width`` of ``centre``, soft edges."""
    return smoothstep(half_width + soft, half_width - soft, np.abs(value - centre))


def repeat_line(value: Array, period: float, half_width: float, soft: float = 0.0012) -> Array:
    """Lines at every multiple of ``period``."""
    return line((value + period / 2) % period - period / 2, 0.0, half_width, soft)


def plain(noise: NoiseVolume, colour: Rgb, heather: float = 0.02) -> Pattern:
    """One dye with the mottle of yarn."""

    def pattern(_: Array, points: Array) -> Array:
        mottle = heather * noise.fractal(points, 170.0, 2) + 0.4 * heather * noise.fractal(points, 9.0, 2)
        return np.clip(rgb(colour) * (1 + mottle[:, None]), 0, 1)

    return pattern


def stripes(noise: NoiseVolume, colours: list[Rgb], widths: list[float], upright: bool = False) -> Pattern:
    """Bands that repeat in order, across or upright."""
    borders = np.cumsum(widths)

    def pattern(uv: Array, points: Array) -> Array:
        place = (uv[:, 0 if upright else 1] + 0.0012 * noise.fractal(points, 20.0, 1)) % borders[-1]
        out = np.tile(rgb(colours[-1]), (len(uv), 1))
        for colour, start, stop in zip(colours, [0.0, *borders[:-1]], borders, strict=True):
            out = mix(out, colour, line(place, (start + stop) / 2, (stop - start) / 2, 0.0008))
        return np.clip(out * (1 + 0.03 * noise.fractal(points, 150.0, 2))[:, None], 0, 1)

    return pattern


def plaid(noise: NoiseVolume, base: Rgb, bands: list[tuple[Rgb, float, float]], period: float) -> Pattern:
    """Woven checks: each band (colour, centre, half width) runs in both directions and mixes where it crosses."""

    def pattern(uv: Array, points: Array) -> Array:
        out = np.tile(rgb(base), (len(uv), 1))
        twill = 0.5 + 0.12 * np.sign(np.sin((uv[:, 0] + uv[:, 1]) * 2 * np.pi / 0.008))
        for axis in (0, 1):
            place = (uv[:, axis] + 0.0010 * noise.fractal(points, 15.0, 1)) % period
            for colour, centre, half in bands:
                share = line(place, centre, half, 0.001)
                out = mix(out, colour, share * (twill if axis else 1 - 0.45 * twill))
        return np.clip(out * (1 + 0.03 * noise.fractal(points, 150.0, 2))[:, None], 0, 1)

    return pattern


def denim(noise: NoiseVolume, colour: Rgb, worn: Callable[[Array], Array]) -> Pattern:
    """Twill with slubby yarns, paler where ``worn`` says [0, 1]."""

    def pattern(uv: Array, points: Array) -> Array:
        slub = noise.fractal(np.stack((uv[:, 0] * 260, uv[:, 1] * 18, uv[:, 0] * 0), 1).astype(np.float32), 1.0, 2)
        weave = np.sin((uv[:, 0] * 0.6 + uv[:, 1]) * 2 * np.pi / 0.007)
        blotch = noise.fractal(points, 14.0, 3)
        fade = np.clip(0.65 * worn(points) + 0.10 * blotch, 0, 0.85)
        out = mix(np.tile(rgb(colour), (len(uv), 1)), (0.66, 0.73, 0.80), fade)
        return np.clip(out * (1 + 0.055 * slub + 0.03 * weave + 0.02 * blotch)[:, None], 0, 1)

    return pattern


def blossoms(noise: NoiseVolume, ground: Rgb, petals: list[Rgb], leaf: Rgb, cell: float, seed: int) -> Pattern:
    """A scattered print of five-petalled flowers with leaves, sizes and turns at random."""
    rng = np.random.default_rng(seed)
    table = rng.random((64, 64, 6)).astype(np.float32)
    dye = np.array(petals, np.float32)

    def pattern(uv: Array, points: Array) -> Array:
        out = np.tile(rgb(ground), (len(uv), 1))
        home = np.floor(uv / cell).astype(int)
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                where = home + np.array([di, dj])
                dice = table[where[:, 0] % 64, where[:, 1] % 64]
                offset = uv - (where + 0.2 + 0.6 * dice[:, :2]) * cell
                radius = np.hypot(offset[:, 0], offset[:, 1])
                angle = np.arctan2(offset[:, 1], offset[:, 0]) + 6.28 * dice[:, 2]
                size = cell * (0.22 + 0.22 * dice[:, 3])
                leaves = size * (0.4 + 1.0 * np.abs(np.cos(angle + 0.6)) ** 6)
                out = mix(out, leaf, smoothstep(leaves + 0.001, leaves - 0.001, radius))
                edge = size * (0.62 + 0.38 * np.cos(5 * angle))
                colour = dye[(dice[:, 4] * len(dye)).astype(int)]
                colour = colour * (0.8 + 0.25 * np.clip(radius / size, 0, 1))[:, None]
                out = mix(out, colour, smoothstep(edge + 0.001, edge - 0.001, radius))
                out = mix(out, (0.93, 0.80, 0.35), smoothstep(0.2 * size + 0.001, 0.2 * size - 0.001, radius))
        return np.clip(out * (1 + 0.02 * noise.fractal(points, 40.0, 2))[:, None], 0, 1)

    return pattern


def dots(noise: NoiseVolume, ground: Rgb, colour: Rgb, period: float, radius: float) -> Pattern:
    """Polka dots in staggered rows."""

    def pattern(uv: Array, points: Array) -> Array:
        row = np.floor(uv[:, 1] / period)
        x = (uv[:, 0] + 0.5 * period * (row % 2)) % period - period / 2
        y = uv[:, 1] - (row + 0.5) * period
        out = np.tile(rgb(ground), (len(uv), 1))
        out = mix(out, colour, smoothstep(radius + 0.001, radius - 0.001, np.hypot(x, y)))
        return np.clip(out * (1 + 0.025 * noise.fractal(points, 50.0, 2))[:, None], 0, 1)

    return pattern


def knit(noise: NoiseVolume, colour: Rgb, rib: float = 0.012) -> Pattern:
    """Thick stitches in columns."""

    def pattern(uv: Array, points: Array) -> Array:
        column = np.cos(uv[:, 0] * 2 * np.pi / rib)
        stitch = np.cos((uv[:, 1] + 0.004 * np.abs(column)) * 2 * np.pi / (0.9 * rib))
        shade = 1 + 0.10 * column + 0.05 * stitch + 0.03 * noise.fractal(points, 120.0, 2)
        return np.clip(rgb(colour) * shade[:, None], 0, 1)

    return pattern


def herringbone(noise: NoiseVolume, colour: Rgb, other: Rgb) -> Pattern:
    """Woollen zigzag weave with flecks."""

    def pattern(uv: Array, points: Array) -> Array:
        zigzag = np.abs((uv[:, 0] / 0.03) % 1.0 - 0.5) * 0.03
        share = 0.5 + 0.5 * np.sin((uv[:, 1] + zigzag) * 2 * np.pi / 0.012)
        out = mix(np.tile(rgb(colour), (len(uv), 1)), other, 0.55 * share)
        fleck = np.clip(noise.fractal(points, 230.0, 1) - 0.6, 0, 1)
        return np.clip(out * (1 + 0.035 * noise.fractal(points, 120.0, 2))[:, None] + 0.05 * fleck[:, None], 0, 1)

    return pattern


def top_chart(shoulder: Array, neck: Array, waist: float, flare: float) -> Chart:
    """Cloth coordinates of an upper garment [m]: flat front and back panels, sleeves cut lengthwise, a flared skirt.

    Returns:
        A function from positions to (right, up) ``[P, 2]`` and 1 on sleeves ``[P]``.
    """

    def chart(points: Array, _: Array) -> tuple[Array, Array]:
        x = np.abs(points[:, 0])
        armhole = shoulder[0] + 0.01 + 0.10 * np.clip(shoulder[1] - points[:, 1] - 0.04, -0.05, 0.1)
        sleeve = (x > armhole) & (points[:, 1] > shoulder[1] - 0.17)
        angle = np.arctan2(points[:, 0], points[:, 2] + 0.01)
        around = np.where(
            points[:, 2] > -0.01, points[:, 0] + 0.06 * np.sin(angle) * np.abs(angle), 0.17 * angle + 0.03
        )
        turn = np.arctan2(points[:, 2] - shoulder[2], points[:, 1] - shoulder[1])
        if flare > 0.05:
            around = angle * (0.15 + (flare + 0.05) * np.clip(waist - points[:, 1], 0, None))
        trunk = np.stack((around, points[:, 1] - neck[1]), 1)
        arm = np.stack((0.06 * turn, -x), 1)
        return np.where(sleeve[:, None], arm, trunk).astype(np.float32), sleeve.astype(np.float32)

    return chart


def leg_chart(knee: Array) -> Chart:
    """Cloth coordinates of trousers [m]: one tube a leg, a seam between them; also the angle about the leg."""

    def chart(points: Array, _: Array) -> tuple[Array, Array]:
        turn = np.arctan2(np.abs(points[:, 0]) - knee[0], points[:, 2] - knee[2])
        return np.stack((0.085 * turn, points[:, 1]), 1).astype(np.float32), turn.astype(np.float32)

    return chart


def skirt_chart(points: Array, _: Array) -> tuple[Array, Array]:
    """Cloth coordinates of a skirt [m] and the angle about the body."""
    turn = np.arctan2(points[:, 0], points[:, 2])
    return np.stack((0.20 * turn, points[:, 1]), 1).astype(np.float32), turn.astype(np.float32)
