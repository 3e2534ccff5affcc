"""Registration of all frames' poses to the pictures, together with the canonical surface's shape.

One sweep linearises every frame's residuals about the current poses and solves for all frames at once: silhouette
edges against the mask's distance, contour points against the nearest silhouette edge, normals, colours of scattered
points against what all frames agree on, smooth motion of markers on the bones, and as priors the given poses and each
joint's usual rotation. Poses couple over three frames in time; a body model's shape, or bumps on a free surface, border
the matrix. Second-order steps matter here: twists of limbs and the split of a bend between neighbouring joints are
weakly seen, and first-order optimisers leave them where they were.

Derivatives live in ``kinematics``, the surface's shape in ``bumps``, what is thought beforehand in ``priors``, the
solver in ``normal_equations``; what pictures say stands here together, because it shares one drawing of each frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import sparse
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn.functional import normalize

from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.config import RegistrationConfig
from selfrecon_warp.kernels.contour import contour_edges, mesh_edges
from selfrecon_warp.kernels.rasterize import pixel_barycentrics, visible_faces
from selfrecon_warp.kernels.skinning import skin_points
from selfrecon_warp.model.body import BodyModel
from selfrecon_warp.surface.mesh import vertex_normals
from selfrecon_warp.train.bridging import bridged
from selfrecon_warp.train.bumps import Bumps
from selfrecon_warp.train.contour_match import match_contours
from selfrecon_warp.train.kinematics import (
    Kinematics,
    Poses,
    Skeleton,
    SurfacePoints,
    rotations,
    turned,
)
from selfrecon_warp.train.losses import geman_mcclure_weight
from selfrecon_warp.train.normal_equations import NormalEquations
from selfrecon_warp.train.observations import Observations, band_passed, sample_image_with_gradient
from selfrecon_warp.train.pace import acceleration_factor, turn_per_frame
from selfrecon_warp.train.priors import Priors

VISIBLE_WITHIN_M = 0.02
"""A point counts as seen where the picture shows the surface this near to its depth."""

LEAST_FACING = 0.35
"""Cosine towards the camera below which a point's colour is not compared."""

NORMAL_REACH_PX = 2
"""The slope of the observed normals is taken over this many pixels to either side."""

BRIDGED_TURN = 36.0
"""Over so much of the person's turn [degrees], a limb is taken to be between where it was before and after."""


@dataclass(frozen=True)
class RegistrationSurface:
    """What is registered: a canonical mesh that rides on the bones.

    Attributes:
        vertices: Canonical positions [m], ``[V, 3]``.
        faces: ``[F, 3]`` int32.
        weights: Skinning weights, ``[V, J]``.
        normals: Canonical vertex normals, ``[V, 3]``.
        vertices_by_shape: Derivative of the vertices by the body's shape coefficients, ``[V, 3, K]``; ``None`` where
            the mesh is not the body itself.
        normals_by_shape: The same of the normals, ``[V, 3, K]``.
        bumps: Ways the mesh may change its shape; ``None`` holds it still.
    """

    vertices: Tensor
    faces: Tensor
    weights: Tensor
    normals: Tensor
    vertices_by_shape: Tensor | None = None
    normals_by_shape: Tensor | None = None
    bumps: Bumps | None = None

    def at(self, corners: Tensor, barycentrics: Tensor) -> SurfacePoints:
        """Points with ``barycentrics [P, 3]`` between the vertices ``corners [P, 3]``."""
        mixed = (_mix(barycentrics, corners, values) for values in (self.vertices, self.weights, self.normals))
        canonical, weights, normals = mixed
        by_shape = None if self.vertices_by_shape is None else _mix(barycentrics, corners, self.vertices_by_shape)
        by_bumps = None if self.bumps is None else self.bumps.values_at(corners, barycentrics)
        return SurfacePoints(canonical, weights, normalize(normals, dim=-1), by_shape, by_bumps)


def body_surface(body: BodyModel, estimate: Poses, pose_type: int = 1, with_shape: bool = False) -> RegistrationSurface:
    """The naked body as a surface to register, with derivatives by its shape coefficients if wanted."""
    faces = body.faces.int()

    def shaped(betas: Tensor) -> tuple[Tensor, Tensor]:
        vertices = body.canonical(betas, pose_type, estimate.joint_offsets).vertices
        return vertices, vertex_normals(vertices, faces)

    vertices, normals = shaped(estimate.betas)
    by_shape = torch.func.jacfwd(shaped)(estimate.betas) if with_shape else (None, None)
    return RegistrationSurface(vertices, faces, body.weights, normals, *by_shape)


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


def scatter_points(surface: RegistrationSurface, count: int, generator: torch.Generator) -> SurfacePoints:
    """Draw ``count`` points from a surface, evenly by area.

    Colours are compared at such points and not at vertices, which lie too far apart to tell a fabric's pattern.
    """
    corners = surface.vertices[surface.faces.long()]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=-1)
    face = torch.multinomial(area.cpu().double(), count, replacement=True, generator=generator).to(area.device)
    root, share = torch.rand(2, count, generator=generator).to(area)
    root = root.sqrt()
    barycentrics = torch.stack([1 - root, root * (1 - share), root * share], -1)
    return surface.at(surface.faces[face].long(), barycentrics)


@dataclass(frozen=True)
class _Sighting:
    """Scattered points that one frame sees, and their colours there."""

    frame: int
    skeleton: Skeleton
    index: Tensor  # [Q]
    uvz: Tensor  # [Q, 3]
    value: Tensor  # [Q, 3]
    slope: Tensor  # [Q, 3, 2]
    facing: Tensor  # [Q] cosine towards the camera


@dataclass(frozen=True)
class Sweep:
    """What one sweep gives.

    Attributes:
        estimate: The moved estimate.
        figures: Means before the step: contour distance [px], normal and colour residuals; and its length.
        heights: How far the vertices of a surface with bumps move along their normals [m], ``[V]``.
        moves: Similarities that its rigid parts move by, ``[4, 4]`` each.
    """

    estimate: Poses
    figures: dict[str, float]
    heights: Tensor | None
    moves: tuple[Tensor, ...] = ()


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
        pace = turn_per_frame(given.poses[:, 0], clips)
        self.acceleration_m = terms.acceleration_m * acceleration_factor(pace)
        self.longest_astray = int(BRIDGED_TURN / max(pace, 1e-3))
        self.priors = Priors(given, terms)

    @torch.no_grad()
    def sweep(
        self,
        estimate: Poses,
        surface: RegistrationSurface,
        *,
        generator: torch.Generator,
        terms: RegistrationConfig | None = None,
        solve_shared: bool = False,
        free_surface: bool = True,
        colour_points: int = 0,
        frames_per_batch: int = 8,
    ) -> Sweep:
        """One Gauss-Newton step over the whole sequence.

        Args:
            estimate: Where to linearise.
            surface: Canonical mesh.
            generator: Source of the pixel samples.
            terms: Replaces the configured trust in what is seen, where the surface is known to be off.
            solve_shared: Also move shape coefficients and joint offsets; not on a surface with bumps.
            free_surface: The surface is fitted beside the poses and can take up what is constant in them; not so a body
                model, whose shape space is narrow.
            colour_points: Points on the surface whose colours are compared between frames; 0 leaves colours out.
            frames_per_batch: Frames drawn at once.

        """
        terms = terms or self.terms
        N, J = estimate.poses.shape[:2]
        shared = len(estimate.betas) + 3 * J if solve_shared else 0
        if surface.bumps is not None:
            shared = surface.bumps.count
        system = NormalEquations(N, 3 * J + 3, shared, estimate.poses)
        figures: dict[str, list[float]] = {"contour_px": [], "normal": [], "colour": []}
        markers = []
        canonical = self.kinematics.canonical(estimate)
        scattered = scatter_points(surface, colour_points, generator) if colour_points else None
        sightings: list[_Sighting] = []
        overlap = np.zeros(N)
        for view in self._draw(estimate, surface, solve_shared, frames_per_batch):
            overlap[view.frame] = self._overlap(view)
            self._add_contours(system, terms, surface, view, figures)
            samples = self._sample(surface, view, generator)
            if samples is not None:
                self._add_normals(system, terms, surface, view, samples, figures)
            if scattered is not None:
                sightings.append(self._look_up(view, surface, scattered))
            markers.append(self.kinematics.marker_rows(view.skeleton, canonical))
        # Light moves over plain cloth as the person turns. Where no normals hold the surface between its outlines,
        # bumps that follow colours dent it by centimetres; colours then speak of poses alone.
        held = bool(figures["normal"]) and terms.normal_count > 0
        if scattered is not None:
            compared = scattered if held else replace(scattered, by_bumps=None)
            self._add_colours(system, compared, sightings, figures)
        self.priors.add(system, estimate, surface.bumps, held)
        places, rows = (torch.stack(parts) for parts in zip(*markers, strict=True))
        for first, last in self.clips:
            weight = 1.0 / self.acceleration_m**2 / len(self.kinematics.markers)
            system.add_differences(first, last, rows, places, weight)
        step, shared_step = system.solve(self._still(estimate))
        means = {name: float(np.mean(values)) for name, values in figures.items() if values}
        means["turn_degrees"] = float(torch.rad2deg(step[:, :-3].abs()).mean())
        heights: Tensor | None = None
        moves: tuple[Tensor, ...] = ()
        if surface.bumps is not None:
            moves = tuple(part.move(shared_step) for part in surface.bumps.rigid)
            heights, shared_step = surface.bumps.heights(shared_step), shared_step[:0]
            means["heights_mm"] = 1e3 * float(heights.abs().mean())
        moved = self._apply(estimate, step, shared_step, free_surface)

        def overlap_of(poses: Tensor, trans: Tensor, frames: Sequence[int]) -> np.ndarray:
            drawn = self._draw(replace(moved, poses=poses, trans=trans), surface, False, frames_per_batch, frames)
            return np.array([self._overlap(view) for view in drawn])

        poses, trans, count = bridged(
            moved.poses,
            moved.trans,
            overlap,
            self.clips,
            list(self.kinematics.parents),
            overlap_of,
            longest=self.longest_astray,
        )
        means["bridged"] = float(count)
        return Sweep(replace(moved, poses=poses, trans=trans), means, heights, moves)

    def _draw(
        self,
        estimate: Poses,
        surface: RegistrationSurface,
        solve_shared: bool,
        frames_per_batch: int,
        chosen: Sequence[int] | None = None,
    ) -> Iterator[_View]:
        """Every frame of the estimate in turn, or the chosen ones."""
        index = torch.tensor(range(self.observations.frame_count) if chosen is None else chosen)
        canonical = self.kinematics.canonical(estimate)
        edges = mesh_edges(surface.faces)
        for frames in index.to(surface.vertices.device).split(frames_per_batch):
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

    def _overlap(self, view: _View) -> float:
        """Intersection over union of one frame's surface and mask."""
        drawn, mask = view.face_index >= 0, self.observations.masks[view.frame]
        return float((drawn & mask).sum() / (drawn | mask).sum().clamp_min(1))

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
        middle = torch.tensor([0.5, 0.5, 0.0]).to(ends).expand(len(edges), 3)
        points = surface.at(edges[:, [0, 1, 1]].long(), middle)
        row = torch.zeros(len(edges), dtype=torch.long, device=edges.device)
        match = match_contours(observations, row.new_tensor([frame]), row, midpoints[:, :2])
        own, gap = match.distance, match.contour_gaps(midpoints[:, :2])
        residual = torch.cat([own, gap])
        index = torch.cat([torch.arange(len(own), device=edges.device), match.edge])
        matched_share = torch.full_like(gap, 1.0 / max(match.contour_count, 1))
        share = torch.cat([lengths / lengths.sum().clamp_min(1e-6), matched_share])
        robust = geman_mcclure_weight(residual, terms.contour_scale_px)
        robust = robust * torch.where(residual < 0.0, terms.contour_inside, 1.0)
        weight = 0.5 * terms.contour_count * share * robust / terms.contour_px**2
        gradient = self._world_gradient(midpoints[index], torch.cat([match.slope, match.outward])[:, None])
        rows, shared = self.kinematics.point_rows(view.skeleton, points.select(index), gradient)
        system.add(frame, rows[:, 0], shared, residual, weight)
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

        points = surface.at(corners, barycentrics)
        rotations = torch.einsum("pj,jab->pab", points.weights, view.skeleton.bones[:, :3, :3])
        normals = normalize((rotations @ points.normals[..., None])[..., 0], dim=-1)
        facing = -(normals * self.camera.rays(pixels.float())).sum(-1)
        uvz = torch.cat([pixels.float(), depth[:, None]], -1)
        return _Samples(pixels, uvz, corners, barycentrics, points, rotations, normals, facing)

    def _add_normals(
        self,
        system: NormalEquations,
        terms: RegistrationConfig,
        surface: RegistrationSurface,
        view: _View,
        samples: _Samples,
        figures: dict[str, list[float]],
    ) -> None:
        """Normals turn with the bones, and their pixels slide over the observed normals."""
        u, v = samples.pixels.unbind(-1)
        observed = self.observations.normals[view.frame, v, u].float() / 127.0
        valid = observed.norm(dim=-1) > 0.5
        if not bool(valid.any()):
            return
        P = len(observed)
        residual = samples.normals - normalize(observed, dim=-1)
        length = residual.norm(dim=-1)
        robust = geman_mcclure_weight(length, terms.normal_scale) * samples.facing.clamp(0.0, 1.0) * valid
        weight = terms.normal_count / P * robust / terms.normal**2
        sliding = self._world_gradient(samples.uvz, -self._normal_slope(view.frame, samples.pixels))
        slid, shared = self.kinematics.point_rows(view.skeleton, samples.points, sliding)
        if surface.bumps is not None:
            turning = sparse.bsr_array((samples.rotations.cpu().numpy(), np.arange(P), np.arange(P + 1)))
            shared = shared - turning @ surface.bumps.slopes_at(samples.corners, samples.barycentrics)
        elif surface.normals_by_shape is not None and shared is not None:
            by_shape = samples.rotations @ _mix(samples.barycentrics, samples.corners, surface.normals_by_shape)
            shared[:, : by_shape.shape[-1]] += by_shape.flatten(0, 1)
        rows = self.kinematics.normal_rows(view.skeleton, samples.points, samples.normals) + slid
        system.add(view.frame, rows.flatten(0, 1), shared, residual.flatten(), weight.repeat_interleave(3))
        figures["normal"].append(float(length[valid].mean()))

    def _look_up(self, view: _View, surface: RegistrationSurface, points: SurfacePoints) -> _Sighting:
        """Band-passed colours of the points that one frame sees well enough."""
        H, W = self.camera.height, self.camera.width
        posed = skin_points(points.canonical, points.weights, view.skeleton.bones[None])[0]
        uvz = self.camera.project(posed[None])[0]
        turned = torch.einsum("pj,jmn,pn->pm", points.weights, view.skeleton.bones[:, :3, :3], points.normals)
        towards = normalize(self.camera.centre() - posed, dim=-1)
        facing = (normalize(turned, dim=-1) * towards).sum(-1)
        at = (uvz[:, 1].round().clamp(0, H - 1) * W + uvz[:, 0].round().clamp(0, W - 1)).long()
        face = view.face_index.flatten()[at].long()
        shown = view.vertices_pixel[:, 2][surface.faces[face.clamp_min(0)].long()].mean(-1)
        seen = (face >= 0) & ((uvz[:, 2] - shown).abs() < VISIBLE_WITHIN_M) & (facing > LEAST_FACING)
        index = (seen & self.observations.masks[view.frame].flatten()[at]).nonzero()[:, 0]
        uvz = uvz[index]
        frame = torch.full_like(index, view.frame)
        value, slope = sample_image_with_gradient(self.bands, frame, uvz[:, :2])
        return _Sighting(view.frame, view.skeleton, index, uvz, value, slope, facing[index])

    def _add_colours(
        self,
        system: NormalEquations,
        points: SurfacePoints,
        sightings: list[_Sighting],
        figures: dict[str, list[float]],
    ) -> None:
        """Colours of points against what all frames that see them agree on."""
        terms = self.terms
        colours = _agreed_colours(sightings, len(points.canonical), terms.colour_scale)
        for seen in sightings:
            if len(seen.index) == 0:
                continue
            residual = seen.value - colours[seen.index]
            figures["colour"].append(float(residual.abs().mean()))
            robust = geman_mcclure_weight(residual.norm(dim=-1), terms.colour_scale)
            weight = terms.colour_count / len(residual) * robust / terms.colour**2
            gradient = self._world_gradient(seen.uvz, seen.slope)
            rows, shared = self.kinematics.point_rows(seen.skeleton, points.select(seen.index), gradient)
            system.add(seen.frame, rows.flatten(0, 1), shared, residual.flatten(), weight.repeat_interleave(3))

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

    def _world_gradient(self, uvz: Tensor, image_gradients: Tensor) -> Tensor:
        """Turn derivatives by (u, v) at points ``uvz [P, 3]``, ``[P, C, 2]``, into ones by place, ``[P, C, 3]``."""
        focal, principal = self.camera.focal, self.camera.principal
        depth = uvz[:, None, 2:]
        xy = (principal - uvz[:, None, :2]) / focal
        du = -image_gradients * focal / depth
        in_camera = torch.cat([du, -(du * xy).sum(-1, keepdim=True)], -1)
        return in_camera @ self.camera.rotation().T

    def _still(self, estimate: Poses) -> Tensor:
        """The depth of each clip, which :meth:`_pinned` keeps, ``[C, N, 3 J + 3]``.

        Undone after the solve alone, a step in depth would leave behind the shape that makes up for it.
        """
        N, J = estimate.poses.shape[:2]
        still = estimate.trans.new_zeros(len(self.clips), N, 3 * J + 3)
        for direction, (first, last) in zip(still, self.clips, strict=True):
            direction[first:last, -3:] = self.camera.rotation()[:, 2]
        return still

    def _pinned(self, poses: Tensor, trans: Tensor, free_surface: bool) -> tuple[Tensor, Tensor]:
        """Poses and translations without what the surface cannot tell apart from its own shape.

        A change of mean depth is undone by scaling the surface. Where the surface is free, a constant turn of a joint
        in its own frame, or a constant shift of the body in the root's, is undone by moving it. The anchor decides
        these: its median stays.
        """
        anchor, current = rotations(self.anchor.poses), rotations(poses)
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
        vectors = torch.from_numpy(current.as_rotvec()).to(poses).view_as(poses)
        return vectors, self.anchor.trans + torch.from_numpy(change).to(trans)

    def _apply(self, estimate: Poses, step: Tensor, shared_step: Tensor, free_surface: bool) -> Poses:
        J = len(self.kinematics.parents)
        moved = turned(estimate.poses, step[:, :-3].view(-1, J, 3))
        poses, trans = self._pinned(moved, estimate.trans + step[:, -3:], free_surface)
        result = replace(estimate, poses=poses, trans=trans)
        if len(shared_step):
            K = len(estimate.betas)
            result = replace(
                result,
                betas=estimate.betas + shared_step[:K],
                joint_offsets=estimate.joint_offsets + shared_step[K:].view(-1, 3),
            )
        return result


def _agreed_colours(sightings: list[_Sighting], count: int, scale: float, passes: int = 3) -> Tensor:
    """Robust mean colour of every point over the frames that see it, ``[P, 3]``; zero where none does."""
    index = torch.cat([seen.index for seen in sightings])
    values = torch.cat([seen.value for seen in sightings])
    trust = torch.cat([seen.facing for seen in sightings])[:, None] ** 2
    weight = trust
    for _ in range(passes):
        total = values.new_zeros(count, 3).index_add_(0, index, weight * values)
        colours = total / values.new_zeros(count, 1).index_add_(0, index, weight).clamp_min(1e-6)
        weight = trust * geman_mcclure_weight((values - colours[index]).norm(dim=-1), scale)[:, None]
    return colours


def _mix(barycentrics: Tensor, corners: Tensor, values: Tensor) -> Tensor:
    """Vertex values ``[V, ...]`` at points with ``barycentrics [P, 3]`` on faces with vertices ``corners [P, 3]``."""
    return torch.einsum("pk,pk...->p...", barycentrics, values[corners])
