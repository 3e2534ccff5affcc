"""Finished surfaces: fabrics with seams, buttons and prints on garments; skin with a face; eyes, hair, shoes."""

from __future__ import annotations

import numpy as np

from selfrecon_warp.synthesis.accessories import CROWN, HEAD, flow, scalp
from selfrecon_warp.synthesis.bottoms import SkirtCut, TrouserCut
from selfrecon_warp.synthesis.fabric import (
    Chart,
    Pattern,
    Rgb,
    leg_chart,
    line,
    mix,
    repeat_line,
    rgb,
    skirt_chart,
    top_chart,
)
from selfrecon_warp.synthesis.layers import Finish
from selfrecon_warp.synthesis.mesh_tools import Array
from selfrecon_warp.synthesis.noise import NoiseVolume, smoothstep
from selfrecon_warp.synthesis.person import Person
from selfrecon_warp.synthesis.tops import TopCut


def top_finish(
    person: Person,
    cut: TopCut,
    body: Pattern,
    sleeves: Pattern | None = None,
    trim: Rgb | None = None,
    buttons: bool = False,
    motif: tuple[str, Rgb, Rgb] | None = None,
    side_stripe: Rgb | None = None,
    pockets: bool = False,
    gloss: float = 0.02,
) -> Finish:
    """Colour of an upper garment.

    Args:
        person: Who wears it.
        cut: Its measures.
        body: Fabric of the trunk.
        sleeves: Fabric of the sleeves where it differs.
        trim: Colour of neckband and cuffs.
        buttons: A buttoned front.
        motif: Chest print: ``ring``, ``number`` or ``peaks`` with two colours.
        side_stripe: Stripe down the arms.
        pockets: Patch pockets below the waist.
        gloss: Strength of the highlight.
    """
    shoulder, neck, wrist = person.joint("left_shoulder"), person.joint("neck"), person.joint("left_wrist")
    hem = float(person.joint("pelvis")[1] + cut.hem)
    end = float(shoulder[0] + cut.sleeve * (wrist[0] - shoulder[0]))
    chest = float(person.joint("spine3")[1] + 0.045)
    belt = float(person.joint("spine1")[1])
    chart: Chart = top_chart(shoulder, neck, belt, cut.flare)

    def colour(points: Array, normals: Array) -> Array:
        uv, sleeve = chart(points, normals)
        out = body(uv, points)
        on_sleeve = sleeve > 0.5
        if sleeves is not None and on_sleeve.any():
            out[on_sleeve] = sleeves(uv[on_sleeve], points[on_sleeve])
        x, y, front = np.abs(points[:, 0]), points[:, 1], points[:, 2] > 0
        armhole = shoulder[0] + 0.01 + 0.10 * np.clip(shoulder[1] - y - 0.04, -0.05, 0.1)
        seam = line(x, armhole, 0.0012) * (y > shoulder[1] - 0.15)
        seam = np.maximum(seam, line(y - hem, 0.018, 0.0010))
        seam = np.maximum(seam, line(x, end - 0.018, 0.0010) * on_sleeve)
        if trim is not None:
            out = mix(out, trim, smoothstep(end - 0.022, end - 0.020, x) * on_sleeve)
        if side_stripe is not None:
            turn = np.arctan2(points[:, 2] - shoulder[2], y - shoulder[1])
            out = mix(out, side_stripe, line(turn, 0.0, 0.28, 0.02) * on_sleeve)
            out = mix(out, side_stripe, line(turn, 0.75, 0.08, 0.02) * on_sleeve)
        if motif is not None:
            kind, first, second = motif
            out = chest_print(out, kind, points[:, 0], y - chest, front & ~on_sleeve, first, second)
        if buttons:
            placket = line(points[:, 0], 0.0, 0.0165, 0.0008) * front
            seam = np.maximum(seam, (line(points[:, 0], 0.016, 0.0010) + line(points[:, 0], -0.016, 0.0010)) * front)
            out = mix(out, out * 0.96, placket)
            height = (neck[1] - 0.085 - y) % 0.082 - 0.041
            button = (
                smoothstep(0.0062, 0.0050, np.hypot(points[:, 0], height))
                * front
                * (y < neck[1] - 0.06)
                * (y > hem + 0.04)
            )
            out = mix(out, (0.90, 0.88, 0.84) if out.mean() < 0.5 else (0.30, 0.26, 0.24), button)
        if pockets:
            low, high = belt - 0.20, belt - 0.05
            box = (x > 0.055) & (x < 0.165) & front
            seam = np.maximum(seam, box * (line(y, high, 0.0025) + line(y, low, 0.0015)))
            seam = np.maximum(seam, front * (y < high) * (y > low) * (line(x, 0.055, 0.0015) + line(x, 0.165, 0.0015)))
        return mix(out, out * 0.62, seam)

    return Finish(colour, gloss=gloss)


def chest_print(base: Array, kind: str, x: Array, y: Array, where: Array, first: Rgb, second: Rgb) -> Array:
    """A motif about the chest's middle, painted on the front."""
    radius = np.hypot(x, y)
    soft = 0.0012
    if kind == "ring":
        base = mix(base, first, line(radius, 0.082, 0.006, soft) * where)
        star = 0.055 * (0.62 + 0.38 * np.cos(5 * np.arctan2(x, y)))
        base = mix(base, second, smoothstep(star + soft, star - soft, radius) * where)
    elif kind == "peaks":
        inside = smoothstep(0.09, 0.088, radius) * where
        base = mix(base, first, inside)
        ridge = -0.02 + 0.045 * np.abs(np.abs(x / 0.06) % 1.0 - 0.5) * 2 - 0.25 * np.abs(x)
        base = mix(base, second, inside * smoothstep(ridge + 0.03, ridge + 0.027, y))
        base = mix(base, (0.95, 0.85, 0.45), inside * smoothstep(0.018, 0.016, np.hypot(x - 0.035, y - 0.045)))
    else:
        one = line(x, -0.035, 0.010, soft) * (np.abs(y) < 0.07)
        one = np.maximum(one, line(y, -0.062, 0.008, soft) * (np.abs(x + 0.035) < 0.026))
        upper = line(np.hypot(x - 0.035, y - 0.034), 0.027, 0.009, soft)
        lower = line(np.hypot(x - 0.035, y + 0.034), 0.032, 0.009, soft)
        base = mix(base, first, np.maximum(np.maximum(one, upper), lower) * where)
        base = mix(base, second, line(np.abs(y), 0.098, 0.006, soft) * (np.abs(x) < 0.12) * where)
    return base


def trouser_finish(
    person: Person, cut: TrouserCut, fabric: Pattern, stitch: Rgb, side_stripe: Rgb | None = None, cord: bool = False
) -> Finish:
    """Colour of trousers: seams, fly, pockets, waistband."""
    knee, pelvis, ankle = person.joint("left_knee"), person.joint("pelvis"), person.joint("left_ankle")
    chart = leg_chart(knee)
    waist, hem = float(pelvis[1] + cut.waist), float(ankle[1] + cut.hem)

    def colour(points: Array, normals: Array) -> Array:
        uv, turn = chart(points, normals)
        out = fabric(uv, points)
        x, y, front = np.abs(points[:, 0]), points[:, 1], points[:, 2] > 0
        seam = line(turn, np.pi / 2, 0.012, 0.01)
        seam = np.maximum(seam, line(points[:, 0], 0.0, 0.0016) * (y > pelvis[1] - 0.12))
        seam = np.maximum(seam, line(y, waist - 0.038, 0.0014))
        out = mix(out, out * 0.55, seam)
        pocket = np.hypot(x - 0.165, y - waist + 0.03)
        threads = line(pocket, 0.085, 0.0014) * front * (y < waist - 0.04) * (x > 0.06)
        threads = np.maximum(threads, line(pocket, 0.078, 0.0008) * front * (y < waist - 0.04) * (x > 0.06))
        panel = (np.abs(x - 0.085) < 0.062) & ~front & (y < waist - 0.075) & (y > waist - 0.21)
        edge = np.minimum(
            0.062 - np.abs(x - 0.085),
            np.minimum(waist - 0.075 - y, y - waist + 0.21 - 0.2 * np.clip(0.03 - np.abs(x - 0.085), 0, 1)),
        )
        threads = np.maximum(threads, line(edge, 0.003, 0.0010) * panel)
        threads = np.maximum(threads, line(y, hem + 0.018, 0.0010))
        threads = np.maximum(
            threads, line(points[:, 0], 0.028, 0.0010) * front * (y > waist - 0.15) * (y < waist - 0.04)
        )
        out = mix(out, stitch, 0.8 * threads)
        if side_stripe is not None:
            out = mix(out, side_stripe, line(turn, np.pi / 2, 0.20, 0.01))
        if cord:
            out = mix(
                out,
                (0.92, 0.92, 0.90),
                line(np.abs(points[:, 0]), 0.012, 0.003) * front * (np.abs(y - waist + 0.07) < 0.05),
            )
        else:
            loop = line((turn * 4 / np.pi) % 1.0, 0.5, 0.045, 0.01) * (y > waist - 0.04)
            out = mix(out, out * 0.75, loop)
            out = mix(
                out, (0.70, 0.62, 0.42), smoothstep(0.0075, 0.0062, np.hypot(points[:, 0], y - waist + 0.028)) * front
            )
        return out

    return Finish(colour, gloss=0.015)


def skirt_finish(person: Person, cut: SkirtCut, fabric: Pattern, band: Rgb) -> Finish:
    """Colour of a skirt with its waistband."""
    waist = float(person.joint("pelvis")[1] + cut.waist)

    def colour(points: Array, normals: Array) -> Array:
        uv, turn = skirt_chart(points, normals)
        out = fabric(uv, points)
        y = points[:, 1]
        out = mix(out, band, smoothstep(waist - 0.034, waist - 0.032, y))
        out = mix(out, out * 0.6, line(y, waist - 0.034, 0.0012) + line(y, waist - cut.length + 0.022, 0.0010))
        return mix(out, out * 0.6, line(np.abs(turn), np.pi / 2, 0.006, 0.004))

    return Finish(colour, gloss=0.02)


def skin_finish(
    noise: NoiseVolume, tone: Rgb, lip: Rgb, brow: Rgb, bearded: float = 0.0, socks: Rgb | None = None
) -> Finish:
    """Skin with blush, freckles, brows, lids and lips; its chart is the average body."""
    base = rgb(tone)

    def colour(points: Array, normals: Array) -> Array:
        x, y, z = np.abs(points[:, 0]), points[:, 1], points[:, 2]
        out = np.tile(base, (len(points), 1))
        out *= (1 + 0.035 * noise.fractal(points, 22.0, 3) + 0.03 * noise.fractal(points, 5.0, 2))[:, None]
        red = base * np.array([1.02, 0.84, 0.80], np.float32)
        flush = 0.45 * np.exp(-((x - 0.045) ** 2 + (y - 0.640) ** 2) / 0.020**2) * (z > 0.08)
        flush += 0.40 * np.exp(-(x**2 + (y - 0.645) ** 2) / 0.012**2) * (z > 0.125)
        for joint_x, joint_y in ((0.417, 0.443), (0.70, 0.443), (0.123, -0.406)):
            flush += 0.35 * np.exp(-((x - joint_x) ** 2 + (y - joint_y) ** 2) / 0.035**2)
        flush += 0.5 * smoothstep(0.77, 0.82, x) + 0.3 * (np.abs(x - 0.078) < 0.012) * (np.abs(y - 0.655) < 0.035)
        out = mix(out, red, flush)
        face = z > 0.075
        if bearded > 0:
            jaw = smoothstep(0.640, 0.615, y) * smoothstep(0.545, 0.575, y) * smoothstep(0.02, 0.05, z)
            lips = np.exp(-((x / 0.024) ** 2) - ((y - 0.608) / 0.010) ** 2)
            jaw = np.maximum(jaw, smoothstep(0.030, 0.022, x) * smoothstep(0.618, 0.622, y) * (y < 0.636) * face)
            grain = 0.75 + 0.25 * noise.fractal(points, 200.0, 1)
            out = mix(out, rgb(brow) * 1.05, bearded * jaw * (1 - lips) * np.clip(grain, 0.3, 1))
        arch = 0.6935 + 0.0045 * smoothstep(0.012, 0.036, x) - 0.010 * smoothstep(0.036, 0.056, x)
        hairs = 0.75 + 0.35 * noise.fractal(points * np.array([1, 3, 1], np.float32), 170.0, 1)
        taper = 0.0042 * smoothstep(0.058, 0.040, x) + 0.0006
        strength = line(y, arch, taper, 0.0012) * smoothstep(0.010, 0.016, x) * smoothstep(0.057, 0.050, x)
        out = mix(out, brow, 0.85 * strength * np.clip(hairs, 0.4, 1) * face)
        lid = np.hypot((x - 0.031) / 0.0165, (y - 0.6765) / 0.0075)
        out = mix(out, red * 0.72, 0.55 * smoothstep(1.75, 1.05, lid) * face)
        out = mix(out, rgb(brow) * 0.35, smoothstep(1.22, 1.02, lid) * (y > 0.6765) * face * 0.95)
        bow = 0.0068 - 0.0022 * np.exp(-((x / 0.005) ** 2)) + 0.0015 * np.exp(-(((x - 0.008) / 0.006) ** 2))
        width = np.clip(1 - (x / 0.0255) ** 2, 0, 1)
        lips = smoothstep(0.0012, -0.0006, np.abs(y - 0.6090 + 0.0006) - (bow + 0.0016 * (y < 0.609)) * width**0.7)
        out = mix(out, lip, 0.75 * lips * (z > 0.11))
        out = mix(out, rgb(lip) * 0.35, line(y, 0.6092, 0.0010, 0.0010) * smoothstep(0.0235, 0.019, x) * (z > 0.11))
        nostril = np.hypot((x - 0.0085) / 0.0042, (y - 0.6345) / 0.0022)
        out = mix(out, red * 0.30, 0.8 * smoothstep(1.3, 0.7, nostril) * (z > 0.12))
        shade = smoothstep(-0.006, 0.010, scalp(points)) * (y > 0.55)
        out = mix(out, rgb(brow) * 0.8, 0.8 * shade)
        nails = smoothstep(0.826, 0.829, x) * (normals[:, 1] > 0.3)
        out = mix(out, (0.90, 0.72, 0.68), 0.5 * nails)
        if socks is not None:
            rib = 1 + 0.05 * np.cos(np.arctan2(z, x - 0.13) * 40)
            out = mix(out, rgb(socks) * rib[:, None], smoothstep(-0.725, -0.728, y))
        return np.asarray(np.clip(out, 0, 1))

    return Finish(colour, gloss=0.05, sharpness=10.0, wrap=0.22, bounce=(1.0, 0.62, 0.50))


def eye_finish(iris: Rgb) -> Finish:
    """White, iris and pupil on the unit ball, looking ahead."""

    def colour(points: Array, _: Array) -> Array:
        off = np.hypot(points[:, 0], points[:, 1])
        ahead = points[:, 2] > 0
        out = np.tile(rgb((0.86, 0.84, 0.82)), (len(points), 1))
        out = mix(out, (0.80, 0.62, 0.58), smoothstep(0.55, 0.9, off))
        out = mix(out, rgb(iris) * 0.4, smoothstep(0.46, 0.42, off) * ahead)
        out = mix(out, iris, smoothstep(0.41, 0.36, off) * ahead)
        out = mix(out, (0.03, 0.03, 0.03), smoothstep(0.20, 0.16, off) * ahead)
        glint = np.hypot(points[:, 0] - 0.14, points[:, 1] - 0.18)
        return mix(out, (0.98, 0.98, 0.98), smoothstep(0.11, 0.07, glint) * ahead)

    return Finish(colour, gloss=0.25, sharpness=60.0)


def hair_finish(noise: NoiseVolume, colour: Rgb) -> Finish:
    """Strands along the flow from the crown, lighter towards the ends; a darker parting."""
    base = rgb(colour)

    def shade(points: Array, _: Array) -> Array:
        offset = points - HEAD
        circle, polar = flow(offset)
        along = np.where(offset[:, 1] < -0.02, polar.max() * 0 + 2.0 - 6 * offset[:, 1], polar)
        where = np.concatenate((circle * 34, (1.3 * along)[:, None]), 1).astype(np.float32)
        fine = noise.fractal(where, 1.0, 2)
        broad = noise.fractal((where * np.array([0.22, 0.22, 0.8], np.float32)).astype(np.float32), 1.0, 2)
        light = 1 + 0.22 * fine + 0.16 * broad + 0.25 * smoothstep(0.62, 0.40, points[:, 1])
        out = base * np.clip(light, 0.35, 2.0)[:, None]
        parting = line(points[:, 0], 0.022, 0.002, 0.002) * (points[:, 1] > CROWN - 0.02) * (offset[:, 2] > -0.02)
        return np.clip(mix(out, base * 0.5, 0.6 * parting), 0, 1)

    return Finish(shade, gloss=0.16, sharpness=18.0, wrap=0.15)


def shoe_finish(
    noise: NoiseVolume, person: Person, upper: Rgb, sole: Rgb, accent: Rgb, laces: bool, gloss: float
) -> Finish:
    """Upper, sole with a groove, toe cap, laces."""
    ankle = person.joint("left_ankle")
    bottom = float(person.dense.vertices[:, 1].min())
    tip = float(person.part_points("left_ankle", "left_foot")[:, 2].max())
    toe, heel = person.joint("left_foot"), person.joint("left_ankle")

    def colour(points: Array, normals: Array) -> Array:
        x, y, z = np.abs(points[:, 0]), points[:, 1] - bottom, points[:, 2]
        out = np.tile(rgb(upper), (len(points), 1)) * (1 + 0.02 * noise.fractal(points, 45.0, 3))[:, None]
        out = mix(
            out, out * 0.55, line(z, tip - 0.062 + 0.8 * (x - toe[0]) ** 2 / 0.05, 0.0014) * (normals[:, 1] > 0.2)
        )
        out = mix(out, accent, line(z - 0.45 * y, heel[2] + 0.062, 0.008) * (y < 0.06) * (np.abs(normals[:, 0]) > 0.5))
        middle = toe[0] + (heel[0] - toe[0]) * np.clip((toe[2] - z) / (toe[2] - heel[2]), -0.3, 1)
        tongue = np.abs(x - middle)
        vamp = (z > ankle[2] + 0.045) & (z < tip - 0.075) & (normals[:, 1] > 0.15) & (y > 0.03)
        if laces:
            out = mix(out, out * 0.6, line(tongue, 0.018, 0.0012) * vamp)
            out = mix(out, accent, repeat_line(z + 0.25 * tongue, 0.017, 0.0032) * vamp * (tongue < 0.024))
        out = mix(out, sole, smoothstep(0.006, 0.004, y))
        return np.clip(mix(out, rgb(sole) * 0.6, line(y, 0.004, 0.0014) + 0.5 * line(y, -0.008, 0.0010)), 0, 1)

    return Finish(colour, gloss=gloss, sharpness=22.0)
