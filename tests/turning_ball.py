"""A ball that turns before a camera, and pictures of it: every answer about its texture is known."""

import numpy as np
import torch
import trimesh

from selfrecon_warp.asset.unwrap import Atlas, TexelMap, texel_map, unwrap
from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.kernels.rasterize import interpolate, rasterize

CPU = torch.device("cpu")
SIZE, PICTURE = 256, 160
BACKDROP = (0.0, 1.0, 0.0)


def ball() -> tuple[np.ndarray, np.ndarray]:
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    return np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.int32)


def flattened(vertices: np.ndarray, faces: np.ndarray) -> tuple[Atlas, TexelMap]:
    atlas = unwrap(vertices, faces, SIZE)
    return atlas, texel_map(atlas, SIZE, CPU)


def painted(points: torch.Tensor) -> torch.Tensor:
    """A smooth colour of every place in space, ``[..., 3]``."""
    return 0.5 + 0.4 * torch.sin(6 * points + torch.tensor([0.0, 1.0, 2.0]))


def turned(vertices: np.ndarray, views: int) -> torch.Tensor:
    """The mesh turning about the vertical axis and a little about the others, 2 m before a camera, ``[N, V, 3]``."""
    angles = torch.linspace(0, 2 * torch.pi, views + 1)[:-1]
    turns = torch.linalg.matrix_exp(
        torch.stack([torch.tensor([[0, 0.3 * k, a], [-0.3 * k, 0, 0], [-a, 0, 0]]) for k, a in enumerate(angles)])
    )
    return torch.from_numpy(vertices) @ turns.transpose(1, 2) + torch.tensor([0.0, 0.0, 2.0])


def camera() -> Camera:
    return Camera((200, 200), (0.5 * (PICTURE - 1),) * 2, height=PICTURE, width=PICTURE)


def pictures(posed: torch.Tensor, colours: torch.Tensor, faces: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the camera sees of vertices of colours ``[V, 3]``, or ``[N, V, 3]``, green behind them, and the masks."""
    drawn = rasterize(camera().project(posed), faces, PICTURE, PICTURE)
    mask = drawn.face_index >= 0
    every = colours.expand(len(posed), -1, -1)
    looks = [
        interpolate(each, faces, type(drawn)(*(part[n : n + 1] for part in drawn))) for n, each in enumerate(every)
    ]
    images = torch.where(mask[..., None], torch.cat(looks), torch.tensor(BACKDROP))
    return (images * 255).round().byte(), mask


def psnr(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(-10 * torch.log10((found - expected).square().mean()))
