from dataclasses import replace

import pytest
import torch
from capture_files import default_body, write_capture

from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.config import load_config
from selfrecon_warp.kernels.rasterize import visible_faces
from selfrecon_warp.kernels.skinning import skin_points
from selfrecon_warp.model.avatar import Avatar
from selfrecon_warp.surface.hands import HandedMesh, body_hand, wear_hands, with_hands
from selfrecon_warp.train.hand_choice import WORSE_SHARE, choose_hands, hand_misfit
from selfrecon_warp.train.observations import observe_capture


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A naked body's capture and its avatar at the true poses."""
    capture = read_capture(write_capture(tmp_path_factory.mktemp("hands") / "capture", 6, (480, 400)))
    body = default_body()
    settings = load_config("fast", ["model.sdf.grid.log2_size=10", "model.appearance.grid.log2_size=10"]).model
    avatar = Avatar(settings, body, capture.camera, capture.poses, capture.trans, capture.betas, torch.zeros(24, 3))
    avatar.codes.data.zero_()  # no offset
    return avatar, observe_capture(capture, torch.device("cpu"))


def fists(avatar):
    """The body with the left hand drawn together to a third, and the right one as it is."""
    body = avatar.canonical_body()
    hand = body_hand(body, 0, torch.eye(4))
    beyond = ((body.vertices - hand.origin) @ hand.axis > 0) & (body.weights[:, [20, 22]].sum(-1) > 0.5)
    small = hand.origin + 0.35 * (body.vertices - hand.origin)
    return torch.where(beyond[:, None], small, body.vertices), body.faces.int()


def drawn(avatar, vertices, faces):
    bones = avatar.bones(torch.arange(len(avatar.poses)))
    pixels = avatar.camera.project(skin_points(vertices, avatar.deformation.skinning_weights(vertices), bones))
    return visible_faces(pixels, faces, avatar.camera.height, avatar.camera.width) >= 0


@torch.no_grad()
def test_misfit_tells_open_hands_from_fists(scene):
    avatar, observations = scene
    plain = fists(avatar)
    clenched = replace(observations, masks=drawn(avatar, *plain))
    opened, closed = (hand_misfit(avatar, plain, with_hands(avatar, *plain), seen) for seen in (observations, clenched))
    assert opened[0] < -0.3
    assert closed[0] > WORSE_SHARE
    assert torch.stack([opened[1], closed[1]]).abs().max() < 0.05


@torch.no_grad()
def test_hands_are_worn_while_the_masks_agree(scene):
    avatar, observations = scene
    plain = fists(avatar)
    clenched = replace(observations, masks=drawn(avatar, *plain))
    assert choose_hands(avatar, *plain, clenched)["left_hand_misfit"] > WORSE_SHARE
    assert avatar.hands_worn.tolist() == [False, True]
    assert with_hands(avatar, *plain).sides == [1]
    choose_hands(avatar, *plain, observations)
    assert avatar.hands_worn.tolist() == [True, True]


@torch.no_grad()
def test_no_hand_sewn_on_is_no_misfit(scene):
    avatar, observations = scene
    plain = fists(avatar)
    bare = wear_hands(*plain, [None, None])
    assert isinstance(bare, HandedMesh)
    assert hand_misfit(avatar, plain, bare, observations).tolist() == [0.0, 0.0]
