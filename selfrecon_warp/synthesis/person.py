"""A random person: body shape, one turn of motion, held-out poses, and what a pose estimator would report."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from selfrecon_warp.model.body import DEFAULT_BODY, BodyModel, CanonicalBody, load_body
from selfrecon_warp.synthesis.mesh_tools import Array, Index, Mesh, dot, subdivide, vertex_normals
from selfrecon_warp.synthesis.noise import periodic_signal

JOINT_NAMES = (
    *("pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle"),
    *("spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder"),
    *("right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hand", "right_hand"),
)
JOINT = {name: index for index, name in enumerate(JOINT_NAMES)}
ARMS = tuple(name for name in JOINT_NAMES if any(stem in name for stem in ("shoulder", "elbow", "wrist", "hand")))
REPORTED_APOSE = (("left_hip", 0.1), ("right_hip", -0.1), ("left_shoulder", -0.85), ("right_shoulder", 0.85))


@dataclass(frozen=True)
class Motion:
    """Body parameters over time: ``poses`` [N, 24, 3] axis-angle [rad], ``trans`` [N, 3] [m]."""

    poses: Array
    trans: Array


class Person:
    """One body of the CC0 model in its T-pose, with the lookups clothes are grown from.

    Args:
        betas: Shape coefficients, ``[10]``.
    """

    def __init__(self, betas: Array) -> None:
        self.model: BodyModel = load_body(DEFAULT_BODY)
        self.betas = np.asarray(betas, np.float32)
        vertices, joints = self.model.shaped(torch.from_numpy(self.betas))
        self.rest = Mesh(vertices.numpy(), self.model.faces.numpy().astype(np.int32))
        self.joints: Array = joints.numpy()
        self.weights: Array = self.model.weights.numpy()
        template = self.model.shaped(torch.zeros(10))[0].numpy()
        self.dense, (self.dense_weights, self.landmarks) = subdivide(self.rest, self.weights, template)
        self.dense_normals = vertex_normals(*self.dense)
        self._dense_tree = cKDTree(self.dense.vertices)

    def joint(self, name: str) -> Array:
        """Rest position of a joint [m], ``[3]``."""
        return np.asarray(self.joints[JOINT[name]])

    def part_points(self, *names: str, least: float = 0.5) -> Array:
        """Dense surface points whose weight on the named joints together is at least ``least``, ``[P, 3]``."""
        share = self.dense_weights[:, [JOINT[name] for name in names]].sum(1)
        return np.asarray(self.dense.vertices[share >= least])

    def nearest(self, points: Array, reach: float = np.inf) -> tuple[Index, Array]:
        """Nearest dense vertex, ``[P]``, and distance to it, negative inside the body [m], ``[P]``.

        Points farther than ``reach``, inside or outside, get that distance and vertex 0, at less cost.
        """
        distance, index = self._dense_tree.query(points, distance_upper_bound=reach)
        signed = np.full(len(points), reach, np.float32)
        near = np.flatnonzero(np.isfinite(distance))
        found = index[near]
        inside = dot(points[near] - self.dense.vertices[found], self.dense_normals[found]) < 0
        signed[near] = np.where(inside, -distance[near], distance[near])
        return np.where(np.isfinite(distance), index, 0).astype(np.int32), signed

    @cached_property
    def _soft_field(self) -> tuple[Array, float, Array]:
        cell = 0.016
        lower = self.dense.vertices.min(0) - 0.12
        size = np.ceil((self.dense.vertices.max(0) + 0.12 - lower) / cell).astype(int) + 1
        nodes = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), -1).reshape(-1, 3)
        points = (lower + nodes * cell).astype(np.float32)
        signed = self.nearest(points, 0.10)[1].reshape(size)
        return lower, cell, gaussian_filter(signed, 0.8)

    def soft_distance(self, points: Array, order: int = 1) -> Array:
        """Signed distance to a body whose creases are bridged as cloth would [m], ``[P]``; clamped to 0.1."""
        lower, cell, values = self._soft_field
        where = ((points - lower) / cell).T
        return np.asarray(map_coordinates(values, where, order=order, mode="nearest"), np.float32)

    def bind(self, points: Array, neighbours: int = 4) -> tuple[Index, Array]:
        """Nearest rest vertices and inverse-distance weights, ``[P, k]`` each: how points off the skin follow it."""
        distance, index = cKDTree(self.rest.vertices).query(points, k=neighbours)
        weight = 1 / (np.asarray(distance, np.float32) + 0.004) ** 2
        return index.astype(np.int32), np.asarray(weight / weight.sum(1, keepdims=True), np.float32)

    def pose(self, poses: Array, trans: Array) -> tuple[Array, Array, Array, Array]:
        """The naked body in every frame.

        Returns:
            Vertices ``[N, V, 3]`` and joints ``[N, 24, 3]`` in the world [m], the world-from-rest bones
            ``[N, 24, 4, 4]`` and the pose correctives in the rest pose [m] ``[N, V, 3]``.
        """
        pose, shift = torch.from_numpy(poses), torch.from_numpy(trans)
        with torch.no_grad():
            vertices, joints = self.model.posed(torch.from_numpy(self.betas), pose, shift)
            bones = self.model.bones(pose, shift, None, self._rest_frame).numpy()
        posed = vertices.numpy()
        blended = np.einsum("vj,njab->nvab", self.weights, bones[:, :, :3], optimize=True)
        local = np.linalg.solve(blended[..., :3], (posed - blended[..., 3])[..., None])[..., 0]
        return posed, joints.numpy(), bones, (local - self.rest.vertices).astype(np.float32)

    @cached_property
    def _rest_frame(self) -> CanonicalBody:
        joints = torch.from_numpy(self.joints)
        inverse = torch.eye(4).repeat(len(joints), 1, 1)
        inverse[:, :3, 3] = -joints
        return CanonicalBody(
            vertices=torch.from_numpy(self.rest.vertices),
            faces=self.model.faces,
            weights=self.model.weights,
            joints=joints,
            joints_rest=joints,
            bones_inverse=inverse,
            pose=torch.zeros(len(joints), 3),
        )


def random_betas(rng: np.random.Generator, build: float) -> Array:
    """Shape coefficients of an adult; ``build`` in [-1, 1] leans towards a female or a male frame.

    The model's first coefficient is mostly stature, the second runs from male to female, the third is girth.
    """
    betas = 0.55 * rng.standard_normal(10)
    betas[:3] += (0.7 * build, -0.9 * build, -0.4)
    return np.clip(betas, -1.5, 1.5).astype(np.float32)


def reported_apose() -> Array:
    """The A-pose in which ``verts_apose`` is stored, ``[24, 3]``."""
    pose = np.zeros((24, 3), np.float32)
    for name, angle in REPORTED_APOSE:
        pose[JOINT[name], 2] = angle
    return pose


def facing(yaw: Array, tilt: Array) -> Array:
    """Root rotations of a body that stands upright in an OpenCV camera frame, turned left by ``yaw`` [rad].

    Args:
        yaw: ``[N]``; zero faces the camera.
        tilt: Small sway about the body's own axes [rad], ``[N, 3]``.
    """
    upright = Rotation.from_euler("x", np.pi)
    turned = upright * Rotation.from_rotvec(np.outer(yaw, (0, 1, 0))) * Rotation.from_rotvec(tilt)
    return np.asarray(turned.as_rotvec(), np.float32)


def turn_motion(rng: np.random.Generator, count: int) -> Motion:
    """One full turn in A-pose: wandering limbs, small steps, sway. Translation is left for :func:`stand` to set."""
    poses = np.zeros((count, 24, 3), np.float32)
    poses += reported_apose()
    wander = {
        "spine": 0.022,
        "neck": 0.035,
        "head": 0.045,
        "collar": 0.02,
        "shoulder": 0.05,
        "elbow": 0.05,
        "wrist": 0.04,
        "hand": 0.02,
        "hip": 0.02,
        "knee": 0.02,
        "ankle": 0.02,
        "foot": 0.01,
    }
    for index, name in enumerate(JOINT_NAMES):
        scale = next((value for stem, value in wander.items() if stem in name), 0.0)
        poses[:, index] += scale * periodic_signal(rng, count, 3)
        poses[:, index] += 0.5 * scale * rng.standard_normal(3).astype(np.float32)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        poses[:, JOINT[f"{side}_elbow"], 1] -= sign * (0.22 + 0.05 * periodic_signal(rng, count, 1)[:, 0])
    time = np.arange(count) / max(count, 1)
    steps = rng.integers(7, 10)
    for side, lag in (("left", 0.0), ("right", 0.5)):
        lift = np.clip(np.sin(2 * np.pi * (steps * time + lag)), 0, None) ** 1.5
        poses[:, JOINT[f"{side}_hip"], 0] -= 0.14 * lift
        poses[:, JOINT[f"{side}_knee"], 0] += 0.30 * lift + 0.03
        poses[:, JOINT[f"{side}_ankle"], 0] -= 0.10 * lift
    yaw = 2 * np.pi * time + 0.04 * periodic_signal(rng, count, 1)[:, 0] + rng.uniform(-0.1, 0.1)
    tilt = np.array([0.012, 0.0, 0.02]) * periodic_signal(rng, count, 3)
    poses[:, 0] = facing(yaw, tilt)
    drift = np.array([0.012, 0.0, 0.014], np.float32) * periodic_signal(rng, count, 3)
    return Motion(poses, drift.astype(np.float32))


def held_out_motion(rng: np.random.Generator, count: int) -> Motion:
    """Poses unlike the turn: arms up and forward, knee lifts, twists, bends, a stride; each from its own side."""
    poses = np.zeros((count, 24, 3), np.float32)
    poses += reported_apose()
    for frame in range(count):
        pose = poses[frame]
        side, other, sign = ("left", "right", 1.0) if rng.random() < 0.5 else ("right", "left", -1.0)
        kind = frame % 6
        if kind == 0:  # both arms lifted beyond the shoulders
            for name, s in (("left", 1.0), ("right", -1.0)):
                pose[JOINT[f"{name}_shoulder"], 2] = s * rng.uniform(0.0, 0.3)
                pose[JOINT[f"{name}_elbow"], 1] = -s * rng.uniform(0.2, 0.9)
        elif kind == 1:  # knee lift
            pose[JOINT[f"{side}_hip"], 0] -= rng.uniform(0.6, 0.9)
            pose[JOINT[f"{side}_knee"], 0] += rng.uniform(0.7, 1.1)
        elif kind == 2:  # arms forward
            for name, s in (("left", 1.0), ("right", -1.0)):
                pose[JOINT[f"{name}_shoulder"]] = (0.0, -s * rng.uniform(0.9, 1.3), -s * rng.uniform(0.0, 0.3))
                pose[JOINT[f"{name}_elbow"], 1] = -s * rng.uniform(0.1, 0.6)
        elif kind == 3:  # twist
            for name in ("spine1", "spine2", "spine3"):
                pose[JOINT[name], 1] += sign * rng.uniform(0.12, 0.2)
            pose[JOINT[f"{side}_shoulder"], 2] = sign * rng.uniform(-0.2, 0.1)
        elif kind == 4:  # stride with swinging arms
            for name, s in ((side, 1.0), (other, -1.0)):
                pose[JOINT[f"{name}_hip"], 0] -= s * rng.uniform(0.3, 0.4)
                pose[JOINT[f"{name}_shoulder"], 1] += s * (1.0 if name == "left" else -1.0) * rng.uniform(0.2, 0.5)
            pose[JOINT[f"{other}_knee"], 0] += rng.uniform(0.2, 0.5)
        else:  # bend to one side, hand towards the hip
            for name in ("spine1", "spine2"):
                pose[JOINT[name], 2] += sign * rng.uniform(0.1, 0.16)
            pose[JOINT[f"{side}_shoulder"], 2] = -sign * rng.uniform(0.6, 0.8)
            pose[JOINT[f"{side}_elbow"], 1] = -sign * rng.uniform(0.8, 1.3)
    yaw = 2 * np.pi * np.arange(count) / max(count, 1) + rng.uniform(-0.4, 0.4, count)
    poses[:, 1:] += (0.03 * rng.standard_normal((count, 23, 3))).astype(np.float32)
    poses[:, 0] = facing(yaw, np.zeros((count, 3)))
    return Motion(poses, np.zeros((count, 3), np.float32))
