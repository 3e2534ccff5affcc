"""What an extraction looks like, for eyes: meshes and masks in a folder of their own."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
import trimesh
from torch import Tensor

from selfrecon_warp.config import MethodConfig
from selfrecon_warp.model.avatar import Avatar
from selfrecon_warp.train.explicit import ExplicitMesh
from selfrecon_warp.train.observations import Observations
from selfrecon_warp.train.silhouettes import compared_masks


@torch.no_grad()
def dump_extraction(
    folder: Path,
    avatar: Avatar,
    mesh: ExplicitMesh,
    observations: Observations,
    frames: Tensor,
    splat_radius: float,
    method: MethodConfig,
) -> None:
    """Write the canonical mesh and, for some frames, what the explicit branch makes of it.

    ``canonical.ply``; ``offset_%06d.ply`` moved inside canonical space; ``posed_%06d.ply`` in the world;
    ``mask_%06d.png`` as rendered and ``target_%06d.png`` as compared with, both 0 to 255.

    Args:
        folder: Made when absent.
        avatar: What is learned.
        mesh: The explicit mesh, just extracted.
        observations: The capture.
        frames: Which frames, ``[B]``.
        splat_radius: As in the stage.
        method: Which form the silhouettes have.
    """
    folder.mkdir(parents=True, exist_ok=True)
    faces = mesh.faces.cpu().numpy()
    _write(folder / "canonical.ply", mesh.vertices, faces)
    posed, displacement = avatar.deformation(mesh.vertices, avatar.codes[frames], avatar.bones(frames), mesh.weights)
    masks = compared_masks(avatar.camera.project(posed), mesh, observations.masks[frames], splat_radius, method)
    for row, frame in enumerate(frames.tolist()):
        _write(folder / f"offset_{frame:06d}.ply", mesh.vertices + displacement[row], faces)
        _write(folder / f"posed_{frame:06d}.ply", posed[row], faces)
        for name, images in zip(("mask", "target"), masks, strict=True):
            picture = (255.0 * images[row].clamp(0.0, 1.0)).round().byte().cpu().numpy()
            cv2.imwrite(str(folder / f"{name}_{frame:06d}.png"), picture)


def _write(path: Path, vertices: Tensor, faces: np.ndarray) -> None:
    trimesh.Trimesh(vertices.detach().cpu().numpy(), faces, process=False).export(path)
