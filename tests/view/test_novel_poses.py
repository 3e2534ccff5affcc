import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from rich.progress import Progress
from rich.table import Table
from rigged_meshes import make_rigged
from scipy.spatial.transform import Rotation
from sphere_run import COLOUR

from selfrecon_warp.asset.rigged import rigged_from_run
from selfrecon_warp.capture.ground_truth import read_ground_truth
from selfrecon_warp.errors import RunError
from selfrecon_warp.train.run_folder import RunFolder
from selfrecon_warp.view.evaluate import evaluate_run
from selfrecon_warp.view.novel_poses import calibration, in_poses, score_novel_poses
from selfrecon_warp.view.reconstruction import Reconstruction
from selfrecon_warp.view.render import render_mask

CPU = torch.device("cpu")
POSES, CELL = 1, 0.05
SHIFT = torch.tensor([0.04, 0.0, 0.0])


@pytest.fixture(scope="module")
def reconstruction(sphere) -> Reconstruction:
    return Reconstruction(sphere.avatar, CELL)


@pytest.fixture(scope="module")
def truth(sphere, reconstruction, tmp_path_factory):
    """Ground truth that names every place 4 cm further left than the fit does; the person is the fit's own."""
    folder = tmp_path_factory.mktemp("novel") / "gt"
    avatar = sphere.avatar
    poses, trans = avatar.poses.clone()[:POSES], avatar.trans[:POSES] + torch.tensor([-0.05, 0.1, 0.0])
    poses[:, 0] = torch.tensor([2.0, 0.3, 0.1])
    posed = in_poses(reconstruction, poses, trans)
    vertices = posed.posed(range(POSES)).numpy()
    for part in ("imgs", "masks", "normals"):
        (folder / "novel" / part).mkdir(parents=True)
    for pose in range(POSES):
        mask = render_mask(torch.from_numpy(vertices[pose]), posed.faces, avatar.camera)
        image = np.where(mask[..., None], np.rint(255 * np.float64(COLOUR[::-1])), 90).astype(np.uint8)
        cv2.imwrite(str(folder / "novel" / "masks" / f"{pose:06d}.png"), mask * np.uint8(255))
        cv2.imwrite(str(folder / "novel" / "imgs" / f"{pose:06d}.png"), image)
    offset, step = np.array([0, 0, 3.0]), 5e-5
    quantised = {"verts_q": np.rint((vertices - offset) / step).astype(np.int16), "scale": step, "offset": offset}
    np.savez(folder / "novel" / "gt.npz", poses=poses.numpy(), trans=(trans - SHIFT).numpy(), **quantised)
    np.savez(
        folder / "smpl_gt.npz",
        poses=avatar.poses.numpy(),
        trans=(avatar.trans - SHIFT).numpy(),
        shape=np.zeros(10),
        joints=avatar.joints().numpy(),
    )
    faces, rest = posed.faces.numpy(), posed.vertices.numpy()
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
    np.savez(folder / "meshes.npz", frames=[0], **{**quantised, "verts_q": quantised["verts_q"][:1]})
    return folder


def test_calibration_finds_turns_and_shift_in_spite_of_noise():
    random = np.random.default_rng(0)
    true = torch.from_numpy(random.normal(0, 0.5, (200, 24, 3)))
    turns, shift = random.normal(0, 0.05, (24, 3)), torch.tensor([0.01, -0.02, 0.03])
    noise = Rotation.from_rotvec(random.normal(0, 0.03, (200 * 24, 3)))
    fitted = Rotation.from_rotvec(true.numpy().reshape(-1, 3)) * Rotation.from_rotvec(np.tile(turns, (200, 1))) * noise
    poses = torch.from_numpy(fitted.as_rotvec().reshape(200, 24, 3))
    trans = torch.from_numpy(random.normal(size=(200, 3)))
    found = calibration(poses, trans + shift, true, trans)
    np.testing.assert_allclose(found.turns, turns, atol=0.01)
    torch.testing.assert_close(found.shift, shift.double(), atol=1e-6, rtol=0)


def test_calibrated_true_poses_are_the_fits_where_it_is_off_by_constants_alone():
    random = np.random.default_rng(1)
    true, trans = torch.from_numpy(random.normal(0, 1, (5, 24, 3))), torch.zeros(5, 3).double()
    turn = Rotation.from_rotvec(np.tile(random.normal(0, 0.2, (24, 3)), (5, 1)))
    fitted = Rotation.from_rotvec(true.numpy().reshape(-1, 3)) * turn
    poses = torch.from_numpy(fitted.as_rotvec().reshape(5, 24, 3))
    applied, moved = calibration(poses, trans + 0.1, true, trans).apply(true, trans)
    torch.testing.assert_close(applied, poses, atol=1e-5, rtol=0)
    torch.testing.assert_close(moved, trans + 0.1)


def test_the_reconstruction_itself_keeps_its_frames(sphere, reconstruction):
    before = reconstruction.posed([0, 1, 2])
    posed = in_poses(reconstruction, sphere.avatar.poses[:1], sphere.avatar.trans[:1] + 1.0)
    torch.testing.assert_close(posed.posed([0])[0], before[0] + 1.0, atol=0.02, rtol=0)
    assert torch.equal(reconstruction.posed([0, 1, 2]), before)


def test_scores_are_what_was_built_in(sphere, reconstruction, truth):
    with Progress(disable=True) as progress:
        scores = score_novel_poses(sphere.run, reconstruction, read_ground_truth(truth), progress)
    assert scores.count == POSES
    given, calibrated = scores.given.avatar, scores.calibrated.avatar
    assert given.geometry.raw.predicted_to_truth > 0.015  # a sphere 4 cm off: half of it on average
    assert given.geometry.aligned.predicted_to_truth < 1e-3
    assert given.silhouette_iou < 0.95
    assert calibrated.geometry.raw.predicted_to_truth < 1e-3
    assert calibrated.geometry.aligned.normal_consistency > 0.99
    assert calibrated.silhouette_iou > 0.99
    assert calibrated.colour.psnr > given.colour.psnr + 5
    assert scores.given.textured is None
    table = Table("a", "b", "c", "d")
    scores.add_rows(table)
    assert table.row_count == 5  # a title and four scores


def test_evaluation_records_prints_and_scores_the_textured_avatar(sphere, truth, tmp_path):
    run = RunFolder(shutil.copytree(sphere.run.path, tmp_path / "run"))
    rigged_from_run(run, CPU, cell=CELL).save(run.path / "avatar")
    result = evaluate_run(run, truth, CPU)
    novel = json.loads(run.metrics_file.read_text())["novel"]
    assert novel["calibrated"]["silhouette_iou"] > 0.99 > 0.95 > novel["silhouette_iou"]
    assert novel["calibrated"]["textured_psnr_db"] > 20
    assert set(novel) - {"calibrated"} == set(novel["calibrated"])
    titles = [str(cell) for cell in result.table().columns[0].cells]
    assert any("1 poses unlike the capture" in title for title in titles)
    assert any("textured avatar" in title for title in titles)


def test_truth_without_held_out_poses_is_scored_without_them(sphere, reconstruction, truth, tmp_path):
    plain = shutil.copytree(truth, tmp_path / "gt", ignore=shutil.ignore_patterns("novel"))
    with Progress(disable=True) as progress:
        assert score_novel_poses(sphere.run, reconstruction, read_ground_truth(plain), progress) is None


def test_avatar_with_another_skeleton_is_refused(sphere, reconstruction, truth, tmp_path):
    run = RunFolder(shutil.copytree(sphere.run.path, tmp_path / "run"))
    make_rigged().save(run.path / "avatar")
    with Progress(disable=True) as progress, pytest.raises(RunError, match="has 6 joints"):
        score_novel_poses(run, reconstruction, read_ground_truth(truth), progress)
