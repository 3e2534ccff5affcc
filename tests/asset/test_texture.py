"""A fitted run of known looks through `selfrecon texture`."""

import shutil

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from selfrecon_warp.asset import texture
from selfrecon_warp.asset.deforming import posed_points
from selfrecon_warp.asset.rigged import RiggedMesh
from selfrecon_warp.asset.texture import texture_run
from selfrecon_warp.asset.videoavatar import opencv_camera
from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.cli import app
from selfrecon_warp.errors import RunError
from selfrecon_warp.train.run_folder import RunFolder

CPU = torch.device("cpu")
COLOUR = (0.25, 0.5, 0.75)


@pytest.fixture(scope="module")
def textured(sphere, tmp_path_factory):
    """A copy of the run, and what texturing it returned; the file for VideoAvatar beside it."""
    run = RunFolder(shutil.copytree(sphere.run.path, tmp_path_factory.mktemp("texture") / "run"))
    made = texture_run(run, CPU, size=128, face_count=200, videoavatar=run.path / "tex_predata.npz")
    return run, made


@pytest.fixture
def run(sphere, tmp_path) -> RunFolder:
    """A copy to spoil."""
    return RunFolder(shutil.copytree(sphere.run.path, tmp_path / "run"))


def test_the_avatar_is_saved_whole(textured):
    run, made = textured
    loaded = RiggedMesh.load(run.path / "avatar")
    for name in (
        "vertices",
        "faces",
        "texcoords",
        "face_texcoords",
        "texture",
        "normal_map",
        "normals",
        "light",
        "textured_light",
    ):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(made.rigged, name))
    assert loaded.texture.shape == loaded.normal_map.shape == (128, 128, 3)
    assert 150 < len(loaded.faces) <= 200
    assert made.frames == (0, 1, 2)
    assert 0.2 < made.used < 1
    assert 0.3 < made.seen < 1
    assert not list(run.path.glob(".avatar*"))


def test_every_texel_is_of_the_persons_colour(textured):
    """The capture shows one colour on grey; not a texel is grey, black or left out."""
    looks = textured[1].rigged
    away = np.abs(looks.texture.astype(int) - np.rint(255 * np.float64(COLOUR)))
    assert away.max() <= 3
    assert np.abs(looks.vertex_colours.astype(int) - np.rint(255 * np.float64(COLOUR))).max() <= 3


def test_delighting_leaves_even_light_alone(run):
    looks = texture_run(run, CPU, size=64, face_count=150, delight=True).rigged
    assert np.abs(looks.texture.astype(int) - np.rint(255 * np.float64(COLOUR))).max() <= 4


def test_normals_are_the_spheres(textured, sphere):
    looks = textured[1].rigged
    outward = looks.vertices - sphere.centre.numpy()
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    assert (np.einsum("vc,vc->v", outward, looks.normals) > 0.98).all()
    relief = looks.normal_map.astype(float) / 127.5 - 1
    assert (relief[..., 2] > 0.8).all()


def test_texturing_is_repeatable(textured, run):
    again = texture_run(run, CPU, size=128, face_count=200).rigged
    np.testing.assert_array_equal(again.texture, textured[1].rigged.texture)
    np.testing.assert_array_equal(again.normal_map, textured[1].rigged.normal_map)
    np.testing.assert_array_equal(again.texcoords, textured[1].rigged.texcoords)


def test_points_move_as_the_fit_does(sphere):
    points = sphere.centre + torch.randn(20, 3, generator=torch.Generator().manual_seed(0)) * 0.1
    posed = posed_points(sphere.avatar, points, [2, 0])
    for row, frame in enumerate((2, 0)):
        expected = (points - sphere.centre) @ sphere.rotations[frame].T + sphere.centres[frame]
        torch.testing.assert_close(posed[row], expected, atol=1e-4, rtol=0)


def test_long_captures_are_thinned_to_their_sharpest_frames(run, monkeypatch):
    monkeypatch.setattr(texture, "PHOTOGRAPHS", 2)
    assert len(texture_run(run, CPU, size=64, face_count=100).frames) == 2


def test_videoavatars_file_holds_what_its_extractor_reads(textured, sphere):
    run, made = textured
    with np.load(run.path / "tex_predata.npz", allow_pickle=False) as file:
        held = {name: file[name] for name in file.files}
    looks = made.rigged
    assert set(held) == {"vt", "ft", "tmpvs", "fs", "defVs", "fids", "cam_c", "cam_f", "cam_k", "cam_t", "cam_rt"}
    np.testing.assert_allclose(held["vt"], looks.texcoords * [1, -1] + [0, 1], atol=1e-6)
    np.testing.assert_array_equal(held["ft"], looks.face_texcoords)
    np.testing.assert_array_equal(held["tmpvs"], looks.vertices)
    np.testing.assert_array_equal(held["fids"], [0, 1, 2])
    expected = posed_points(sphere.avatar, torch.from_numpy(looks.vertices), [0, 1, 2])
    np.testing.assert_allclose(held["defVs"], expected, atol=1e-5)
    assert not held["cam_k"].any()


def test_the_camera_is_opencvs():
    camera = Camera((300, 310), (50, 40), (0.3, -0.2, 0.9, 0.1), (0.1, -0.2, 0.4), height=90, width=110)
    parts = opencv_camera(camera)
    points = torch.randn(30, 3, generator=torch.Generator().manual_seed(0)) + camera.rotation()[:, 2] * 5
    import cv2

    intrinsics = np.diag([*parts["cam_f"], 1.0])
    intrinsics[:2, 2] = parts["cam_c"]
    projected, _ = cv2.projectPoints(
        points.numpy().astype(np.float64), parts["cam_rt"], parts["cam_t"], intrinsics, parts["cam_k"]
    )
    np.testing.assert_allclose(projected[:, 0], camera.project(points)[:, :2], atol=0.02)


# ---- command and bad input ------------------------------------------------------------------------------------------


def test_the_command_says_what_it_made(run):
    result = CliRunner().invoke(
        app, ["texture", str(run.path), "--size", "64", "--faces", "150", "--delight", "--device", "cpu"]
    )
    assert result.exit_code == 0, result.output
    assert "texture of 64x64" in result.output
    assert (run.path / "avatar" / "texture.png").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "8"], "--size must lie between 16 and 8192, got 8"),
        (["--faces", "5"], "--faces must lie between 100 and 1000000, got 5"),
        (["--videoavatar", "x.txt"], "x.txt: the file for VideoAvatar is an .npz file"),
    ],
)
def test_the_command_names_what_is_wrong(run, options, message):
    result = CliRunner().invoke(app, ["texture", str(run.path), "--device", "cpu", *options])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (run.path / "avatar").exists()


def test_a_vanished_capture_is_named(run, tmp_path):
    content = yaml.safe_load(run.config_file.read_text())
    content["provenance"]["capture"]["path"] = str(tmp_path / "gone")
    run.config_file.write_text(yaml.safe_dump(content))
    with pytest.raises(RunError, match="the capture of"):
        texture_run(run, CPU)


def test_an_earlier_avatar_stays_when_texturing_fails(textured, run, monkeypatch):
    shutil.copytree(textured[0].path / "avatar", run.path / "avatar")
    before = {file.name: file.read_bytes() for file in (run.path / "avatar").iterdir()}

    def fail(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(texture, "fill_unseen", fail)
    with pytest.raises(KeyboardInterrupt):
        texture_run(run, CPU, size=64, face_count=100)
    assert {file.name: file.read_bytes() for file in (run.path / "avatar").iterdir()} == before
