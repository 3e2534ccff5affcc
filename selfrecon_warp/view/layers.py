"""What the viewer can lay over a run's meshes, as arrays: nothing here draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from selfrecon_warp.capture.ground_truth import GroundTruth
from selfrecon_warp.kernels.closest_point import closest_point
from selfrecon_warp.kernels.rasterize import pixel_barycentrics, visible_faces
from selfrecon_warp.surface.intersection import intersect
from selfrecon_warp.train.saved import SavedFit

SLICE_POINTS = 160
"""Along the longer side of a slice."""
RAY_EVERY = 4
"""Pixels between two rays that are solved, along each side."""
SOLVE_STEPS = 4
DISTANCE_TOLERANCE_M = 5e-4
DIFFERENCE_M = 1e-3


@dataclass(frozen=True)
class Slice:
    """A level plane through the canonical box with the field's values on it.

    Attributes:
        vertices: Canonical positions [m], ``[V, 3]``.
        faces: Vertex indices, ``[F, 3]``.
        distances: Signed distance at the vertices [m], ``[V]``.
    """

    vertices: np.ndarray
    faces: np.ndarray
    distances: np.ndarray


@dataclass(frozen=True)
class Around:
    """The capture's camera as the person sees it, in canonical space.

    Attributes:
        place: Position [m], ``[3]``.
        look: Unit viewing direction, ``[3]``.
        up: Unit direction that is up in the picture, ``[3]``.
    """

    place: np.ndarray
    look: np.ndarray
    up: np.ndarray


@torch.no_grad()
def initial_body(fit: SavedFit, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """The naked body with the parameters that came with the capture: world vertices [m] and faces."""
    capture, body = fit.capture, fit.avatar.body
    device = fit.avatar.poses.device
    given = (capture.betas.to(device), capture.poses[frame : frame + 1].to(device), capture.trans[[frame]].to(device))
    return body.posed(*given)[0][0].cpu().numpy(), body.faces.cpu().numpy()


@torch.no_grad()
def distance_to_truth(truth: GroundTruth, frame: int, vertices: np.ndarray) -> np.ndarray | None:
    """Distance of world points ``[V, 3]`` from the true outer surface [m], ``[V]``; ``None`` where a frame has none."""
    meshes, clothed = truth.meshes, truth.canonical
    if frame not in meshes.frames:
        return None
    points = torch.from_numpy(np.ascontiguousarray(vertices, np.float32))
    return closest_point(points, meshes.vertices(frame), clothed.faces[clothed.face_exterior])[0].numpy()


@torch.no_grad()
def skinning_weights(fit: SavedFit, vertices: np.ndarray) -> np.ndarray:
    """Skinning weights ``[V, J]`` of canonical points ``[V, 3]``."""
    points = torch.from_numpy(np.ascontiguousarray(vertices, np.float32)).to(fit.avatar.poses.device)
    return fit.avatar.deformation.skinning_weights(points).cpu().numpy()


@torch.no_grad()
def sdf_slice(fit: SavedFit, share: float) -> Slice:
    """The field on a plane of constant z, at a share of the canonical box from back to front."""
    lower, upper = fit.avatar.lower, fit.avatar.upper
    size = upper - lower
    step = float(size[:2].max()) / SLICE_POINTS
    columns, rows = (max(2, round(float(extent) / step)) for extent in size[:2])
    x = torch.linspace(float(lower[0]), float(upper[0]), columns)
    y = torch.linspace(float(lower[1]), float(upper[1]), rows)
    z = torch.full((1,), float(lower[2] + share * size[2]))
    points = torch.stack(torch.meshgrid(x, y, z, indexing="ij"), -1).view(-1, 3).to(lower)
    corner = (np.arange(columns - 1)[:, None] * rows + np.arange(rows - 1)).ravel()
    faces = np.concatenate(
        [np.stack((corner, corner + rows, corner + rows + 1), 1), np.stack((corner, corner + rows + 1, corner + 1), 1)]
    )
    distances = fit.avatar.sdf.sample(points).value
    return Slice(points.cpu().numpy(), faces, distances.view(-1).cpu().numpy())


@torch.no_grad()
def ray_misses(
    fit: SavedFit, frame: int, canonical: np.ndarray, posed: np.ndarray, faces: np.ndarray
) -> tuple[np.ndarray, int]:
    """Rays of a frame's person that find no surface.

    A ray misses when the mesh does not cover its pixel, or when the solve that starts on the mesh does not end on the
    field's surface.

    Args:
        fit: The run.
        frame: Which.
        canonical: Vertices [m], ``[V, 3]``.
        posed: The same in the frame's world [m], ``[V, 3]``.
        faces: Vertex indices, ``[F, 3]``.

    Returns:
        Where the missing rays pass the person, world [m], ``[M, 3]``, and the number of rays tried.
    """
    avatar, camera = fit.avatar, fit.avatar.camera
    device = avatar.poses.device
    mask = torch.from_numpy(fit.capture.load_mask(frame))[::RAY_EVERY, ::RAY_EVERY]
    pixels = (RAY_EVERY * mask.nonzero().flip(-1)).float().to(device)
    rest, world = (torch.from_numpy(np.ascontiguousarray(v, np.float32)).to(device) for v in (canonical, posed))
    triangles = torch.from_numpy(np.ascontiguousarray(faces)).to(device).int()
    projected = camera.project(world)[None]
    seen = visible_faces(projected, triangles, camera.height, camera.width)[0, pixels[:, 1].long(), pixels[:, 0].long()]
    rays = camera.rays(pixels)
    covered = seen >= 0
    missed = ~covered
    forward = camera.rotation()[:, 2]
    depths = torch.full((len(pixels),), float((world - camera.centre()).matmul(forward).mean()), device=device)
    if bool(covered.any()):
        where = torch.zeros(int(covered.sum()), dtype=torch.int32, device=device)
        weights, depths[covered] = pixel_barycentrics(projected, triangles, where, pixels[covered], seen[covered])
        start = torch.einsum("rk,rkc->rc", weights, rest[triangles[seen[covered].long()].long()])
        missed[covered] = ~_meet_surface(fit, frame, start, rays[covered])
    points = camera.centre() + rays * (depths / (rays @ forward))[:, None]
    return points[missed].cpu().numpy(), len(pixels)


def _meet_surface(fit: SavedFit, frame: int, start: Tensor, rays: Tensor) -> Tensor:
    """Which rays ``[R, 3]``, solved from canonical points ``[R, 3]`` on, end on the field's surface, ``[R]`` bool."""
    avatar, camera = fit.avatar, fit.avatar.camera
    index = torch.tensor([frame], device=start.device)
    codes, bones = avatar.codes[index], avatar.bones(index)

    def deform(points: Tensor) -> Tensor:
        moved: Tensor = avatar.deformation(points, codes, bones)[0]
        return moved

    def field(points: Tensor) -> tuple[Tensor, Tensor]:
        sample = avatar.sdf.sample(points.reshape(-1, 3))
        return sample.value.view(points.shape[:-1]), sample.gradient.view(points.shape)

    before = deform(start[None])
    steps = DIFFERENCE_M * torch.eye(3, device=start.device)
    slopes = torch.stack([(deform(start[None] + step) - before) / DIFFERENCE_M for step in steps], -1)
    solved = intersect(
        *(start[None], rays[None], camera.centre(), field, deform, slopes),
        steps=SOLVE_STEPS,
        distance_tolerance=DISTANCE_TOLERANCE_M,
        angle_tolerance=camera.angular_tolerance(),
    )
    return solved.converged[0]


@torch.no_grad()
def camera_around(fit: SavedFit, frame: int) -> Around:
    """Where the camera stands in a frame when the person's pelvis is taken to stand still."""
    avatar = fit.avatar
    inverse = torch.linalg.inv(avatar.bones(torch.tensor([frame], device=avatar.poses.device))[0, 0].double().cpu())
    rotation = inverse[:3, :3] @ avatar.camera.rotation().double().cpu()
    place = inverse[:3, :3] @ avatar.camera.centre().double().cpu() + inverse[:3, 3]
    return Around(place.numpy(), normalize(rotation[:, 2], dim=0).numpy(), normalize(rotation[:, 1], dim=0).numpy())
