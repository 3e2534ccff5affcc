"""Registration of all frames' poses to the pictures, holding the canonical surface still.

One sweep linearises every frame's residuals about the current poses and solves for all frames at once: silhouette edges
against the mask's distance, contour points against the nearest silhouette edge, normals, colours against the canonical
colour, smooth motion of markers on the bones, and the given poses as a prior. The matrix is banded in time: the whole
sequence costs one banded Cholesky factorisation. Second-order steps matter here: twists of limbs and the split of a
bend between neighbouring joints are weakly seen, and first-order optimisers leave them where they were.

Derivatives live in ``kinematics``, the solver in ``normal_equations``; the kinds of residual stand here together,
because they share one drawing of each frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.config import RegistrationConfig
from selfrecon_warp.kernels.contour import contour_edges, mesh_edges, nearest_contour
from selfrecon_warp.kernels.rasterize import pixel_barycentrics, visible_faces
from selfrecon_warp.kernels.skinning import skin_points
from selfrecon_warp.model.body import BodyModel
from selfrecon_warp.surface.mesh import vertex_normals
from selfrecon_warp.train.explicit import MATCH_COSINE, MATCH_RADIUS_PX
from selfrecon_warp.train.kinematics import Kinematics, Poses, Skeleton, SurfacePoints
from selfrecon_warp.train.normal_equations import NormalEquations
from selfrecon_warp.train.observations import Observations, band_passed, sample_image, sample_image_with_gradient

VISIBLE_WITHIN_M = 0.02
"""A vertex counts as seen where the picture shows the surface this near to its depth."""

NORMAL_REACH_PX = 2
"""The slope of the observed normals is taken over this many pixels to either side."""

REFERENCE_TURN = 3.0
"""Turn between two frames [degrees] at which the configured acceleration holds: a full turn in 120 frames."""

FRAMES_PER_SHAPE_PRIOR = 10.0
"""Frames see the same body again: the shape's prior counts once for so many."""


@dataclass(frozen=True)
class RegistrationSurface:
    """What is registered: a canonical mesh that rides on the bones.

    Attributes:
        vertices: Canonical positions [m], ``[V, 3]``.
        faces: ``[F, 3]`` int32.
        weights: Skinning weights, ``[V, J]``.
        normals: Canonical vertex normals, ``[V, 3]``.
        colours: Canonical vertex colours in [0, 1], ``[V, 3]``; ``None`` leaves the colour term out.
        vertices_by_shape: Derivative of the vertices by the body's shape coefficients, ``[V, 3, K]``; ``None`` where
            the mesh is not the body itself.
        normals_by_shape: The same of the normals, ``[V, 3, K]``.
    """

    vertices: Tensor
    faces: Tensor
    weights: Tensor
    normals: Tensor
    colours: Tensor | None = None
    vertices_by_shape: Tensor | None = None
    normals_by_shape: Tensor | None = None


def body_surface(body: BodyModel, estimate: Poses, pose_type: int = 1, with_shape: bool = False) -> RegistrationSurface:
    """The naked body as a surface to register, with derivatives by its shape coefficients if wanted."""
    faces = body.faces.int()

    def shaped(betas: Tensor) -> tuple[Tensor, Tensor]:
        vertices = body.canonical(betas, pose_type, estimate.joint_offsets).vertices
        return vertices, vertex_normals(vertices, faces)

    vertices, normals = shaped(estimate.betas)
    by_shape = torch.func.jacfwd(shaped)(estimate.betas) if with_shape else (None, None)
    return RegistrationSurface(vertices, faces, body.weights, normals, None, *by_shape)


@dataclass(frozen=True)
class _View:
    """One frame, drawn: what the residuals are taken from."""

    frame: int
    skeleton: Skeleton
    vertices_pixel: Tensor  # [V, 3]
    face_index: Tensor  # [H, W]
    edge_vertices: Tensor  # [E', 2] silhouette edges


@dataclass(frozen=True)
class _Samples:
    """Random pixels of one frame that both the surface and the mask cover, and the surface there."""

    pixels: Tensor  # [P, 2]
    uvz: Tensor  # [P, 3]
    corners: Tensor  # [P, 3] vertices of the face seen
    barycentrics: Tensor  # [P, 3]
    points: SurfacePoints
    rotations: Tensor  # [P, 3, 3] world from canonical
    normals: Tensor  # [P, 3] in the world
    facing: Tensor  # [P] cosine towards the camera

    def mix(self, values: Tensor) -> Tensor:
        """Vertex values ``[V, ...]`` at the samples."""
        return _mix(self.barycentrics, self.corners, values)


class Registration:
    """Solver for one capture; keeps no estimate of its own.

    Args:
        body: Body model.
        camera: The capture's camera, held still here.
        observations: Pictures and contours.
        given: The estimate the capture came with: centre of the prior.
        clips: First and one-past-last frame of each continuous clip.
        terms: Trust in each kind of residual.
        pose_type: Canonical pose of the body.
        anchor: The estimate whose median pose, place and depth are kept; ``given`` by default.
    """

    def __init__(
        self,
        body: BodyModel,
        camera: Camera,
        observations: Observations,
        given: Poses,
        clips: list[tuple[int, int]],
        terms: RegistrationConfig,
        pose_type: int = 1,
        anchor: Poses | None = None,
    ) -> None:
        self.body = body
        self.camera = camera
        self.observations = observations
        self.given = given
        self.anchor = anchor or given
        self.clips = clips
        self.terms = terms
        self.kinematics = Kinematics(body, pose_type)
        self.bands = band_passed(observations)
        self.acceleration_m = terms.acceleration_m * acceleration_factor(given.poses[:, 0], clips)

    @torch.no_grad()
    def sweep(
        self,
        estimate: Poses,
        surface: RegistrationSurface,
        *,
        generator: torch.Generator,
        contour_count: float | None = None,
        contour_scale_px: float | None = None,
        solve_shared: bool = False,
        free_surface: bool = True,
        frames_per_batch: int = 8,
    ) -> tuple[Poses, dict[str, float]]:
        """One Gauss-Newton step over the whole sequence.

        Args:
            estimate: Where to linearise.
            surface: Canonical mesh.
            generator: Source of the pixel samples.
            contour_count: Replaces the configured count, where the surface's outline is known to be off.
            contour_scale_px: Replaces the configured scale, where the estimate is still far.
            solve_shared: Also move shape coefficients and joint offsets.
            free_surface: The surface is fitted beside the poses and can take up what is constant in them; not so a body
                model, whose shape space is narrow.
            frames_per_batch: Frames drawn at once.

        Returns:
            The moved estimate and mean figures: contour distance [px], normal and colour residuals, step lengths.
        """
        changes = {"contour_count": contour_count, "contour_scale_px": contour_scale_px}
        terms = self.terms.model_copy(update={name: value for name, value in changes.items() if value is not None})
        N, J = estimate.poses.shape[:2]
        shared = len(estimate.betas) + 3 * J if solve_shared else 0
        system = NormalEquations(N, 3 * J + 3, shared, estimate.poses)
        figures: dict[str, list[float]] = {"contour_px": [], "normal": [], "colour": []}
        markers = []
        canonical = self.kinematics.canonical(estimate)
        for view in self._draw(estimate, surface, solve_shared, frames_per_batch):
            self._add_contours(system, terms, surface, view, figures)
            samples = self._sample(surface, view, generator)
            if samples is not None:
                self._add_normals(system, surface, view, samples, figures)
                if surface.colours is not None:
                    self._add_colours(system, surface.colours, view, samples, figures)
            markers.append(self.kinematics.marker_rows(view.skeleton, canonical))
        self._add_prior(system, estimate)
        places, rows = (torch.stack(parts) for parts in zip(*markers, strict=True))
        for first, last in self.clips:
            weight = 1.0 / self.acceleration_m**2 / len(self.kinematics.markers)
            system.add_differences(first, last, rows, places, weight)
        step, shared_step = system.solve()
        means = {name: float(np.mean(values)) for name, values in figures.items() if values}
        means["turn_degrees"] = float(torch.rad2deg(step[:, :-3].abs()).mean())
        return self._apply(estimate, step, shared_step, free_surface), means

    @torch.no_grad()
    def coloured(self, surface: RegistrationSurface, estimate: Poses) -> RegistrationSurface:
        """The surface with every vertex's mean band-passed colour over the frames that see it."""
        H, W = self.observations.masks.shape[1:]
        total, count = torch.zeros_like(surface.vertices), torch.zeros_like(surface.vertices[:, :1])
        for view in self._draw(estimate, surface, False, 8):
            u, v, z = view.vertices_pixel.unbind(-1)
            inside = (u > 0) & (u < W - 1) & (v > 0) & (v < H - 1)
            at = (v.round().clamp(0, H - 1) * W + u.round().clamp(0, W - 1)).long()
            face = view.face_index.flatten()[at].long()
            shown = z[surface.faces[face.clamp_min(0)].long()].mean(-1)
            seen = (inside & (face >= 0) & ((z - shown).abs() < VISIBLE_WITHIN_M)).float()[:, None]
            total += seen * sample_image(self.bands, torch.full_like(at, view.frame), view.vertices_pixel[:, :2])
            count += seen
        return replace(surface, colours=total / count.clamp_min(1.0))

    def _draw(
        self, estimate: Poses, surface: RegistrationSurface, solve_shared: bool, frames_per_batch: int
    ) -> Iterator[_View]:
        """Every frame of the estimate in turn."""
        N = self.observations.frame_count
        canonical = self.kinematics.canonical(estimate)
        edges = mesh_edges(surface.faces)
        for first in range(0, N, frames_per_batch):
            frames = torch.arange(first, min(first + frames_per_batch, N), device=surface.vertices.device)
            bones = self.body.bones(estimate.poses[frames], estimate.trans[frames], None, canonical)
            shared_bones = self.kinematics.shared_bones(estimate, frames) if solve_shared else None
            vertices_pixel = self.camera.project(skin_points(surface.vertices, surface.weights, bones))
            face_index = visible_faces(vertices_pixel, surface.faces, self.camera.height, self.camera.width)
            contour = contour_edges(vertices_pixel, surface.faces, edges, face_index)
            for b, frame in enumerate(frames.tolist()):
                moving = None if shared_bones is None else shared_bones[b]
                skeleton = self.kinematics.skeleton(bones[b], canonical, moving)
                mine = contour.vertex_index[contour.frame_index == b]
                yield _View(frame, skeleton, vertices_pixel[b], face_index[b], mine)

    def _add_contours(
        self,
        system: NormalEquations,
        terms: RegistrationConfig,
        surface: RegistrationSurface,
        view: _View,
        figures: dict[str, list[float]],
    ) -> None:
        """Both point-to-contour distances of one frame."""
        edges = view.edge_vertices
        if len(edges) == 0:
            return
        observations, frame = self.observations, view.frame
        ends = view.vertices_pixel[edges]
        midpoints = ends.mean(1)
        lengths = (ends[:, 0, :2] - ends[:, 1, :2]).norm(dim=-1)
        by_shape = surface.vertices_by_shape
        points = SurfacePoints(
            surface.vertices[edges].mean(1),
            surface.weights[edges].mean(1),
            None if by_shape is None else by_shape[edges].mean(1),
        )
        distance, slope = sample_image_with_gradient(
            observations.distance[..., None], torch.full_like(edges[:, 0], frame), midpoints[:, :2]
        )
        own = distance[:, 0]
        span = slice(int(observations.contour_start[frame]), int(observations.contour_start[frame + 1]))
        targets, outward = observations.contour_pixels[span], observations.contour_normals[span]
        zeros = torch.zeros(len(targets) + len(edges), dtype=torch.long, device=edges.device)
        match = nearest_contour(
            targets,
            zeros[: len(targets)],
            outward,
            midpoints[:, :2].contiguous(),
            zeros[len(targets) :],
            torch.nn.functional.normalize(slope[:, 0], dim=-1),
            MATCH_RADIUS_PX,
            MATCH_COSINE,
        )
        matched = match >= 0
        edge = match[matched]
        gap = ((midpoints[edge, :2] - targets[matched]) * outward[matched]).sum(-1)
        residual = torch.cat([own, gap])
        index = torch.cat([torch.arange(len(own), device=edge.device), edge])
        share = torch.cat([lengths / lengths.sum().clamp_min(1e-6), torch.full_like(gap, 1.0 / max(len(targets), 1))])
        robust = _robust_weight(residual, terms.contour_scale_px)
        weight = 0.5 * terms.contour_count * share * robust / terms.contour_px**2
        gradient = self._world_gradient(midpoints[index], torch.cat([slope[:, 0], outward[matched]]))
        rows, shared = self.kinematics.point_rows(view.skeleton, points.select(index), gradient)
        system.add(frame, rows, shared, residual, weight)
        figures["contour_px"].append(float((own.abs() * lengths).sum() / lengths.sum().clamp_min(1e-6)))

    def _sample(self, surface: RegistrationSurface, view: _View, generator: torch.Generator) -> _Samples | None:
        """Random covered pixels of one frame; ``None`` where surface and mask do not overlap."""
        covered = ((view.face_index >= 0) & self.observations.masks[view.frame]).flatten().nonzero()[:, 0]
        if len(covered) == 0:
            return None
        pick = torch.randint(len(covered), (self.terms.samples,), generator=generator).to(covered.device)
        flat = covered[pick]
        pixels = torch.stack([flat % self.camera.width, flat // self.camera.width], -1)
        face = view.face_index.flatten()[flat]
        barycentrics, depth = pixel_barycentrics(
            view.vertices_pixel[None], surface.faces, torch.zeros_like(face), pixels.float(), face
        )
        corners = surface.faces[face.long()].long()

        by_shape = surface.vertices_by_shape
        points = SurfacePoints(
            _mix(barycentrics, corners, surface.vertices),
            _mix(barycentrics, corners, surface.weights),
            None if by_shape is None else _mix(barycentrics, corners, by_shape),
        )
        rotations = torch.einsum("pj,jab->pab", points.weights, view.skeleton.bones[:, :3, :3])
        normals = torch.nn.functional.normalize(
            (rotations @ _mix(barycentrics, corners, surface.normals)[..., None])[..., 0], dim=-1
        )
        facing = -(normals * self.camera.rays(pixels.float())).sum(-1)
        uvz = torch.cat([pixels.float(), depth[:, None]], -1)
        return _Samples(pixels, uvz, corners, barycentrics, points, rotations, normals, facing)

    def _add_normals(
        self,
        system: NormalEquations,
        surface: RegistrationSurface,
        view: _View,
        samples: _Samples,
        figures: dict[str, list[float]],
    ) -> None:
        """Normals turn with the bones, and their pixels slide over the observed normals."""
        terms = self.terms
        u, v = samples.pixels.unbind(-1)
        observed = self.observations.normals[view.frame, v, u].float() / 127.0
        valid = observed.norm(dim=-1) > 0.5
        if not bool(valid.any()):
            return
        P = len(observed)
        residual = samples.normals - torch.nn.functional.normalize(observed, dim=-1)
        length = residual.norm(dim=-1)
        robust = _robust_weight(length, terms.normal_scale) * samples.facing.clamp(0.0, 1.0) * valid
        weight = terms.normal_count / P * robust / terms.normal**2
        sliding = self._world_gradient(
            samples.uvz.repeat_interleave(3, 0), -self._normal_slope(view.frame, samples.pixels).flatten(0, 1)
        )
        slid, shared = self.kinematics.point_rows(view.skeleton, samples.points.tripled(), sliding)
        shared = shared.view(P, 3, -1)
        if surface.normals_by_shape is not None and system.shared_count:
            by_shape = samples.rotations @ samples.mix(surface.normals_by_shape)
            shared[..., : by_shape.shape[-1]] += by_shape
        rows = self.kinematics.normal_rows(view.skeleton, samples.points, samples.normals) + slid.view(P, 3, -1)
        system.add(
            view.frame,
            rows.flatten(0, 1),
            shared.flatten(0, 1),
            residual.flatten(),
            weight.repeat_interleave(3),
        )
        figures["normal"].append(float(length[valid].mean()))

    def _add_colours(
        self,
        system: NormalEquations,
        colours: Tensor,
        view: _View,
        samples: _Samples,
        figures: dict[str, list[float]],
    ) -> None:
        """Band-passed colours against the canonical ones."""
        terms = self.terms
        frame = torch.full_like(samples.pixels[:, 0], view.frame)
        value, slope = sample_image_with_gradient(self.bands, frame, samples.uvz[:, :2])
        residual = value - samples.mix(colours)
        robust = _robust_weight(residual.norm(dim=-1), terms.colour_scale) * (samples.facing > 0.3)
        weight = terms.colour_count / len(residual) * robust / terms.colour**2
        gradient = self._world_gradient(samples.uvz.repeat_interleave(3, 0), slope.flatten(0, 1))
        rows, shared = self.kinematics.point_rows(view.skeleton, samples.points.tripled(), gradient)
        system.add(view.frame, rows, shared, residual.flatten(), weight.repeat_interleave(3))
        figures["colour"].append(float(residual.abs().mean()))

    def _normal_slope(self, frame: int, pixels: Tensor) -> Tensor:
        """Derivative of the observed normals by (u, v) ``[P, 3, 2]`` over a few pixels; zero at the mask's border."""
        H, W = self.camera.height, self.camera.width
        flat = self.observations.normals[frame].flatten(0, 1)
        u, v = pixels.unbind(-1)
        slopes = []
        for du, dv in ((NORMAL_REACH_PX, 0), (0, NORMAL_REACH_PX)):
            ends = [
                flat[(v + sign * dv).clamp(0, H - 1) * W + (u + sign * du).clamp(0, W - 1)].float() / 127.0
                for sign in (1, -1)
            ]
            known = (ends[0].norm(dim=-1) > 0.5) & (ends[1].norm(dim=-1) > 0.5)
            slopes.append((ends[0] - ends[1]) / (2.0 * NORMAL_REACH_PX) * known[:, None])
        return torch.stack(slopes, -1)

    def _world_gradient(self, pixel: Tensor, image_gradient: Tensor) -> Tensor:
        """Turn a derivative by (u, v) at points ``(u, v, z)`` into one by world position, ``[P, 3]``."""
        focal, principal = self.camera.focal, self.camera.principal
        depth = pixel[:, 2:]
        xy = (principal - pixel[:, :2]) / focal
        du = -image_gradient * focal / depth
        in_camera = torch.cat([du, -(du * xy).sum(-1, keepdim=True)], -1)
        return in_camera @ self.camera.rotation().T

    def _add_prior(self, system: NormalEquations, estimate: Poses) -> None:
        """The given poses, and the given shape where it moves."""
        terms, given = self.terms, self.given
        relative = _relative_rotation(estimate.poses, given.poses)
        residual = torch.cat([relative.flatten(1), estimate.trans - given.trans], -1)
        weight = torch.full_like(residual[0], 1.0 / np.deg2rad(terms.pose_degrees) ** 2)
        weight[-3:] = 1.0 / terms.trans_m**2
        system.diagonal += torch.diag(weight)
        system.right -= weight * residual
        if system.shared_count:
            K = len(estimate.betas)
            weight = torch.full_like(system.shared_right, 1.0 / terms.joint_m**2)
            weight[:K] = 1.0 / terms.shape**2
            weight *= len(residual) / FRAMES_PER_SHAPE_PRIOR
            offset = torch.cat([estimate.betas - given.betas, estimate.joint_offsets.flatten()])
            system.shared += torch.diag(weight)
            system.shared_right -= weight * offset

    def _pinned(self, poses: np.ndarray, trans: Tensor, free_surface: bool) -> tuple[np.ndarray, Tensor]:
        """Poses and translations without what the surface cannot tell apart from its own shape.

        A change of mean depth is undone by scaling the surface. Where the surface is free, a constant turn of a joint
        in its own frame, or a constant shift of the body in the root's, is undone by moving it. The anchor decides
        these: its median stays.
        """
        anchor = Rotation.from_rotvec(self.anchor.poses.reshape(-1, 3).double().cpu().numpy())
        current = Rotation.from_rotvec(poses)
        J = len(self.kinematics.parents)
        change = (trans - self.anchor.trans).double().cpu().numpy()
        if free_surface:
            constant = np.median((anchor.inv() * current).as_rotvec().reshape(-1, J, 3), 0)
            current = current * Rotation.from_rotvec(np.tile(-constant, (len(trans), 1)))
            roots = Rotation.from_matrix(current.as_matrix().reshape(-1, J, 3, 3)[:, 0])
            change -= roots.apply(np.median(roots.inv().apply(change), 0))
        forward = self.camera.rotation()[:, 2].double().cpu().numpy()
        depth = change @ forward
        for first, last in self.clips:
            depth[first:last] = np.median(depth[first:last])
        change -= depth[:, None] * forward
        return current.as_rotvec(), self.anchor.trans + torch.from_numpy(change).to(trans)

    def _apply(self, estimate: Poses, step: Tensor, shared_step: Tensor, free_surface: bool) -> Poses:
        J = len(self.kinematics.parents)
        turn = step[:, :-3].view(-1, J, 3)
        turn = turn * (0.3 / turn.norm(dim=-1, keepdim=True).clamp_min(0.3))
        moved = Rotation.from_rotvec(turn.reshape(-1, 3).double().cpu().numpy()) * Rotation.from_rotvec(
            estimate.poses.reshape(-1, 3).double().cpu().numpy()
        )
        vectors, trans = self._pinned(moved.as_rotvec(), estimate.trans + step[:, -3:], free_surface)
        poses = torch.from_numpy(vectors).to(estimate.poses).view_as(estimate.poses)
        result = replace(estimate, poses=poses, trans=trans)
        if len(shared_step):
            K = len(estimate.betas)
            result = replace(
                result,
                betas=estimate.betas + shared_step[:K],
                joint_offsets=estimate.joint_offsets + shared_step[K:].view(-1, 3),
            )
        return result


def _mix(barycentrics: Tensor, corners: Tensor, values: Tensor) -> Tensor:
    """Vertex values ``[V, ...]`` at points with ``barycentrics [P, 3]`` on faces with vertices ``corners [P, 3]``."""
    return torch.einsum("pk,pk...->p...", barycentrics, values[corners])


def acceleration_factor(roots: Tensor, clips: list[tuple[int, int]]) -> float:
    """How much second differences in time grow by the pace of the frames: its square, one at ``REFERENCE_TURN``.

    Args:
        roots: Root rotations, axis-angle [rad], ``[N, 3]``; the person turns around, so they tell how much motion lies
            between two frames.
        clips: First and one-past-last frame of each clip.
    """

    def pace(gap: int) -> float:
        """Median turn a frame [degrees], measured over ``gap`` frames; zero where no clip is as long."""
        turns = [
            (clip[:-gap].inv() * clip[gap:]).magnitude() / gap
            for clip in (Rotation.from_rotvec(roots[a:b].double().cpu().numpy()) for a, b in clips if b - a > gap)
        ]
        return float(np.rad2deg(np.median(np.concatenate(turns)))) if turns else 0.0

    longest = int(90.0 / max(pace(1), 1e-3))  # further apart, a turn could be taken for its complement
    pace_degrees = pace(min(max(longest, 1), 8)) or pace(1) or REFERENCE_TURN
    return float(max((pace_degrees / REFERENCE_TURN) ** 2, 0.25))


def _robust_weight(residual: Tensor, scale: float) -> Tensor:
    """Weight of iteratively reweighted least squares for Geman-McClure, one at zero."""
    return 1.0 / (1.0 + (residual / (2.0 * scale)) ** 2) ** 2


def _relative_rotation(poses: Tensor, reference: Tensor) -> Tensor:
    """Rotation vectors that turn ``reference`` into ``poses``, ``[N, J, 3]``."""
    here = Rotation.from_rotvec(poses.reshape(-1, 3).double().cpu().numpy())
    there = Rotation.from_rotvec(reference.reshape(-1, 3).double().cpu().numpy())
    return torch.from_numpy((here * there.inv()).as_rotvec()).to(poses).view_as(poses)
