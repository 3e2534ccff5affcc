"""Every form of the silhouette loss points a body that is off back to where the masks show it."""

import pytest
import torch
from capture_files import default_body, write_capture

from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.config import MethodConfig, StageConfig
from selfrecon_warp.kernels.rasterize import visible_faces
from selfrecon_warp.kernels.skinning import skin_points
from selfrecon_warp.train.explicit import ExplicitMesh
from selfrecon_warp.train.observations import observe_capture
from selfrecon_warp.train.silhouettes import silhouette_loss

FRAMES = torch.tensor([0, 2])
NOTHING = {"contour": 0.0, "mask": 0.0}
SPLATS = {"silhouette": "splat", "dilate_masks": True}
FORMS = {
    "contours": ({"contour": 1.0}, {}),
    "outline": ({"mask": 1.0}, {"silhouette": "antialiased"}),
    "splats": ({"mask": 1.0}, SPLATS),
}
PX = 1.0 / 72.0
"""Metres that one pixel spans where the body stands."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    capture = read_capture(write_capture(tmp_path_factory.mktemp("scene") / "capture", 3, (180, 130)))
    canonical = default_body().canonical(torch.zeros(10))
    mesh = ExplicitMesh.start(canonical.vertices, canonical.faces.int(), canonical.weights)
    bones = default_body().bones(capture.poses, capture.trans, None, canonical)[FRAMES]
    posed = skin_points(mesh.vertices.detach(), mesh.weights, bones)
    return capture, observe_capture(capture, torch.device("cpu")), mesh, posed


def loss(scene, form: str, moved: torch.Tensor) -> torch.Tensor:
    """The loss with each frame's body moved by ``[B, 3]`` m."""
    capture, observations, mesh, posed = scene
    losses, method = FORMS[form]
    stage = StageConfig(name="one", iterations=1, splat_radius=0.025, losses={**NOTHING, **losses})
    vertices_pixel = capture.camera.project(posed + moved[:, None])
    face_index = visible_faces(vertices_pixel, mesh.faces, *capture.image_size)
    return silhouette_loss(vertices_pixel, mesh, face_index, observations, FRAMES, stage, MethodConfig(**method))[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shift", [(3, 0), (-3, 0), (0, 3), (0, -3), (2, -2)], ids=str)
def test_a_shifted_body_is_pulled_back(scene, form, shift):
    moved = (PX * torch.tensor([[*shift, 0.0]]).repeat(2, 1)).requires_grad_()
    loss(scene, form, moved).backward()
    back = -moved.grad[:, :2]
    towards = -torch.tensor(shift) / torch.tensor(shift).float().norm()
    assert ((back * towards).sum(-1) > 0.5 * back.norm(dim=-1)).all()


@pytest.mark.parametrize("form", FORMS)
def test_following_the_gradient_brings_the_body_home(scene, form):
    moved = (PX * torch.tensor([[4.0, -3.0, 0.0], [-3.0, 2.0, 0.0]])).requires_grad_()
    before = moved.detach().norm(dim=-1)
    adam = torch.optim.Adam([moved], 0.4 * PX)
    for step in range(30):
        adam.param_groups[0]["lr"] = 0.4 * PX * 0.93**step
        adam.zero_grad()
        loss(scene, form, moved).backward()
        moved.grad[:, 2] = 0.0
        adam.step()
    assert (moved.detach().norm(dim=-1) < 0.2 * before).all()


@pytest.mark.parametrize("form", ["contours", "outline"])  # splats jump as pixels enter and leave their discs
def test_the_gradient_is_the_losses_slope(scene, form):
    moved = (PX * torch.tensor([[2.5, 1.5, 0.0], [-2.0, 2.0, 0.0]])).requires_grad_()
    loss(scene, form, moved).backward()
    step = 0.5 * PX  # wide, because the losses are smooth only beyond a pixel
    for axis in range(2):
        ends = []
        for sign in (1.0, -1.0):
            at = moved.detach().clone()
            at[:, axis] += sign * step
            ends.append(float(loss(scene, form, at)))
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float(moved.grad[:, axis].sum()), rel=0.4)
