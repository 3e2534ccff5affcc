"""All layers of one person as a single mesh: what hides what, ambient occlusion, and the pose of every frame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from selfrecon_warp.kernels.rasterize import rasterize
from selfrecon_warp.synthesis.layers import Layer, push_outside
from selfrecon_warp.synthesis.mesh_tools import (
    Array,
    Index,
    cross,
    diffuse,
    neighbour_mean,
    select_faces,
    smooth_values,
    unit,
    vertex_normals,
)
from selfrecon_warp.synthesis.noise import periodic_signal
from selfrecon_warp.synthesis.person import Motion, Person, reported_apose

PARTS = ("skin", "clothes", "shoes", "hair", "eyes")
VIEWS = 48
VIEW_SIZE = 560
SWING = np.array([0.022, 0.0, 0.026], np.float32)  # metres at a freely hanging hem


@dataclass(frozen=True)
class Posed:
    """One frame in the world.

    Attributes:
        vertices: ``[V, 3]`` [m].
        normals: Outward, ``[V, 3]``.
        relief: Height of the folds [m], ``[V]``.
    """

    vertices: Array
    normals: Array
    relief: Array


@dataclass(frozen=True)
class Timeline:
    """A motion with everything the cloth needs.

    Attributes:
        motion: Poses and translations.
        bones: World from rest, ``[N, 24, 4, 4]``.
        skin: The naked body in the world [m], ``[N, 6890, 3]``.
        correctives: Its pose correctives in the rest pose [m], ``[N, 6890, 3]``.
        joints: In the world [m], ``[N, 24, 3]``.
        folds: Weights of each layer's fold maps, see :meth:`Folds.over_time`.
        swing: Inertial offset of loose cloth in the rest pose [m], ``[N, 3]``.
    """

    motion: Motion
    bones: Array
    skin: Array
    correctives: Array
    joints: Array
    folds: list[tuple[Array, Array, Array]]
    swing: Array


class Figure:
    """A dressed person.

    Args:
        person: The body.
        layers: From the skin outwards; each may hide faces of the ones before it.
    """

    def __init__(self, person: Person, layers: list[Layer]) -> None:
        self.person = person
        self.layers = [_uncovered(layer, layers[index + 1 :]) for index, layer in enumerate(layers)]
        counts = [len(layer.mesh.vertices) for layer in self.layers]
        self.starts = np.concatenate(([0], np.cumsum(counts)))
        shifted = [layer.mesh.faces + start for layer, start in zip(self.layers, self.starts[:-1], strict=True)]
        self.faces: Index = np.concatenate(shifted).astype(np.int32)
        self.face_layer = np.repeat(np.arange(len(layers)), [len(faces) for faces in shifted]).astype(np.uint8)
        self.rest: Array = np.concatenate([layer.mesh.vertices for layer in self.layers])
        self.chart: Array = np.concatenate([layer.chart for layer in self.layers])
        self.weights: Array = np.concatenate([layer.weights for layer in self.layers])
        self._follow = sparse.vstack([layer.follow for layer in self.layers]).tocsr()
        self._sway: Array = np.concatenate([layer.sway for layer in self.layers])
        self.lift: Array = np.concatenate([layer.lift for layer in self.layers])

    @property
    def face_part(self) -> NDArray[np.uint8]:
        """Index into :data:`PARTS` of every face."""
        parts = np.array([PARTS.index(layer.part) for layer in self.layers], np.uint8)
        return parts[self.face_layer]

    def timeline(self, rng: np.random.Generator, motion: Motion) -> Timeline:
        """Evaluate the body and draw the cloth's own motion for a sequence of poses."""
        skin, joints, bones, correctives = self.person.pose(motion.poses, motion.trans)
        folds = [layer.folds.over_time(rng, motion.poses, reported_apose()) for layer in self.layers]
        swing = SWING * periodic_signal(rng, len(motion.poses), 3, 9)
        return Timeline(motion, bones, skin, correctives, joints, folds, swing)

    def pose(self, timeline: Timeline, frame: int) -> Posed:
        """The dressed person in one frame."""
        relief = [
            sum(w[frame] @ np.stack(maps) for w, maps in zip(weights, _maps(layer), strict=True))
            for layer, weights in zip(self.layers, timeline.folds, strict=True)
        ]
        height = np.concatenate(relief).astype(np.float32)
        local = self.rest + self._follow @ timeline.correctives[frame]
        local = local + height[:, None] * self.lift + self._sway[:, None] * timeline.swing[frame]
        vertices = skinned(local.astype(np.float32), self.weights, timeline.bones[frame])
        self._keep_off_skin(vertices, timeline.skin[frame])
        return Posed(vertices, vertex_normals(vertices, self.faces), height)

    def _keep_off_skin(self, vertices: Array, skin: Array) -> None:
        loose = [index for index, layer in enumerate(self.layers) if layer.clearance is not None]
        if not loose:
            return
        skin_normals = vertex_normals(skin, self.person.rest.faces)
        for index in loose:
            part = slice(self.starts[index], self.starts[index + 1])
            clearance = float(self.layers[index].clearance or 0.0)
            moved = push_outside(vertices[part], skin, skin_normals, clearance)
            vertices[part] += diffuse(moved - vertices[part], self._means[index], 1, 0.3)

    @cached_property
    def _means(self) -> list[sparse.csr_matrix]:
        return [neighbour_mean(layer.mesh.faces, len(layer.mesh.vertices)) for layer in self.layers]

    @cached_property
    def _apose(self) -> Array:
        pose = reported_apose()[None]
        rng = np.random.default_rng(0)
        timeline = self.timeline(rng, Motion(pose, np.zeros((1, 3), np.float32)))
        return self.pose(timeline, 0).vertices

    @property
    def apose_vertices(self) -> Array:
        """The dressed person in the reported A-pose, without translation [m], ``[V, 3]``."""
        return self._apose

    @cached_property
    def visibility(self) -> tuple[Array, NDArray[np.bool_]]:
        """Ambient occlusion of each vertex (1 open, 0 closed) and whether each face is seen from outside: in A-pose.

        The mesh is drawn from directions all around. A face counts as seen where its front wins a pixel, or where its
        centre lies on the nearest surface; hem linings never count.
        """
        vertices, faces = self._apose, self.faces
        normals = vertex_normals(vertices, faces)
        centres = vertices[faces].mean(1)
        a, b, c = (vertices[faces[:, k]] for k in range(3))
        across = unit(cross(b - a, c - a))
        seen = np.zeros(len(faces), bool)
        open_sky, total = np.zeros(len(vertices), np.float32), np.full(len(vertices), 1e-6, np.float32)
        middle = (vertices.min(0) + vertices.max(0)) / 2
        scale = 0.98 * VIEW_SIZE / np.linalg.norm(vertices - middle, axis=1).max() / 2
        for direction in sphere(VIEWS):
            view = looking(direction)
            screen = project_along(vertices, middle, view, scale)
            drawn = rasterize(torch.from_numpy(screen[None]), torch.from_numpy(faces), VIEW_SIZE, VIEW_SIZE)
            index, depth = drawn.face_index[0].numpy(), drawn.depth[0].numpy()
            depth = np.where(index >= 0, depth, np.inf)
            facing = across @ direction
            front = np.unique(index[index >= 0])
            seen[front[facing[front] > 0.05]] = True
            probe = project_along(centres + 0.001 * across, middle, view, scale)
            seen |= (facing > 0.1) & (probe[:, 2] < nearest_depth(depth, probe) + 0.0015)
            probe = project_along(vertices + 0.006 * normals, middle, view, scale)
            cosine = np.clip(normals @ direction, 0, 1)
            total += cosine
            open_sky += cosine * (probe[:, 2] < nearest_depth(depth, probe) + 0.006)
        lining = [np.zeros(len(x.mesh.faces), bool) if x.lining is None else x.lining for x in self.layers]
        ambient = smooth_values((open_sky / total)[:, None], faces, 3)[:, 0]
        return ambient, seen & ~np.concatenate(lining).astype(bool)

    def strongest_weights(self) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
        """The four strongest joints of every vertex and their weights, ``[V, 4]`` each."""
        index = np.argsort(-self.weights, axis=1)[:, :4]
        value = np.take_along_axis(self.weights, index, 1)
        return index.astype(np.uint8), (value / value.sum(1, keepdims=True)).astype(np.float16)


def _maps(layer: Layer) -> tuple[list[Array], list[Array], list[Array]]:
    return layer.folds.still, layer.folds.cosine, layer.folds.sine


def _uncovered(layer: Layer, outer: list[Layer]) -> Layer:
    """A layer without the faces that garments over it hide well inside their borders."""
    hidden = np.zeros(len(layer.mesh.vertices), bool)
    for other in outer:
        if other.cover is not None and other.part in ("clothes", "shoes"):
            tucked = other.tuck_margin if layer.part == "clothes" else None
            margin = other.cover_margin if tucked is None else tucked
            hidden |= other.cover(layer.mesh.vertices) > margin
    if layer.part in ("hair", "eyes", "shoes") or not hidden.any():
        return layer
    keep = np.asarray(~hidden[layer.mesh.faces].all(1))
    mesh, used = select_faces(layer.mesh, keep)
    return replace(
        layer,
        mesh=mesh,
        lift=layer.lift[used],
        weights=layer.weights[used],
        follow=layer.follow[used],
        chart=layer.chart[used],
        folds=layer.folds.take(used),
        sway=layer.sway[used],
        lining=None if layer.lining is None else layer.lining[keep],
    )


def skinned(points: Array, weights: Array, bones: Array) -> Array:
    """Linear blend skinning of ``[V, 3]`` points by ``[V, 24]`` weights and ``[24, 4, 4]`` bones."""
    blended = (weights @ bones[:, :3].reshape(len(bones), 12)).reshape(-1, 3, 4)
    return np.asarray(np.einsum("vab,vb->va", blended[..., :3], points) + blended[..., 3], np.float32)


def sphere(count: int) -> Array:
    """Directions spread evenly over all but the steepest views from below, ``[count, 3]``, y up."""
    height = np.linspace(0.97, -0.75, count)
    turn = np.arange(count) * np.pi * (3 - np.sqrt(5))
    ring = np.sqrt(1 - height**2)
    return np.stack((ring * np.cos(turn), height, ring * np.sin(turn)), 1).astype(np.float32)


def looking(direction: Array) -> Array:
    """Rows right, down, away of a view towards the origin from ``direction``, ``[3, 3]``."""
    away = -direction / np.linalg.norm(direction)
    helper = np.array([0.0, 1.0, 0.0]) if abs(away[1]) < 0.9 else np.array([1.0, 0.0, 0.0])
    right = np.cross(away, helper)
    right /= np.linalg.norm(right)
    return np.stack((right, np.cross(away, right), away)).astype(np.float32)


def project_along(points: Array, middle: Array, view: Array, scale: float, size: int = VIEW_SIZE) -> Array:
    """Orthographic pixels and depth [m, from 10 on] of ``[P, 3]`` points."""
    local = (points - middle) @ view.T
    pixels = local[:, :2] * scale + (size - 1) / 2
    return np.concatenate((pixels, local[:, 2:] + 10), 1).astype(np.float32)


def nearest_depth(depth: Array, probe: Array) -> Array:
    """Depth image at the rounded pixels of probes, ``[P]``."""
    pixel = np.clip(np.rint(probe[:, :2]).astype(int), 0, np.array(depth.shape)[::-1] - 1)
    return np.asarray(depth[pixel[:, 1], pixel[:, 0]], np.float32)
