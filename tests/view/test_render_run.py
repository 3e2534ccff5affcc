import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from sphere_run import COLOUR, FRAMES, HEIGHT, RADIUS, WIDTH
from typer.testing import CliRunner

from selfrecon_warp.asset.rigged import RiggedMesh, rigged_mesh
from selfrecon_warp.capture.camera import write_camera
from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.cli import app
from selfrecon_warp.errors import RunError
from selfrecon_warp.train.run_folder import RunFolder
from selfrecon_warp.view.reconstruction import Reconstruction
from selfrecon_warp.view.render_run import KINDS, render_run
from selfrecon_warp.view.video import read_video

CPU = torch.device("cpu")
BYTES = np.rint(255 * np.array(COLOUR))


@pytest.fixture(scope="module")
def run(sphere, tmp_path_factory) -> RunFolder:
    """A run whose avatar has one colour on the upper half of its texture, another below."""
    folder = Path(shutil.copytree(sphere.run.path, tmp_path_factory.mktemp("render") / "run"))
    reconstruction = Reconstruction(sphere.avatar, 0.05)
    plain = rigged_mesh(sphere.avatar, reconstruction.vertices, reconstruction.faces)
    heights = plain.vertices[:, 1]
    v = 1 - (heights - heights.min()) / np.ptp(heights)
    texture = np.zeros((64, 64, 3), np.uint8)
    texture[:32], texture[32:] = (250, 10, 10), (10, 10, 250)
    textured = replace(
        plain,
        texcoords=np.stack((np.full_like(v, 0.5), v), 1).astype(np.float32),
        face_texcoords=plain.faces,
        texture=texture,
        light=np.float32([[0.9] * 3, [0.4] * 3] + [[0.0] * 3] * 7),
        textured_light=np.full_like(plain.vertices, 1.25),
    )
    textured.save(folder / "avatar")
    return RunFolder.open(folder)


def stored(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return picture[..., ::-1] if picture.ndim == 3 and picture.shape[2] == 3 else picture


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_shows_the_sphere_where_it_is(run, sphere, tmp_path, kind):
    assert render_run(run, kind, tmp_path / "out", CPU, frames=(1, 3)) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["000001.png", "000002.png"]
    for frame in (1, 2):
        picture = stored(tmp_path / "out" / f"{frame:06d}.png").astype(float)
        assert picture.shape[:2] == (HEIGHT, WIDTH)
        background = 0 if kind in ("normals", "depth", "mask") else 255
        drawn = (picture != background) if picture.ndim == 2 else (picture != background).any(-1)
        inside = sphere.meets(frame)[0].numpy()
        assert (drawn & inside).sum() / (drawn | inside).sum() > 0.9
        eroded = cv2.erode(inside.astype(np.uint8), np.ones((5, 5))) > 0
        if kind == "colour":
            assert np.abs(picture[eroded] - BYTES).max() <= 2
        elif kind == "mask":
            assert set(np.unique(picture)) == {0, 255}
        elif kind == "depth":
            towards = sphere.centres[frame]
            nearest = float(towards[2]) - RADIUS
            assert picture[drawn].min() == pytest.approx(1000 * nearest, abs=15)
        elif kind == "texture":
            reds = picture[eroded][:, 0] > 125
            assert 0.3 < reds.mean() < 0.7
            rows = np.nonzero(eroded)[0]
            assert rows[reds].mean() < rows[~reds].mean() - 5  # the canonical top is on top in the picture


@pytest.mark.parametrize("orbit", [False, True])
def test_light_comes_from_one_side_of_the_world(run, sphere, tmp_path, orbit):
    """It grows along the world's x and is set off against what the texture holds."""
    for kind in ("lit", "texture"):
        render_run(run, kind, tmp_path / kind, CPU, frames=(0, 1), orbit=orbit, size=64)
    lit, plain = (stored(tmp_path / kind / "000000.png").astype(float) for kind in ("lit", "texture"))
    pure = (plain.max(-1) == 250) & (plain.min(-1) == 10)
    ratio = np.where(pure, lit.max(-1) / 250, np.nan)
    assert np.nanmin(ratio) == pytest.approx((0.9 - 0.4) / 1.25, abs=0.1)
    if not orbit:
        camera = sphere.avatar.camera
        aside = camera.project(sphere.centres[:1] + torch.tensor([[0.1, 0, 0]])) - camera.project(sphere.centres[:1])
        column = np.broadcast_to(np.arange(pure.shape[1]), pure.shape)[pure]
        assert np.corrcoef(column, ratio[pure])[0, 1] * float(aside[0, 0]) > 0


def test_light_that_is_not_known_is_not_drawn(run, tmp_path):
    dark = Path(shutil.copytree(run.path, tmp_path / "run"))
    replace(RiggedMesh.load(dark / "avatar"), light=None).save(dark / "avatar")
    with pytest.raises(RunError, match="holds no light; write it again with `selfrecon texture"):
        render_run(RunFolder.open(dark), "lit", tmp_path / "out", CPU)


def test_photographs_and_transparency(run, sphere, tmp_path):
    render_run(run, "shaded", tmp_path / "over", CPU, frames=(0, 1), over_photo=True)
    photograph = read_capture(run.capture_folder).load_image(0)
    drawn = stored(tmp_path / "over" / "000000.png")
    outside = cv2.dilate(sphere.meets(0)[0].numpy().astype(np.uint8), np.ones((7, 7))) == 0
    np.testing.assert_array_equal(drawn[outside], photograph[outside])
    assert (drawn != photograph).any()
    render_run(run, "texture", tmp_path / "clear", CPU, frames=(0, 1), transparent=True)
    clear = stored(tmp_path / "clear" / "000000.png")
    assert clear.shape == (HEIGHT, WIDTH, 4)
    assert (clear[outside][:, 3] == 0).all()
    assert clear[..., 3].max() == 255


def test_videos_of_the_turntable_and_around(run, tmp_path):
    assert render_run(run, "texture", tmp_path / "t.mp4", CPU, turntable=True, size=64, frame_rate=4) == 12
    pictures = read_video(tmp_path / "t.mp4")
    assert len(pictures) == 12
    assert pictures[0].shape == (64, 64, 3)
    sizes = [(picture.astype(int).min(-1) < 200).mean() for picture in pictures]
    assert max(sizes) < 1.15 * min(sizes)
    assert min(sizes) > 0.3
    assert render_run(run, "depth", tmp_path / "deep" / "o.mp4", CPU, orbit=True, size=48) == FRAMES
    assert len(read_video(tmp_path / "deep" / "o.mp4")) == FRAMES


def test_a_camera_file_is_looked_through(run, sphere, tmp_path):
    write_camera(tmp_path / "c.npz", sphere.avatar.camera)
    render_run(run, "mask", tmp_path / "seen", CPU, frames=(0, 1), camera=tmp_path / "c.npz", size=90)
    render_run(run, "mask", tmp_path / "own", CPU, frames=(0, 1))
    seen, own = stored(tmp_path / "seen" / "000000.png"), stored(tmp_path / "own" / "000000.png")
    np.testing.assert_array_equal(seen[:, :WIDTH], own)


def test_earlier_pictures_are_replaced_and_other_files_never(run, tmp_path):
    out = tmp_path / "out"
    render_run(run, "mask", out, CPU, frames=(0, 3))
    render_run(run, "mask", out, CPU, frames=(0, 1))
    assert [path.name for path in out.iterdir()] == ["000000.png"]
    (out / "diary.txt").write_text("dear diary")
    with pytest.raises(RunError, match=r"holds diary\.txt, which would be lost"):
        render_run(run, "mask", out, CPU, frames=(0, 1))
    assert (out / "diary.txt").read_text() == "dear diary"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--what", "lit", "--out", "o", "--turntable"], "the canonical mesh has no place"),
        (["--what", "xray", "--out", "o"], "--what xray: choose one of colour, texture"),
        (["--what", "mask", "--out", "o.avi"], "a video ending in .mp4"),
        (["--what", "mask", "--out", "o", "--orbit", "--turntable"], "exclude each other"),
        (["--what", "shaded", "--out", "o", "--orbit", "--over-photo"], "needs the capture's own camera"),
        (["--what", "shaded", "--out", "o.mp4", "--transparent"], "a video has no transparency"),
        (["--what", "mask", "--out", "o", "--transparent"], "has no background"),
        (["--what", "mask", "--out", "o", "--turntable", "--frames", "0:2"], "has no frames"),
        (["--what", "mask", "--out", "o", "--frames", "2:9"], "the capture has frames 0 to 2"),
        (["--what", "mask", "--out", "o", "--frames", "two"], "FIRST:END"),
        (["--what", "mask", "--out", "o", "--camera", "none.npz"], "none.npz is missing"),
    ],
)
def test_choices_that_make_no_sense_are_refused(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["render", str(run.path), *arguments])
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def test_texture_needs_an_avatar(sphere, tmp_path):
    with pytest.raises(RunError, match="run `selfrecon texture"):
        render_run(sphere.run, "texture", tmp_path / "out", CPU)
    assert not list(tmp_path.iterdir())


def test_the_command_draws(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["render", str(run.path), "--what", "normals", "--frames", "0:1", "--out", "n"])
    assert result.exit_code == 0, result.output
    assert "1 pictures: n" in result.stdout


def test_a_lamp_lights_its_side_alone(run, tmp_path):
    lamp_too = Path(shutil.copytree(run.path, tmp_path / "run"))
    lamp = np.float32([[-1.0, 0.0, 0.0], [0.3, 0.3, 0.3]])
    replace(RiggedMesh.load(lamp_too / "avatar"), lamp=lamp).save(lamp_too / "avatar")
    for folder in (run.path, lamp_too):
        render_run(RunFolder.open(folder), "lit", tmp_path / folder.parent.name, CPU, frames=(0, 1))
    plain, more = (stored(tmp_path / f.parent.name / "000000.png").astype(int) for f in (run.path, lamp_too))
    gain = (more - plain).max(-1)
    assert gain.min() == 0
    assert gain.max() > 30
    assert ((gain > 0) & (plain.min(-1) < 250)).sum() < 0.8 * (plain.min(-1) < 250).sum()
