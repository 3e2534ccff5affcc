"""PeopleSnapshot folders in the documented layout, as the reference converts them."""

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from picture_files import gradient, write_clip

from selfrecon_warp.capture.check import check_capture
from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.errors import PrepareError
from selfrecon_warp.model.body import load_body
from selfrecon_warp.prepare.people_snapshot import import_people_snapshot

h5py = pytest.importorskip("h5py")


def write_folder(folder: Path, known, *, pictures=None, masks=None, frames=6, camera=(), **changes) -> Path:
    """The layout, from a capture's true bodies; pictures and masks default to the capture's."""
    folder.mkdir(parents=True)
    capture = read_capture(known.root)
    pictures = pictures or [capture.load_image(frame) for frame in range(frames)]
    masks = np.stack([capture.load_mask(frame) for frame in range(6)]) if masks is None else masks
    height, width = masks.shape[1:]
    write_clip(folder / "video.mp4", pictures)
    content = {
        "camera_t": np.zeros(3),
        "camera_rt": np.zeros(3),
        "camera_f": np.array([known.focal, known.focal]),
        "camera_c": np.array(known.centre),
        "camera_k": np.array([0.2, 0, 0, 0, 0]),
        "width": width,
        "height": height,
        **dict(camera),
    }
    (folder / "camera.pkl").write_bytes(pickle.dumps(content, protocol=2))
    with h5py.File(folder / "masks.hdf5", "w") as file:
        file.create_dataset("masks", data=masks.astype(np.uint8), compression="gzip")
    body = {"betas": known.betas, "pose": known.poses.reshape(-1, 72), "trans": known.trans, **changes}
    with h5py.File(folder / "reconstructed_poses.hdf5", "w") as file:
        for name, array in body.items():
            if array is not None:
                file.create_dataset(name, data=array)
    return folder


def test_the_body_meets_the_masks_as_the_true_one_does(known, tmp_path, out):
    count, remark = import_people_snapshot(write_folder(tmp_path / "female-3-casual", known), out)
    capture = read_capture(out)
    assert (count, remark, capture.gender) == (6, "", "female")
    assert capture.image_files[0].name == "000000.png"
    original = read_capture(known.root)
    np.testing.assert_array_equal(capture.load_mask(2), original.load_mask(2))
    assert np.abs(capture.load_image(2).astype(int) - original.load_image(2)).mean() < 3
    assert capture.camera.quat.tolist() == [0, 0, 0, 1]
    np.testing.assert_allclose(check_capture(capture, load_body()).overlap, known.overlap, atol=1e-6)


def test_start_drops_and_renumbers(known, tmp_path, out):
    count, _ = import_people_snapshot(write_folder(tmp_path / "male-1", known), out, start=2)
    capture = read_capture(out)
    assert (count, capture.gender, capture.names[0]) == (4, "male", "000000")
    np.testing.assert_allclose(capture.trans.numpy(), known.trans[2:], atol=1e-6)
    np.testing.assert_array_equal(capture.load_mask(0), read_capture(known.root).load_mask(2))


def test_frames_that_lie_on_their_side_are_turned_clockwise(known, tmp_path, out):
    pictures = [gradient(index, (72, 128)) for index in range(6)]
    masks = np.zeros((6, 128, 72), bool)
    masks[:, 30:90, 20:50] = True
    folder = write_folder(tmp_path / "p", known, pictures=pictures, masks=masks)
    import_people_snapshot(folder, out)
    np.testing.assert_allclose(read_capture(out).load_image(3), np.rot90(pictures[3], -1), atol=6)


def test_camera_translation_reaches_the_capture(known, tmp_path, out):
    shift = np.array([0.1, -0.2, 0.3])
    folder = write_folder(tmp_path / "p", known, camera={"camera_t": shift}.items(), trans=known.trans - shift)
    import_people_snapshot(folder, out)
    np.testing.assert_allclose(read_capture(out).camera.T.tolist(), [-0.1, 0.2, 0.3], atol=1e-6)
    np.testing.assert_allclose(check_capture(read_capture(out), load_body()).overlap, known.overlap, atol=1e-3)


def test_undistortion_straightens_pictures_and_masks(known, tmp_path, out):
    points = np.stack(np.meshgrid(np.arange(8, 128, 16), np.arange(8, 128, 16)), -1).reshape(-1, 1, 2).astype(float)
    K = np.array([[known.focal, 0, known.centre[0]], [0, known.focal, known.centre[1]], [0, 0, 1]])
    bent, _ = cv2.projectPoints(
        cv2.convertPointsToHomogeneous(cv2.undistortPoints(points, K, None)),
        np.zeros(3),
        np.zeros(3),
        K,
        np.array([0.2, 0, 0, 0, 0]),
    )
    masks = np.zeros((6, 128, 128), np.uint8)
    for u, v in np.rint(bent.reshape(-1, 2)).astype(int):
        if 1 <= u < 127 and 1 <= v < 127:
            masks[:, v - 1 : v + 2, u - 1 : u + 2] = 1
    import_people_snapshot(write_folder(tmp_path / "p", known, masks=masks), out, undistort=True)
    found = read_capture(out).load_mask(0)
    for u, v in points.reshape(-1, 2).astype(int):
        if 16 <= u < 112 and 16 <= v < 112:
            assert found[v - 1 : v + 2, u - 1 : u + 2].any()
    assert (found != masks[0].astype(bool)).any()


def test_parts_of_different_lengths_are_cut_to_the_shortest(known, tmp_path, out):
    count, remark = import_people_snapshot(write_folder(tmp_path / "p", known, frames=4), out)
    assert count == 4
    assert "4 of video, 6 of masks, 6 of poses" in remark


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"camera": [("camera_rt", np.array([0, 0.5, 0]))]}, "camera_rt is .* only a camera that is not turned"),
        ({"camera": [("width", 64)]}, "camera.pkl tells 64x128"),
        ({"pose": None}, "reconstructed_poses.hdf5 lacks pose; it holds betas, trans"),
        ({"trans": np.zeros((3, 3))}, "pose covers 6 frames, trans 3"),
        ({"pose": np.full((6, 72), np.nan)}, "NaN"),
        ({"masks": np.zeros((6, 128, 128))}, "mask 0 is empty"),
    ],
)
def test_bad_folders_are_told_and_leave_nothing(options, message, known, tmp_path, out):
    folder = write_folder(tmp_path / "p", known, **options)
    with pytest.raises(PrepareError, match=message):
        import_people_snapshot(folder, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p"]


def test_missing_files_and_hostile_cameras(known, tmp_path, out):
    from estimator_files import hostile_pickle

    folder = write_folder(tmp_path / "p", known)
    with pytest.raises(PrepareError, match="fewer than two frames are left"):
        import_people_snapshot(folder, out, start=5)
    hostile_pickle(folder / "camera.pkl", tmp_path / "created")
    with pytest.raises(PrepareError, match=r"camera\.pkl: refused"):
        import_people_snapshot(folder, out)
    assert not (tmp_path / "created").exists()
    (folder / "masks.hdf5").write_bytes(b"nothing")
    (folder / "camera.pkl").unlink()
    with pytest.raises(PrepareError, match=r"expected camera\.pkl, .* found masks\.hdf5, reconstructed"):
        import_people_snapshot(folder, out)
    with pytest.raises(PrepareError, match="is no folder"):
        import_people_snapshot(tmp_path / "none", out)
