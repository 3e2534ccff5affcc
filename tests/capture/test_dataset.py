import shutil
import struct

import cv2
import numpy as np
import pytest
import torch
from capture_files import shared_capture, write_capture

from selfrecon_warp.capture.dataset import decode_normals, read_capture, valid_normals
from selfrecon_warp.errors import CaptureError


def change_arrays(path, drop=(), **changes):
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files if name not in drop}
    np.savez(path, **(arrays | changes))


def write_mask(path, shape, value=255):
    cv2.imwrite(str(path), np.full(shape, value, np.uint8))


def refused(folder, match):
    with pytest.raises(CaptureError, match=match) as caught:
        read_capture(folder)
    assert str(folder) in str(caught.value)


def test_reads_everything(folder):
    capture = read_capture(folder)
    assert len(capture) == 4
    assert capture.image_size == (120, 90)
    assert (capture.camera.height, capture.camera.width) == (120, 90)
    assert capture.names == ("000000", "000001", "000002", "000003")
    assert capture.poses.shape == (4, 24, 3)
    assert capture.trans.shape == (4, 3)
    assert capture.betas.shape == (10,)
    assert capture.gender == "neutral"
    assert capture.clips == ((0, 4),)
    assert capture.has_normals.all()
    pixels = capture.load_all()
    assert pixels.images.shape == pixels.normals.shape == (4, 120, 90, 3)
    assert pixels.masks.shape == pixels.normals_valid.shape == (4, 120, 90)
    assert pixels.images.dtype == torch.uint8
    assert pixels.masks.dtype == pixels.normals_valid.dtype == torch.bool
    some = capture.load_all([2, 0])
    assert some.frames.tolist() == [2, 0]
    for name in ("images", "masks", "normals", "normals_valid"):
        assert torch.equal(getattr(some, name), getattr(pixels, name)[[2, 0]])


def test_stems_count_as_integers_without_padding(folder):
    for part, suffix in (("imgs", ".jpg"), ("masks", ".png"), ("normals", ".png")):
        for frame in range(4):
            (folder / part / f"{frame:06d}{suffix}").rename(folder / part / f"{frame}{suffix}")
        for frame in range(4, 11):
            shutil.copy(folder / part / f"3{suffix}", folder / part / f"{frame}{suffix}")
    change_arrays(folder / "smpl_rec.npz", poses=np.zeros((11, 24, 3)), trans=np.zeros((11, 3)))
    assert read_capture(folder).names == tuple(str(frame) for frame in range(11))


def test_png_images_and_files_that_are_no_frames(tmp_path):
    folder = write_capture(tmp_path / "capture", suffix=".png")
    (folder / "imgs" / "000000_rect.txt").write_text("0 0 10 10")
    (folder / "imgs" / "._000000.png").write_bytes(b"resource fork")
    assert len(read_capture(folder)) == 4


def test_layouts_that_published_captures_may_have(folder):
    capture = read_capture(folder)
    poses, trans = capture.poses.numpy(), capture.trans.numpy()
    change_arrays(
        folder / "smpl_rec.npz",
        drop=("gender",),
        poses=np.concatenate((poses, poses)).reshape(8, 72).astype(np.float64),
        trans=np.concatenate((trans, trans)),
        shape=np.ones((1, 10)),
    )
    again = read_capture(folder)
    assert torch.equal(again.poses, capture.poses)
    assert torch.equal(again.betas, torch.ones(10))
    assert again.gender == "neutral"


@pytest.mark.parametrize(
    ("stored", "clips"),
    [
        ([4], ((0, 4),)),
        ([2, 4], ((0, 2), (2, 4))),
        ([1, 3, 4], ((0, 1), (1, 3), (3, 4))),
        ([2, 7, 9], ((0, 2), (2, 4))),
    ],
)
def test_clips_split_at_all_but_the_last_end(folder, stored, clips):
    change_arrays(folder / "smpl_rec.npz", vid_seg_indices=np.array(stored))
    assert read_capture(folder).clips == clips


def test_clips_that_do_not_increase_are_refused(folder):
    change_arrays(folder / "smpl_rec.npz", vid_seg_indices=np.array([3, 2, 4]))
    refused(folder, "increasing clip ends")


def test_genders(folder):
    change_arrays(folder / "smpl_rec.npz", gender=np.array(["Female"]))
    assert read_capture(folder).gender == "female"
    change_arrays(folder / "smpl_rec.npz", gender="unknown")
    refused(folder, "gender must be one of neutral, female, male, got 'unknown'")


def test_normals_are_optional_frame_by_frame(tmp_path):
    capture = read_capture(write_capture(tmp_path / "some", normals=(1,)))
    assert capture.has_normals.tolist() == [False, True, False, False]
    pixels = capture.load_all()
    assert pixels.normals_valid.flatten(1).any(1).tolist() == [False, True, False, False]
    bare = read_capture(write_capture(tmp_path / "none", normals=())).load_all()
    assert bare.normals is None
    assert not bare.normals_valid.any()


def test_normals_decode_to_the_world(folder):
    capture = read_capture(folder)
    encoded = torch.from_numpy(capture.load_normals(0))
    valid = valid_normals(encoded, torch.from_numpy(capture.load_mask(0)))
    normals = decode_normals(encoded[valid], capture.camera.rotation())
    torch.testing.assert_close(normals.norm(dim=-1), torch.ones(len(normals)))
    rows, columns = torch.nonzero(valid, as_tuple=True)
    rays = capture.camera.rays(torch.stack((columns, rows), -1))
    assert ((normals * rays).sum(-1) < 0.02).all()  # whatever is seen faces the camera
    towards = torch.tensor([[128, 128, 255], [255, 128, 128], [128, 255, 128]], dtype=torch.uint8)
    expected = torch.tensor([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]])
    torch.testing.assert_close(decode_normals(towards, capture.camera.rotation()), expected, atol=0.01, rtol=0)


def test_background_black_and_impossible_lengths_are_no_normals():
    encoded = torch.tensor([[0, 0, 0], [128, 128, 255], [127, 128, 127], [255, 255, 255]], dtype=torch.uint8)
    mask = torch.ones(4, dtype=torch.bool)
    assert valid_normals(encoded, mask).tolist() == [False, True, False, False]
    assert not valid_normals(encoded, ~mask).any()


def test_fingerprint_follows_the_content(folder, template):
    fingerprint = read_capture(folder).fingerprint()
    assert fingerprint == read_capture(template).fingerprint()
    mask = folder / "masks" / "000002.png"
    image = cv2.imread(str(mask))
    image[0, 0] = 255
    cv2.imwrite(str(mask), image)
    assert read_capture(folder).fingerprint() != fingerprint


def test_missing_folder_and_parts(folder):
    with pytest.raises(CaptureError, match="is no folder"):
        read_capture(folder / "nowhere")
    (folder / "camera.npz").unlink()
    refused(folder, r"camera\.npz is missing")


def test_missing_masks_are_named(folder):
    (folder / "masks" / "000002.png").unlink()
    refused(folder, r"4 images but 3 masks with their names, 000002\.png missing")
    shutil.rmtree(folder / "masks")
    refused(folder, "masks is missing")


def test_surplus_masks_do_no_harm(folder):
    shutil.copy(folder / "masks" / "000000.png", folder / "masks" / "000004.png")
    assert len(read_capture(folder)) == 4


def test_frames_must_count_without_gaps(folder):
    (folder / "imgs" / "000001.jpg").unlink()
    refused(folder, "count 0 to 2 without gaps, 1 missing")


def test_one_frame_twice_is_refused(folder):
    shutil.copy(folder / "imgs" / "000001.jpg", folder / "imgs" / "1.jpg")
    refused(folder, "both frame 1")


def test_names_that_are_no_integers_are_refused(folder):
    shutil.copy(folder / "imgs" / "000001.jpg", folder / "imgs" / "front.jpg")
    refused(folder, r"front\.jpg: frames are named by integers")


def test_no_frames_at_all(folder):
    for file in (folder / "imgs").iterdir():
        file.unlink()
    refused(folder, "holds no .jpg or .png frames")
    (folder / "imgs").rmdir()
    refused(folder, "imgs is missing")


def test_too_few_poses(folder):
    change_arrays(folder / "smpl_rec.npz", poses=np.zeros((3, 24, 3)))
    refused(folder, "poses covers 3 frames but imgs holds 4")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"poses": np.zeros((4, 23, 3))}, r"poses must have shape \(frames, 24, 3\), got \(4, 23, 3\)"),
        ({"poses": np.zeros((4, 69))}, r"poses must have shape"),
        ({"trans": np.zeros((3, 4))}, r"trans must have shape \(frames, 3\), got \(3, 4\)"),
        ({"shape": np.zeros(9)}, r"shape must have shape \(10,\), got \(9,\)"),
        ({"trans": np.full((4, 3), np.nan)}, "trans holds NaN or infinity first in frame 0"),
        ({"shape": np.full(10, np.inf)}, "shape holds NaN or infinity; "),
        ({"trans": np.full((4, 3), "x")}, "trans must hold numbers"),
        ({"vid_seg_indices": np.array(["a", "b"])}, "vid_seg_indices must hold frame indices"),
    ],
)
def test_bad_body_parameters_are_named(folder, changes, message):
    change_arrays(folder / "smpl_rec.npz", **changes)
    refused(folder, message)


def test_nan_beyond_the_last_frame_is_not_read(folder):
    poses = np.zeros((6, 24, 3))
    poses[5] = np.nan
    change_arrays(folder / "smpl_rec.npz", poses=poses)
    read_capture(folder)
    poses[2, 7, 1] = np.nan
    change_arrays(folder / "smpl_rec.npz", poses=poses)
    refused(folder, "poses holds NaN or infinity first in frame 2")


def test_missing_keys_are_named(folder):
    change_arrays(folder / "smpl_rec.npz", drop=("trans",))
    refused(folder, "lacks trans")


def test_pickled_content_is_refused(folder):
    change_arrays(folder / "smpl_rec.npz", gender=np.array({"a": 1}, dtype=object))
    refused(folder, "Python objects, which are never loaded")


@pytest.mark.parametrize("part", ["imgs/000001.jpg", "masks/000001.png", "normals/000001.png"])
def test_truncated_files_are_refused(folder, part):
    data = (folder / part).read_bytes()
    (folder / part).write_bytes(data[: len(data) // 2])
    refused(folder, f"{part} is truncated or damaged")


def test_black_mask_is_refused(folder):
    write_mask(folder / "masks" / "000003.png", (120, 90), 0)
    refused(folder, r"000003\.png is all black")


@pytest.mark.parametrize("part", ["masks", "normals"])
def test_another_size_is_refused(folder, part):
    write_mask(folder / part / "000003.png", (90, 120))
    refused(folder, r"000003\.png is 120x90 pixels, the first mask is 90x120")


def test_turned_photographs_are_read_upright(folder):
    path = folder / "imgs" / "000001.jpg"
    upright = cv2.imread(str(path))
    _, encoded = cv2.imencode(".jpg", cv2.rotate(upright, cv2.ROTATE_90_COUNTERCLOCKWISE))
    tag = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    exif = b"Exif\0\0" + tag
    data = encoded.tobytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    assert read_capture(folder).load_image(1).shape == (120, 90, 3)


@pytest.mark.parametrize("name", ["male_casual", "female_skirt"])
def test_rendered_capture_opens(name):
    capture = read_capture(shared_capture(name))
    assert len(capture) == 120
    assert capture.image_size == (540, 540)
    pixels = capture.load_all([0, 60])
    assert pixels.normals_valid[pixels.masks].float().mean() > 0.99
