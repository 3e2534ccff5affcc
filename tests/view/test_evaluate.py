import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from selfrecon_warp.cli import app
from selfrecon_warp.train.run_folder import RunFolder
from selfrecon_warp.view.evaluate import evaluate_run
from selfrecon_warp.view.reconstruction import Reconstruction

FRAMES, CELL, SHIFT = 3, 0.05, 0.03


@pytest.fixture(scope="module")
def truth(sphere, tmp_path_factory):
    """Ground truth that is the avatar itself, carried 3 cm along x in its one frame with a mesh."""
    folder = tmp_path_factory.mktemp("truth") / "gt"
    folder.mkdir()
    reconstruction = Reconstruction(sphere.avatar, CELL)
    vertices = reconstruction.posed([1]).numpy() + np.float32([SHIFT, 0, 0])
    faces = reconstruction.faces.numpy()
    rest = reconstruction.vertices.numpy()
    joints = sphere.avatar.joints().detach().numpy()
    zeros = {"poses": np.zeros((FRAMES, 24, 3)), "trans": np.zeros((FRAMES, 3)), "shape": np.zeros(10)}
    np.savez(folder / "smpl_gt.npz", joints=joints + np.float32([0, 0.02, 0]), **zeros)
    np.savez(
        folder / "canonical.npz",
        faces=faces,
        face_part=np.zeros(len(faces), int),
        part_names=np.array(["skin"]),
        face_exterior=np.ones(len(faces), bool),
        verts_tpose=rest,
        verts_apose=rest,
        apose=np.zeros((24, 3)),
        joints_rest=np.zeros((24, 3)),
    )
    quantised = np.rint((vertices - [0, 0, 3]) / 5e-5).astype(np.int16)
    np.savez(folder / "meshes.npz", frames=[1], verts_q=quantised, scale=5e-5, offset=[0, 0, 3])
    return folder


@pytest.fixture
def run(sphere, tmp_path) -> RunFolder:
    return RunFolder(shutil.copytree(sphere.run.path, tmp_path / "run"))


def test_scores_are_what_was_built_in(run, truth, device):
    result = evaluate_run(run, truth, device)
    raw, aligned = result.fit.geometry.raw, result.fit.geometry.aligned
    assert 0.012 < raw.predicted_to_truth < 0.022  # a sphere moved by 3 cm: half of it on average
    assert aligned.predicted_to_truth < 1e-3
    assert aligned.normal_consistency > 0.99
    assert result.fit.joints.raw == pytest.approx(0.02, abs=1e-5)
    assert result.fit.joints.procrustes == pytest.approx(0, abs=1e-5)
    assert result.fit.silhouette_iou == pytest.approx(result.overlaps.mean())
    assert result.overlaps.min() > 0.95
    assert result.fit.colour.psnr > 15  # a few white pixels at the rim
    assert result.initial.joints.raw == pytest.approx(0.02, abs=1e-4)  # the given body has the same skeleton
    assert result.initial.silhouette_iou < 0.4  # but is no sphere
    assert result.initial.colour is None


def test_record_and_table_hold_both_bodies(run, truth):
    answer = CliRunner().invoke(app, ["evaluate", str(run.path), "--ground-truth", str(truth), "--device", "cpu"])
    assert answer.exit_code == 0, answer.output + repr(answer.exception)
    record = json.loads(run.metrics_file.read_text())
    assert record["fit"]["joint_error_cm"] == pytest.approx(2, abs=1e-3)
    assert record["initial"]["silhouette_iou"] < record["fit"]["silhouette_iou"]
    assert record["iteration"] == 20
    assert record["colour_frames"] == [0]
    assert "Joint error [cm]" in answer.stdout
    assert "2.00" in answer.stdout
    assert str(run.metrics_file) in answer.stdout.replace("\n", "")


def require_refused(run: RunFolder, truth, expected: str) -> None:
    answer = CliRunner().invoke(app, ["evaluate", str(run.path), "--ground-truth", str(truth), "--device", "cpu"])
    assert answer.exit_code == 2, answer.output + repr(answer.exception)
    assert expected in answer.stderr
    assert not run.metrics_file.exists()


def test_folder_without_ground_truth_is_refused(run, tmp_path):
    require_refused(run, tmp_path, "holds no ground truth")


def test_ground_truth_of_another_capture_is_refused(run, truth, tmp_path):
    other = shutil.copytree(truth, tmp_path / "gt")
    with np.load(other / "smpl_gt.npz") as archive:
        longer = {name: np.concatenate([archive[name]] * 2) for name in ("poses", "trans", "joints")}
        np.savez(other / "smpl_gt.npz", shape=archive["shape"], **longer)
    require_refused(run, other, "holds 6 frames")
