"""Skinning caches of the reference, built here to its layout, read and taken into runs."""

import math
import pickle

import numpy as np
import pytest
import torch
from capture_files import default_body, write_capture
from torch.nn import functional as F

from selfrecon_warp.errors import RunError
from selfrecon_warp.model.rotation import rotation_from_axis_angle
from selfrecon_warp.train.published_checkpoint import import_published_run, read_published_field
from selfrecon_warp.train.published_skinner import read_published_skinner
from selfrecon_warp.train.saved import load_avatar

CPU = torch.device("cpu")
FRAMES = 2
SHAPE = (5, 9, 4)  # X, Y, Z
CONF = """
train { skinner_pose_type = 1 }
sdf_net { multires = 6 }
"""


def cache() -> dict:
    """What the reference saves: weights in Z, Y, X order, numpy parents, inverse canonical bones."""
    canonical = default_body().canonical(torch.zeros(10), 1)
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(1, 24, *reversed(SHAPE), generator=generator) ** 6
    parents = np.array(default_body().parents, np.int64).astype(np.uint32).astype(np.int32)
    return {
        "ws": weights / weights.sum(1, keepdim=True),
        "bmins": torch.tensor([[-1.0, -1.2, -0.4]]),
        "bmaxs": torch.tensor([[1.0, 0.8, 0.5]]),
        "Js": canonical.joints_rest + 0.01,
        "parents": parents,
        "init_pose": canonical.bones_inverse,
        "tmpBodyVs": canonical.vertices,
        "tmpBodyFs": canonical.faces,
    }


@pytest.fixture
def capture(tmp_path):
    return write_capture(tmp_path / "capture", FRAMES, (60, 50))


@pytest.fixture
def trained(tmp_path):
    folder = tmp_path / "result"
    folder.mkdir()
    (folder / "config.conf").write_text(CONF)
    torch.save({"model_state_dict": field("sdf.")}, folder / "latest.pth")
    return folder


def field(prefix: str) -> dict[str, torch.Tensor]:
    """The first layer of a field and the last, as the reference names them."""
    generator = torch.Generator().manual_seed(1)
    return {
        f"{prefix}lin0.bias": torch.randn(512, generator=generator),
        f"{prefix}lin8.bias": torch.randn(257, generator=generator),
    }


@pytest.mark.parametrize("pose", ["inverse bones", "angles"])
def test_a_cache_is_read_as_it_was_written(tmp_path, pose):
    content = cache()
    if pose == "angles":
        content["init_pose"] = default_body().canonical_pose(1)
    torch.save(content, tmp_path / "initial_skinner_1.pth")
    skinner = read_published_skinner(tmp_path / "initial_skinner_1.pth")
    assert tuple(skinner.weights.shape) == (*SHAPE, 24)
    assert torch.equal(skinner.weights[3, 7, 1], content["ws"][0, :, 1, 7, 3])
    assert skinner.lower.tolist() == pytest.approx([-1.0, -1.2, -0.4])
    assert skinner.upper.tolist() == pytest.approx([1.0, 0.8, 0.5])
    offsets = skinner.joint_offsets(default_body(), torch.zeros(10), 1)
    torch.testing.assert_close(offsets, torch.full((24, 3), 0.01), rtol=0, atol=1e-5)


def test_a_run_skins_as_the_reference_would(trained, capture, tmp_path):
    content = cache()
    torch.save(content, capture / "initial_skinner_1.pth")
    avatar = load_avatar(import_published_run(trained, capture, tmp_path / "run"), CPU)
    points = torch.rand(40, 3, generator=torch.Generator().manual_seed(2)) * 1.4 - torch.tensor([0.7, 0.9, 0.5])
    unit = 2.0 * (points - content["bmins"]) / (content["bmaxs"] - content["bmins"]) - 1.0
    sampled = F.grid_sample(content["ws"], unit[None, None, None], padding_mode="border", align_corners=False)
    weights = sampled.view(24, -1).T
    torch.testing.assert_close(avatar.deformation.skinning_weights(points), weights, rtol=1e-4, atol=1e-5)
    body, frames = default_body(), torch.arange(FRAMES)
    joints = content["Js"]
    chains = body._joint_frames(rotation_from_axis_angle(avatar.poses), joints) @ rebuilt_inverse(joints)
    posed = torch.einsum("pj,bjmn,pn->bpm", weights, chains, F.pad(points, (0, 1), value=1.0))[..., :3]
    bones = avatar.bones(frames)
    ours = torch.einsum("pj,bjmn,pn->bpm", weights, bones, F.pad(points, (0, 1), value=1.0))[..., :3]
    torch.testing.assert_close(ours, posed + avatar.trans[:, None], rtol=1e-4, atol=1e-5)


def rebuilt_inverse(joints: torch.Tensor) -> torch.Tensor:
    """Inverse canonical bones about given rest joints."""
    body = default_body()
    return torch.linalg.inv(body._joint_frames(rotation_from_axis_angle(body.canonical_pose(1))[None], joints))


def test_a_cache_given_by_name_wins_over_the_captures(trained, capture, tmp_path):
    torch.save(cache(), capture / "initial_skinner_1.pth")
    other = cache()
    other["bmaxs"] = torch.tensor([2.0, 2.0, 2.0])
    torch.save(other, tmp_path / "other.pth")
    run = import_published_run(trained, capture, tmp_path / "run", skinner=tmp_path / "other.pth")
    assert run.config.model.box[1] == pytest.approx((2.0, 2.0, 2.0))
    assert run.config.model.skinning_resolution == SHAPE


def test_without_a_cache_the_checkpoints_box_and_joints_count(trained, capture, tmp_path, monkeypatch):
    built = []

    def build(_vertices, _weights, lower, upper, shape, *_smoothing):
        built.append((lower.tolist(), upper.tolist(), shape))
        return torch.full((2, 2, 2, 24), 1.0 / 24.0)

    monkeypatch.setattr("selfrecon_warp.model.avatar.build_weight_field", build)
    content = cache()
    state = field("sdf.") | {
        "deformer.defs.1.b_min": content["bmins"],
        "deformer.defs.1.b_max": content["bmaxs"],
        "deformer.defs.1.Js": content["Js"],
        "deformer.defs.1.init_pose": content["init_pose"],
        "deformer.defs.1.ws": torch.zeros(1, 24, 2, 2, 2),
    }
    torch.save({"model_state_dict": state}, trained / "latest.pth")
    (trained / "config.conf").unlink()
    run = import_published_run(trained, capture, tmp_path / "run")
    assert run.config.model.box[0] == pytest.approx((-1.0, -1.2, -0.4))
    avatar = load_avatar(run, CPU)
    torch.testing.assert_close(avatar.joint_offsets, torch.full((24, 3), 0.01), rtol=0, atol=1e-5)
    (lower, upper, shape), *_ = built
    assert lower == pytest.approx([-1.0, -1.2, -0.4])
    assert upper == pytest.approx([1.0, 0.8, 0.5])
    assert shape == (129, 225, 65)


def test_a_field_alone_is_taken_over_as_one_in_a_checkpoint(tmp_path):
    torch.save(field(""), tmp_path / "initial_sdf_idr_6_1.pth")
    torch.save({"model_state_dict": field("sdf.") | {"netRender.lin0.bias": torch.zeros(512)}}, tmp_path / "latest.pth")
    alone, inside = (read_published_field(tmp_path / name) for name in ("initial_sdf_idr_6_1.pth", "latest.pth"))
    assert alone.keys() == inside.keys() == {("sdf", 0, "bias"), ("sdf", 8, "bias")}
    assert all(torch.equal(alone[key], inside[key]) for key in alone)


def scaled_weights(content: dict) -> None:
    content["ws"] = 0.5 * content["ws"]


def flat_weights(content: dict) -> None:
    content["ws"] = content["ws"][0]


def other_pose(content: dict) -> None:
    content["init_pose"] = default_body().canonical(torch.zeros(10), 0).bones_inverse


def other_tree(content: dict) -> None:
    content["parents"][5] = 0


def centimetres(content: dict) -> None:
    content["Js"] = 100.0 * content["Js"]


def turned_box(content: dict) -> None:
    content["bmins"], content["bmaxs"] = content["bmaxs"], content["bmins"]


def no_joints(content: dict) -> None:
    del content["Js"]


def endless_box(content: dict) -> None:
    content["bmaxs"] = torch.tensor([1.0, math.inf, 1.0])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (scaled_weights, "ws must sum to one in every voxel, got 0.5"),
        (flat_weights, r"ws must have shape \[1, 24, Z, Y, X\], got \[24, 4, 9, 5\]"),
        (other_pose, "init_pose is not canonical pose 1"),
        (other_tree, "parents are not those of CC0 body"),
        (centimetres, "in metres"),
        (turned_box, "bmaxs must exceed bmins"),
        (no_joints, "Js must be a tensor, got nothing"),
        (endless_box, "bmaxs must hold 3 finite numbers"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_written(trained, capture, tmp_path, spoil, message):
    content = cache()
    spoil(content)
    torch.save(content, capture / "initial_skinner_1.pth")
    with pytest.raises(RunError, match=message):
        import_published_run(trained, capture, tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Call:
    def __reduce__(self):
        return print, ("run",)


def test_code_in_a_cache_is_not_run(tmp_path, capsys):
    content = cache()
    content["parents"] = np.array([Call()], dtype=object)
    torch.save(content, tmp_path / "cache.pth")
    with pytest.raises(RunError, match="more than plain tensors"):
        read_published_skinner(tmp_path / "cache.pth")
    (tmp_path / "cache.pth").write_bytes(pickle.dumps(Call()))
    with pytest.raises(RunError, match=r"cache\.pth"):
        read_published_skinner(tmp_path / "cache.pth")
    assert capsys.readouterr().out == ""
