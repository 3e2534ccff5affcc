"""Several clips of one person in one capture."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from selfrecon_warp.capture.camera import Camera, write_camera
from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.errors import PrepareError
from selfrecon_warp.prepare.merge import merge_captures


def copied(known, folder: Path, **changes) -> Path:
    shutil.copytree(known.root, folder, ignore=shutil.ignore_patterns("gt"))
    with np.load(folder / "smpl_rec.npz") as archive:
        arrays = dict(archive)
    np.savez(folder / "smpl_rec.npz", **{**arrays, **changes})
    return folder


def resized(known, folder: Path, scale: float, left: int) -> Path:
    """The capture cut at the left and scaled, as another preparation might have it."""
    copied(known, folder)
    for file in sorted(folder.glob("*/*.*")):
        picture = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)[:, left:]
        size = round(picture.shape[1] * scale), round(picture.shape[0] * scale)
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        cv2.imwrite(
            str(file), np.where(picture > 127, 255, 0).astype(np.uint8) if file.parent.name == "masks" else picture
        )
    camera = read_capture(known.root).camera
    (fx, fy), (cx, cy) = camera.focal.tolist(), camera.principal.tolist()
    cut = Camera((fx, fy), (cx - left, cy), height=128, width=128 - left)
    write_camera(folder / "camera.npz", cut.resized(size[1], size[0]))
    return folder


def test_clips_of_one_camera_are_copied_and_their_ends_kept(known, tmp_path, out):
    second = copied(known, tmp_path / "b", vid_seg_indices=np.array([4, 6]))
    count, remarks = merge_captures([known.root, second, known.root], out)
    capture = read_capture(out)
    assert (count, len(capture), remarks) == (18, 18, [])
    assert capture.clips == ((0, 6), (6, 10), (10, 12), (12, 18))
    assert capture.image_files[7].read_bytes() == (known.root / "imgs" / "000001.jpg").read_bytes()
    assert capture.has_normals.all()
    np.testing.assert_allclose(known.overlap_of(out), np.tile(known.overlap, 3), atol=1e-6)


@pytest.mark.parametrize(("scale", "left"), [(2.0, 20), (0.5, 10)])
def test_clips_cut_and_scaled_otherwise_are_resampled(scale, left, known, tmp_path, out):
    other = resized(known, tmp_path / "b", scale, left)
    _, remarks = merge_captures([known.root, other], out)
    assert any("resampled" in remark for remark in remarks)
    np.testing.assert_allclose(known.overlap_of(out)[6:], known.overlap, atol=0.07)  # half a pixel of outline
    tensors = read_capture(out).load_all()
    shift = np.rint(np.array(read_capture(out).camera.principal.tolist()) - known.centre).astype(int)  # of the canvas
    exact = read_capture(known.root).load_image(0).astype(float)[20:100, 40:90]
    away = {}
    for u in (-1, 0, 1):
        for v in (-1, 0, 1):
            rows, columns = slice(20 + shift[1] + v, 100 + shift[1] + v), slice(40 + shift[0] + u, 90 + shift[0] + u)
            away[u, v] = np.abs(tensors.images[6].numpy()[rows, columns] - exact).mean()
    assert min(away, key=lambda moved: away[moved]) == (0, 0)
    sides = [away[-1, 0] / away[1, 0], away[0, -1] / away[0, 1]]
    np.testing.assert_allclose(sides, 1, atol=0.25)  # not by half a pixel either


def test_everybody_fits_on_the_canvas(known, tmp_path, out):
    other = resized(known, tmp_path / "b", 1.0, 44)
    merge_captures([other, known.root], out)  # the first one's picture is the narrower
    masks = read_capture(out).load_all().masks
    whole = read_capture(known.root).load_all().masks
    assert masks[6:].sum() == whole.sum()


def test_bodies_move_into_the_first_captures_world(known, tmp_path, out):
    turn, move = Rotation.from_euler("y", 40, degrees=True), np.array([0.3, -0.1, 0.2])
    camera = read_capture(known.root).camera
    R = camera.rotation().double().numpy()
    world = turn.as_matrix()  # a world in which everything is turned, then moved
    quat = Rotation.from_matrix(world @ R).as_quat()[[3, 0, 1, 2]]
    T = -(move @ world) @ R
    pelvis = _pelvis(known)
    poses = known.poses.copy()
    poses[:, 0] = (turn * Rotation.from_rotvec(poses[:, 0])).as_rotvec()
    trans = (known.trans + pelvis) @ world.T + move - pelvis
    other = copied(known, tmp_path / "b", poses=poses, trans=trans)
    write_camera(
        other / "camera.npz",
        Camera(camera.focal.tolist(), camera.principal.tolist(), quat.tolist(), T.tolist(), height=128, width=128),
    )
    np.testing.assert_allclose(known.overlap_of(other), known.overlap, atol=2e-3)
    merge_captures([known.root, other], out)
    np.testing.assert_allclose(read_capture(out).trans.numpy()[6:], known.trans, atol=1e-4)
    np.testing.assert_allclose(known.overlap_of(out)[6:], known.overlap, atol=2e-3)


def _pelvis(known) -> np.ndarray:
    from selfrecon_warp.model.body import load_body

    return load_body().shaped(read_capture(known.root).betas)[1][0].detach().numpy()


def test_people_that_differ_are_told(known, tmp_path, out):
    with pytest.raises(PrepareError, match="different genders"):
        merge_captures([known.root, copied(known, tmp_path / "b", gender="male")], out)
    with pytest.raises(PrepareError, match="at least two"):
        merge_captures([known.root], out)
    _, remarks = merge_captures([known.root, copied(known, tmp_path / "c", shape=known.betas + 4)], out)
    assert "is it the same person" in remarks[0]
    np.testing.assert_allclose(read_capture(out).betas.numpy(), known.betas + 2, atol=1e-5)
