"""A capture's body is fitted to its masks and keypoints anew, and written whole or not at all."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from capture_files import default_body, write_capture
from people_seen import person_seen
from typer.testing import CliRunner

from selfrecon_warp.capture.camera import read_camera
from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.cli import app
from selfrecon_warp.errors import PrepareError, SelfReconError
from selfrecon_warp.prepare import refine
from selfrecon_warp.prepare.observations import read_keypoints, write_keypoints
from selfrecon_warp.prepare.refine import refine_capture

FRAMES, SIZE = 8, (150, 120)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """A capture whose body is off, and the true joints."""
    folder = write_capture(tmp_path_factory.mktemp("refine") / "capture", FRAMES, SIZE, normals=[])
    with np.load(folder / "smpl_rec.npz") as stored:
        arrays = dict(stored)
    joints = joints_of(read_capture(folder))
    rng = np.random.default_rng(0)
    arrays["poses"][:, 1:] += rng.normal(0, 0.05, arrays["poses"][:, 1:].shape).astype(np.float32)
    arrays["trans"] += rng.normal(0, 0.03, arrays["trans"].shape).astype(np.float32)
    np.savez(folder / "smpl_rec.npz", **arrays, vid_seg_indices=np.array([4, FRAMES]))
    (folder / "contact_sheet.png").write_bytes(b"old")
    return folder, joints


@pytest.fixture
def capture(made, tmp_path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / "capture"))


@torch.no_grad()
def joints_of(capture) -> np.ndarray:
    return default_body().posed(capture.betas, capture.poses, capture.trans)[1].numpy()


def test_masks_alone_bring_the_body_nearer(made, tmp_path):
    folder, true = made
    done = refine_capture(folder, tmp_path / "out")
    before, after = (np.linalg.norm(joints_of(read_capture(f)) - true, axis=-1).mean() for f in (folder, done.folder))
    assert after < 0.7 * before
    assert done.overlap > max(done.overlap_before, 0.9)
    refined = read_capture(done.folder)
    assert refined.clips == ((0, 4), (4, FRAMES))
    assert not (done.folder / "contact_sheet.png").exists()
    assert (done.folder / "imgs" / "000000.jpg").read_bytes() == (folder / "imgs" / "000000.jpg").read_bytes()
    record = json.loads((done.folder / "prepared.json").read_text())
    assert record["refined"]["overlap of body and masks"] == pytest.approx(done.overlap, abs=1e-4)


def test_overwrites_only_when_told(capture):
    with pytest.raises(PrepareError, match="--overwrite to replace the body"):
        refine_capture(capture)
    (capture / "prepared.json").write_text('{"made by": "someone"}')
    result = CliRunner().invoke(app, ["prepare", "refine", str(capture), "--overwrite", "--height", "170"])
    assert result.exit_code == 0, result.output
    assert "overlap by 0.9" in result.output
    assert json.loads((capture / "prepared.json").read_text())["made by"] == "someone"
    assert not (capture / "contact_sheet.png").exists()
    read_capture(capture)


def test_refuses_a_place_that_is_taken(made, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(PrepareError, match="not empty"):
        refine_capture(made[0], tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_a_stopped_run_changes_nothing(capture, tmp_path, monkeypatch):
    before = {file: file.read_bytes() for file in capture.rglob("*") if file.is_file()}

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(refine, "write_camera", stop)
    monkeypatch.setattr(refine, "fit_body", lambda *_, initial, **__: fitted_as(initial))
    for out, overwrite in ((None, True), (tmp_path / "out", False)):
        with pytest.raises(KeyboardInterrupt):
            refine_capture(capture, out, overwrite=overwrite)
    assert {file: file.read_bytes() for file in capture.rglob("*") if file.is_file()} == before
    assert sorted(tmp_path.iterdir()) == [capture]


def fitted_as(initial):
    from selfrecon_warp.prepare.body_fit import FittedBody

    return FittedBody(*initial, focal=100.0, joint_error_px=0.0, overlap=1.0, remarks=())


def test_focal_length_is_written(capture, monkeypatch):
    monkeypatch.setattr(refine, "fit_body", lambda *_, initial, **__: fitted_as(initial))
    refine_capture(capture, overwrite=True, focal_free=True)
    camera = read_camera(capture / "camera.npz", *SIZE)
    np.testing.assert_allclose(camera.focal.numpy(), 100.0, rtol=1e-5)


def test_keypoints_round_trip_and_are_checked(tmp_path):
    seen = person_seen(frames=4, size=40).observations
    write_keypoints(tmp_path / "keypoints.npz", seen)
    again = read_keypoints(tmp_path / "keypoints.npz", seen.masks)
    np.testing.assert_array_equal(again.keypoints, seen.keypoints)
    np.testing.assert_array_equal(again.keypoints3d, seen.keypoints3d)
    assert again.names == seen.names
    with pytest.raises(PrepareError, match="keypoints of 4 frames, the capture has 3"):
        read_keypoints(tmp_path / "keypoints.npz", seen.masks[:3])
    np.savez(tmp_path / "odd.npz", keypoints=np.zeros((4, 2, 2)), names=np.array(["nose", "tail"]))
    with pytest.raises(PrepareError, match=r"odd\.npz: names must be .* got tail"):
        read_keypoints(tmp_path / "odd.npz", seen.masks)
    np.savez(tmp_path / "none.npz", poses=np.zeros(3))
    with pytest.raises(PrepareError, match="holds no keypoints"):
        read_keypoints(tmp_path / "none.npz", seen.masks)


def test_wrong_keypoints_leave_nothing_behind(made, tmp_path):
    np.savez(tmp_path / "keypoints.npz", keypoints=np.zeros((3, 33, 2)))
    with pytest.raises(SelfReconError, match="keypoints of 3 frames"):
        refine_capture(made[0], tmp_path / "out", keypoints=tmp_path / "keypoints.npz")
    assert not (tmp_path / "out").exists()
