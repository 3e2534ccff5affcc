import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from selfrecon_warp.asset.animate import animate_run
from selfrecon_warp.asset.rigged import RiggedMesh, rigged_mesh
from selfrecon_warp.capture.camera import Camera, write_camera
from selfrecon_warp.cli import app
from selfrecon_warp.errors import MotionError, RunError
from selfrecon_warp.train.run_folder import RunFolder
from selfrecon_warp.view.video import read_video

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(sphere, tmp_path_factory) -> RunFolder:
    """A run whose avatar is the naked body, grey."""
    folder = Path(shutil.copytree(sphere.run.path, tmp_path_factory.mktemp("animate") / "run"))
    body = sphere.avatar.canonical_body()
    grey = torch.full((len(body.vertices), 3), 90, dtype=torch.uint8)
    avatar = rigged_mesh(sphere.avatar, body.vertices, body.faces, grey)
    poses, trans = avatar.poses.copy(), avatar.trans.copy()
    poses[:, 0] = [np.pi, 0.0, 0.0]  # upside down, as captures hang
    replace(avatar, poses=poses, trans=trans).save(folder / "avatar")
    return RunFolder.open(folder)


def still(path: Path, frames: int = 5) -> Path:
    np.savez(path, poses=np.zeros((frames, 72)), trans=np.zeros((frames, 3)), fps=10)
    return path


def test_a_walk_becomes_a_glb_and_a_video(run, tmp_path):
    animation = animate_run(run, "walk", CPU, out=tmp_path / "w", frame_rate=10, size=64)
    assert {path.name for path in (tmp_path / "w").iterdir()} == {"walk.glb", "walk.mp4", "walk.npz"}
    assert animation.frames == 44
    assert animation.floor_error < 0.01
    assert len(read_video(animation.video)) == 44
    data = animation.glb.read_bytes()
    length = struct.unpack("<I", data[12:16])[0]
    document = json.loads(data[20 : 20 + length])
    assert document["animations"][0]["name"] == "walk"
    accessors = document["accessors"]
    times = accessors[document["animations"][0]["samplers"][0]["input"]]
    assert times["count"] == 44
    assert times["max"] == pytest.approx([4.3], abs=1e-6)
    stored = np.load(animation.motion)
    assert stored["poses"].shape == (44, 24, 3)
    assert np.ptp(stored["trans"], axis=0)[2] > 3


def test_files_move_it_and_the_floor_is_found(run, tmp_path):
    animation = animate_run(run, str(still(tmp_path / "stand.npz")), CPU, frame_rate=20, size=48)
    assert animation.glb == run.path / "animations" / "stand" / "stand.glb"
    assert animation.frames == 9
    assert animation.floor_error < 1e-3
    pictures = read_video(animation.video)
    person = (np.abs(pictures[0].astype(int) - 90) < 25).all(-1)
    rows = np.nonzero(person.any(1))[0]
    assert rows.max() - rows.min() > 0.75 * 48
    assert person[rows.min()].sum() < 12  # a head, not two feet


def test_staying_in_place_leaves_the_steps(run, tmp_path):
    animation = animate_run(run, "walk", CPU, out=tmp_path / "w", frame_rate=5, size=32, in_place=True)
    trans = np.load(animation.motion)["trans"]
    assert np.ptp(trans[:, 2]) < 0.05
    assert np.ptp(trans[:, 1]) > 0.005


def test_a_camera_file_shows_what_it_sees(run, tmp_path):
    camera = Camera((60.0, 60.0), (31.5, 23.5), (0, 0, 1, 0), (0.0, -0.9, 3.0), height=48, width=64)
    write_camera(tmp_path / "c.npz", camera)
    arrays = dict(np.load(tmp_path / "c.npz"))
    np.savez(tmp_path / "sized.npz", **arrays, height=48, width=64)
    animation = animate_run(
        run, str(still(tmp_path / "s.npz")), CPU, out=tmp_path / "o", frame_rate=10, camera=tmp_path / "sized.npz"
    )
    picture = read_video(animation.video)[0]
    assert picture.shape == (48, 64, 3)
    person = (np.abs(picture.astype(int) - 90) < 25).all(-1)
    assert np.nonzero(person)[1].mean() == pytest.approx(31.5, abs=2)


def test_what_cannot_be_is_refused_and_nothing_is_lost(run, tmp_path):
    with pytest.raises(RunError, match="exclude each other"):
        animate_run(run, "walk", CPU, orbit=True, camera=tmp_path / "c.npz")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match=r"holds thesis\.tex, which would be lost"):
        animate_run(run, "walk", CPU, out=tmp_path / "mine")
    with pytest.raises(MotionError, match="no motion; give sway, walk"):
        animate_run(run, "dance", CPU, out=tmp_path / "d")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "thesis.tex"]


def test_a_mesh_without_feet_cannot_stand(sphere, tmp_path):
    with pytest.raises(MotionError, match="no left foot"):
        animate_run(sphere.run, "sway", CPU, out=tmp_path / "s")


def test_other_skeletons_are_refused(run, tmp_path):
    copy = Path(shutil.copytree(run.path, tmp_path / "run"))
    avatar = RiggedMesh.load(copy / "avatar")
    replace(avatar, joint_names=tuple(f"joint_{j}" for j in range(24))).save(copy / "avatar")
    with pytest.raises(RunError, match="SMPL's 24 joints"):
        animate_run(RunFolder.open(copy), "walk", CPU)


def test_the_command_tells_what_it_wrote(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    still(tmp_path / "s.npz")
    given = ["animate", str(run.path), "--motion", "s.npz", "--out", "o", "--size", "32", "--frame-rate", "10"]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output
    assert "5 frames: o/s.glb, o/s.mp4" in result.stdout
    refused = CliRunner().invoke(app, [*given[:3], "gone.bvh"])
    assert refused.exit_code == 2
    assert "gone.bvh: cannot be read" in refused.stderr
