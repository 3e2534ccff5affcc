"""Everything that is not cloth: skin, eyes, hair and shoes."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.sparse import csr_matrix

from selfrecon_warp.synthesis.layers import (
    Finish,
    Folds,
    Layer,
    Trim,
    finish_layer,
    follow_matrix,
    grow_sheet,
    lattice,
    sampled,
)
from selfrecon_warp.synthesis.mesh_tools import Array, Mesh, clip, smooth_mesh, surface_nets, unit, vertex_normals
from selfrecon_warp.synthesis.noise import NoiseVolume, smoothstep
from selfrecon_warp.synthesis.person import JOINT, Person
from selfrecon_warp.synthesis.tubes import smooth_max, smooth_min

EYE = np.array([0.031, 0.677, 0.108], np.float32)  # centre of the left eyeball on the average body [m]
EYE_RADIUS = 0.0135
HEAD = np.array([0.0, 0.69, 0.035], np.float32)  # middle of the skull on the average body [m]
CROWN = 0.785  # height of the crown on the average body [m]
SHOE_CELL = 0.0065
HAIR_CELL = 0.0065


def skin(person: Person, finish: Finish) -> Layer:
    """The body itself, each face split in four; it looks its colour up on the average body."""
    mesh = person.dense
    count = len(mesh.vertices)
    breath = chest_breath(person, mesh.vertices)
    folds = Folds()
    folds.add_pair(breath, np.zeros(count), 1.5)
    return Layer(
        name="body",
        part="skin",
        mesh=mesh,
        lift=person.dense_normals,
        weights=person.dense_weights,
        follow=follow_matrix(person, mesh.vertices),
        finish=finish,
        chart=person.landmarks,
        folds=folds,
        sway=np.zeros(count, np.float32),
    )


def chest_breath(person: Person, points: Array) -> Array:
    """How far the chest rises with the breath [m], ``[P]``."""
    centre = person.joint("spine3") + np.array([0, 0.06, 0.09])
    return np.asarray(0.004 * np.exp(-((points - centre) ** 2).sum(1) / 0.11**2), np.float32)


def to_landmarks(person: Person, points: Array) -> Array:
    """Points near the skin carried to the average body, ``[P, 3]``."""
    index, weight = person.bind(points, 4)
    template = person.landmarks[: len(person.rest.vertices)]
    shift = np.einsum("pk,pkc->pc", weight, (template - person.rest.vertices)[index])
    return np.asarray(points + shift, np.float32)


def from_landmark(person: Person, point: Array) -> Array:
    """A point near the average head carried to this person's, ``[3]``."""
    template = person.landmarks
    distance = np.linalg.norm(template - point, axis=1)
    near = np.argsort(distance)[:24]
    return np.asarray(point + (person.dense.vertices - template)[near].mean(0), np.float32)


def eyes(person: Person, finish: Finish) -> Layer:
    """Two eyeballs; they look their colour up relative to the left one's centre, mirrored."""
    turn, height = np.meshgrid(np.arange(24) / 24 * 2 * np.pi, np.linspace(-0.98, 0.98, 16))
    ring = np.sqrt(1 - height**2)
    ball = np.stack((ring * np.cos(turn), height, ring * np.sin(turn)), -1).reshape(-1, 3).astype(np.float32)
    row, column = np.meshgrid(np.arange(15), np.arange(24), indexing="ij")
    a, b = row * 24 + column, row * 24 + (column + 1) % 24
    faces = np.concatenate((np.stack((a, a + 24, b), -1), np.stack((b, a + 24, b + 24), -1))).reshape(-1, 3)
    vertices, charts = [], []
    for sign in (1, -1):
        centre = from_landmark(person, EYE * np.array([sign, 1, 1], np.float32))
        vertices.append(centre + EYE_RADIUS * ball)
        charts.append(ball * np.array([sign, 1, 1], np.float32))
    count = 2 * len(ball)
    weights = np.zeros((count, 24), np.float32)
    weights[:, JOINT["head"]] = 1
    mesh = Mesh(np.concatenate(vertices), np.concatenate((faces, faces + len(ball))).astype(np.int32))
    return Layer(
        name="eyes",
        part="eyes",
        mesh=mesh,
        lift=np.concatenate((ball, ball)),
        weights=weights,
        follow=csr_matrix((count, len(person.rest.vertices)), dtype=np.float32),
        finish=finish,
        chart=np.concatenate(charts),
        folds=still_folds(count),
        sway=np.zeros(count, np.float32),
    )


def still_folds(count: int) -> Folds:
    """No displacement at all."""
    folds = Folds()
    folds.add_pair(np.zeros(count), np.zeros(count), 0.0)
    return folds


def scalp(points: Array) -> Array:
    """Distance inside the hairline, roughly metres, at points of the average head, ``[P]``."""
    offset = points - HEAD
    forward = offset[:, 2]
    front = (
        points[:, 1] - 0.735 - 0.012 * np.cos(np.clip(offset[:, 0] / 0.055, -1, 1) * np.pi) - 0.25 * (0.10 - forward)
    )
    behind_ear = 0.022 - points[:, 2] + 0.9 * np.clip(points[:, 1] - 0.665, -0.1, 0.2)
    temple = np.where(points[:, 1] > 0.70, behind_ear + 0.03, behind_ear)
    nape = points[:, 1] - 0.598
    return np.asarray(np.minimum(np.maximum(np.minimum(temple, 0.08), front), nape), np.float32)


def flow(offset: Array) -> tuple[Array, Array]:
    """Direction about the crown, on a circle ``[P, 2]``, and angle from it [rad] ``[P]``, in which hair runs."""
    axis = unit(np.array([0.0, 1.0, -0.35], np.float32))
    side = unit(np.cross(axis, np.array([1.0, 0.0, 0.0], np.float32)))
    sideways, ahead, up = offset[:, 0], offset @ side, offset @ axis
    spread = np.hypot(sideways, ahead)
    circle = np.stack((sideways, ahead), 1) / np.maximum(spread, 1e-6)[:, None]
    return circle.astype(np.float32), np.arctan2(spread, up).astype(np.float32)


def locks(offset: Array, noise: NoiseVolume, count: float = 4.0, along: float = 1.6) -> Array:
    """Unit noise stretched along the hair, fading at the crown, ``[P]``."""
    circle, polar = flow(offset)
    where = np.concatenate((count * circle, (along * polar)[:, None]), 1)
    return np.asarray(noise.fractal(where, 1.0, 2) * np.clip(1.6 * np.sin(np.minimum(polar, 1.57)), 0, 1), np.float32)


def hair(person: Person, style: str, finish: Finish, noise: NoiseVolume) -> Layer:
    """Grow hair, ``short``, ``bob``, ``long``, ``ponytail`` or ``bun``: a solid that meets the skin at the hairline."""
    lean = {"short": 0.015, "bob": 0.020, "long": 0.017, "ponytail": 0.009, "bun": 0.009}[style]
    ruffle = {"short": 0.30, "bob": 0.16, "long": 0.16}.get(style, 0.12)
    shift = from_landmark(person, np.array([0.0, CROWN, 0.03], np.float32)) - np.array([0.0, CROWN, 0.03], np.float32)
    centre = HEAD + shift
    low = {"bob": 0.17, "long": 0.33, "ponytail": 0.30}.get(style, 0.13)
    box = (centre - np.array([0.14, low + 0.02, 0.19]), centre + np.array([0.14, 0.15, 0.15]))
    nodes, size = lattice(*box, HAIR_CELL)
    _, distance = person.nearest(nodes, 0.16)
    head_field = gaussian_filter(distance.reshape(size), 1.0)

    def head_distance(points: Array) -> Array:
        where = ((points - box[0]) / HAIR_CELL).T
        return np.asarray(map_coordinates(head_field, where, order=1, mode="nearest"), np.float32)

    def signed(points: Array) -> Array:
        local = points - shift
        offset = local - HEAD
        cover = smoothstep(-0.004, 0.016, scalp(local))
        lobes = ruffle * locks(offset, noise)
        top_part = 0.55 + 0.6 * smoothstep(0.70, 0.77, local[:, 1]) + 0.15 * smoothstep(0.0, -0.06, offset[:, 2])
        thick = lean * top_part * (1 + lobes)
        total = head_distance(points) - thick * cover + 0.005 * (1 - cover)
        if style in ("bob", "long"):
            bottom = -0.085 if style == "bob" else -0.25
            bulge = 0.008 * np.sin(np.clip(-offset[:, 1] / 0.2, 0, 1) * np.pi)
            wide = 0.084 + bulge + 0.01 * lobes
            deep = 0.105 + bulge + 0.01 * lobes + 0.10 * np.clip(-offset[:, 1] - 0.10, 0, None)
            curtain = (np.sqrt((offset[:, 0] / wide) ** 2 + ((offset[:, 2] + 0.012) / deep) ** 2) - 1) * 0.085
            inner = 0.030 - (curtain + 0.030) - 0.002
            face = offset[:, 2] - 0.024 - 0.36 * np.clip(offset[:, 1] + 0.04, -0.3, 0)
            shell = smooth_max(smooth_max(curtain, face, 0.02), inner - 0.012, 0.01)
            ends = smooth_max(bottom - offset[:, 1] + 0.012 * lobes, offset[:, 1] - 0.02, 0.02)
            total = smooth_min(total, smooth_max(shell, ends, 0.02), 0.02)
        elif style == "ponytail":
            total = smooth_min(total, tail(offset, lobes), 0.012)
        elif style == "bun":
            knot = np.linalg.norm((offset - np.array([0, 0.055, -0.108])) / np.array([1, 1, 0.8]), axis=1) - 0.036
            total = smooth_min(total, knot + 0.008 * lobes, 0.008)
        return total

    def tail(offset: Array, lobes: Array) -> Array:
        path = np.array(
            [[0, 0.03, -0.085], [0, 0.035, -0.125], [0, -0.03, -0.145], [0, -0.13, -0.140], [0, -0.235, -0.125]]
        )
        radius = np.array([0.016, 0.020, 0.028, 0.024, 0.006])
        nearest = np.full(len(offset), 1.0)
        for a, b, ra, rb in zip(path[:-1], path[1:], radius[:-1], radius[1:], strict=True):
            t = np.clip(((offset - a) @ (b - a)) / ((b - a) @ (b - a)), 0, 1)
            gap = np.linalg.norm(offset - a - t[:, None] * (b - a), axis=1) - (ra + t * (rb - ra)) * (1 + 0.25 * lobes)
            nearest = np.minimum(nearest, gap)
        return np.asarray(nearest, np.float32)

    mesh = smooth_mesh(surface_nets(sampled(signed, *box, HAIR_CELL), box[0], HAIR_CELL), 1)
    mesh = clip(mesh, head_distance(mesh.vertices) + 0.0015)
    local = mesh.vertices - shift
    weights = np.zeros((len(mesh.vertices), 24), np.float32)
    height = local[:, 1]
    weights[:, JOINT["head"]] = smoothstep(0.44, 0.60, height)
    weights[:, JOINT["neck"]] = (1 - weights[:, JOINT["head"]]) * smoothstep(0.38, 0.50, height)
    weights[:, JOINT["spine3"]] = 1 - weights.sum(1)
    normals = vertex_normals(*mesh)
    folds = Folds()
    azimuth = np.arctan2(local[:, 0], local[:, 2] - HEAD[2])
    warp = noise.fractal(local, 12.0, 2)
    folds.add_pair(np.zeros(len(local)), np.zeros(len(local)), 0.6)
    cover = smoothstep(0.0, 0.02, scalp(local))
    folds.still[-1] = (0.0014 * cover * np.sin(30 * azimuth + 3 * warp)).astype(np.float32)
    count = len(mesh.vertices)
    return Layer(
        name="hair",
        part="hair",
        mesh=mesh,
        lift=normals,
        weights=weights,
        follow=csr_matrix((count, len(person.rest.vertices)), dtype=np.float32),
        finish=finish,
        chart=local.astype(np.float32),
        folds=folds,
        sway=0.5 * smoothstep(0.60, 0.40, height),
        clearance=0.004 if style in ("long", "ponytail") else None,
    )


def shoes(person: Person, finish: Finish, height: float = 0.035, sole: float = 0.018) -> list[Layer]:
    """A pair of shoes: an upper that closes over the toes, on a sole with a welt, open at the ankle.

    Args:
        person: Who wears them.
        finish: Leather, canvas and rubber, told apart by height above the ground.
        height: Rim relative to the ankle joint [m].
        sole: Thickness of the sole [m].
    """
    pair = []
    for side in ("left", "right"):
        foot = person.part_points(f"{side}_ankle", f"{side}_foot")
        ankle = person.joint(f"{side}_ankle")
        ground = float(foot[:, 1].min())
        flat = foot[foot[:, 1] < ground + 0.05][:, [0, 2]]
        angle = np.arange(40) / 40 * 2 * np.pi
        direction = np.stack((np.cos(angle), np.sin(angle)), 1)
        support = (flat @ direction.T).max(0)
        low = np.array([foot[:, 0].min() - 0.03, ground - sole - 0.012, foot[:, 2].min() - 0.03])
        high = np.array([foot[:, 0].max() + 0.03, ankle[1] + height + 0.03, foot[:, 2].max() + 0.03])
        nodes, size = lattice(low, high, SHOE_CELL)
        _, distance = person.nearest(nodes, 0.07)
        field = gaussian_filter(distance.reshape(size), 1.3)

        def signed(
            points: Array,
            low: Array = low,
            field: Array = field,
            direction: Array = direction,
            support: Array = support,
            ground: float = ground,
            back: float = float(foot[:, 2].min()),
            tip: float = float(foot[:, 2].max()),
        ) -> Array:
            upper = map_coordinates(field, ((points - low) / SHOE_CELL).T, order=1, mode="nearest") - 0.0075
            outline = (points[:, [0, 2]] @ direction.T - support).max(1)
            share = (points[:, 2] - back) / (tip - back)
            instep = points[:, 1] - ground - 0.085 + 0.055 * smoothstep(0.45, 1.0, share)
            toe = smooth_max(outline - 0.003, smooth_max(instep, ground - points[:, 1], 0.015), 0.035)
            spring = 0.010 * smoothstep(0.75, 1.05, share)
            slab = np.abs(points[:, 1] - ground + sole / 2 - 0.003 - spring) - sole / 2 - 0.001
            slab = smooth_max(outline - 0.006 - 0.003 * smoothstep(0.3, 0.7, share), slab, 0.006)
            return smooth_min(smooth_min(np.asarray(upper, np.float32), toe, 0.012), slab, 0.004)

        rim = float(ankle[1] + height)
        cuts = {
            "rim": lambda p, rim=rim, ankle=ankle: rim - 0.12 * np.clip(p[:, 2] - ankle[2], -0.05, 0.06) - p[:, 1],
        }
        mesh = grow_sheet(signed, cuts, (low, high), SHOE_CELL)
        collar = [(0.003, 0.0025), (0.007, 0.0), (0.004, -0.005), (-0.012, -0.007)]
        weights = np.zeros((len(mesh.vertices), 24), np.float32)
        index, weight = person.bind(mesh.vertices)
        near = np.einsum("pk,pkj->pj", weight, person.weights[index])
        kept = [JOINT[f"{side}_{name}"] for name in ("knee", "ankle", "foot")]
        weights[:, kept] = near[:, kept]
        weights[:, JOINT[f"{side}_ankle"]] += 1 - weights.sum(1)
        pair.append(
            finish_layer(
                person,
                f"{side}_shoe",
                "shoes",
                mesh,
                cuts,
                finish,
                lambda p, _: still_folds(len(p)),
                [Trim("rim", collar, fold="straight")],
                cover_margin=0.02,
                weights=weights,
            )
        )
    return pair
