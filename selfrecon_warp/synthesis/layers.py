"""What a dressed person is made of: layers that follow the skeleton, fold, sway and keep off the skin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from selfrecon_warp.synthesis.mesh_tools import (
    Array,
    Index,
    Mesh,
    border_edges,
    clip,
    dot,
    extrude_border,
    neighbour_mean,
    smooth_mesh,
    smooth_values,
    surface_nets,
    vertex_normals,
)
from selfrecon_warp.synthesis.noise import NoiseVolume, periodic_signal
from selfrecon_warp.synthesis.person import JOINT, Person

Field = Callable[[Array], Array]
Colour = Callable[[Array, Array], Array]
COARSE = 4  # cells between the samples that find where a field is close to zero
BORDER = 0.015  # metres within which a border vertex belongs to its nearest cut


@dataclass(frozen=True)
class Finish:
    """How a surface takes light.

    Attributes:
        colour: Albedo in sRGB at chart positions with surface normals in the rest pose, ``[P, 3], [P, 3] -> [P, 3]``.
        gloss: Strength of the highlight.
        sharpness: Exponent of the highlight.
        wrap: How far light creeps past the terminator, as in skin.
        bounce: Colour of the light that creeps.
    """

    colour: Colour
    gloss: float = 0.03
    sharpness: float = 12.0
    wrap: float = 0.08
    bounce: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass
class Folds:
    """Displacement maps along the normal [m] and how they move.

    Packet m shows ``still[m] + cosine[m] cos(shift) + sine[m] sin(shift)``, with a shift and a strength that follow
    time and joint angles.
    """

    still: list[Array] = field(default_factory=list)
    cosine: list[Array] = field(default_factory=list)
    sine: list[Array] = field(default_factory=list)
    drift: list[float] = field(default_factory=list)
    joints: list[tuple[str, ...]] = field(default_factory=list)
    unevenness: list[Array] = field(default_factory=list)

    def vary(self, noise: NoiseVolume, points: Array) -> None:
        """Let folds added from now on rise and die out irregularly."""
        maps = (noise.fractal(points + np.float32(3.7 * i), 6.0, 2) for i in range(3))
        self.unevenness = [np.clip(0.75 + 0.55 * x, 0.05, 1.7) for x in maps]

    def add_waves(
        self, phase: Array, envelope: Array, move: float = 0.4, drift: float = 0.8, joints: tuple[str, ...] = ()
    ) -> None:
        """Ridges with crests at multiples of 2 pi of ``phase`` [rad] and heights ``envelope`` [m], ``[V]`` each.

        Args:
            phase: Where the folds run.
            envelope: How high they stand.
            move: Share of the height that travels.
            drift: How far they travel over time [rad].
            joints: Bending these joints raises the folds.
        """
        if self.unevenness:
            envelope = envelope * self.unevenness[len(self.still) % len(self.unevenness)]
        ridge = 2 * (1 - np.abs(np.sin(phase / 2))) ** 1.4 - 0.75
        self.still.append(((1 - move) * envelope * ridge).astype(np.float32))
        self.cosine.append((move * envelope * np.cos(phase)).astype(np.float32))
        self.sine.append((move * envelope * np.sin(phase)).astype(np.float32))
        self.drift.append(drift)
        self.joints.append(joints)

    def add_pair(self, first: Array, second: Array, drift: float = 1.5) -> None:
        """Two maps [m] that fade into one another over time."""
        self.still.append(np.zeros_like(first, np.float32))
        self.cosine.append(first.astype(np.float32))
        self.sine.append(second.astype(np.float32))
        self.drift.append(drift)
        self.joints.append(())

    def take(self, index: Index) -> Folds:
        """The same folds for vertices picked by index."""
        still, cosine, sine = ([x[index] for x in maps] for maps in (self.still, self.cosine, self.sine))
        return Folds(still, cosine, sine, self.drift, self.joints)

    def over_time(self, rng: np.random.Generator, poses: Array, apose: Array) -> tuple[Array, Array, Array]:
        """Weights of the three maps in every frame, each ``[N, M]``."""
        count = len(poses)
        shift = periodic_signal(rng, count, len(self.drift), 5) * np.array(self.drift, np.float32)
        strength = 1 + 0.18 * periodic_signal(rng, count, len(self.drift), 4)
        for packet, names in enumerate(self.joints):
            for name in names:
                bend = np.linalg.norm(poses[:, JOINT[name]] - apose[JOINT[name]], axis=1)
                strength[:, packet] += 0.9 * np.clip(bend, 0, 1.2)
        return strength, strength * np.cos(shift), strength * np.sin(shift)


@dataclass(frozen=True)
class Layer:
    """One garment, the skin, the hair or a shoe, in the T-pose.

    Attributes:
        name: For instance ``trousers``.
        part: Kind recorded in the ground truth.
        mesh: T-pose surface [m].
        lift: Direction in which folds displace each vertex, ``[V, 3]``; a hem moves with the cloth it hangs on.
        weights: Skinning weights, ``[V, 24]``.
        follow: How pose correctives of the body reach the layer, ``[V, 6890]`` sparse.
        finish: Colour and gloss.
        chart: Where each vertex looks up its colour, ``[V, 3]``; the T-pose position unless a landmark space is better.
        folds: Moving displacement.
        sway: How much each vertex swings with the cloth's inertia, ``[V]`` in [0, 1].
        clearance: Least distance kept from the posed skin [m]; ``None`` needs no check.
        cover: Positive inside what the layer hides, metres from its border; ``None`` hides nothing.
        cover_margin: How far inside its border the layer hides the skin [m]; loose hems show more.
        tuck_margin: The same for garments worn inside it; ``None`` for as much as the skin.
        lining: True at faces on the inner side of a hem.
    """

    name: str
    part: str
    mesh: Mesh
    lift: Array
    weights: Array
    follow: sparse.csr_matrix
    finish: Finish
    chart: Array
    folds: Folds
    sway: Array
    clearance: float | None = None
    cover: Field | None = None
    cover_margin: float = 0.035
    tuck_margin: float | None = None
    lining: Array | None = None


def follow_matrix(person: Person, points: Array) -> sparse.csr_matrix:
    """Interpolation from the body's vertices to points near it, ``[P, 6890]``."""
    index, weight = person.bind(points, 6)
    rows = np.repeat(np.arange(len(points)), index.shape[1])
    shape = (len(points), len(person.rest.vertices))
    return sparse.csr_matrix((weight.reshape(-1), (rows, index.reshape(-1))), shape)


def lattice(low: Array, high: Array, cell: float) -> tuple[Array, tuple[int, ...]]:
    """Lattice nodes of a box, ``[P, 3]``, and the lattice's shape."""
    size = np.ceil((np.asarray(high) - low) / cell).astype(int) + 1
    nodes = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), -1).reshape(-1, 3)
    return (low + nodes * cell).astype(np.float32), tuple(int(n) for n in size)


def sampled(signed: Field, low: Array, high: Array, cell: float) -> Array:
    """A field on the lattice of a box, ``[X, Y, Z]``: exact near its zero level, interpolated farther off."""
    points, size = lattice(low, high, cell)
    coarse_points, coarse_size = lattice(low, np.asarray(high) + COARSE * cell, COARSE * cell)
    coarse = signed(coarse_points).reshape(coarse_size)
    for axis, count in enumerate(size):
        place = np.arange(count) / COARSE
        first = place.astype(int)
        share = (place - first).reshape([-1 if k == axis else 1 for k in range(3)])
        coarse = np.take(coarse, first, axis) * (1 - share) + np.take(coarse, first + 1, axis) * share
    values = coarse.reshape(-1).astype(np.float32)
    near = np.flatnonzero(np.abs(values) < 2.2 * COARSE * cell)
    values[near] = signed(points[near])
    return values.reshape(size)


def grow_sheet(signed: Field, cuts: Mapping[str, Field], box: tuple[Array, Array], cell: float) -> Mesh:
    """The zero level of a field inside a box, cut where any of ``cuts`` turns negative.

    Args:
        signed: Signed field, metres near the surface, negative inside.
        cuts: Named fields, positive where the sheet stays.
        box: Lower and upper corner [m].
        cell: Spacing of the lattice [m].
    """
    low, high = np.asarray(box[0], np.float32), np.asarray(box[1], np.float32)
    mesh = surface_nets(sampled(signed, low, high, cell), low, cell)
    mesh = smooth_mesh(mesh, 2)
    for cut in cuts.values():
        mesh = clip(mesh, cut(mesh.vertices))
    return largest_piece(mesh)


def largest_piece(mesh: Mesh) -> Mesh:
    """The connected piece with the most vertices, and any other at least a third as large."""
    pairs = np.concatenate((mesh.faces[:, :2], mesh.faces[:, 1:]))
    graph = sparse.coo_matrix((np.ones(len(pairs)), pairs.T), (len(mesh.vertices),) * 2)
    _, label = sparse.csgraph.connected_components(graph, directed=False)
    count = np.bincount(label)
    keep = count[label] * 3 >= count.max()
    faces = mesh.faces[keep[mesh.faces].all(1)]
    number = np.cumsum(keep).astype(np.int32) - 1
    return Mesh(mesh.vertices[keep], number[faces])


def keep_off(person: Person, mesh: Mesh, least: float) -> Mesh:
    """Push vertices out until they stand at least ``least`` metres off the skin, twice, smoothing between."""
    vertices = mesh.vertices
    mean = neighbour_mean(mesh.faces, len(vertices))
    for _ in range(2):
        index, distance = person.nearest(vertices)
        push = np.maximum(least - distance, 0)[:, None] * person.dense_normals[index]
        for _ in range(2):
            push = np.where(np.abs(push) > np.abs(mean @ push), push, mean @ push)
        vertices = (vertices + push).astype(np.float32)
    return Mesh(vertices, mesh.faces)


@dataclass(frozen=True)
class Trim:
    """A strip along one kind of border.

    Attributes:
        kind: Name of the cut it follows.
        profile: Cross-section, see :func:`extrude_border`.
        width: Optional factor on the profile by position.
        fold: ``inwards`` is a hem, whose faces are lining; ``outwards`` folds over as a collar does, see
            :func:`extrude_border`; ``straight`` is a band that goes on.
    """

    kind: str
    profile: list[tuple[float, float]]
    width: Field | None = None
    fold: Literal["inwards", "outwards", "straight"] = "inwards"


HEM = [(0.0015, -0.0015), (0.0, -0.004), (-0.012, -0.0055)]


def finish_layer(
    person: Person,
    name: str,
    part: str,
    mesh: Mesh,
    cuts: Mapping[str, Field],
    finish: Finish,
    folds: Callable[[Array, Array], Folds],
    trims: list[Trim],
    weight_passes: int = 12,
    sway: Field | None = None,
    clearance: float | None = None,
    cover_margin: float = 0.035,
    tuck_margin: float | None = None,
    weights: Array | None = None,
) -> Layer:
    """Bind a sheet to the body and finish its borders: weights, correctives, folds, hems.

    Args:
        person: The body.
        name: Name of the layer.
        part: Kind recorded in the ground truth.
        mesh: The open sheet.
        cuts: The fields it was cut by; borders are told apart by which of them is zero there.
        finish: Colour and gloss.
        folds: From vertices and normals to moving folds.
        trims: Strips along the borders.
        weight_passes: How far skinning weights spread along the cloth; loose cloth spreads far.
        sway: Share of the inertial swing by position.
        clearance: See :class:`Layer`.
        cover_margin: See :class:`Layer`.
        tuck_margin: See :class:`Layer`.
        weights: Skinning weights ``[V, 24]`` in place of the body's nearest.
    """
    if weights is None:
        index, weight = person.bind(mesh.vertices)
        weights = np.einsum("pk,pkj->pj", weight, person.weights[index]).astype(np.float32)
        weights = smooth_values(weights, mesh.faces, weight_passes)
    weights = weights / weights.sum(1, keepdims=True)
    normals = vertex_normals(*mesh)
    packets = folds(mesh.vertices, normals)
    follow = follow_matrix(person, mesh.vertices)
    source = np.arange(len(mesh.vertices), dtype=np.int32)
    bare = mesh.vertices
    on_border = np.zeros(len(bare), bool)
    on_border[border_edges(mesh.faces)] = True
    gap = {kind: np.abs(cut(bare)) for kind, cut in cuts.items()}
    nearest = np.minimum(np.min(list(gap.values()), axis=0), BORDER)
    near = {kind: on_border & (values <= nearest) for kind, values in gap.items()}
    lining = np.zeros(len(mesh.faces), bool)
    for trim in trims:
        scale = np.zeros(len(mesh.vertices), np.float32)
        scale[: len(bare)] = near[trim.kind]
        if trim.width is not None:
            scale[: len(bare)] *= trim.width(bare)
        grown, origin = extrude_border(mesh, trim.profile, scale, trim.fold == "outwards")
        lining = np.concatenate((lining, np.full(len(grown.faces) - len(mesh.faces), trim.fold == "inwards")))
        source = np.concatenate((source, source[origin]))
        mesh = grown
    swing = np.zeros(len(mesh.vertices), np.float32) if sway is None else sway(mesh.vertices)

    def covered(points: Array) -> Array:
        return np.asarray(np.min([cut(points) for cut in cuts.values()], axis=0), np.float32)

    return Layer(
        name=name,
        part=part,
        mesh=mesh,
        lift=normals[source],
        weights=weights[source],
        follow=follow[source],
        finish=finish,
        chart=mesh.vertices,
        folds=packets.take(source),
        sway=swing,
        clearance=clearance,
        cover=covered,
        cover_margin=cover_margin,
        tuck_margin=tuck_margin,
        lining=lining,
    )


def broad_folds(folds: Folds, noise: NoiseVolume, points: Array, frequency: float, height: float | Array) -> None:
    """Slow lumps of cloth that settle differently as the person moves."""
    folds.add_pair(
        height * noise.fractal(points, frequency, 2),
        height * noise.fractal(points + np.float32(5.0), frequency, 2),
        0.9,
    )
    folds.still[-1] = np.asarray(0.7 * height * noise.fractal(points + np.float32(9.0), frequency, 2), np.float32)


def push_outside(points: Array, skin: Array, skin_normals: Array, clearance: float) -> Array:
    """Move posed points off the posed skin where they come closer than ``clearance`` [m]."""
    _, index = cKDTree(skin).query(points, distance_upper_bound=0.12)
    near = np.flatnonzero(index < len(skin))
    outward = skin_normals[index[near]]
    push = np.clip(clearance - dot(points[near] - skin[index[near]], outward), 0, 0.08)
    moved = points.copy()
    moved[near] += push[:, None] * outward
    return moved
