"""Gauss-Newton on a whole sequence: keypoints, outlines, smooth motion, the ground and what bodies can do.

Unknowns: joint rotations and translation of every frame; shared by all frames the shape, where the detector's keypoints
lie on this body, and the logarithm of the focal length. Derivatives come from ``train.kinematics``, the solver from
``train.normal_equations``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.capture.dataset import SHAPE_COUNT
from selfrecon_warp.kernels.contour import contour_edges, mesh_edges
from selfrecon_warp.kernels.rasterize import visible_faces
from selfrecon_warp.kernels.skinning import skin_points
from selfrecon_warp.model.body import BodyModel, CanonicalBody
from selfrecon_warp.prepare.body_fit_landmarks import GROUND, Landmarks
from selfrecon_warp.prepare.body_fit_levers import Levers, projection_slope
from selfrecon_warp.prepare.body_fit_outlines import OutlineMatch, match_outline
from selfrecon_warp.prepare.body_fit_prior import limits, prior_centre, prior_weight
from selfrecon_warp.prepare.body_fit_state import Evidence, Figures, Given, State, Trust
from selfrecon_warp.surface.mesh import vertex_normals
from selfrecon_warp.train.kinematics import Kinematics, Skeleton, relative_rotation, turned
from selfrecon_warp.train.losses import geman_mcclure_weight
from selfrecon_warp.train.normal_equations import NormalEquations
from selfrecon_warp.train.registration import RegistrationSurface

LARGEST_ZOOM = 0.15
"""Largest step of the logarithm of the focal length."""
INSIDE_TRUST = 0.3
"""Of the body's outline inside the mask, where clothes stand off the body, against one outside."""
FRAMES_PER_SHARED_PRIOR = 10.0
"""What all frames share is held as firmly as by one prior in so many frames."""
SEEN = 0.3
"""Confidence above which a keypoint counts in the reported error."""
GROUND_BAND_M = 0.05
"""Heels and toes so little above the lower ones may stand."""


class _Sums(NormalEquations):
    """Normal equations that also sum what they minimise."""

    def __init__(self, frames: int, unknowns: int, shared: int, like: Tensor) -> None:
        super().__init__(frames, unknowns, shared, like)
        self.cost = 0.0

    def add_all(self, rows: Tensor, shared: Tensor, residual: Tensor, weight: Tensor) -> None:
        """Weighted residuals of all frames, ``[N, P, C]``, with derivatives ``[N, P, C, D]`` and ``[N, P, C, S]``."""
        rows, shared = rows.flatten(1, 2), shared.flatten(1, 2)
        residual, weight = residual.flatten(1)[..., None], weight.flatten(1)[..., None]
        weighted, scaled = (rows * weight).mT, shared * weight
        self.diagonal += weighted @ rows
        self.right -= (weighted @ residual)[..., 0]
        self.mixed += rows.mT @ scaled
        flat, trusted = shared.flatten(0, 1), scaled.flatten(0, 1)
        self.shared += trusted.T @ flat
        self.shared_right -= trusted.T @ residual.flatten()
        self.cost += float((weight * residual**2).sum())

    def add_own(self, first: int, residual: Tensor, weight: Tensor) -> None:
        """Residuals ``[N, P]`` of the unknowns from ``first`` on, one each."""
        part = slice(first, first + residual.shape[1])
        self.diagonal.diagonal(dim1=1, dim2=2)[:, part].add_(weight)
        self.right[:, part] -= weight * residual
        self.cost += float((weight * residual**2).sum())


class BodyProblem:
    """One sequence.

    Args:
        body: Body model.
        camera: Camera with a first focal length.
        landmarks: What the keypoints are.
        evidence: What was observed; may be replaced between steps.
        given: Estimate that the person came with; ``None`` for none.
        focal_over_guess: Focal length of ``camera`` over the one that is expected.
    """

    def __init__(
        self,
        body: BodyModel,
        camera: Camera,
        landmarks: Landmarks,
        evidence: Evidence,
        given: Given | None = None,
        focal_over_guess: float = 1.0,
    ) -> None:
        self.focal_over_guess = focal_over_guess
        self.body, self.camera, self.landmarks, self.evidence, self.given = body, camera, landmarks, evidence, given
        self.kinematics = Kinematics(body, 1)
        self.rotation = camera.rotation()
        self.edges = mesh_edges(body.faces.int())
        self.shape_count = shape_count(body)
        self.shared_count = self.shape_count + 3 * len(landmarks.offsets) + 1
        mean = torch.zeros(self.shape_count)
        self.rest_joints = body.shaped(mean)[1]
        # Both are affine in the shape, so that one derivative holds everywhere.
        self.rest_by_shape = torch.func.jacfwd(lambda betas: body.shaped(betas)[1])(mean)
        self.vertices_by_shape = torch.func.jacfwd(lambda betas: body.canonical(betas, 1).vertices)(mean)

    def camera_of(self, state: State) -> Camera:
        """The camera with the state's focal length."""
        return with_focal(self.camera, state.focal_scale)

    @torch.no_grad()
    def step(self, state: State, trust: Trust, generator: torch.Generator) -> tuple[State, Figures]:
        """One Gauss-Newton step; the figures are those before it."""
        N, J = state.body.poses.shape[:2]
        system = _Sums(N, 3 * J + 3, self.shared_count, state.body.poses)
        canonical = self.kinematics.canonical(state.body)
        bones = self.body.bones(state.body.poses, state.body.trans, None, canonical)
        levers = Levers.of(self.kinematics, bones, canonical)
        keypoint_px = self._add_keypoints(system, state, trust, levers, canonical)
        contour_px = float("nan")
        if self.evidence.outlines is not None:
            contour_px = self._add_outlines(system, state, trust, bones, canonical, generator)
        self._add_motion(system, trust, levers, canonical)
        self._add_pose_prior(system, state, trust)
        self._add_shared_prior(system, state, trust)
        moved, shared = system.solve()
        return self._moved(state, moved, shared), Figures(keypoint_px, contour_px, system.cost)

    def keypoint_error(self, state: State) -> float:
        """Median distance of landmarks to the keypoints that are well seen [px]; NaN without any."""
        seen = self.evidence.trust > SEEN
        if not bool(seen.any()):
            return float("nan")
        canonical = self.kinematics.canonical(state.body)
        bones = self.body.bones(state.body.poses, state.body.trans, None, canonical)[:, self.landmarks.bones]
        places = self.landmarks.positions(canonical.joints, state.offsets)
        world = torch.einsum("nkab,kb->nka", bones[..., :3, :3], places) + bones[..., :3, 3]
        distance = (self.camera_of(state).project(world)[..., :2] - self.evidence.keypoints).norm(dim=-1)
        return float(distance[seen].median())

    def _landmark_rows(self, state: State, levers: Levers, canonical: CanonicalBody) -> tuple[Tensor, Tensor, Tensor]:
        """Landmarks in the world ``[N, K, 3]``, derivatives by frames' unknowns and by the shared ones."""
        marks = self.landmarks
        K, S = self.shape_count, self.shared_count

        still = torch.zeros(1, 3)

        def places(betas: Tensor) -> Tensor:
            rest = self.rest_joints + self.rest_by_shape @ betas
            bones = self.body.bones(state.body.poses, state.body.trans, rest, canonical)[:, marks.bones]
            joints = self.body.posed_joints(canonical.pose[None], still, rest)[0]
            at = marks.positions(joints, state.offsets)
            return torch.einsum("nkab,kb->nka", bones[..., :3, :3], at) + bones[..., :3, 3]

        world = places(state.body.betas)
        by_shape = torch.func.jacfwd(places)(state.body.betas)
        rows = levers.rows(world, marks.bones)
        shared = world.new_zeros(*world.shape, S)
        shared[..., :K] = by_shape
        axes = levers.bones[:, marks.bones, :3, :3] * marks.signs[:, None]
        for k, group in enumerate(marks.groups.tolist()):
            shared[:, k, :, K + 3 * group : K + 3 * group + 3] += axes[:, k]
        return world, rows, shared

    def _add_keypoints(
        self, system: _Sums, state: State, trust: Trust, levers: Levers, canonical: CanonicalBody
    ) -> float:
        """Keypoints in the picture, their depth, and the ground; returns the median distance [px]."""
        marks, evidence = self.landmarks, self.evidence
        if len(marks.names) == 0:
            return float("nan")
        world, rows, shared = self._landmark_rows(state, levers, canonical)
        camera = self.camera_of(state)
        uvz = camera.project(world)
        by_place = projection_slope(camera, uvz)  # [N, K, 2, 3]
        residual = uvz[..., :2] - evidence.keypoints
        distance = residual.norm(dim=-1)
        sigma = trust.keypoint_px * marks.noise
        robust = geman_mcclure_weight(distance / sigma, 3.0)
        weight = evidence.trust * robust / sigma**2
        image_rows, image_shared = by_place @ rows, by_place @ shared
        if trust.focal > 0:
            image_shared[..., -1] += uvz[..., :2] - camera.principal
        system.add_all(image_rows, image_shared, residual, weight[..., None].expand_as(residual))

        hips = [marks.index("left_hip"), marks.index("right_hip")]
        forward = self.rotation[:, 2]
        depth, depth_rows, depth_shared = (torch.einsum("c,nkc...->nk...", forward, x) for x in (world, rows, shared))
        middle, middle_rows, middle_shared = (
            x[:, hips].mean(1, keepdim=True) for x in (depth, depth_rows, depth_shared)
        )
        off = depth - middle - evidence.depth
        robust = geman_mcclure_weight(off / trust.depth_m, 2.0)
        weight = evidence.depth_trust * robust / (trust.depth_m * marks.noise) ** 2
        system.add_all(
            (depth_rows - middle_rows)[:, :, None],
            (depth_shared - middle_shared)[:, :, None],
            off[..., None],
            weight[..., None],
        )

        ground = [k for k in map(marks.index, GROUND) if k >= 0]
        if ground and trust.ground_m > 0:
            self._add_ground(system, world[:, ground], rows[:, ground], shared[:, ground], trust)
        seen = evidence.trust > SEEN
        return float(distance[seen].median()) if bool(seen.any()) else float("nan")

    def _add_ground(self, system: _Sums, world: Tensor, rows: Tensor, shared: Tensor, trust: Trust) -> None:
        """The lower foot stands on one plane in all frames; the plane that the feet tell now."""
        in_camera = world @ self.rotation + self.camera.T
        plane = _plane(in_camera.double().cpu().numpy())
        normal = self.rotation @ torch.tensor([-plane[1], 1.0, -plane[2]]).to(world)
        height = in_camera @ (self.rotation.T @ normal) - plane[0]
        weight = geman_mcclure_weight(height / trust.ground_m, 1.5) / trust.ground_m**2
        up, up_shared = (torch.einsum("c,nkcd->nkd", normal, x)[:, :, None] for x in (rows, shared))
        system.add_all(up, up_shared, height[..., None], weight[..., None])

    def _add_outlines(
        self,
        system: _Sums,
        state: State,
        trust: Trust,
        bones: Tensor,
        canonical: CanonicalBody,
        generator: torch.Generator,
        frames_per_batch: int = 16,
    ) -> float:
        observations, scale = self.evidence.outlines, self.evidence.outline_scale
        assert observations is not None
        N = len(bones)
        camera = self.camera_of(state).resized(*observations.masks.shape[1:])
        faces = self.body.faces.int()
        normals = vertex_normals(canonical.vertices, faces)
        surface = RegistrationSurface(
            canonical.vertices, faces, self.body.weights, normals, vertices_by_shape=self.vertices_by_shape
        )
        shared_bones = self._bones_by_shape(state, canonical)
        medians = []
        for first in range(0, N, frames_per_batch):
            chosen = torch.arange(first, min(first + frames_per_batch, N))
            pixel = camera.project(skin_points(surface.vertices, surface.weights, bones[chosen]))
            face_index = visible_faces(pixel, surface.faces, camera.height, camera.width)
            contour = contour_edges(pixel, surface.faces, self.edges, face_index)
            for b, frame in enumerate(chosen.tolist()):
                edges = contour.vertex_index[contour.frame_index == b]
                if len(edges) == 0:
                    continue
                skeleton = self.kinematics.skeleton(bones[frame], canonical, shared_bones[frame])
                match = match_outline(observations, frame, pixel[b], edges, generator)
                medians.append(self._add_outline(system, frame, skeleton, surface, match, camera, trust))
        return float(np.median(medians)) / scale if medians else float("nan")

    def _add_outline(
        self,
        system: _Sums,
        frame: int,
        skeleton: Skeleton,
        surface: RegistrationSurface,
        match: OutlineMatch,
        camera: Camera,
        trust: Trust,
    ) -> float:
        """Distances of one frame's outlines; returns their median [px]."""
        sigma = trust.contour_m * float(camera.focal.mean() / match.uvz[:, 2].mean().clamp_min(0.1))
        kind = torch.where(match.residual < 0, INSIDE_TRUST, 1.0)
        robust = geman_mcclure_weight(match.residual / sigma, 2.0)
        weight = 0.5 * trust.contour_count * match.share * kind * robust / sigma**2
        middle = torch.tensor([0.5, 0.5, 0.0]).expand(len(match.ends), 3)
        points = surface.at(match.ends[:, [0, 1, 1]], middle)
        gradient = match.slope[:, None] @ projection_slope(camera, match.uvz)
        rows, by_shape = self.kinematics.point_rows(skeleton, points, gradient)
        assert isinstance(by_shape, Tensor)
        shared = match.residual.new_zeros(len(match.residual), self.shared_count)
        shared[:, : self.shape_count] = by_shape
        if trust.focal > 0:
            shared[:, -1] = (match.slope * (match.uvz[:, :2] - camera.principal)).sum(-1)
        system.add(frame, rows[:, 0], shared, match.residual, weight)
        system.cost += float((weight * match.residual**2).sum())
        return float(match.residual.abs().median())

    def _bones_by_shape(self, state: State, canonical: CanonicalBody) -> Tensor:
        def bones(betas: Tensor) -> Tensor:
            rest = self.rest_joints + self.rest_by_shape @ betas
            return self.body.bones(state.body.poses, state.body.trans, rest, canonical)[..., :3, :]

        derivative: Tensor = torch.func.jacfwd(bones)(state.body.betas)
        return derivative

    def _add_motion(self, system: _Sums, trust: Trust, levers: Levers, canonical: CanonicalBody) -> None:
        """Second differences of markers on all bones, over the true times."""
        markers = self.kinematics.markers
        J, M = len(self.kinematics.parents), len(markers)
        local = (canonical.joints[:, None] + markers).flatten(0, 1)
        joints = torch.arange(J).repeat_interleave(M)
        bones = levers.bones[:, joints]
        world = torch.einsum("nkab,kb->nka", bones[..., :3, :3], local) + bones[..., :3, 3]
        rows = levers.rows(world, joints).flatten(1, 2)
        values = world.flatten(1)
        weight = 1.0 / trust.acceleration_m**2 / M
        for first, last in self.evidence.clips:
            system.cost += system.add_differences(first, last, rows, values, weight, self.evidence.steps)

    def _add_pose_prior(self, system: _Sums, state: State, trust: Trust) -> None:
        poses = state.body.poses
        relative = relative_rotation(poses, prior_centre(poses).expand_as(poses))
        weight = prior_weight(poses) / trust.pose**2
        bent, stiff = limits(relative)
        system.add_own(0, relative.flatten(1), weight.flatten().expand(len(poses), -1))
        system.add_own(0, bent.flatten(1), stiff.flatten(1))
        if self.given is not None:
            off = relative_rotation(poses, self.given.body.poses).flatten(1)
            system.add_own(0, off, torch.full_like(off, 1.0 / self.given.turn**2))
            moved = state.body.trans - self.given.body.trans
            system.add_own(off.shape[1], moved, torch.full_like(moved, 1.0 / self.given.move**2))

    def _add_shared_prior(self, system: _Sums, state: State, trust: Trust) -> None:
        """Shape, landmarks, focal length and height; they weigh as so many frames."""
        frames = max(len(state.body.poses) / FRAMES_PER_SHARED_PRIOR, 1.0)
        K, marks = self.shape_count, self.landmarks
        weight = system.shared_right.new_zeros(self.shared_count)
        offset = torch.zeros_like(weight)
        weight[:K] = 1.0 / trust.shape**2
        offset[:K] = state.body.betas - (0.0 if self.given is None else self.given.body.betas)
        weight[K:-1] = (1.0 / marks.loose**2).repeat_interleave(3)
        offset[K:-1] = (state.offsets - marks.offsets).flatten()
        weight *= frames
        weight[-1] = 1.0
        if trust.focal > 0:
            weight[-1] = 1.0 / trust.focal**2
            offset[-1] = float(np.log(state.focal_scale * self.focal_over_guess))
        system.shared += torch.diag(weight)
        system.shared_right -= weight * offset
        system.cost += float((weight * offset**2).sum())
        if self.evidence.height is not None:
            slope, value = torch.func.grad_and_value(lambda betas: body_height(self.body, betas))(state.body.betas)
            weight_height = frames / trust.height_m**2
            system.shared[:K, :K] += weight_height * slope[:, None] * slope
            system.shared_right[:K] -= weight_height * slope * (value - self.evidence.height)
            system.cost += weight_height * float((value - self.evidence.height) ** 2)

    def _moved(self, state: State, moved: Tensor, shared: Tensor) -> State:
        J, K = len(self.kinematics.parents), self.shape_count
        poses = turned(state.body.poses, moved[:, :-3].view(-1, J, 3))
        body = replace(
            state.body, poses=poses, trans=state.body.trans + moved[:, -3:], betas=state.body.betas + shared[:K]
        )
        focal = state.focal_scale * float(torch.exp(shared[-1].clamp(-LARGEST_ZOOM, LARGEST_ZOOM)))
        return State(body, state.offsets + shared[K:-1].view(-1, 3), focal)


def shape_count(body: BodyModel) -> int:
    """Shape coefficients that are fitted: those that a capture can hold."""
    return min(body.shape_count, SHAPE_COUNT)


def with_focal(camera: Camera, factor: float) -> Camera:
    """The same camera with its focal length multiplied."""
    return Camera(
        [factor * value for value in camera.focal.tolist()],
        camera.principal.tolist(),
        camera.quat.tolist(),
        camera.T.tolist(),
        height=camera.height,
        width=camera.width,
    )


def body_height(body: BodyModel, betas: Tensor) -> Tensor:
    """From the soles to the crown of the T-pose [m]."""
    up = body.shaped(betas)[0][:, 1]
    return up.max() - up.min()


def _plane(feet: np.ndarray) -> np.ndarray:
    """(a, b, c) of the plane y = a + b x + c z under the lower foot of every frame; y is up, ``feet [N, P, 3]``."""
    lowest = np.sort(feet[..., 1], 1)[:, :2].mean(1)
    near = feet[..., 1] < lowest[:, None] + GROUND_BAND_M
    points = feet[near]
    centre = points.mean(0)
    columns = np.column_stack((np.ones(len(points)), points[:, 0] - centre[0], points[:, 2] - centre[2]))
    weight = np.ones(len(points))
    values = np.zeros(3)
    for _ in range(5):
        left = (columns * weight[:, None]).T @ columns + len(points) * np.diag([0.0, 1e-3, 1e-3])
        values = np.linalg.solve(left, (columns * weight[:, None]).T @ points[:, 1])
        weight = 1.0 / (1.0 + ((points[:, 1] - columns @ values) / 0.03) ** 2) ** 2
    return np.array([values[0] - values[1] * centre[0] - values[2] * centre[2], values[1], values[2]])
