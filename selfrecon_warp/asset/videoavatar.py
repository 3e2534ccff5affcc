"""The file that VideoAvatar's texture extractor reads, in the layout the reference implementation prepares.

``vt``, ``ft``
    Texture coordinates, v up as in OBJ files, ``[T, 2]``, and those of every face's corners, ``[F, 3]``.
``tmpvs``, ``fs``
    Canonical vertices [m], ``[V, 3]``, and faces, ``[F, 3]``.
``defVs``, ``fids``
    World positions of the vertices [m] in the chosen frames, ``[K, V, 3]``, and the frames' indices, ``[K]``.
``cam_c``, ``cam_f``, ``cam_k``, ``cam_t``, ``cam_rt``
    OpenCV's camera, x right, y down, z forward: principal point and focal lengths [pixel], ``[2]`` each, distortion
    ``[5]``, all zero, translation [m] and rotation vector [rad] of world to camera, ``[3]`` each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from selfrecon_warp.asset.deforming import posed_points
from selfrecon_warp.asset.rigged import RiggedMesh
from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.errors import RunError
from selfrecon_warp.model.avatar import Avatar
from selfrecon_warp.staging import replacing_file


def opencv_camera(camera: Camera) -> dict[str, np.ndarray]:
    """A camera in OpenCV's convention, under the names above.

    The camera's axes here are x left and y up, so the first two rows of world to camera change sign.
    """
    flip = np.array([-1.0, -1.0, 1.0])
    rotation = camera.rotation().detach().double().cpu().numpy().T * flip[:, None]
    return {
        "cam_c": camera.principal.detach().double().cpu().numpy(),
        "cam_f": camera.focal.detach().double().cpu().numpy(),
        "cam_k": np.zeros(5),
        "cam_t": camera.T.detach().double().cpu().numpy() * flip,
        "cam_rt": cv2.Rodrigues(rotation)[0].reshape(3),
    }


def write_videoavatar(path: Path, rigged: RiggedMesh, avatar: Avatar, count: int = 120) -> None:
    """Write the file for a textured avatar.

    Args:
        path: File to write, ending in ``.npz``.
        rigged: The avatar's mesh with texture coordinates.
        avatar: The fitted avatar, which deforms the mesh.
        count: Frames to hold, at most.

    Raises:
        RunError: The mesh has no texture coordinates, the name does not end in ``.npz`` or the file cannot be written.
    """
    if rigged.texcoords is None or rigged.face_texcoords is None:
        raise RunError(f"{path}: the avatar has no texture coordinates; run `selfrecon texture` first")
    require_npz(path)
    total = len(avatar.poses)
    frames = np.unique(np.arange(min(count, total)) * total // min(count, total))
    posed = posed_points(avatar, torch.from_numpy(rigged.vertices).to(avatar.poses), frames.tolist())
    arrays: dict[str, Any] = {
        "vt": np.stack((rigged.texcoords[:, 0], 1 - rigged.texcoords[:, 1]), -1),
        "ft": rigged.face_texcoords,
        "tmpvs": rigged.vertices,
        "fs": rigged.faces,
        "defVs": posed.cpu().numpy(),
        "fids": frames,
        **opencv_camera(avatar.camera),
    }
    with replacing_file(path) as staging:
        np.savez_compressed(staging, **arrays)


def require_npz(path: Path) -> None:
    """Refuse a file name of another kind, before any work.

    Raises:
        RunError: It does not end in ``.npz``.
    """
    if path.suffix != ".npz":
        raise RunError(f"{path}: the file for VideoAvatar is an .npz file; give a name that ends so")
