"""First shape of the canonical field: the naked body, or the visual hull of all masks in canonical space."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from scipy import ndimage
from torch import Tensor

from selfrecon_warp.config import InitConfig
from selfrecon_warp.errors import ConfigError
from selfrecon_warp.kernels.closest_point import closest_point
from selfrecon_warp.kernels.skinning import skin_points
from selfrecon_warp.model.avatar import Avatar
from selfrecon_warp.model.body import CanonicalBody
from selfrecon_warp.model.sdf import GridSdf, MlpSdf
from selfrecon_warp.surface.distance import signed_distance_to_body
from selfrecon_warp.surface.mesh import vertex_normals
from selfrecon_warp.train.losses import loss_eikonal
from selfrecon_warp.train.observations import Observations, sample_image

SURFACE_BATCH = 5000
"""Body vertices of one step of the fit to the surface."""
RAISED_WITHIN_M = 0.06
"""A registered surface raises the field so far around it."""
HULL_REACH = 0.30
"""Hull points further than this from the naked body [m] count as empty: skinning means nothing there."""


@torch.no_grad()
def first_shape(avatar: Avatar, observations: Observations, config: InitConfig) -> Tensor:
    """Signed distances [m] at the voxel centres of the canonical box, ``[X, Y, Z]``."""
    points, shape = voxel_centres(avatar.lower, avatar.upper, config.cell)
    body = signed_distance_to_body(points, avatar.canonical_body())
    field = body
    if config.shape == "hull":
        near = (body < HULL_REACH).nonzero()[:, 0]
        hull = body.clamp_min(HULL_REACH / 2)
        hull[near] = carve(avatar, observations, points[near], config)
        hull = torch.minimum(hull, body + 0.005)
        field = torch.from_numpy(ndimage.gaussian_filter(hull.view(shape).cpu().numpy(), 1.0)).to(body).flatten()
    return field.view(shape)


@torch.no_grad()
def raise_surface(
    avatar: Avatar, vertices: Tensor, faces: Tensor, heights: Tensor, reach: float = RAISED_WITHIN_M
) -> None:
    """Move a grid field's surface outward by the heights of the nearest points of a mesh on it.

    What lies deeper inside than ``reach`` moves as the nearest place within reach does: a surface that sinks sweep by
    sweep would else run into a wall there.

    Args:
        avatar: Its field is changed in place.
        vertices: ``[V, 3]`` [m], on the field's surface.
        faces: ``[F, 3]``.
        heights: [m], ``[V]``.
        reach: The field outside, further away than this from the mesh [m], stays as it is.
    """
    if not isinstance(avatar.sdf, GridSdf):
        raise TypeError(f"no lattice to raise in {type(avatar.sdf).__name__}")
    base = avatar.sdf.base[..., 0]
    near = (base.flatten().abs() < reach).nonzero()[:, 0]
    points = voxel_lattice(avatar.lower, avatar.upper, base.shape)[near]
    raised, known = base.new_zeros(base.numel()), torch.zeros(base.numel(), dtype=torch.bool, device=base.device)
    raised[near], known[near] = heights_near(points, vertices, faces, heights, reach)
    raised, known = raised.view(base.shape), known.view(base.shape)
    nearest = ndimage.distance_transform_edt((~known).cpu().numpy(), return_distances=False, return_indices=True)
    x, y, z = torch.from_numpy(nearest).to(base.device).long()
    avatar.sdf.raise_base(torch.where(base < 0, raised[x, y, z], raised))


def heights_near(
    points: Tensor, vertices: Tensor, faces: Tensor, heights: Tensor, reach: float
) -> tuple[Tensor, Tensor]:
    """What a mesh has nearest to points.

    Args:
        points: ``[P, 3]`` [m].
        vertices: ``[V, 3]`` [m].
        faces: ``[F, 3]``.
        heights: [m], ``[V]``.
        reach: How near the mesh must be [m].

    Returns:
        Heights [m] ``[P]``, zero out of reach, and which points are within reach, ``[P]`` bool.
    """
    distance, face, barycentrics = closest_point(points, vertices, faces)
    within = distance < reach
    return (barycentrics * heights[faces[face.long()].long()]).sum(-1) * within, within


def voxel_centres(lower: Tensor, upper: Tensor, cell: float) -> tuple[Tensor, tuple[int, int, int]]:
    """Centres ``[P, 3]`` of about cubic voxels that fill a box, and their counts per axis."""
    x, y, z = ((upper - lower) / cell).ceil().int().tolist()
    return voxel_lattice(lower, upper, (x, y, z)), (x, y, z)


def voxel_lattice(lower: Tensor, upper: Tensor, counts: Sequence[int]) -> Tensor:
    """Centres ``[X Y Z, 3]`` of a box's voxels, so many along each axis."""
    axes = [
        lower[k] + (torch.arange(n, device=lower.device) + 0.5) * (upper[k] - lower[k]) / n
        for k, n in enumerate(counts)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(-1, 3)


def carve(avatar: Avatar, observations: Observations, points: Tensor, config: InitConfig) -> Tensor:
    """Distance [m] outside the visual hull of canonical points ``[P, 3]``, negative inside.

    A point counts as outside by the distance that all but ``config.outside_share`` of the frames agree it is at most.
    """
    N = observations.frame_count
    frames = torch.linspace(0, N - 1, min(config.frames, N), device=points.device).round().long()
    weights = avatar.deformation.skinning_weights(points)
    keep = max(int(config.outside_share * len(frames)), 0) + 1
    outermost = points.new_full((keep, len(points)), -torch.inf)
    for frame in frames:
        posed = skin_points(points, weights, avatar.bones(frame[None]))[0]
        pixel = avatar.camera.project(posed)
        distance = sample_image(observations.distance[..., None], frame.expand(len(pixel)), pixel[:, :2])[:, 0]
        metres = distance * pixel[:, 2] / avatar.camera.focal.mean()
        outermost = torch.cat([outermost, metres[None]]).topk(keep, 0).values
    return outermost[-1]


def fit_first_shape(
    avatar: Avatar, observations: Observations, config: InitConfig, generator: torch.Generator, seed: int
) -> bool:
    """Bring the field to its first shape: exactly for a grid, by optimisation for a perceptron.

    A perceptron's first shape is kept in :func:`cache_folder` under everything it depends on, and read from there when
    ``config.cache`` allows it and it is the body's alone.

    Args:
        avatar: Its field is changed in place.
        observations: The capture; only the hull looks at it.
        config: Which shape, and how it is fitted.
        generator: Source of random numbers.
        seed: What ``generator`` and the field's initialisation were seeded with; part of the cache's key.

    Returns:
        Whether the shape came from the cache.

    Raises:
        ConfigError: The shape needs a perceptron and the field is a grid.
    """
    sdf = avatar.sdf
    if isinstance(sdf, GridSdf):
        if config.shape == "surface":
            raise ConfigError("init.shape: 'surface' fits a perceptron; choose 'body' or 'hull', or model.sdf.type=mlp")
        sdf.set_base(first_shape(avatar, observations, config))
        return False
    if not isinstance(sdf, MlpSdf):
        raise TypeError(f"no first fit for {type(sdf).__name__}")
    kept = _cache_file(avatar, config, seed) if config.cache and config.shape != "hull" else None
    if kept is not None and kept.is_file():
        try:
            sdf.load_state_dict(torch.load(kept, map_location=avatar.lower.device, weights_only=True))
        except Exception:  # the reader raises many kinds; a damaged file is written anew
            kept.unlink()
        else:
            return True
    sdf.progress = -1.0  # position alone: what the octaves feed stays zero until training begins
    if config.shape == "surface":
        _fit_to_surface(sdf, avatar.canonical_body(), config.iterations, generator)
    else:
        _fit_to_values(sdf, avatar, first_shape(avatar, observations, config), config, generator)
    sdf.progress = 1.0
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".partial")
        torch.save(sdf.state_dict(), partial)
        partial.replace(kept)
    return False


def cache_folder() -> Path:
    """Where fitted first shapes are kept: ``selfrecon-warp`` in ``$XDG_CACHE_HOME``, in ``~/.cache`` by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "selfrecon-warp"


def _cache_file(avatar: Avatar, config: InitConfig, seed: int) -> Path:
    described = f"{avatar.config.sdf.model_dump_json()} {config.model_dump_json()} {seed} {torch.__version__}"
    digest = hashlib.sha256(described.encode())
    body = avatar.canonical_body()
    for tensor in (body.vertices, body.faces):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return cache_folder() / f"first-shape-{digest.hexdigest()[:32]}.pt"


def _fit_to_surface(sdf: MlpSdf, body: CanonicalBody, passes: int, generator: torch.Generator) -> None:
    """Fit zero and its gradient to the body's vertices and normals, 5000 of them a step.

    Source: SelfRecon's reference implementation; loss after IGR (Gropp et al. 2020).
    """
    vertices, normals = body.vertices.detach(), vertex_normals(body.vertices, body.faces).detach()
    adam = torch.optim.Adam(sdf.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.StepLR(adam, max(passes * 5 // 12, 1), 0.5)
    for _ in range(passes):
        for batch in torch.randperm(len(vertices), generator=generator).split(SURFACE_BATCH):
            points = vertices[batch.to(vertices.device)]
            sample = sdf.sample(points)
            near = points + 0.01 * torch.randn(points.shape, generator=generator).to(points)
            far = 3.6 * (torch.rand(len(points) // 6, 3, generator=generator).to(points) - 0.5)
            loss = (
                sample.value.abs().mean()
                + (sample.gradient - normals[batch.to(vertices.device)]).norm(dim=-1).mean()
                + 0.1 * loss_eikonal(sdf.sample(torch.cat([near, far])).gradient)
            )
            adam.zero_grad()
            loss.backward()
            adam.step()
        schedule.step()


def _fit_to_values(sdf: MlpSdf, avatar: Avatar, values: Tensor, config: InitConfig, generator: torch.Generator) -> None:
    """Fit the field to values at the voxel centres of the canonical box."""
    points, _ = voxel_centres(avatar.lower, avatar.upper, config.cell)
    flat = values.flatten()
    near = (flat.abs() < 2.0 * config.cell).nonzero()[:, 0]
    adam = torch.optim.Adam(sdf.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.StepLR(adam, max(config.iterations * 5 // 12, 1), 0.5)
    for _ in range(config.iterations):
        pick = torch.randint(len(near), (2500,), generator=generator).to(near.device)
        anywhere = torch.randint(len(flat), (2500,), generator=generator).to(near.device)
        index = torch.cat([near[pick], anywhere])
        sample = sdf.sample(points[index])
        loss = (sample.value - flat[index]).abs().mean() + 0.1 * loss_eikonal(sample.gradient)
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
