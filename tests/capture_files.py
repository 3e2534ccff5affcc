"""Small captures on disk: the naked default body, turning, drawn with its own normals."""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from selfrecon_warp.capture.camera import Camera, write_camera
from selfrecon_warp.kernels.rasterize import visible_faces
from selfrecon_warp.model.body import BodyModel, load_body

SHARED = Path(os.environ.get("SELFRECON_TEST_CAPTURES", Path(__file__).parents[2] / "shared" / "captures"))


def shared_capture(name: str) -> Path:
    """A rendered capture with ground truth; skips where it is not at hand."""
    if not (SHARED / name).is_dir():
        pytest.skip(f"no capture {SHARED / name}; set SELFRECON_TEST_CAPTURES to the folder that holds it")
    return SHARED / name


@lru_cache(maxsize=1)
def default_body() -> BodyModel:
    return load_body()


def body_motion(frames: int) -> tuple[np.ndarray, np.ndarray]:
    """A full turn before an OpenCV camera 3 m away: poses [N, 24, 3] and trans [N, 3]."""
    poses = np.zeros((frames, 24, 3), np.float32)
    upright = cv2.Rodrigues(np.array([np.pi, 0.0, 0.0]))[0]
    for frame in range(frames):
        turn = cv2.Rodrigues(np.array([0.0, 2 * np.pi * (frame + 0.2) / frames, 0.0]))[0]
        poses[frame, 0] = cv2.Rodrigues(upright @ turn)[0][:, 0]
    poses[:, 16, 2], poses[:, 17, 2] = -0.8, 0.8
    return poses, np.tile(np.float32([0.0, 0.15, 3.0]), (frames, 1))


def write_capture(
    folder: Path,
    frames: int = 4,
    size: tuple[int, int] = (120, 90),
    suffix: str = ".jpg",
    normals: Sequence[int] | None = None,
) -> Path:
    """Write a consistent capture of size (height, width); ``normals`` names the frames that get them, default all."""
    height, width = size
    body, camera = (
        default_body(),
        Camera((1.2 * height,) * 2, (width / 2 + 1, height / 2 - 1), height=height, width=width),
    )
    poses, trans = body_motion(frames)
    for part in ("imgs", "masks", "normals"):
        (folder / part).mkdir(parents=True)
    write_camera(folder / "camera.npz", camera)
    np.savez(folder / "smpl_rec.npz", poses=poses, trans=trans, shape=np.zeros(10, np.float32), gender="neutral")
    with torch.no_grad():
        vertices = body.posed(torch.zeros(10), torch.from_numpy(poses), torch.from_numpy(trans))[0]
        seen = visible_faces(camera.project(vertices), body.faces, height, width).numpy()
    corners = vertices.numpy()[:, body.faces.numpy()]
    facing = np.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])
    facing /= np.linalg.norm(facing, axis=-1, keepdims=True)
    for frame in range(frames):
        mask = seen[frame] >= 0
        viewer = facing[frame, seen[frame]] * (1, -1, -1)
        encoded = np.where(mask[..., None], np.round(127.5 * (viewer + 1)), 0).astype(np.uint8)
        photo = np.where(mask[..., None], encoded, 90).astype(np.uint8)
        cv2.imwrite(str(folder / "imgs" / f"{frame:06d}{suffix}"), photo[..., ::-1])
        cv2.imwrite(str(folder / "masks" / f"{frame:06d}.png"), mask.astype(np.uint8) * 255)
        if normals is None or frame in normals:
            cv2.imwrite(str(folder / "normals" / f"{frame:06d}.png"), encoded[..., ::-1])
    return folder
