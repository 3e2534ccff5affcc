"""A focal length and an elbow that are wrong are brought back by the losses alone, everything else held still."""

import copy
from dataclasses import replace

import pytest
import torch
from capture_files import default_body, write_capture
from scipy.spatial.transform import Rotation

from selfrecon_warp.capture.dataset import Capture, read_capture
from selfrecon_warp.config import load_config
from selfrecon_warp.train.fit import Fit
from selfrecon_warp.train.progress import FitProgress

CPU = torch.device("cpu")
ELBOW = 18
STILL = [
    "registration.body_sweeps=0",
    "init.shape=body",
    "init.cell=0.016",
    "model.skinning_cell=0.06",
    "model.sdf.grid.levels=2",
    "model.sdf.grid.log2_size=8",
    "model.appearance.grid.levels=2",
    "model.appearance.grid.log2_size=8",
    "optimiser.grid=1e-9",
    "optimiser.network=1e-9",
    "optimiser.codes=0",
    "optimiser.poses=0",
    "optimiser.trans=0",
    "optimiser.camera=0",
    "optimiser.vertices=1e-9",
    "optimiser.betas=[0.8, 0.9]",
    "stages.coarse.iterations=30",
    "stages.medium.iterations=0",
    "stages.fine.iterations=0",
    "stages.coarse.frames_per_step=2",
    "stages.coarse.cell=0.02",
    "stages.coarse.remesh_period=1000",
    "stages.coarse.registration_period=0",
    "stages.coarse.rays=100",
    *(f"stages.coarse.losses.{name}=0" for name in ("contour", "mask", "consistency", "pull", "colour", "normal")),
    *(f"stages.coarse.losses.{name}=0" for name in ("eikonal", "rigidity", "temporal")),
]
SPEAKING = {
    "contours": ["stages.coarse.losses.contour=1"],
    "masks": ["stages.coarse.losses.mask=1"],
    "splats": [
        "stages.coarse.losses.mask=1",
        "method.silhouette=splat",
        "method.dilate_masks=true",
        "stages.coarse.splat_radius=0.02",
    ],
    "normals": ["stages.coarse.losses.normal=1", "stages.coarse.rays=600"],
}


@pytest.fixture(scope="module")
def capture(tmp_path_factory) -> Capture:
    return read_capture(write_capture(tmp_path_factory.mktemp("recovery") / "capture", 4, (160, 130)))


def fitted(capture: Capture, *settings: str) -> Fit:
    fit, progress = Fit(capture, default_body(), load_config("fast", [*STILL, *settings]), CPU), FitProgress([])
    fit.prepare(progress)
    if fit.avatar.poses.requires_grad:  # another joint could make up for a wrong elbow, and a twist hardly shows
        bend = torch.zeros(24, 3)
        bend[ELBOW, 2] = 1.0
        fit.avatar.poses.register_hook(lambda gradient: gradient * bend)
    while fit.iteration < fit.total:
        fit.advance(progress)
    return fit


@pytest.mark.parametrize(("speaking", "factor"), [("masks", 1.07), ("splats", 0.93)])
def test_a_wrong_focal_length_comes_back(capture, speaking, factor):
    exact = capture.camera.focal.detach().clone()
    camera = copy.deepcopy(capture.camera)
    with torch.no_grad():
        camera.focal *= factor
    fit = fitted(
        replace(capture, camera=camera),
        *SPEAKING[speaking],
        "optimiser.camera=1.5",
        "optimiser.camera_terms=[focal]",
    )
    before, after = (
        (focal - exact).abs().mean() for focal in (camera.focal.detach(), fit.avatar.camera.focal.detach())
    )
    assert after < 0.35 * before


@pytest.mark.parametrize("speaking", ["contours", "splats", "normals"])
def test_a_bent_elbow_comes_back(capture, speaking):
    exact = Rotation.from_rotvec(capture.poses[:, ELBOW].numpy())
    bend = Rotation.from_rotvec([0.0, 0.0, 0.3])
    poses = capture.poses.clone()
    poses[:, ELBOW] = torch.from_numpy((bend * exact).as_rotvec()).float()
    fit = fitted(replace(capture, poses=poses), *SPEAKING[speaking], "optimiser.poses=0.03")
    ends = [Rotation.from_rotvec(p[:, ELBOW].detach().double().numpy()) for p in (poses, fit.avatar.poses)]
    before, after = ((end * exact.inv()).magnitude().mean() for end in ends)
    assert after < 0.5 * before
