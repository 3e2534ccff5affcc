import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sphere_run import FRAMES, RADIUS
from typer.testing import CliRunner

from selfrecon_warp.capture.image_file import read_image
from selfrecon_warp.cli import app
from selfrecon_warp.errors import RunError
from selfrecon_warp.train.run_folder import RunFolder
from selfrecon_warp.train.saved import load_fit
from selfrecon_warp.view.layers import camera_around, initial_body, ray_misses, sdf_slice, skinning_weights
from selfrecon_warp.view.reconstruction import Reconstruction
from selfrecon_warp.view.scene import LiveScene
from selfrecon_warp.view.viewer import LAYERS, view_run


@pytest.fixture(scope="module")
def fit(sphere):
    return load_fit(sphere.run, torch.device("cpu"))


@pytest.fixture(scope="module")
def mesh(sphere):
    made = Reconstruction(sphere.avatar, 0.03)
    return made.vertices.numpy(), made.posed([1])[0].numpy(), made.faces.numpy()


def test_a_slice_holds_the_fields_distances(fit, sphere):
    share = float((sphere.centre[2] - fit.avatar.lower[2]) / (fit.avatar.upper[2] - fit.avatar.lower[2]))
    cut = sdf_slice(fit, share)
    np.testing.assert_allclose(cut.vertices[:, 2], float(sphere.centre[2]), atol=1e-5)
    expected = np.linalg.norm(cut.vertices - sphere.centre.numpy(), axis=1) - RADIUS
    near = np.abs(expected) < 0.3  # beyond the field's outermost samples their values go on
    np.testing.assert_allclose(cut.distances[near], expected[near], atol=0.008)
    assert cut.faces.max() == len(cut.vertices) - 1
    corners = cut.vertices[cut.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum() / 2
    size = (fit.avatar.upper - fit.avatar.lower).numpy()
    assert area == pytest.approx(size[0] * size[1], rel=1e-4)


def test_rays_of_a_covered_mask_all_meet_the_surface(fit, mesh):
    points, tried = ray_misses(fit, 1, *mesh)
    assert tried > 20
    assert len(points) < 0.15 * tried  # those that graze the rim


def test_rays_beside_the_mesh_miss(fit, mesh):
    canonical, posed, faces = mesh
    points, tried = ray_misses(fit, 1, canonical, posed + np.float32([0.6, 0.0, 0.0]), faces)
    assert len(points) > 0.8 * tried


def test_the_given_body_and_the_weights(fit, mesh):
    vertices, faces = initial_body(fit, 2)
    assert faces.max() < len(vertices)
    assert np.abs(vertices.mean(0) - fit.capture.trans[2].numpy()).max() < 0.5
    weights = skinning_weights(fit, mesh[0])
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-3)


def test_cameras_go_around_as_the_person_turns(fit, sphere):
    for frame in range(FRAMES):
        around = camera_around(fit, frame)
        towards = sphere.centre.numpy() - around.place
        expected = sphere.rotations[frame].T @ (sphere.centres[frame] - sphere.avatar.camera.centre())
        np.testing.assert_allclose(towards, expected, atol=1e-5)
        assert around.look @ towards > 2.5
        assert abs(around.look @ around.up) < 1e-6


def test_a_watched_fit_is_read_again_when_its_checkpoint_changes(sphere, tmp_path, monkeypatch):
    monkeypatch.setattr("selfrecon_warp.view.scene.WATCH_SECONDS", 0.0)
    run = RunFolder.open(Path(shutil.copytree(sphere.run.path, tmp_path / "run")))
    scene = LiveScene(run)
    assert scene.frame_count == FRAMES
    assert len(scene.posed(0).vertices) == len(scene.canonical().vertices)
    assert not scene.refreshed()
    latest = run.checkpoints / "latest.pt"
    content = latest.read_bytes()
    latest.unlink()
    assert not scene.refreshed()  # between two checkpoints
    latest.write_bytes(content)
    assert scene.refreshed()


def test_every_layer_is_drawn_without_a_window(sphere, tmp_path):
    given = ["view", str(sphere.run.path), "--watch", "--screenshot"]
    layers = [part for name in LAYERS if name != "error" for part in ("--layer", name)]
    pictures = []
    for name, more in (("plain", []), ("layers", layers)):
        result = CliRunner().invoke(app, [*given, str(tmp_path / f"{name}.png"), *more])
        if result.exit_code == 2 and "no display could be opened" in result.stderr:
            pytest.skip("no EGL on this machine")
        assert result.exit_code == 0, result.output
        pictures.append(read_image(tmp_path / f"{name}.png").astype(int))
    assert (np.abs(pictures[0] - pictures[1]).max(-1) > 20).mean() > 0.02


def test_layers_that_cannot_be_are_refused(sphere):
    with pytest.raises(RunError, match="--layer shadow: choose among body, normals"):
        view_run(sphere.run, layers=["shadow"])
    with pytest.raises(RunError, match="--layer error: needs --ground-truth"):
        view_run(sphere.run, layers=["error"])
    with pytest.raises(RunError, match="run `selfrecon infer"):
        view_run(sphere.run, screenshot=Path("never.png"))
