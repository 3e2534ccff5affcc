import shutil

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from selfrecon_warp.capture.camera import Camera, read_arrays
from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.capture.ground_truth import read_ground_truth
from selfrecon_warp.errors import CaptureError, ConfigError, RunError
from selfrecon_warp.synthesis import synthesize_capture
from selfrecon_warp.synthesis.perturbations import PERTURBATIONS, perturbed_capture

FRAMES, SIZE = 9, 96


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    return synthesize_capture(
        tmp_path_factory.mktemp("perturbed") / "capture", frames=FRAMES, size=SIZE, hold_out_poses=2
    )


@pytest.fixture(scope="module")
def copies(capture, tmp_path_factory):
    folder = tmp_path_factory.mktemp("copies")
    return {case: perturbed_capture(capture, folder / case, case, seed=3) for case in PERTURBATIONS}


def files(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def body_error(folder) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turns [rad] ``[N, 24]``, translations [m] ``[N]`` and shape by which the given body is off."""
    given, truth = read_capture(folder), read_ground_truth(folder)
    first, second = (Rotation.from_rotvec(p.numpy().reshape(-1, 3)) for p in (truth.poses, given.poses))
    turns = (first.inv() * second).magnitude().reshape(-1, 24)
    return turns, (given.trans - truth.trans).norm(dim=-1).numpy(), (given.betas - truth.betas).numpy()


@pytest.mark.parametrize("case", list(PERTURBATIONS))
def test_every_copy_is_a_whole_capture_with_its_truth(copies, case):
    copy, truth = read_capture(copies[case]), read_ground_truth(copies[case])
    assert len(truth.poses) == len(copy)
    assert set(truth.meshes.frames) <= set(range(len(copy)))
    assert truth.novel.load_mask(0).shape == copy.image_size == truth.load_normals(copy.names[0]).shape[:2]
    copy.load_all()


def test_the_clean_copy_is_the_capture(capture, copies):
    assert files(copies["clean"]) == files(capture)


def test_the_same_seed_gives_the_same_copy_and_another_one_another(capture, copies, tmp_path):
    for case in ("masks-ragged", "poses-wrong"):
        same = perturbed_capture(capture, tmp_path / f"{case}3", case, seed=3)
        other = perturbed_capture(capture, tmp_path / f"{case}4", case, seed=4)
        assert files(same) == files(copies[case]) != files(other)


def test_pose_errors_double(capture, copies):
    for before, after in zip(body_error(capture), body_error(copies["poses-doubled"]), strict=True):
        np.testing.assert_allclose(after, 2 * before, atol=2e-5)


def test_a_third_of_the_masks_shrinks_and_grows(capture, copies):
    before, after = read_capture(capture), read_capture(copies["masks-ragged"])
    changes = [int(after.load_mask(f).sum()) - int(before.load_mask(f).sum()) for f in range(FRAMES)]
    assert sorted(np.sign(changes).tolist()) == [-1, -1, 0, 0, 0, 0, 0, 0, 1]
    grown, shrunk = int(np.argmax(changes)), int(np.argmin(changes))
    for frame, inner, outer in ((grown, before, after), (shrunk, after, before)):
        inside, wide = inner.load_mask(frame), outer.load_mask(frame)
        depth = cv2.distanceTransform(wide.astype(np.uint8), cv2.DIST_L2, 5)
        assert not (inside & ~wide).any()
        assert depth[inside].min() > 2.5


def test_a_tenth_of_the_poses_has_one_limb_off_by_40_degrees(capture, copies):
    before, after = read_capture(capture).poses, read_capture(copies["poses-wrong"]).poses
    first, second = (Rotation.from_rotvec(p.numpy().reshape(-1, 3)) for p in (before, after))
    turns = np.degrees((first.inv() * second).magnitude()).reshape(FRAMES, 24)
    assert (turns > 1).sum() == 1
    assert turns.max() == pytest.approx(40, abs=1e-3)
    assert np.argwhere(turns > 1)[0, 1] in (1, 2, 4, 5, 16, 17, 18, 19)


def test_without_normals_only_those_of_the_truth_are_left(copies):
    assert not read_capture(copies["no-normals"]).has_normals.any()
    assert read_ground_truth(copies["no-normals"]).load_normals("000000").any()


def test_wrong_focal_length_keeps_the_pelvis_in_the_picture_and_its_size(capture, copies):
    before, after = read_capture(capture), read_capture(copies["focal-wrong"])
    torch.testing.assert_close(after.camera.focal, 1.1 * before.camera.focal)
    truth = read_ground_truth(capture)
    pelvis = (truth.joints[:, 0] - truth.trans).mean(0)
    first, second = before.camera.project(before.trans + pelvis), after.camera.project(after.trans + pelvis)
    torch.testing.assert_close(second[:, :2], first[:, :2], atol=1e-3, rtol=0)
    torch.testing.assert_close(second[:, 2], 1.1 * first[:, 2])  # size in the picture: focal length over depth
    assert torch.equal(before.poses, after.poses)


def test_wrong_focal_length_follows_the_camera_not_the_world(capture, tmp_path):
    turned = shutil.copytree(capture, tmp_path / "turned")
    arrays = read_arrays(turned / "camera.npz")
    quat, shift = np.array([0.2, 0.1, 0.3, 0.9]), np.array([0.1, -0.2, 0.4])
    np.savez(turned / "camera.npz", **{**arrays, "quat": quat, "T": shift})
    copy = perturbed_capture(turned, tmp_path / "copy", "focal-wrong")
    before, after, truth = read_capture(turned), read_capture(copy), read_ground_truth(turned)
    pelvis = (truth.joints[:, 0] - truth.trans).mean(0)
    first, second = before.camera.project(before.trans + pelvis), after.camera.project(after.trans + pelvis)
    torch.testing.assert_close(second[:, :2], first[:, :2], atol=1e-2, rtol=1e-4)
    torch.testing.assert_close(second[:, 2], 1.1 * first[:, 2])


def test_few_frames_are_frames_of_the_capture_in_order(capture, copies):
    before, after = read_capture(capture), read_capture(copies["few-frames"])
    first, second = read_ground_truth(capture), read_ground_truth(copies["few-frames"])
    assert len(after) == 3
    source = [next(f for f in range(FRAMES) if torch.equal(before.poses[f], pose)) for pose in after.poses]
    assert source == sorted(source)
    for frame, old in enumerate(source):
        assert np.array_equal(after.load_image(frame), before.load_image(old))
        assert np.array_equal(after.load_mask(frame), before.load_mask(old))
        assert torch.equal(second.joints[frame], first.joints[old])
        assert np.array_equal(second.load_normals(after.names[frame]), first.load_normals(before.names[old]))
        if frame in second.meshes.frames:
            assert torch.equal(second.meshes.vertices(frame), first.meshes.vertices(old))
    assert second.meshes.frames


def test_portrait_pictures_are_nine_to_sixteen_and_show_the_same_person(capture, copies):
    before, after = read_capture(capture), read_capture(copies["portrait"])
    height, width = after.image_size
    assert 9 * height == 16 * width
    points = read_ground_truth(capture).meshes.vertices(0)
    shift = after.camera.project(points) - before.camera.project(points)
    assert shift.std(0).max() < 1e-3
    dx, dy = shift[0, :2].round().int().tolist()
    for frame in (0, 4):
        old, new = before.load_mask(frame), after.load_mask(frame)
        assert new.sum() == old.sum()
        rows, columns = np.nonzero(old)
        assert new[rows + dy, columns + dx].all()
        image, cut = before.load_image(frame), after.load_image(frame)
        assert np.array_equal(cut[rows + dy, columns + dx], image[rows, columns])
    camera: Camera = after.camera
    assert (camera.height, camera.width) == (height, width)


@pytest.mark.parametrize(
    ("case", "kind", "expected"),
    [("rain", ConfigError, "case must be one of clean"), ("clean", RunError, "not empty")],
)
def test_bad_requests_are_refused(capture, tmp_path, case, kind, expected):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(kind, match=expected):
        perturbed_capture(capture, tmp_path / "out", case)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_capture_without_truth_is_refused(capture, tmp_path):
    bare = shutil.copytree(capture, tmp_path / "bare", ignore=shutil.ignore_patterns("gt"))
    with pytest.raises(CaptureError, match="holds no ground truth"):
        perturbed_capture(bare, tmp_path / "out", "clean")
    assert not (tmp_path / "out").exists()
