import math

import pytest
import torch
from capture_files import write_capture
from torch import nn
from torch.nn import functional as F

from selfrecon_warp.errors import RunError
from selfrecon_warp.model.networks import frequency_encoding
from selfrecon_warp.train.published_checkpoint import import_published_run, read_published_checkpoint
from selfrecon_warp.train.saved import load_avatar

CPU = torch.device("cpu")
FRAMES = 3


@pytest.fixture(scope="module", autouse=True)
def coarse_weights():
    """No test here looks at the skinning volume, which takes long to build at its published size."""
    with pytest.MonkeyPatch.context() as patch:
        volume = torch.full((2, 2, 2, 24), 1.0 / 24.0)
        patch.setattr("selfrecon_warp.model.avatar.build_weight_field", lambda *_: volume)
        yield


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    return write_capture(tmp_path_factory.mktemp("published") / "capture", FRAMES, (60, 50))


def networks() -> dict[str, nn.Module]:
    """Layers as the reference names and sizes them."""
    generator = torch.Generator().manual_seed(3)

    def layer(fan_in, fan_out, normed):
        linear = nn.Linear(fan_in, fan_out)
        with torch.no_grad():
            linear.weight.copy_(torch.randn(fan_out, fan_in, generator=generator) / math.sqrt(fan_in))
            linear.bias.copy_(0.1 * torch.randn(fan_out, generator=generator))
        return nn.utils.weight_norm(linear) if normed else linear

    sdf = [39, 512, 512, 512, 473, 512, 512, 512, 512, 257]
    inputs = [39, 512, 512, 512, 512, 512, 512, 512, 512]
    built = {f"sdf.lin{i}": layer(inputs[i], sdf[i + 1], normed=True) for i in range(9)}
    for name, sizes, normed in (
        ("netRender", [289, 512, 512, 512, 512, 3], True),
        ("deformer.defs.0", [167, 512, 512, 512, 512, 3], False),
    ):
        built |= {f"{name}.lin{i}": layer(sizes[i], sizes[i + 1], normed) for i in range(5)}
    return built


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "result"
    folder.mkdir()
    state = {
        f"{name}.{key}": value for name, module in networks().items() for key, value in module.state_dict().items()
    }
    state["deformer.defs.1.ws"] = torch.zeros(1, 24, 4, 4, 4)
    torch.save(
        {
            "epoch": 200,
            "model_state_dict": state,
            "focal_length": torch.tensor([70.0, 71.0]),
            "princeple_points": torch.tensor([25.0, 30.0]),
            "cam2world_coord_quat": torch.tensor([0.0, 0.0, 0.0, 1.0]),
            "world2cam_coord_trans": torch.tensor([0.0, 0.1, 0.0]),
            "poses": 0.1 * torch.ones(FRAMES, 24, 3),
            "trans": torch.tensor([[0.0, 0.1, 3.0]]).repeat(FRAMES, 1),
            "shape": torch.zeros(10),
            "dcond": torch.arange(FRAMES * 128.0).view(FRAMES, 128),
            "rcond": torch.zeros(FRAMES, 256),
        },
        folder / "latest.pth",
    )
    return folder


@pytest.fixture(scope="module")
def avatar(trained, capture, tmp_path_factory):
    run = import_published_run(trained, capture, tmp_path_factory.mktemp("published") / "run")
    return load_avatar(run, CPU)


def test_the_field_is_the_references(avatar):
    layers = networks()
    points = torch.rand(7, 3) - 0.5
    encoded = frequency_encoding(points, 6)
    hidden = encoded
    for i in range(9):
        hidden = torch.cat([hidden, encoded], -1) / math.sqrt(2.0) if i == 4 else hidden
        hidden = layers[f"sdf.lin{i}"](hidden)
        hidden = F.softplus(hidden, beta=100.0) if i < 8 else hidden
    sample = avatar.sdf.sample(points)
    torch.testing.assert_close(sample.value, hidden[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sample.feature, hidden[:, 1:], rtol=1e-4, atol=1e-5)


def test_colours_come_as_red_green_blue_from_zero_to_one(avatar):
    layers = networks()
    points, view, normals, feature = torch.rand(5, 3), torch.rand(5, 3), torch.rand(5, 3), torch.rand(5, 256)
    hidden = torch.cat([points, frequency_encoding(view, 4), normals, feature], -1)
    for i in range(5):
        hidden = layers[f"netRender.lin{i}"](hidden)
        hidden = torch.relu(hidden) if i < 4 else torch.tanh(hidden)
    blue_green_red = (hidden + 1.0) / 2.0
    torch.testing.assert_close(avatar.colours(points, view, normals, feature), blue_green_red.flip(-1))


def test_the_offset_is_the_references_with_every_octave(avatar):
    layers = networks()
    points, code = torch.rand(5, 3) - 0.5, torch.rand(1, 128)
    hidden = torch.cat([frequency_encoding(points, 6), code.expand(5, -1)], -1)
    for i in range(5):
        hidden = layers[f"deformer.defs.0.lin{i}"](hidden)
        hidden = torch.relu(hidden) if i < 4 else hidden
    torch.testing.assert_close(avatar.deformation.offset(points, code)[0], hidden, rtol=1e-4, atol=1e-5)


def test_camera_poses_and_codes_are_taken_over(avatar):
    assert avatar.camera.focal.tolist() == [70.0, 71.0]
    assert avatar.camera.T.tolist() == pytest.approx([0.0, 0.1, 0.0])
    assert avatar.trans[:, 2].tolist() == [3.0] * FRAMES
    assert torch.equal(avatar.codes, torch.arange(FRAMES * 128.0).view(FRAMES, 128))


def test_a_prefix_is_left_out_and_a_field_put_in(trained, capture, tmp_path):
    content = torch.load(trained / "latest.pth", weights_only=True)
    content["model_state_dict"]["sdf.lin8.bias"] += 1.0
    torch.save(content, tmp_path / "other.pth")
    kept = load_avatar(import_published_run(trained, capture, tmp_path / "kept"), CPU)
    changed = import_published_run(
        trained, capture, tmp_path / "changed", sdf=tmp_path / "other.pth", leave_out=["deformer.defs.0"]
    )
    changed = load_avatar(changed, CPU)
    points = torch.rand(4, 3)
    torch.testing.assert_close(changed.sdf(points), kept.sdf(points) + 1.0)
    assert changed.deformation.offset(points, changed.codes[:1]).abs().max() < 1.0
    assert not torch.equal(changed.deformation.offset.network.last.bias, kept.deformation.offset.network.last.bias)


def test_what_does_not_fit_is_named(trained, capture, tmp_path):
    content = torch.load(trained / "latest.pth", weights_only=True)
    content["model_state_dict"]["sdf.lin0.bias"] = torch.zeros(5)
    torch.save(content, tmp_path / "latest.pth")
    with pytest.raises(RunError, match=r"sdf\.lin0\.bias must have shape \[512\].*got \[5\]"):
        import_published_run(tmp_path, capture, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    torch.save({"poses": torch.zeros(2, 24, 3)}, tmp_path / "poses.pth")
    with pytest.raises(RunError, match=r"holds no sdf\.lin0"):
        read_published_checkpoint(tmp_path / "poses.pth")
    content["model_state_dict"]["sdf.lin0.bias"] = torch.zeros(512)
    content["poses"] = content["poses"][:2]
    torch.save(content, tmp_path / "latest.pth")
    with pytest.raises(RunError, match="trained on 2 frames"):
        import_published_run(tmp_path, capture, tmp_path / "run")
    (tmp_path / "latest.pth").write_bytes(b"nothing")
    with pytest.raises(RunError, match="damaged"):
        import_published_run(tmp_path, capture, tmp_path / "run")
