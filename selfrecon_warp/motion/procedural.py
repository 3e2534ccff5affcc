"""Motions made by rule, for any proportions: ``walk`` and ``sway``. Both loop.

Feet are placed first: a standing foot rolls over its heel, lies flat and rolls over its ball, which all stay where they
are; a swinging one follows a curve from where it left to where it lands. The pelvis is as high as the standing legs
allow, legs reach for the feet, and trunk and arms swing against the hips.

Source: figures of level walking at ease, after Perry and Burnfield, Gait Analysis, 2010.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.interpolate import CubicHermiteSpline, PchipInterpolator

from selfrecon_warp.motion.clip import Motion
from selfrecon_warp.motion.joints import JOINT, JOINT_NAMES
from selfrecon_warp.motion.legs import FootPath, highest_pelvis, reach
from selfrecon_warp.motion.rotations import Floats, about, matrices, vectors
from selfrecon_warp.motion.skeleton import SIDES, Skeleton

TURN = 2 * np.pi
ARMS_DOWN = np.radians(73.0)

WALK_CYCLES = 4
CYCLE_SECONDS = 1.1
STRIDE = 1.34  # of a leg's length
STANCE = 0.62  # share of the cycle that a foot is on the ground
LANDING = 0.44  # share of its stance that a foot is ahead of the pelvis
BETWEEN_ANKLES = 0.80  # of the hips' width
TOES_OUT = np.radians(6.0)
# Pitch of the foot [degrees, toes up] over the cycle that begins when the heel lands.
PITCH_PHASES = (0.0, 0.09, 0.34, 0.50, 0.62, 0.70, 0.83, 0.93, 1.0)
PITCHES = (17.0, 0.0, 0.0, -16.0, -46.0, -38.0, 2.0, 17.0, 17.0)
SWING_LIFT_M = 0.02

SWAY_SECONDS = 8.0
BREATHS = 2  # in that time


def walk(skeleton: Skeleton, frame_rate: float = 30.0) -> Motion:
    """Four strides straight ahead, from the origin along +z.

    Args:
        skeleton: Who walks; the path fits these legs.
        frame_rate: Frames a second.
    """
    count = round(WALK_CYCLES * CYCLE_SECONDS * frame_rate)
    cycles = WALK_CYCLES * np.arange(count) / count
    stride = STRIDE * skeleton.leg_length
    feet, standing = [], []
    for side, sign, late in zip(SIDES, (1.0, -1.0), (0.0, 0.5), strict=True):
        path, stands = _step(skeleton, side, cycles + late, stride, late, sign)
        feet.append(path)
        standing.append(stands)
    wave = np.cos(TURN * cycles)  # 1 as the left heel lands
    over = np.cos(TURN * (cycles - 0.5 * STANCE))  # 1 as the left leg carries
    turns = about("y", np.radians(-5.0) * wave) @ about("z", np.radians(3.0) * over) @ about("x", np.radians(2.0))
    pelvis = np.stack((0.018 * over, np.zeros(count), stride * cycles), 1)
    limit = highest_pelvis(skeleton, pelvis, turns, (feet[0], feet[1]), np.stack(standing, 1))
    pelvis[:, 1] = _below(limit, cycles)
    forward = np.stack((-wave, wave), 1)  # arms, left and right
    rotations = _upper_body(
        turns,
        chest=about("y", np.radians(4.0) * wave) @ about("x", np.radians(3.0)),
        head=about("x", np.radians(1.0 + np.cos(2 * TURN * cycles))),
        shoulders=np.radians(-2.0 + 17.0 * forward),
        elbows=np.radians(20.0 + 9.0 * forward),
    )
    reach(skeleton, rotations, pelvis, (feet[0], feet[1]))
    pelvis[:, 1] -= _floor(skeleton)
    return Motion("walk", skeleton.local(rotations), pelvis, frame_rate, skeleton.leg_length, loops=True, grounded=True)


def sway(skeleton: Skeleton, frame_rate: float = 30.0) -> Motion:
    """Standing at ease: breathing, shifting weight from foot to foot, looking about.

    Args:
        skeleton: Who stands.
        frame_rate: Frames a second.
    """
    count = round(SWAY_SECONDS * frame_rate)
    phase = TURN * np.arange(count) / count
    shift, breath = np.sin(phase), np.sin(BREATHS * phase)
    feet = []
    for side, sign in zip(SIDES, (1.0, -1.0), strict=True):
        rest = skeleton.joints[JOINT[f"{side}_ankle"]]
        ankles = np.tile([rest[0], 0.0, 0.0], (count, 1))
        flat = np.tile(about("y", sign * 1.5 * TOES_OUT), (count, 1, 1))
        feet.append(FootPath(ankles, flat, flat))
    turns = (
        about("y", np.radians(2.0) * np.sin(phase + 0.6))
        @ about("z", np.radians(1.6) * shift)
        @ about("x", np.radians(0.8) * np.sin(2 * phase + 1.0))
    )
    pelvis = np.stack((0.024 * shift, np.zeros(count), 0.02 + 0.006 * np.sin(2 * phase + 0.4)), 1)
    limit = highest_pelvis(skeleton, pelvis, turns, (feet[0], feet[1]), np.ones((count, 2), bool))
    pelvis[:, 1] = limit.min() - 0.004 + 0.002 * breath
    both = np.ones((1, 2))
    rotations = _upper_body(
        turns,
        chest=about("z", np.radians(-0.8) * shift) @ about("x", np.radians(1.0 - 1.3 * breath)),
        head=about("y", np.radians(7.0) * np.sin(phase - 0.9)) @ about("x", np.radians(2.0 + 1.2 * np.sin(2 * phase))),
        shoulders=np.radians(1.5 * np.sin(phase + 0.3))[:, None] * both,
        elbows=np.radians(14.0 + 1.5 * breath)[:, None] * both,
        lift=np.radians(0.5 + 1.2 * breath),
    )
    reach(skeleton, rotations, pelvis, (feet[0], feet[1]))
    pelvis[:, 1] -= _floor(skeleton)
    return Motion("sway", skeleton.local(rotations), pelvis, frame_rate, skeleton.leg_length, loops=True, grounded=True)


PROCEDURES: Mapping[str, Callable[[Skeleton, float], Motion]] = {"walk": walk, "sway": sway}
"""The motions that ship."""


def _floor(skeleton: Skeleton) -> float:
    """Height of the floor, the ankles of flat feet being at zero."""
    return min(foot.sole for foot in skeleton.feet)


def _below(limit: Floats, cycles: Floats) -> Floats:
    """The smooth curve of two waves a cycle that comes closest to the limits from below."""
    waves = np.stack((np.ones_like(cycles), np.cos(2 * TURN * cycles), np.sin(2 * TURN * cycles)), 1)
    curve = waves @ np.linalg.lstsq(waves, limit, rcond=None)[0]
    return np.asarray(curve - np.maximum(curve - limit, 0.0).max())


def _step(
    skeleton: Skeleton, side: str, cycles: Floats, stride: float, late: float, sign: float
) -> tuple[FootPath, np.ndarray]:
    """One foot's way, its ankle at height zero when it lies flat, and where it stands."""
    foot = skeleton.feet[SIDES.index(side)]
    phase, number = cycles % 1.0, np.floor(cycles)
    hips = abs(skeleton.joints[JOINT["left_hip"], 0] - skeleton.joints[JOINT["right_hip"], 0])
    out = about("y", sign * TOES_OUT)

    def ankle(at: Floats) -> Floats:
        """Relative to where it is when the foot lies flat."""
        pitch = np.radians(_pitch(at))
        heel, ball = [0.0, foot.sole, foot.heel], [0.0, _toe_height(skeleton, side), foot.ball]
        pivot = np.where((pitch > 0)[:, None], heel, ball)
        return (out @ (pivot - (_pitched(pitch) @ pivot[..., None])[..., 0])[..., None])[..., 0]

    # The swing, in phases of the cycle: where and how fast the foot leaves and lands.
    step = 1e-4
    ends = np.array([STANCE, 1.0])
    places = np.stack((ankle(ends[:1])[0], ankle(np.zeros(1))[0] + [0.0, 0.0, stride]))
    speeds = np.stack(
        (
            (ankle(ends[:1]) - ankle(ends[:1] - step))[0] / step,
            (ankle(np.array([step])) - ankle(np.zeros(1)))[0] / step,
        )
    )
    swing = CubicHermiteSpline(ends, places, speeds)
    stands = phase < STANCE
    share = np.clip((phase - STANCE) / (1 - STANCE), 0.0, 1.0)
    local = np.where(stands[:, None], ankle(phase), swing(np.maximum(phase, STANCE)))
    local[:, 1] += np.where(stands, 0.0, SWING_LIFT_M * np.sin(np.pi * share**0.6) ** 2)
    flat = stride * (number - late + LANDING * STANCE)  # the pelvis is at stride * (cycles - late)
    ankles = np.stack((np.full_like(phase, sign * 0.5 * BETWEEN_ANKLES * hips), np.zeros_like(phase), flat), 1)
    ankles += local
    pitch = np.radians(_pitch(phase))
    bent = np.where(stands, np.minimum(pitch, 0.0), np.minimum(pitch, 0.0) * (1 - share) ** 3)
    return FootPath(ankles, out @ _pitched(pitch), out @ _pitched(pitch - bent)), stands


def _toe_height(skeleton: Skeleton, side: str) -> float:
    """Height of the joint at the ball above the ankle, negative."""
    return float(skeleton.joints[JOINT[f"{side}_foot"], 1] - skeleton.joints[JOINT[f"{side}_ankle"], 1])


def _pitched(pitch: Floats) -> Floats:
    """Rotation of a foot whose toes are up by an angle."""
    return about("x", -pitch)


_pitch = PchipInterpolator(PITCH_PHASES, PITCHES)


def _upper_body(
    pelvis: Floats, *, chest: Floats, head: Floats, shoulders: Floats, elbows: Floats, lift: Floats | float = 0.0
) -> Floats:
    """World rotations ``[N, 24, 3, 3]`` without the legs'.

    Args:
        pelvis: World rotations, ``[N, 3, 3]``.
        chest: World rotations, ``[N, 3, 3]``; the spine bends evenly between.
        head: World rotations, ``[N, 3, 3]``.
        shoulders: How far the left and the right arm swing forward [rad], ``[N, 2]``.
        elbows: How far they bend [rad], ``[N, 2]``.
        lift: How far the collar bones rise [rad], ``[N]``.
    """
    count = len(pelvis)
    rotations = np.broadcast_to(np.eye(3), (count, len(JOINT_NAMES), 3, 3)).copy()
    rotations[:, 0] = pelvis
    bend = _power(pelvis.swapaxes(1, 2) @ chest)
    for joint, share in (("spine1", 1 / 3), ("spine2", 2 / 3), ("spine3", 1.0)):
        rotations[:, JOINT[joint]] = pelvis @ bend(share)
    nod = _power(chest.swapaxes(1, 2) @ head)
    rotations[:, JOINT["neck"]], rotations[:, JOINT["head"]] = chest @ nod(0.5), head
    for column, (side, sign) in enumerate(zip(SIDES, (1.0, -1.0), strict=True)):
        collar = chest @ about("z", sign * np.broadcast_to(lift, count))
        upper = chest @ about("x", -shoulders[:, column]) @ about("z", -sign * ARMS_DOWN)
        lower = upper @ about("y", -sign * elbows[:, column])
        parts = {"collar": collar, "shoulder": upper, "elbow": lower, "wrist": lower, "hand": lower}
        for part, rotation in parts.items():
            rotations[:, JOINT[f"{side}_{part}"]] = rotation
    return rotations


def _power(rotations: Floats) -> Callable[[float], Floats]:
    """A share of rotations ``[N, 3, 3]``."""
    turned = vectors(rotations)
    return lambda share: matrices(share * turned)
