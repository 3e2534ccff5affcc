"""Registration of all frames' poses to the pictures, holding the canonical surface still.

One sweep linearises every frame's residuals about the current poses and solves for all frames at once: silhouette edges
against the mask's distance, contour points against the nearest silhouette edge, normals, colours against the canonical
colour, smooth motion of markers on the bones, and the given poses as a prior. The matrix is banded in time, so the whole
sequence costs one banded Cholesky factorisation. Second-order steps matter here: twists of limbs and the split of a bend
between neighbouring joints are weakly seen, and first-order optimisers leave them where they were.

Every frame has ``6 + 3 (J - 1)`` unknowns: small rotations of the joints in their parent's frame, and a translation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.linalg import cho_solve_banded, cholesky_banded
from scipy.spatial.transform import Rotation
from torch import Tensor

from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.config import RegistrationConfig
from selfrecon_warp.kernels.contour import contour_edges, mesh_edges, nearest_contour
from selfrecon_warp.kernels.rasterize import pixel_barycentrics, visible_faces
from selfrecon_warp.kernels.skinning import skin_points
from selfrecon_warp.model.body import BodyModel, CanonicalBody
from selfrecon_warp.train.explicit import MATCH_COSINE, MATCH_RADIUS_PX
from selfrecon_warp.train.observations import Observations, band_passed, sample_image_with_gradient


VISIBLE_WITHIN_M = 0.02
"""A vertex counts as seen where the picture shows the surface this near to its depth."""


@dataclass(frozen=True)
class RegistrationSurface:
    """What is registered: a canonical mesh that rides on the bones.

    Attributes:
        vertices: Canonical positions [m], ``[V, 3]``.
        faces: ``[F, 3]`` int32.
        weights: Skinning weights, ``[V, J]``.
        normals: Canonical vertex normals, ``[V, 3]``.
        colours: Canonical vertex colours in [0, 1], ``[V, 3]``; ``None`` leaves the colour term out.
    """

    vertices: Tensor
    faces: Tensor
    weights: Tensor
    normals: Tensor
    colours: Tensor | None = None


@dataclass(frozen=True)
class Poses:
    """Everything registration moves.

    Attributes:
        poses: Axis-angle [rad], ``[N, J, 3]``.
        trans: Translation [m], ``[N, 3]``.
        betas: Shape coefficients, ``[K]``.
        joint_offsets: Correction of the rest joints [m], ``[J, 3]``.
    """

    poses: Tensor
    trans: Tensor
    betas: Tensor
    joint_offsets: Tensor


@dataclass
class _System:
    """Normal equations of all frames: ``diagonal`` and two off-diagonals in time, plus shared unknowns."""

    diagonal: Tensor  # [N, D, D]
    first: Tensor  # [N - 1, D, D]: frame t + 1 by frame t
    second: Tensor  # [N - 2, D, D]: frame t + 2 by frame t
    right: Tensor  # [N, D]
    mixed: Tensor  # [N, D, S]
    shared: Tensor  # [S, S]
    shared_right: Tensor  # [S]
    figures: dict[str, list[float]]


@dataclass(frozen=True)
class _Skeleton:
    """One frame's kinematics at the current estimate."""

    bones: Tensor  # [J, 4, 4] world from canonical
    centres: Tensor  # [J, 3] joints in the world
    parent_rotations: Tensor  # [J, 3, 3] world from the parent's frame
    shared_bones: Tensor | None  # [J, 3, 4, S] derivative of the bones by shared unknowns


@dataclass(frozen=True)
class _Points:
    """Surface points of one frame that carry residuals."""

    canonical: Tensor  # [P, 3]
    weights: Tensor  # [P, J]
    shared: Tensor | None  # [P, 3, S] derivative of the canonical position by shared unknowns


class Registration:
    """Solver for one capture; keeps no estimate of its own.

    Args:
        body: Body model.
        camera: The capture's camera, held still here.
        observations: Pictures and contours.
        given: The estimate the capture came with: centre of the prior.
        clips: First and one-past-last frame of each continuous clip.
        terms: Trust in each kind of residual.
    """

    def __init__(
        self,
        body: BodyModel,
        camera: Camera,
        observations: Observations,
        given: Poses,
        clips: list[tuple[int, int]],
        terms: RegistrationConfig,
    ) -> None:
        self.body = body
        self.camera = camera
        self.observations = observations
        self.given = given
        self.clips = clips
        self.terms = terms
        self.parents = body.parents
        J = len(self.parents)
        descends = torch.eye(J)
        for joint in range(J - 1, 0, -1):
            descends[self.parents[joint]] += descends[joint]
        self.descends = descends.to(observations.distance.device)
        self.markers = torch.cat([torch.zeros(1, 3), 0.1 * torch.eye(3)]).to(self.descends)
        self.bands = band_passed(observations)

    @torch.no_grad()
    def sweep(
        self,
        estimate: Poses,
        surface: RegistrationSurface,
        *,
        generator: torch.Generator,
        contour_count: float | None = None,
        contour_scale_px: float | None = None,
        shape_jacobian: Tensor | None = None,
        solve_shared: bool = False,
        frames_per_batch: int = 8,
    ) -> tuple[Poses, dict[str, float]]:
        """One Gauss-Newton step over the whole sequence.

        Args:
            estimate: Where to linearise.
            surface: Canonical mesh.
            generator: Source of the pixel samples.
            contour_count: Replaces the configured count, where the surface's outline is known to be off.
            contour_scale_px: Replaces the configured scale, where the estimate is still far.
            shape_jacobian: Derivative of the mesh's vertices by the shape coefficients, ``[V, 3, K]``, where the mesh is
                the body itself.
            solve_shared: Also move shape coefficients and joint offsets.
            frames_per_batch: Frames drawn at once.

        Returns:
            The moved estimate and mean figures: contour distance [px], normal and colour residuals, step lengths.
        """
        N = self.observations.frame_count
        changes = {"contour_count": contour_count, "contour_scale_px": contour_scale_px}
        terms = self.terms.model_copy(update={name: value for name, value in changes.items() if value is not None})
        canonical = self.body.canonical(estimate.betas, joint_offsets=estimate.joint_offsets)
        edges = mesh_edges(surface.faces)
        system = self._empty_system(estimate, solve_shared)
        skeletons = []
        for first in range(0, N, frames_per_batch):
            frames = torch.arange(first, min(first + frames_per_batch, N), device=self.descends.device)
            bones = self.body.bones(estimate.poses[frames], estimate.trans[frames], None, canonical)
            shared_bones = self._shared_bones(estimate, frames) if solve_shared else None
            vertices_pixel = self.camera.project(skin_points(surface.vertices, surface.weights, bones))
            face_index = visible_faces(vertices_pixel, surface.faces, self.camera.height, self.camera.width)
            contour = contour_edges(vertices_pixel, surface.faces, edges, face_index)
            for b, frame in enumerate(frames.tolist()):
                skeleton = self._skeleton(bones[b], canonical, None if shared_bones is None else shared_bones[b])
                skeletons.append(skeleton)
                chosen = contour.vertex_index[contour.frame_index == b]
                self._add_contours(system, terms, frame, skeleton, surface, chosen, vertices_pixel[b], shape_jacobian)
                self._add_interior(
                    system,
                    frame,
                    skeleton,
                    surface,
                    face_index[b],
                    vertices_pixel[b : b + 1],
                    shape_jacobian,
                    generator,
                )
        self._add_prior(system, estimate)
        self._add_acceleration(system, skeletons, canonical)
        step, shared_step = _solve(system)
        moved = self._apply(estimate, step, shared_step)
        figures = {name: float(np.mean(values)) for name, values in system.figures.items() if values}
        figures["turn_degrees"] = float(torch.rad2deg(step[:, :-3].abs()).mean())
        return moved, figures

    @torch.no_grad()
    def coloured(self, surface: RegistrationSurface, estimate: Poses) -> RegistrationSurface:
        """The surface with every vertex's mean band-passed colour over the frames that see it."""
        canonical = self.body.canonical(estimate.betas, joint_offsets=estimate.joint_offsets)
        H, W = self.observations.masks.shape[1:]
        total, count = torch.zeros_like(surface.vertices), torch.zeros_like(surface.vertices[:, :1])
        for frame in range(self.observations.frame_count):
            bones = self.body.bones(
                estimate.poses[frame : frame + 1], estimate.trans[frame : frame + 1], None, canonical
            )
            pixel = self.camera.project(skin_points(surface.vertices, surface.weights, bones))
            face_index = visible_faces(pixel, surface.faces, H, W)[0].flatten()
            u, v, z = pixel[0].unbind(-1)
            inside = (u > 0) & (u < W - 1) & (v > 0) & (v < H - 1)
            at = (v.round().clamp(0, H - 1) * W + u.round().clamp(0, W - 1)).long()
            face = face_index[at].long()
            shown = z[surface.faces[face.clamp_min(0)].long()].mean(-1)
            seen = (inside & (face >= 0) & ((z - shown).abs() < VISIBLE_WITHIN_M)).float()[:, None]
            colours = sample_image_with_gradient(self.bands, torch.full_like(at, frame), pixel[0, :, :2])[0]
            total += seen * colours
            count += seen
        return replace(surface, colours=total / count.clamp_min(1.0))

    def _empty_system(self, estimate: Poses, solve_shared: bool) -> _System:
        N, J = estimate.poses.shape[:2]
        D, S = 3 * J + 3, (len(estimate.betas) + 3 * J if solve_shared else 0)
        zeros = estimate.poses.new_zeros
        system = _System(
            zeros(N, D, D), zeros(max(N - 1, 0), D, D), zeros(max(N - 2, 0), D, D), zeros(N, D),
            zeros(N, D, S), zeros(S, S), zeros(S), {"contour_px": [], "normal": [], "colour": []},
        )  # fmt: skip
        return system

    def _shared_bones(self, estimate: Poses, frames: Tensor) -> Tensor:
        """Derivative of the bones by shape coefficients and joint offsets, ``[B, J, 3, 4, S]``."""
        K = len(estimate.betas)

        def bones(shared: Tensor) -> Tensor:
            canonical = self.body.canonical(shared[:K], joint_offsets=shared[K:].view(-1, 3))
            return self.body.bones(estimate.poses[frames], estimate.trans[frames], None, canonical)[..., :3, :]

        shared = torch.cat([estimate.betas, estimate.joint_offsets.flatten()])
        derivative: Tensor = torch.func.jacfwd(bones)(shared)
        return derivative

    def _skeleton(self, bones: Tensor, canonical: CanonicalBody, shared_bones: Tensor | None) -> _Skeleton:
        centres = (bones[:, :3, :3] @ canonical.joints[..., None])[..., 0] + bones[:, :3, 3]
        rotations = bones[:, :3, :3] @ canonical.bones_inverse[:, :3, :3].transpose(-1, -2)
        root = torch.eye(3, dtype=bones.dtype, device=bones.device)[None]
        return _Skeleton(bones, centres, torch.cat([root, rotations[self.parents[1:]]]), shared_bones)

    def _add_contours(
        self,
        system: _System,
        terms: RegistrationConfig,
        frame: int,
        skeleton: _Skeleton,
        surface: RegistrationSurface,
        edge_vertices: Tensor,
        vertices_pixel: Tensor,
        shape_jacobian: Tensor | None,
    ) -> None:
        """Both point-to-contour distances of one frame."""
        if len(edge_vertices) == 0:
            return
        observations = self.observations
        ends = vertices_pixel[edge_vertices]
        midpoints = ends.mean(1)
        lengths = (ends[:, 0, :2] - ends[:, 1, :2]).norm(dim=-1)
        canonical = surface.vertices[edge_vertices].mean(1)
        points = _Points(
            canonical,
            surface.weights[edge_vertices].mean(1),
            None if shape_jacobian is None else shape_jacobian[edge_vertices].mean(1),
        )
        distance, slope = sample_image_with_gradient(
            observations.distance[..., None], torch.full_like(edge_vertices[:, 0], frame), midpoints[:, :2]
        )
        own = distance[:, 0]
        span = slice(int(observations.contour_start[frame]), int(observations.contour_start[frame + 1]))
        targets, outward = observations.contour_pixels[span], observations.contour_normals[span]
        direction = torch.nn.functional.normalize(slope[:, 0], dim=-1)
        zeros = torch.zeros(len(targets) + len(midpoints), dtype=torch.long, device=targets.device)
        match = nearest_contour(
            targets,
            zeros[: len(targets)],
            outward,
            midpoints[:, :2].contiguous(),
            zeros[len(targets) :],
            direction,
            MATCH_RADIUS_PX,
            MATCH_COSINE,
        )
        matched = match >= 0
        edge = match[matched]
        gap = ((midpoints[edge, :2] - targets[matched]) * outward[matched]).sum(-1)
        residual = torch.cat([own, gap])
        image_gradient = torch.cat([slope[:, 0], outward[matched]])
        index = torch.cat([torch.arange(len(own), device=edge.device), edge])
        share = torch.cat([lengths / lengths.sum().clamp_min(1e-6), torch.full_like(gap, 1.0 / max(len(targets), 1))])
        robust = _robust_weight(residual, terms.contour_scale_px)
        weight = 0.5 * terms.contour_count * share * robust / terms.contour_px**2
        gradient = self._world_gradient(midpoints[index], image_gradient)
        chosen = _Points(
            points.canonical[index], points.weights[index], None if points.shared is None else points.shared[index]
        )
        rows, shared = self._point_rows(skeleton, chosen, gradient)
        _accumulate(system, frame, rows, shared, residual, weight)
        system.figures["contour_px"].append(float((own.abs() * lengths).sum() / lengths.sum().clamp_min(1e-6)))

    def _add_interior(
        self,
        system: _System,
        frame: int,
        skeleton: _Skeleton,
        surface: RegistrationSurface,
        face_index: Tensor,
        vertices_pixel: Tensor,
        shape_jacobian: Tensor | None,
        generator: torch.Generator,
    ) -> None:
        """Normals and colours at random pixels of one frame that both the surface and the mask cover."""
        terms, observations = self.terms, self.observations
        covered = ((face_index >= 0) & observations.masks[frame]).flatten().nonzero()[:, 0]
        if len(covered) == 0:
            return
        pick = torch.randint(len(covered), (terms.samples,), generator=generator).to(covered.device)
        flat = covered[pick]
        pixels = torch.stack([flat % self.camera.width, flat // self.camera.width], -1)
        face = face_index.flatten()[flat]
        frame_zero = torch.zeros_like(face)
        barycentrics, depth = pixel_barycentrics(vertices_pixel, surface.faces, frame_zero, pixels.float(), face)
        corners = surface.faces[face.long()].long()

        def mix(values: Tensor) -> Tensor:
            return torch.einsum("pk,pk...->p...", barycentrics, values[corners])

        points = _Points(
            mix(surface.vertices), mix(surface.weights), None if shape_jacobian is None else mix(shape_jacobian)
        )
        rotations = torch.einsum("pj,jab->pab", points.weights, skeleton.bones[:, :3, :3])
        normals = torch.nn.functional.normalize((rotations @ mix(surface.normals)[..., None])[..., 0], dim=-1)
        observed = observations.normals[frame].flatten(0, 1)[flat].float() / 127.0
        valid = observed.norm(dim=-1) > 0.5
        facing = -(normals * self.camera.rays(pixels.float())).sum(-1)
        if bool(valid.any()):
            residual = normals - torch.nn.functional.normalize(observed, dim=-1)
            robust = _robust_weight(residual.norm(dim=-1), terms.normal_scale) * facing.clamp(0.0, 1.0) * valid
            weight = terms.normal_count / terms.samples * robust / terms.normal**2
            rows = self._normal_rows(skeleton, points, normals)
            shared = rows.new_zeros(len(rows), 3, system.shared.shape[0])
            _accumulate(
                system, frame, rows.flatten(0, 1), shared.flatten(0, 1), residual.flatten(), weight.repeat_interleave(3)
            )
            system.figures["normal"].append(float(residual.norm(dim=-1)[valid].mean()))
        if surface.colours is not None:
            uv = torch.cat([pixels.float(), depth[:, None]], -1)
            value, slope = sample_image_with_gradient(self.bands, torch.full_like(face, frame), uv[:, :2])
            residual = value - mix(surface.colours)
            robust = _robust_weight(residual.norm(dim=-1), terms.colour_scale) * (facing > 0.3)
            weight = terms.colour_count / terms.samples * robust / terms.colour**2
            gradient = self._world_gradient(uv.repeat_interleave(3, 0), slope.flatten(0, 1))
            repeated = _Points(
                points.canonical.repeat_interleave(3, 0),
                points.weights.repeat_interleave(3, 0),
                None if points.shared is None else points.shared.repeat_interleave(3, 0),
            )
            rows, shared = self._point_rows(skeleton, repeated, gradient)
            _accumulate(system, frame, rows, shared, residual.flatten(), weight.repeat_interleave(3))
            system.figures["colour"].append(float(residual.abs().mean()))

    def _world_gradient(self, pixel: Tensor, image_gradient: Tensor) -> Tensor:
        """Turn a derivative by (u, v) at points ``(u, v, z)`` into one by world position, ``[P, 3]``."""
        focal, principal = self.camera.focal, self.camera.principal
        depth = pixel[:, 2:]
        xy = (principal - pixel[:, :2]) / focal
        du = -image_gradient * focal / depth
        in_camera = torch.cat([du, -(du * xy).sum(-1, keepdim=True)], -1)
        return in_camera @ self.camera.rotation().T

    def _levers(self, skeleton: _Skeleton, points: _Points) -> tuple[Tensor, Tensor]:
        """Weighted lever arms about every joint ``[P, J, 3]``, and the weight each joint carries along ``[P, J]``."""
        moved = torch.einsum("jab,pb->pja", skeleton.bones[:, :3, :3], points.canonical) + skeleton.bones[:, :3, 3]
        carried = points.weights @ self.descends.T
        sums = torch.einsum("kj,pja->pka", self.descends, points.weights[..., None] * moved)
        return sums - carried[..., None] * skeleton.centres, carried

    def _point_rows(self, skeleton: _Skeleton, points: _Points, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of a scalar at each point, given its derivative by world position: ``[P, D]`` and ``[P, S]``."""
        levers, _ = self._levers(skeleton, points)
        world = torch.linalg.cross(levers, gradient[:, None].expand_as(levers))
        local = torch.einsum("pka,kab->pkb", world, skeleton.parent_rotations)
        rows = torch.cat([local.flatten(1), gradient], -1)
        if skeleton.shared_bones is None:
            return rows, rows.new_zeros(len(rows), 0)
        homogeneous = torch.nn.functional.pad(points.canonical, (0, 1), value=1.0)
        pulled = torch.einsum("pj,pa,pb->pjab", points.weights, gradient, homogeneous).flatten(1)
        shared = pulled @ skeleton.shared_bones.flatten(0, 2)
        if points.shared is not None:
            rotations = torch.einsum("pj,jab->pab", points.weights, skeleton.bones[:, :3, :3])
            canonical_gradient = torch.einsum("pa,pab->pb", gradient, rotations)
            shape = torch.einsum("pa,pak->pk", canonical_gradient, points.shared)
            shared[:, : shape.shape[1]] += shape
        return rows, shared

    def _normal_rows(self, skeleton: _Skeleton, points: _Points, normals: Tensor) -> Tensor:
        """Derivatives of the three normal components, ``[P, 3, D]``."""
        carried = points.weights @ self.descends.T
        eye = torch.eye(3, dtype=normals.dtype, device=normals.device)
        axes = torch.linalg.cross(normals[:, None].expand(-1, 3, -1), eye.expand(len(normals), 3, 3))
        local = torch.einsum("pca,kab,pk->pckb", axes, skeleton.parent_rotations, carried).flatten(2)
        return torch.nn.functional.pad(local, (0, 3))

    def _add_prior(self, system: _System, estimate: Poses) -> None:
        terms, given = self.terms, self.given
        relative = _relative_rotation(estimate.poses, given.poses)
        residual = torch.cat([relative.flatten(1), estimate.trans - given.trans], -1)
        weight = torch.full_like(residual[0], 1.0 / np.deg2rad(terms.pose_degrees) ** 2)
        weight[-3:] = 1.0 / terms.trans_m**2
        system.diagonal += torch.diag(weight)
        system.right -= weight * residual
        if len(system.shared):
            K = len(estimate.betas)
            weight = torch.full_like(system.shared_right, 1.0 / terms.joint_m**2)
            weight[:K] = 1.0 / terms.shape**2
            weight *= len(residual) / 10.0
            offset = torch.cat([estimate.betas - given.betas, estimate.joint_offsets.flatten()])
            system.shared += torch.diag(weight)
            system.shared_right -= weight * offset

    def _add_acceleration(self, system: _System, skeletons: list[_Skeleton], canonical: CanonicalBody) -> None:
        """Second differences in time of four markers on every bone."""
        places, rows = [], []
        J = len(self.parents)
        local = canonical.joints[:, None] + self.markers
        for skeleton in skeletons:
            world = torch.einsum("jab,jmb->jma", skeleton.bones[:, :3, :3], local) + skeleton.bones[:, None, :3, 3]
            levers = (world[:, :, None] - skeleton.centres) * self.descends.T[:, None, :, None]
            turns = -_cross_matrix(levers) @ skeleton.parent_rotations
            moves = torch.eye(3, device=world.device).expand(J, len(self.markers), 3, 3)
            places.append(world.flatten())
            rows.append(torch.cat([turns.permute(0, 1, 3, 2, 4).flatten(3), moves], -1).flatten(0, 2))
        place, row = torch.stack(places), torch.stack(rows)
        weight = 1.0 / self.terms.acceleration_m**2 / len(self.markers)
        for first, last in self.clips:
            if last - first < 3:
                continue
            span = range(first, last - 2)
            a, b, c = (slice(first + k, last - 2 + k) for k in range(3))
            acceleration = place[a] - 2.0 * place[b] + place[c]
            parts = {0: row[a], 1: -2.0 * row[b], 2: row[c]}
            for i, left in parts.items():
                system.right[span.start + i : span.stop + i] -= (
                    weight * (left.transpose(1, 2) @ acceleration[..., None])[..., 0]
                )
                for k in range(i + 1):
                    block = weight * left.transpose(1, 2) @ parts[k]
                    target = (system.diagonal, system.first, system.second)[i - k]
                    target[span.start + k : span.stop + k] += block

    def _pinned(self, poses: np.ndarray, trans: Tensor) -> tuple[np.ndarray, Tensor]:
        """Poses and translations without what a free surface cannot tell apart from its own shape.

        A constant turn of a joint in its own frame, or a constant shift of the body in the root's, is undone by moving the
        canonical surface; a change of mean depth by scaling it. The given poses decide these: their median stays.
        """
        given = Rotation.from_rotvec(self.given.poses.reshape(-1, 3).double().cpu().numpy())
        current = Rotation.from_rotvec(poses)
        J = len(self.parents)
        constant = np.median((given.inv() * current).as_rotvec().reshape(-1, J, 3), 0)
        current = current * Rotation.from_rotvec(np.tile(-constant, (len(trans), 1)))
        roots = Rotation.from_matrix(current.as_matrix().reshape(-1, J, 3, 3)[:, 0])
        change = (trans - self.given.trans).double().cpu().numpy()
        change -= roots.apply(np.median(roots.inv().apply(change), 0))
        forward = self.camera.rotation()[:, 2].double().cpu().numpy()
        depth = change @ forward
        for first, last in self.clips:
            depth[first:last] = np.median(depth[first:last])
        change -= depth[:, None] * forward
        return current.as_rotvec(), self.given.trans + torch.from_numpy(change).to(trans)

    def _apply(self, estimate: Poses, step: Tensor, shared_step: Tensor) -> Poses:
        J = len(self.parents)
        turn = step[:, :-3].view(-1, J, 3)
        turn = turn * (0.3 / turn.norm(dim=-1, keepdim=True).clamp_min(0.3))
        moved = Rotation.from_rotvec(turn.reshape(-1, 3).double().cpu().numpy()) * Rotation.from_rotvec(
            estimate.poses.reshape(-1, 3).double().cpu().numpy()
        )
        vectors, trans = self._pinned(moved.as_rotvec(), estimate.trans + step[:, -3:])
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


def _robust_weight(residual: Tensor, scale: float) -> Tensor:
    """Weight of iteratively reweighted least squares for Geman-McClure, one at zero."""
    return 1.0 / (1.0 + (residual / (2.0 * scale)) ** 2) ** 2


def _accumulate(system: _System, frame: int, rows: Tensor, shared: Tensor, residual: Tensor, weight: Tensor) -> None:
    weighted = rows * weight[:, None]
    system.diagonal[frame] += weighted.T @ rows
    system.right[frame] -= weighted.T @ residual
    if shared.shape[1]:
        system.mixed[frame] += weighted.T @ shared
        scaled = shared * weight[:, None]
        system.shared += scaled.T @ shared
        system.shared_right -= scaled.T @ residual


def _cross_matrix(vectors: Tensor) -> Tensor:
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).view(*vectors.shape[:-1], 3, 3)


def _relative_rotation(poses: Tensor, reference: Tensor) -> Tensor:
    """Rotation vectors that turn ``reference`` into ``poses``, ``[N, J, 3]``."""
    here = Rotation.from_rotvec(poses.reshape(-1, 3).double().cpu().numpy())
    there = Rotation.from_rotvec(reference.reshape(-1, 3).double().cpu().numpy())
    return torch.from_numpy((here * there.inv()).as_rotvec()).to(poses).view_as(poses)


def _solve(system: _System) -> tuple[Tensor, Tensor]:
    """Banded Cholesky over the frames, Schur complement over the shared unknowns."""
    N, D = system.right.shape
    banded = np.zeros((3 * D, N * D))
    a, b = np.meshgrid(np.arange(D), np.arange(D), indexing="ij")
    for step, blocks in enumerate((system.diagonal, system.first, system.second)):
        offset = step * D + a - b
        keep = offset >= 0
        for frame, block in enumerate(blocks.double().cpu().numpy()):
            banded[offset[keep], frame * D + b[keep]] = block[keep]
    banded[0] += 1e-6 * banded[0].max()
    factor = (cholesky_banded(banded, lower=True, check_finite=False), True)
    right = system.right.double().cpu().numpy().reshape(-1)
    S = len(system.shared_right)
    if S == 0:
        step_frames, step_shared = cho_solve_banded(factor, right, check_finite=False), np.zeros(0)
    else:
        mixed = system.mixed.double().cpu().numpy().reshape(N * D, S)
        solved = cho_solve_banded(factor, np.column_stack([mixed, right]), check_finite=False)
        complement = system.shared.double().cpu().numpy() - mixed.T @ solved[:, :-1]
        rest = system.shared_right.double().cpu().numpy() - mixed.T @ solved[:, -1]
        step_shared = np.linalg.solve(complement + 1e-6 * np.eye(S) * complement.max(), rest)
        step_frames = solved[:, -1] - solved[:, :-1] @ step_shared
    return torch.from_numpy(step_frames.reshape(N, D)).to(system.right), torch.from_numpy(step_shared).to(system.right)
