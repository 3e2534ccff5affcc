"""Trousers and skirts grown around a body: ease, flare, hems, waistbands and folds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from selfrecon_warp.synthesis.layers import (
    HEM,
    Field,
    Finish,
    Folds,
    Layer,
    Trim,
    broad_folds,
    finish_layer,
    grow_sheet,
    keep_off,
)
from selfrecon_warp.synthesis.mesh_tools import Array
from selfrecon_warp.synthesis.noise import NoiseVolume, smoothstep
from selfrecon_warp.synthesis.person import ARMS, JOINT, Person
from selfrecon_warp.synthesis.tubes import Tube, fade, smooth_max, smooth_min

CELL = 0.0085  # metres


@dataclass(frozen=True)
class TrouserCut:
    """Measures of trousers.

    Attributes:
        hem: Height relative to the ankle joint [m].
        waist: Height relative to the pelvis joint [m].
        ease: Distance from the skin [m].
        leg_ease: More of it around the legs [m].
        slack: How fast the legs may narrow again below a bulge; see :class:`Tube`.
        flare: Widening per metre below the knee.
        gather: Narrowing at the hem [m].
    """

    hem: float = 0.02
    waist: float = 0.085
    ease: float = 0.009
    leg_ease: float = 0.008
    slack: float = 0.10
    flare: float = 0.0
    gather: float = 0.0


def trousers(
    person: Person, name: str, cut: TrouserCut, finish: Finish, noise: NoiseVolume, height: float = 1.0
) -> Layer:
    """Grow trousers or shorts; see :func:`top` for the arguments."""
    pelvis, ankle, knee = person.joint("pelvis"), person.joint("left_ankle"), person.joint("left_knee")
    hem, waist = float(ankle[1] + cut.hem), float(pelvis[1] + cut.waist)
    trunk_points = person.part_points("pelvis", "left_hip", "right_hip", "spine1")
    middle = person.dense.vertices[np.abs(person.dense.vertices[:, 0]) < 0.012]
    crotch = float(middle[middle[:, 1] > knee[1]][:, 1].min())
    hips = trunk_points[trunk_points[:, 1] > crotch - 0.02]
    seat = Tube(-hips[:, 1], hips[:, [0, 2]], -waist - 0.03, -crotch + 0.01, 0.9)
    legs = []
    for side, sign in (("left", 1.0), ("right", -1.0)):
        leg = person.part_points(f"{side}_hip", f"{side}_knee", f"{side}_ankle", least=0.5)
        leg = leg[(leg[:, 1] > ankle[1] + 0.015) & (leg[:, 1] < crotch + 0.08) & (sign * leg[:, 0] > 0.004)]
        legs.append((sign, Tube(-leg[:, 1], leg[:, [0, 2]], -crotch - 0.07, -hem + 0.04, cut.slack)))

    def signed(points: Array) -> Array:
        y = points[:, 1]
        soft = person.soft_distance(points) - cut.ease - 0.002 + 0.003 * smoothstep(waist - 0.06, waist, y)
        distance, _, radius = seat.polar(-y, points[:, [0, 2]])
        total = smooth_min(soft, distance - radius - cut.ease + fade(crotch + 0.06 - y), 0.025)
        for sign, tube in legs:
            distance, _, radius = tube.polar(-y, points[:, [0, 2]])
            room = cut.ease + cut.leg_ease * smoothstep(crotch + 0.06, crotch - 0.16, y)
            room = room + cut.flare * np.clip(knee[1] - y, 0, None)
            room = room - cut.gather * smoothstep(hem + 0.05, hem + 0.02, y)
            leg = distance - radius - room + fade(y - crotch - 0.01)
            apart = 0.008 - sign * points[:, 0] - 0.3 * np.clip(y - crotch + 0.03, 0, None)
            total = smooth_min(total, smooth_max(leg, apart, 0.012), 0.02)
        return total

    cuts: dict[str, Field] = {
        "waist": lambda p: waist - 0.012 * smoothstep(-0.05, 0.10, p[:, 2]) - p[:, 1],
        "hem": lambda p: p[:, 1] - hem - 0.25 * np.clip(p[:, 2] - ankle[2] - 0.02, 0, 0.05),
    }
    hips_wide = float(np.abs(trunk_points).max(0)[0])
    reach = np.array([hips_wide + 0.09 + cut.flare * 0.4, 0, float(np.abs(trunk_points).max(0)[2]) + 0.09])
    box = (np.array([0, hem - 0.03, -0.02]) - reach, np.array([0, waist + 0.03, 0.02]) + reach)
    mesh = keep_off(person, grow_sheet(signed, cuts, box, CELL), 0.6 * cut.ease)

    def folds(points: Array, _: Array) -> Folds:
        packets = Folds()
        packets.vary(noise, points)
        y, z, x = points[:, 1], points[:, 2], np.abs(points[:, 0])
        warp = noise.fractal(points, 7.0, 2)
        loose = height * (0.6 + 16 * (cut.ease + cut.leg_ease))
        turn = np.arctan2(points[:, 2], x - knee[0])
        for side, sign in (("left", 1.0), ("right", -1.0)):
            here = (points[:, 0] * sign > 0).astype(np.float32)
            bend = np.exp(-(((y - knee[1]) / 0.08) ** 2)) * (0.7 - 0.3 * np.sin(turn))
            packets.add_waves(
                2 * np.pi * (y + 0.016 * warp + 0.02 * np.cos(turn)) / 0.05,
                here * bend * loose * 0.0036,
                0.3,
                0.6,
                (f"{side}_knee",),
            )
            thigh = smoothstep(knee[1], crotch, y) * smoothstep(crotch + 0.08, crotch, y)
            packets.add_waves(
                2 * np.pi * (0.8 * y - 0.6 * x + 0.02 * warp) / 0.075,
                here * thigh * loose * 0.0030,
                0.4,
                0.8,
                (f"{side}_hip",),
            )
            shin = smoothstep(knee[1], knee[1] - 0.12, y)
            packets.add_waves(3 * turn + 9 * y + 1.3 * warp, here * shin * loose * 0.0022, 0.4, 0.8)
        stack = np.exp(-(((y - hem - 0.045) / 0.05) ** 2)) * float(hem < ankle[1] + 0.1)
        packets.add_waves(
            2 * np.pi * (y + 0.016 * warp + 0.010 * np.cos(turn)) / 0.036, stack * loose * 0.0042, 0.25, 0.6
        )
        fork = np.exp(-(x**2 + (y - crotch - 0.02) ** 2) / 0.085**2) * (0.5 + 0.5 * np.sign(z))
        packets.add_waves(
            2 * np.pi * (y - crotch - 0.55 * x + 0.010 * warp) / 0.036,
            fork * loose * 0.0030,
            0.3,
            0.6,
            ("left_hip", "right_hip"),
        )
        broad_folds(packets, noise, points, 9.0, 0.0014 * loose * smoothstep(waist, waist - 0.12, y))
        return packets

    belt = [(0.0, 0.002), (0.0, 0.0035), (0.001, -0.003), (-0.01, -0.004)]
    trims = [Trim("hem", HEM), Trim("waist", belt)]
    return finish_layer(person, name, "clothes", mesh, cuts, finish, folds, trims, weight_passes=10)


@dataclass(frozen=True)
class SkirtCut:
    """Measures of a skirt.

    Attributes:
        length: From waist to hem [m].
        waist: Height relative to the pelvis joint [m].
        ease: Distance from the skin [m].
        flare: Widening per metre.
        flutes: Number of folds around.
        depth: Height of the folds at the hem [m].
        pleats: Pressed folds in place of soft ones.
    """

    length: float = 0.48
    waist: float = 0.09
    ease: float = 0.010
    flare: float = 0.16
    flutes: int = 9
    depth: float = 0.012
    pleats: bool = False


def skirt(person: Person, name: str, cut: SkirtCut, finish: Finish, noise: NoiseVolume) -> Layer:
    """Grow a skirt; see :func:`top` for the arguments."""
    pelvis = person.joint("pelvis")
    waist = float(pelvis[1] + cut.waist)
    hem = waist - cut.length
    arm_share = person.dense_weights[:, [JOINT[arm] for arm in ARMS]].sum(1)
    points = person.dense.vertices[
        (arm_share < 0.1) & (np.abs(person.dense.vertices[:, 1] - (waist + hem) / 2) < cut.length / 2 + 0.05)
    ]
    body = Tube(-points[:, 1], points[:, [0, 2]], -waist - 0.03, -hem + 0.04, 0.05)

    def signed(at: Array) -> Array:
        distance, _, radius = body.polar(-at[:, 1], at[:, [0, 2]])
        below = np.clip(waist - 0.05 - at[:, 1], 0, None)
        return np.asarray(distance - radius - cut.ease - cut.flare * below)

    cuts: dict[str, Field] = {
        "waist": lambda p: waist - p[:, 1],
        "hem": lambda p: p[:, 1] - hem + 0.01 * np.cos(2 * np.arctan2(p[:, 0], p[:, 2])),
    }
    side = np.abs(points).max(0) + 0.05 + (cut.flare + 0.05) * cut.length
    box = (np.array([-side[0], hem - 0.03, -side[2]]), np.array([side[0], waist + 0.02, side[2]]))
    mesh = grow_sheet(signed, cuts, box, CELL)

    def folds(at: Array, _: Array) -> Folds:
        packets = Folds()
        around = np.arctan2(at[:, 0], at[:, 2])
        down = np.clip((waist - at[:, 1]) / cut.length, 0, 1)
        warp = noise.fractal(at, 6.0, 2)
        if cut.pleats:
            tooth = (around * cut.flutes / (2 * np.pi)) % 1.0
            sharp = np.minimum(tooth / 0.8, (1 - tooth) / 0.2) - 0.5
            packets.add_pair(np.zeros_like(down), np.zeros_like(down))
            packets.still[-1] = (cut.depth * (0.25 + 0.75 * down) * sharp).astype(np.float32)
            packets.add_waves(5 * around + warp, 0.005 * down**1.5, 0.7, 1.2, ("left_hip", "right_hip"))
        else:
            packets.add_waves(
                cut.flutes * around + 1.0 * warp + 0.7 * np.sin(around + 1),
                cut.depth * down**1.2,
                0.4,
                1.3,
                ("left_hip", "right_hip"),
            )
            packets.add_waves((2 * cut.flutes + 3) * around + 1.6 * warp, 0.18 * cut.depth * (0.2 + down), 0.4, 1.0)
        broad_folds(packets, noise, at, 8.0, 0.0022 * smoothstep(0.0, 0.3, down))
        return packets

    band = [(0.0, 0.002), (0.001, 0.003), (0.002, -0.002), (-0.01, -0.004)]
    return finish_layer(
        person,
        name,
        "clothes",
        mesh,
        cuts,
        finish,
        folds,
        [Trim("hem", HEM), Trim("waist", band)],
        weight_passes=80,
        sway=lambda p: smoothstep(waist, hem, p[:, 1]) ** 1.5,
        clearance=0.007,
        cover_margin=0.18,
        tuck_margin=0.012,
    )
