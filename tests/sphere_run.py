"""A fitted run whose every answer is known: a sphere that moves rigidly, of one colour."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import nn

from selfrecon_warp.capture.camera import Camera, write_camera
from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.config import load_config
from selfrecon_warp.model.avatar import Avatar
from selfrecon_warp.model.body import load_body
from selfrecon_warp.train.checkpoint import save_checkpoint
from selfrecon_warp.train.run_folder import RunFolder

FRAMES, HEIGHT, WIDTH = 3, 90, 71
RADIUS, VOXEL, CELL = 0.25, 0.015, 0.05
COLOUR = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Sphere:
    """Where everything is.

    Attributes:
        run: Its run folder.
        avatar: What its checkpoint holds.
        centre: Canonical centre [m], ``[3]``.
        rotations: World-from-canonical rotation of every frame, ``[N, 3, 3]``.
        centres: World centre in every frame [m], ``[N, 3]``.
    """

    run: RunFolder
    avatar: Avatar
    centre: torch.Tensor
    rotations: torch.Tensor
    centres: torch.Tensor

    def meets(self, frame: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Which pixels' rays hit the sphere ``[H, W]``, and where, in canonical space ``[H, W, 3]``."""
        camera = self.avatar.camera
        v, u = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
        rays = camera.rays(torch.stack((u, v), -1).float())
        towards = self.centres[frame] - camera.centre()
        along = (rays * towards).sum(-1)
        under = RADIUS**2 - (towards**2).sum() + along**2
        points = camera.centre() + rays * (along - under.clamp(min=0).sqrt())[..., None]
        return under > 0, (points - self.centres[frame]) @ self.rotations[frame] + self.centre


@pytest.fixture(scope="session")
def sphere(tmp_path_factory) -> Sphere:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sphere")
    no_person = ["model.body_hands=false", "model.open_hems=false"]
    config, body = load_config("smoke", [f"output_cell={CELL}", *no_person]), load_body()
    betas = torch.zeros(10)
    canonical = body.canonical(betas, config.model.canonical_pose)
    poses = canonical.pose.repeat(FRAMES, 1, 1)
    turns = Rotation.from_euler("xy", [[180, 40 * frame] for frame in range(FRAMES)], degrees=True)
    poses[:, 0] = torch.from_numpy(turns.as_rotvec()).float()
    trans = torch.tensor([[0.1 * frame, 0.0, 3.0] for frame in range(FRAMES)])
    camera = Camera((150, 150), (0.5 * (WIDTH - 1), 0.5 * (HEIGHT - 1)), height=HEIGHT, width=WIDTH)

    avatar = Avatar(config.model, body, camera, poses, trans, betas, torch.zeros(24, 3)).requires_grad_(False)
    avatar.codes.zero_()
    bones = avatar.bones(torch.arange(FRAMES))[:, 0]
    centre = canonical.joints[0]
    known = Sphere(
        RunFolder(folder / "run"), avatar, centre, bones[:, :3, :3], bones[:, :3, :3] @ centre + bones[:, :3, 3]
    )
    size = avatar.upper - avatar.lower
    counts = (size / VOXEL).round().int().tolist()
    steps = [low + (torch.arange(n) + 0.5) / n * s for low, n, s in zip(avatar.lower, counts, size, strict=True)]
    avatar.sdf.set_base((torch.stack(torch.meshgrid(*steps, indexing="ij"), -1) - centre).norm(dim=-1) - RADIUS)
    last_layer(avatar.sdf, outputs=1).weight.zero_()
    last_layer(avatar.appearance, outputs=3).weight.zero_()
    last_layer(avatar.appearance, outputs=3).bias.copy_(torch.tensor(COLOUR).logit())

    _write_capture(folder / "capture", known, poses, trans)
    capture = read_capture(folder / "capture")
    run = RunFolder.create(folder / "run", config, capture=capture, body=body)
    save_checkpoint(run.checkpoints, {"avatar": avatar.fitted_state()}, iteration=20, stage="fine")
    return known


def last_layer(network: nn.Module, outputs: int) -> nn.Linear:
    return [m for m in network.modules() if isinstance(m, nn.Linear) and m.out_features == outputs][-1]


def _write_capture(folder: Path, known: Sphere, poses: torch.Tensor, trans: torch.Tensor) -> None:
    for part in ("imgs", "masks"):
        (folder / part).mkdir(parents=True)
    np.savez(folder / "smpl_rec.npz", poses=poses.numpy(), trans=trans.numpy(), shape=np.zeros(10), gender="neutral")
    write_camera(folder / "camera.npz", known.avatar.camera)
    for frame in range(FRAMES):
        mask = known.meets(frame)[0].numpy()
        image = np.where(mask[..., None], np.rint(255 * np.float64(COLOUR[::-1])), 90).astype(np.uint8)
        cv2.imwrite(str(folder / "masks" / f"{frame:06d}.png"), mask * np.uint8(255))
        cv2.imwrite(str(folder / "imgs" / f"{frame:06d}.png"), image)
