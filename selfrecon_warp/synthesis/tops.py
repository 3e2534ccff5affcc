"""Clothes for the upper body grown around it, from a vest to a coat: ease, flare, sleeves, hems, collars and folds."""

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
from selfrecon_warp.synthesis.tubes import Tube, fade, smooth_min

CELL = 0.0085  # metres


@dataclass(frozen=True)
class TopCut:
    """Measures of a garment for the upper body, from a vest to a coat.

    Attributes:
        hem: Height of the hem relative to the pelvis joint [m].
        sleeve: Reach of the sleeve: 0 at the shoulder joint, 1 at the wrist joint.
        ease: Distance from the skin [m].
        chest_ease: More of it around the torso [m].
        sleeve_ease: More of it around the arm [m].
        flare: Widening of the body per metre below the waist.
        cuff: Narrowing of the sleeve at its end [m].
        neck_front: Depth of the neckline at the front, below the neck joint [m].
        neck_side: The same at the sides and back [m].
        vee: How pointed the neckline is, 0 to 1.
        waist: Narrowing at the waist [m].
        tuck: Narrowing at the hem of a top worn inside a waistband [m].
        open_front: Half width of the front opening at the chest and at the hem [m]; ``None`` for a closed front.
        collar: ``none``, ``rib``, ``shirt``, ``lapel`` or ``hood``.
        slack: How fast the cloth may return to the body below a bulge; see :class:`Tube`.
    """

    hem: float = -0.06
    sleeve: float = 0.4
    ease: float = 0.009
    chest_ease: float = 0.010
    sleeve_ease: float = 0.008
    flare: float = 0.0
    cuff: float = 0.0
    neck_front: float = 0.055
    neck_side: float = 0.012
    vee: float = 0.0
    waist: float = 0.0
    tuck: float = 0.0
    open_front: tuple[float, float] | None = None
    collar: str = "none"
    slack: float = 0.25


def top(person: Person, name: str, cut: TopCut, finish: Finish, noise: NoiseVolume, fold_height: float = 1.0) -> Layer:
    """Grow a garment for the upper body.

    Args:
        person: Who wears it.
        name: Name of the layer.
        cut: Measures.
        finish: Fabric.
        noise: Source of the folds.
        fold_height: Factor on all folds.
    """
    pelvis, neck = person.joint("pelvis"), person.joint("neck")
    shoulder, wrist = person.joint("left_shoulder"), person.joint("left_wrist")
    hem = float(pelvis[1] + cut.hem)
    long, sleeveless = cut.hem < -0.18, cut.sleeve < 0.12
    waist_height = float(person.joint("spine1")[1] + 0.03)
    armpit = float(shoulder[1] - 0.085)
    sleeve_end = float(shoulder[0] + cut.sleeve * (wrist[0] - shoulder[0]))

    arm_share = person.dense_weights[:, [JOINT[arm] for arm in ARMS]].sum(1)
    trunk = person.dense.vertices[(arm_share < 0.35) & (person.dense.vertices[:, 1] > hem - 0.03)]
    body = Tube(-trunk[:, 1], trunk[:, [0, 2]], -float(shoulder[1]) - 0.02, -hem + 0.04, cut.slack)
    snug = Tube(-trunk[:, 1], trunk[:, [0, 2]], body.start, -hem + 0.04) if cut.tuck else None
    sleeves = []
    for side, sign in (("left", 1.0), ("right", -1.0)):
        arm = person.part_points(f"{side}_shoulder", f"{side}_elbow", f"{side}_wrist", least=0.6)
        arm = arm[sign * arm[:, 0] < wrist[0] + 0.01]
        sleeves.append(
            (sign, Tube(sign * arm[:, 0], arm[:, [1, 2]], float(shoulder[0]) + 0.02, sleeve_end + 0.03, 0.12))
        )

    def around_body(points: Array) -> Array:
        distance, _, radius = body.polar(-points[:, 1], points[:, [0, 2]])
        below = np.clip(waist_height - points[:, 1], 0, None)
        room = cut.ease + cut.chest_ease + cut.flare * below
        room = room - cut.waist * np.exp(-(((points[:, 1] - waist_height) / 0.07) ** 2))
        if snug is not None:
            tucked = smoothstep(hem + 0.09, hem + 0.05, points[:, 1])
            close = snug.polar(-points[:, 1], points[:, [0, 2]])
            distance, radius = distance + (close[0] - distance) * tucked, radius + (close[2] - radius) * tucked
            room = room - cut.tuck * tucked
        return np.asarray(distance - radius - room + fade(points[:, 1] - armpit + 0.02, 0.9, 0.16))

    def around_arm(points: Array, sign: float, tube: Tube) -> Array:
        along = sign * points[:, 0]
        distance, angle, radius = tube.polar(along, points[:, [1, 2]])
        room = cut.ease + cut.sleeve_ease * (1 - 0.45 * np.cos(angle))
        room = room - cut.cuff * smoothstep(sleeve_end - 0.06, sleeve_end - 0.015, along)
        return np.asarray(distance - radius - room + fade(shoulder[0] + 0.09 - along))

    def signed(points: Array) -> Array:
        tucked = cut.tuck * smoothstep(hem + 0.09, hem + 0.05, points[:, 1])
        total = smooth_min(person.soft_distance(points) - cut.ease - 0.003 + 0.6 * tucked, around_body(points), 0.03)
        for sign, tube in sleeves:
            if not sleeveless:
                total = smooth_min(total, around_arm(points, sign, tube), 0.03)
        return total

    def neckline(points: Array) -> Array:
        forward = smoothstep(-0.05, 0.08, points[:, 2])
        point = np.clip(1 - np.abs(points[:, 0]) / (0.09 * (1 - cut.vee) + 0.075 * cut.vee), 0, 1)
        depth = cut.neck_side + (cut.neck_front - cut.neck_side) * forward * (
            point**0.6 * (1 - cut.vee) + point * cut.vee
        )
        return np.where(np.abs(points[:, 0]) < shoulder[0] * 0.95, neck[1] - depth - points[:, 1], 0.3)

    def hemline(points: Array) -> Array:
        return np.asarray(points[:, 1] - hem + 0.006 * np.cos(2 * np.arctan2(points[:, 0], points[:, 2])))

    def cuffs(points: Array) -> Array:
        within = sleeve_end - np.abs(points[:, 0])
        if sleeveless:
            below = shoulder[1] - 0.115 - 0.6 * np.clip(within + 0.02, -0.05, 0) - points[:, 1]
            return np.asarray(np.maximum(within, below))
        return np.where(points[:, 1] > armpit - 0.16, within, 0.3)

    cuts: dict[str, Field] = {"neck": neckline, "hem": hemline, "cuff": cuffs}
    if cut.open_front is not None:
        top_width, bottom_width = cut.open_front

        def front(points: Array) -> Array:
            share = np.clip((neck[1] - 0.05 - points[:, 1]) / (neck[1] - hem), 0, 1)
            width = top_width + (bottom_width - top_width) * share + 0.035 * smoothstep(0.25, 0.0, share)
            return np.where(points[:, 2] > body.centre(-points[:, 1])[:, 1], np.abs(points[:, 0] - 0.008) - width, 0.3)

        cuts["front"] = front

    spread = 0.09 + cut.flare * max(waist_height - hem, 0)
    reach = max(sleeve_end + 0.05, float(np.abs(trunk[:, 0]).max()) + spread)
    wide = float(np.abs(trunk[:, 2]).max()) + spread
    box = (np.array([-reach, hem - 0.04, -wide]), np.array([reach, neck[1] + 0.05, wide]))
    mesh = keep_off(person, grow_sheet(signed, cuts, box, CELL), 0.7 * cut.ease)

    def folds(points: Array, _: Array) -> Folds:
        return top_folds(person, points, noise, cut, fold_height)

    def sway(points: Array) -> Array:
        return 0.9 * smoothstep(waist_height, hem, points[:, 1]) ** 1.5 if long else np.zeros(len(points), np.float32)

    trims = [Trim("hem", HEM), Trim("cuff", HEM)]
    trims += collar_trims(cut, float(neck[1]))
    return finish_layer(
        person,
        name,
        "clothes",
        mesh,
        cuts,
        finish,
        folds,
        trims,
        weight_passes=60 if long else 14,
        sway=sway,
        clearance=0.8 * cut.ease if long else None,
        cover_margin=0.14 if long else 0.035,
    )


def collar_trims(cut: TopCut, neck_height: float) -> list[Trim]:
    """Strips along neckline and front edges for a kind of collar."""
    if cut.collar == "none":
        trims = [Trim("neck", HEM)]
    elif cut.collar == "rib":
        rib = [(0.001, 0.0025), (0.012, 0.003), (0.018, 0.001), (0.016, -0.003), (0.0, -0.004)]
        trims = [Trim("neck", rib, fold="straight")]
    elif cut.collar == "hood":
        roll = [
            (-0.01, -0.006),
            (0.012, 0.002),
            (0.032, 0.018),
            (0.034, 0.04),
            (0.012, 0.058),
            (-0.025, 0.058),
            (-0.052, 0.036),
            (-0.058, 0.006),
        ]
        trims = [Trim("neck", roll, lambda p: 0.4 + 0.75 * smoothstep(0.06, -0.06, p[:, 2]), fold="outwards")]
    else:
        tall = 0.030 if cut.collar == "shirt" else 0.034
        turned = [
            (-0.004, -0.003),
            (0.55 * tall, -0.002),
            (tall, 0.003),
            (0.96 * tall, 0.009),
            (0.45 * tall, 0.014),
            (-0.25 * tall, 0.017),
            (-0.34 * tall, 0.016),
            (-0.36 * tall, 0.012),
        ]
        trims = [Trim("neck", turned, fold="outwards")]
    if cut.open_front is not None and cut.collar == "lapel":

        def width(points: Array) -> Array:
            drop = neck_height - points[:, 1]
            return smoothstep(0.34, 0.14, drop) * smoothstep(0.01, 0.06, drop) + 0.04

        lapel = [
            (-0.006, -0.003),
            (0.004, 0.0),
            (0.003, 0.008),
            (-0.02, 0.013),
            (-0.05, 0.014),
            (-0.07, 0.012),
            (-0.074, 0.006),
        ]
        trims.append(Trim("front", lapel, width, fold="outwards"))
    elif cut.open_front is not None:
        trims.append(Trim("front", HEM))
    return trims


def top_folds(person: Person, points: Array, noise: NoiseVolume, cut: TopCut, height: float) -> Folds:
    """Folds of a top: drape from the chest, pulls at the armpits, rings at elbows and wrists, a gathered hem."""
    folds = Folds()
    folds.vary(noise, points)
    shoulder, elbow, wrist = (person.joint(f"left_{name}") for name in ("shoulder", "elbow", "wrist"))
    hem = float(person.joint("pelvis")[1] + cut.hem)
    x, y, z = np.abs(points[:, 0]), points[:, 1], points[:, 2]
    warp = noise.fractal(points, 7.0, 2)
    sleeve = smoothstep(float(shoulder[0]), float(shoulder[0]) + 0.06, x) * smoothstep(0.2, 0.14, shoulder[1] - y)
    trunk = 1 - sleeve
    if cut.tuck:
        trunk = trunk * (0.1 + 0.9 * smoothstep(hem + 0.03, hem + 0.07, y))
    around = np.arctan2(points[:, 0], z)
    arc = around * 0.15
    loose = height * (0.6 + 12 * (cut.ease + cut.chest_ease))
    hang = smoothstep(float(shoulder[1]) - 0.12, max(hem, float(person.joint("spine1")[1]) - 0.1), y)
    folds.add_waves(
        2 * np.pi * (arc + 0.018 * warp + 0.12 * (y - hem) * np.sign(points[:, 0])) / 0.085,
        trunk * hang * loose * 0.0034,
        0.45,
        1.3,
    )
    pit = np.exp(-((x - shoulder[0] + 0.02) ** 2 + (y - shoulder[1] + 0.09) ** 2) / 0.10**2)
    folds.add_waves(
        2 * np.pi * (x + 0.8 * y + 0.014 * warp) / 0.055,
        pit * loose * 0.0036,
        0.3,
        0.6,
        ("left_shoulder", "right_shoulder"),
    )
    gather = np.exp(-(((y - hem - 0.075) / 0.055) ** 2)) * trunk
    folds.add_waves(
        2 * np.pi * (y + 0.022 * warp + 0.02 * np.sin(3 * around)) / 0.048,
        gather * loose * 0.0032 * float(cut.flare < 0.05),
        0.4,
        1.0,
        ("spine1", "spine2"),
    )
    turn = np.arctan2(z, y - shoulder[1])
    ring = np.exp(-(((x - elbow[0]) / 0.075) ** 2)) + 0.5 * smoothstep(float(shoulder[0]), float(elbow[0]), x)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        here = sleeve * (points[:, 0] * sign > 0)
        folds.add_waves(
            2 * np.pi * (x + 0.012 * warp + 0.010 * np.cos(turn + sign)) / 0.045,
            here * ring * loose * 0.0034,
            0.3,
            0.7,
            (f"{side}_elbow",),
        )
    cuff = np.exp(-(((x - wrist[0] + 0.05) / 0.05) ** 2)) * sleeve * float(cut.sleeve > 0.8)
    folds.add_waves(2 * np.pi * (x + 0.010 * warp) / 0.030, cuff * loose * 0.0026, 0.25, 0.5)
    if cut.hem < -0.18:
        down = np.clip((person.joint("spine1")[1] - y) / 0.5, 0, 1.2)
        folds.add_waves(
            9 * around + 1.2 * warp + 0.8 * np.sin(2 * around),
            down**1.3 * (0.006 + 0.04 * cut.flare),
            0.35,
            1.1,
            ("left_hip", "right_hip"),
        )
    broad_folds(folds, noise, points, 9.0, 0.0016 * loose * (0.4 + 0.6 * hang))
    return folds
