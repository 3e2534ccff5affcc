"""Every estimator's format: the body lands on the masks exactly as well as the true one."""

import shutil
from pathlib import Path

import estimator_files as files
import numpy as np
import pytest

from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.errors import PrepareError
from selfrecon_warp.model.body import load_body
from selfrecon_warp.prepare.body_track import PELVIS
from selfrecon_warp.prepare.estimators import FORMATS, read_track
from selfrecon_warp.prepare.import_capture import ImportSettings, import_capture


def imported(known, body_file: Path, out: Path, **options):
    settings = {"masks": known.root / "masks", "camera": known.root / "camera.npz", **options}
    return import_capture(ImportSettings(known.root / "imgs", body_file, **settings), out)


def written_by(source: str, folder: Path, known) -> Path:
    folder.mkdir()
    body = (known.poses, known.trans, known.betas)
    if source == "gvhmr":
        return files.gvhmr(folder / "hmr4d_results.pt", *body)
    if source == "wham":
        return files.wham(folder / "wham_output.pkl", *body)
    if source == "tram":
        return files.tram(folder / "results", *body, known.focal, known.centre)
    if source == "4dhumans":
        return files.phalp(folder / "demo_video.pkl", *body)
    if source == "romp":
        return files.romp(folder / "frames", *body)
    return Path(shutil.copy(known.root / "smpl_rec.npz", folder))


@pytest.mark.parametrize("source", FORMATS)
def test_body_meets_the_masks_as_the_true_one_does(source, known, tmp_path, out):
    path = written_by(source, tmp_path / "estimated", known)
    result = imported(known, path, out)
    assert result.source == source
    capture = read_capture(out)
    stored = known.poses.copy()
    if source == "gvhmr":
        stored[:, 22:] = 0  # SMPL-X's body has no hand joints
    np.testing.assert_allclose(files.matrices(capture.poses.numpy()), files.matrices(stored), atol=1e-5)
    np.testing.assert_allclose(capture.trans.numpy(), known.trans, atol=1e-5)
    np.testing.assert_allclose(capture.betas.numpy(), known.betas, atol=1e-5)
    tolerance = 0.01 if source == "gvhmr" else 1e-3
    np.testing.assert_allclose(known.overlap_of(out), known.overlap, atol=tolerance)
    assert capture.image_files[0].read_bytes() == (known.root / "imgs" / "000000.jpg").read_bytes()


@pytest.mark.parametrize(("source", "model"), [("gvhmr", "SMPL-X"), ("wham", "SMPL")])
def test_another_origin_of_the_body_is_recognised_by_the_masks(source, model, known, tmp_path, out):
    body = load_body()
    pelvis = body.shaped(read_capture(known.root).betas)[1][0].detach().numpy()
    theirs = (known.poses, known.trans + pelvis - np.float32(PELVIS[model]), known.betas)
    path = files.gvhmr(tmp_path / "r.pt", *theirs) if source == "gvhmr" else files.wham(tmp_path / "w.pkl", *theirs)
    result = imported(known, path, out)
    assert f"moved from {model}'s origin" in result.reading.words
    np.testing.assert_allclose(read_capture(out).trans.numpy(), known.trans, atol=1e-5)


def test_a_foreign_shape_gives_way_to_the_mean_one_and_is_told(known, tmp_path, out):
    strange = np.float32([7, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    result = imported(known, files.wham(tmp_path / "w.pkl", known.poses, known.trans, strange), out)
    assert (read_capture(out).betas == 0).all()
    assert any("CC0 body" in remark and "mean shape" in remark for remark in result.remarks)


@pytest.mark.parametrize("source", ["4dhumans", "romp"])
def test_depth_for_another_focal_length_is_rescaled(source, known, tmp_path, out):
    side = 128
    focal = side * (files.PHALP_FOCAL if source == "4dhumans" else files.ROMP_FOCAL)
    theirs = files.moved_focal(known.trans, known.centre, known.focal, focal, side).astype(np.float32)
    write = files.phalp if source == "4dhumans" else files.romp
    path = write(tmp_path / ("file.pkl" if source == "4dhumans" else "frames"), known.poses, theirs, known.betas)
    result = imported(known, path, out)
    assert f"rescaled from a focal length of {focal:.0f} px" in result.reading.words
    np.testing.assert_allclose(read_capture(out).trans.numpy(), known.trans, atol=1e-3)
    np.testing.assert_allclose(known.overlap_of(out), known.overlap, atol=2e-3)


def test_weak_perspective_of_romp_stands_in_for_a_missing_translation(known, tmp_path, out):
    side = 128.0
    scale = 2 * known.focal / (side * known.trans[:, 2])
    across = (known.focal * known.trans[:, :2] / known.trans[:, 2:] + known.centre - 0.5 * (side - 1)) / (side / 2)
    cams = np.concatenate((scale[:, None], across), 1).astype(np.float32)
    frames = {"smpl_thetas": known.poses.reshape(-1, 72), "smpl_betas": np.tile(known.betas, (6, 1)), "cam": cams}
    np.savez(tmp_path / "romp.npz", **frames)
    imported(known, tmp_path / "romp.npz", out)
    np.testing.assert_allclose(read_capture(out).trans.numpy(), known.trans, atol=1e-3)


def test_camera_of_the_file_is_taken_when_none_is_given(known, tmp_path, out):
    K = [[known.focal, 0, known.centre[0]], [0, known.focal, known.centre[1]], [0, 0, 1]]
    path = files.gvhmr(tmp_path / "r.pt", known.poses, known.trans, known.betas, K)
    result = imported(known, path, out, camera=None)
    np.testing.assert_allclose(read_capture(out).camera.focal.tolist(), [known.focal] * 2, rtol=1e-5)
    assert any("gvhmr worked with" in remark for remark in result.remarks)


def test_a_capture_moves_with_its_camera(known, tmp_path, out):
    copy = Path(shutil.copytree(known.root, tmp_path / "copy"))
    result = imported(known, copy / "smpl_rec.npz", out, camera=None)
    assert result.remarks == ()
    assert read_capture(out).camera.focal.tolist() == read_capture(known.root).camera.focal.tolist()


def test_rows_and_orders_of_tracks(known, tmp_path):
    path = files.wham(tmp_path / "w.pkl", known.poses, known.trans, known.betas)
    longest = read_track(path, (128, 128))
    assert len(longest.poses) == 6
    assert "2 people" in longest.remark
    assert len(read_track(path, (128, 128), track="1").poses) == 2
    with pytest.raises(PrepareError, match="no track 9; there are 1, 3"):
        read_track(path, (128, 128), track="9")
    ghosts = read_track(files.phalp(tmp_path / "p.pkl", known.poses, known.trans, known.betas), (128, 128))
    assert len(ghosts.poses) == 6
    assert ghosts.betas.any()


def test_romp_may_store_plain_arrays_and_whole_videos(known, tmp_path):
    plain = files.romp(tmp_path / "plain", known.poses, known.trans, known.betas, wrapped=False)
    folder = files.romp(tmp_path / "frames", known.poses, known.trans, known.betas)
    frames = {f"{k:08d}.png": np.load(folder / f"{k:08d}.npz", allow_pickle=True)["results"][()] for k in range(6)}
    np.savez(tmp_path / "video_results.npz", results=frames, sequence_results={})
    for path in (plain, folder, tmp_path / "video_results.npz"):
        track = read_track(path, (128, 128))
        np.testing.assert_allclose(track.paths[0].values, known.trans, atol=1e-6)
        assert track.names[3] == "00000003"


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3), ("xz", 3), ("bz2", 3)])
def test_joblib_files_may_be_compressed(compress, known, tmp_path):
    path = files.wham(tmp_path / "w.pkl", known.poses, known.trans, known.betas, compress)
    np.testing.assert_array_equal(read_track(path, (128, 128)).paths[0].values, known.trans)


def test_unknown_files_are_named_by_what_they_hold(tmp_path):
    np.savez(tmp_path / "x.npz", apples=np.ones(3), pears=np.ones(2))
    with pytest.raises(PrepareError, match=r"no known estimator wrote this: found \{apples, pears\}.*gvhmr \(smpl_par"):
        read_track(tmp_path / "x.npz", (128, 128))
    with pytest.raises(PrepareError, match=r"end in \.pt"):
        read_track(Path(__file__), (128, 128))
    with pytest.raises(PrepareError, match="does not exist"):
        read_track(tmp_path / "none.pt", (128, 128))
    with pytest.raises(PrepareError, match=r"--format must be auto or one of gvhmr, tram"):
        read_track(tmp_path / "x.npz", (128, 128), "hmr")
    with pytest.raises(PrepareError, match="wham writes per person: pose, trans, betas"):
        read_track(tmp_path / "x.npz", (128, 128), "wham")


def test_a_stated_format_must_be_the_files(known, tmp_path):
    path = files.wham(tmp_path / "w.pkl", known.poses, known.trans, known.betas)
    with pytest.raises(PrepareError, match="--format gvhmr, but this is a file of wham"):
        read_track(path, (128, 128), "gvhmr")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda body: body.update(transl=body["transl"][:3]), "translation must have shape"),
        (lambda body: body.update(body_pose=body["body_pose"][:3]), "different numbers of frames"),
        (lambda body: body.update(body_pose=body["body_pose"] * float("nan")), "NaN"),
        (lambda body: body.update(body_pose=body["body_pose"][:, :60]), "rotation for each frame and joint"),
        (lambda body: body.pop("betas"), "not as gvhmr writes it"),
    ],
)
def test_wrong_shapes_are_told(spoil, message, known, tmp_path):
    import torch

    path = files.gvhmr(tmp_path / "r.pt", known.poses, known.trans, known.betas)
    content = torch.load(path, weights_only=True)
    spoil(content["smpl_params_incam"])
    torch.save(content, path)
    with pytest.raises(PrepareError, match=message):
        read_track(path, (128, 128))
