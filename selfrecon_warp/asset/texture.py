"""From a fitted run to a textured, rigged mesh of a chosen size: ``RUN/avatar``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.nn.functional import normalize

from selfrecon_warp.asset.back_projection import sharpened
from selfrecon_warp.asset.bake import bake_colours
from selfrecon_warp.asset.deforming import posed_points
from selfrecon_warp.asset.fill import fill_unseen, spread, spread_colours
from selfrecon_warp.asset.lighting import Casters, find_light
from selfrecon_warp.asset.normal_map import encode_normals
from selfrecon_warp.asset.photographs import edge_strength, photographs, relative_sharpness
from selfrecon_warp.asset.rigged import AVATAR, RiggedMesh, rigged_mesh
from selfrecon_warp.asset.simplify import simplified
from selfrecon_warp.asset.unwrap import Atlas, TexelMap, texel_map, unwrap
from selfrecon_warp.asset.videoavatar import require_npz, write_videoavatar
from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.capture.dataset import Capture
from selfrecon_warp.errors import RunError
from selfrecon_warp.kernels.closest_point import closest_point
from selfrecon_warp.model.avatar import Avatar
from selfrecon_warp.surface.mesh import vertex_normals
from selfrecon_warp.train.run_folder import RunFolder
from selfrecon_warp.train.saved import load_fit
from selfrecon_warp.view.infer import progress_bars
from selfrecon_warp.view.painter import Painter
from selfrecon_warp.view.reconstruction import Reconstruction

SIZES = (16, 8192)
FACES = (100, 1_000_000)
CASTER_FACES = 5_000
"""Faces of the mesh that casts shadows."""
PHOTOGRAPHS = 120
"""Frames whose pictures are looked at, at most: the sharpest of as many stretches of the capture."""


@dataclass(frozen=True)
class Texturing:
    """A textured avatar and how well its surface was seen.

    Attributes:
        rigged: The avatar.
        charts: Pieces its surface was cut into.
        used: Share of the texture that shows surface.
        seen: Share of the surface whose colour comes from photographs.
        frames: Frames whose pictures were looked at.
    """

    rigged: RiggedMesh
    charts: int
    used: float
    seen: float
    frames: tuple[int, ...]


def texture_run(
    run: RunFolder,
    device: torch.device,
    *,
    size: int = 2048,
    face_count: int = 30_000,
    cell: float | None = None,
    delight: bool = False,
    videoavatar: Path | None = None,
    console: Console | None = None,
) -> Texturing:
    """Simplify the canonical mesh, cut and flatten it, bake colours and normals, and save it in ``RUN/avatar``.

    Args:
        run: A fitted run.
        device: Where to compute.
        size: Texels a side.
        face_count: Triangles of the mesh, about.
        cell: Cell edge of the extraction lattice [m]; the configured one when absent.
        delight: Take the capture's light out of the colours, as far as it is smooth.
        videoavatar: File for VideoAvatar's texture extractor to write as well, see ``asset/videoavatar.py``.
        console: Where progress is shown; standard error when absent.

    Raises:
        RunError: A number is out of range, the run has no usable checkpoint, its capture is gone or changed, or the
            folder cannot be written.
        CaptureError: The capture is damaged.
    """
    for option, value, (least, most) in (("--size", size, SIZES), ("--faces", face_count, FACES)):
        if not least <= value <= most:
            raise RunError(f"{option} must lie between {least} and {most}, got {value}")
    if videoavatar is not None:
        require_npz(videoavatar)
    fit = load_fit(run, device)
    with progress_bars(console) as progress:
        steps = progress.add_task("mesh, charts", total=3)
        reconstruction = Reconstruction(fit.avatar, cell or fit.config.output_cell)
        progress.advance(steps)
        arrays = simplified(reconstruction.vertices.cpu().numpy(), reconstruction.faces.cpu().numpy(), face_count)
        progress.advance(steps)
        atlas = unwrap(*arrays, size)
        progress.advance(steps)
        vertices, faces = (torch.from_numpy(array).to(device) for array in arrays)
        texels = texel_map(atlas, size, device)

        frames, images, masks, sharpness = _chosen_frames(fit.capture)
        task = progress.add_task("visibility", total=len(frames))
        posed = posed_points(fit.avatar, vertices, frames)
        seen = photographs(
            posed,
            faces,
            fit.avatar.camera,
            images.to(device),
            masks.to(device),
            sharpness.to(device),
            progress=lambda done: progress.update(task, completed=done),
        )
        light = find_light(seen, _casters(fit.avatar, arrays, posed, frames))
        baking = progress.add_task("colours", total=len(texels.texel))
        colours, weights = bake_colours(
            texels,
            faces,
            seen,
            light.falling,
            spread(light.colours, light.weights, vertices, faces),
            progress=lambda done: progress.update(baking, completed=done),
        )
        colours = fill_unseen(colours, weights, texels, vertices, faces)
        sharpening = progress.add_task("sharpness", total=1.0)
        colours = sharpened(
            colours,
            weights,
            texels,
            faces,
            seen,
            light.falling,
            _drawing(colours, texels, atlas, fit.avatar.camera, posed, faces, light.falling),
            progress=lambda done: progress.update(sharpening, completed=done),
        )
        kept = torch.ones_like(light.usual) if delight else light.usual
        colours = colours * texels.interpolate(kept, faces)
        normals = fine_normals(reconstruction, vertices)
        fine = fine_normals(reconstruction, texels.interpolate(vertices, faces))
        relief = encode_normals(fine, texels, vertices, normals, faces, atlas)
        rigged = replace(
            rigged_mesh(fit.avatar, vertices, faces, _mean_colours(colours, texels, vertices, faces)),
            normals=normals.cpu().numpy(),
            texcoords=atlas.texcoords,
            face_texcoords=atlas.faces,
            texture=_bytes(texels.image(colours)),
            normal_map=_bytes(texels.image(relief)),
            light=light.coefficients.cpu().numpy(),
            lamp=light.lamp.cpu().numpy(),
            textured_light=kept.cpu().numpy(),
        )
    rigged.save(run.path / AVATAR)
    if videoavatar is not None:
        write_videoavatar(videoavatar, rigged, fit.avatar)
    return Texturing(
        rigged, atlas.charts, len(texels.texel) / size**2, float((weights > 0).float().mean()), tuple(frames)
    )


def fine_normals(reconstruction: Reconstruction, points: Tensor) -> Tensor:
    """Unit normals of the full-resolution surface at the places nearest to points ``[P, 3]``, ``[P, 3]``."""
    normals = vertex_normals(reconstruction.vertices, reconstruction.faces)
    _, face_index, barycentrics = closest_point(points, reconstruction.vertices, reconstruction.faces)
    corners = reconstruction.faces.long().index_select(0, face_index)
    mixed = sum((barycentrics[:, k : k + 1] * normals.index_select(0, corners[:, k]) for k in range(3)), points * 0)
    return normalize(mixed, dim=-1)


def _casters(avatar: Avatar, arrays: tuple[np.ndarray, np.ndarray], posed: Tensor, frames: Sequence[int]) -> Casters:
    """What casts shadows: the mesh with fewer faces still, posed like it."""
    vertices, faces = (torch.from_numpy(array).to(posed.device) for array in simplified(*arrays, CASTER_FACES))
    return Casters(posed, posed_points(avatar, vertices, frames), faces)


def _drawing(
    colours: Tensor, texels: TexelMap, atlas: Atlas, camera: Camera, posed: Tensor, faces: Tensor, light: Tensor
) -> Callable[[int], np.ndarray]:
    """What draws texels' colours as the photographs show them."""
    texture, texcoords, face_texcoords = (
        torch.from_numpy(array).to(posed.device)
        for array in (_bytes(texels.image(colours)), atlas.texcoords, atlas.faces)
    )
    painter = Painter(faces, texture=texture, texcoords=texcoords, face_texcoords=face_texcoords)
    return lambda frame: painter.paint(posed[frame], camera, light=light[frame])


def _mean_colours(colours: Tensor, texels: TexelMap, vertices: Tensor, faces: Tensor) -> Tensor:
    """Colours of the vertices, each the mean of the texels around it, ``[V, 3]``."""
    return spread_colours(colours, torch.ones_like(colours[:, 0]), texels, vertices, faces)


def _chosen_frames(capture: Capture) -> tuple[list[int], Tensor, Tensor, Tensor]:
    """The frames to look at, their images and masks as in ``Capture.load_all``, and their relative sharpness."""
    chosen = []
    for stretch in np.array_split(np.arange(len(capture)), min(len(capture), PHOTOGRAPHS)):
        best = 0
        if len(stretch) > 1:
            pixels = capture.load_all(stretch.tolist())
            best = int(edge_strength(pixels.images.numpy(), pixels.masks.numpy()).argmax())
        chosen.append(int(stretch[best]))
    pixels = capture.load_all(chosen)
    strength = edge_strength(pixels.images.numpy(), pixels.masks.numpy())
    return chosen, pixels.images, pixels.masks, torch.from_numpy(relative_sharpness(strength)).float()


def _bytes(image: Tensor) -> np.ndarray:
    return (image * 255 + 0.5).clamp(0, 255).byte().cpu().numpy()
