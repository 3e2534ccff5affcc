"""What `selfrecon prepare import` does with frames, masks and bad input, through the command line."""

import json
import shutil
from pathlib import Path

import cv2
import estimator_files as files
import numpy as np
import pytest
from picture_files import jpeg_with_orientation, write_clip
from typer.testing import CliRunner, Result

from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.capture.image_file import read_image
from selfrecon_warp.cli import app


def prepare(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["prepare", *(str(argument) for argument in arguments)])


def require_refused(result: Result, *expected: str) -> None:
    assert result.exit_code == 2, result.output + repr(result.exception)
    assert result.stderr.count("error: ") == 1
    for text in expected:
        assert text in result.stderr


@pytest.fixture
def inputs(known, tmp_path) -> dict[str, Path]:
    """Options of a good import; a test spoils one."""
    body = files.gvhmr(tmp_path / "hmr4d_results.pt", known.poses, known.trans, known.betas)
    return {
        "images": known.root / "imgs",
        "smpl": body,
        "masks": known.root / "masks",
        "camera": known.root / "camera.npz",
    }


def run(inputs, out, **changes) -> Result:
    options = {**inputs, "out": out, **changes}
    named = [(f"--{name.replace('_', '-')}", value) for name, value in options.items() if value is not None]
    return prepare("import", *(word for pair in named for word in pair))


def pictures(known) -> list[np.ndarray]:
    return [read_image(known.root / "imgs" / f"{frame:06d}.jpg") for frame in range(6)]


def only_inputs(tmp_path: Path) -> bool:
    return not [path for path in tmp_path.iterdir() if path.name.startswith((".out", "out"))]


def test_the_command_tells_what_it_read_and_what_is_next(inputs, out):
    result = run(inputs, out)
    assert result.exit_code == 0, result.output
    assert f"next: selfrecon check {out}" in result.stdout
    assert "6 frames from gvhmr, read as transl; the file's shape" in result.stdout
    assert "note: " in result.stderr
    record = json.loads((out / "prepared.json").read_text())
    assert record["format"] == "gvhmr"
    assert record["source frames"] == list(range(6))
    assert len(record["overlap of body and masks by reading"]) >= 4


def test_a_video_serves_as_well_as_its_frames(known, inputs, tmp_path, out):
    clip = write_clip(tmp_path / "clip.mp4", pictures(known))
    assert run(inputs, out, images=clip).exit_code == 0
    capture = read_capture(out)
    assert [file.name for file in capture.image_files][:2] == ["000000.jpg", "000001.jpg"]
    np.testing.assert_allclose(known.overlap_of(out), known.overlap, atol=0.01)


def test_a_phones_portrait_video_is_turned_before_anything_else(known, inputs, tmp_path, out):
    lying = [np.rot90(picture) for picture in pictures(known)]  # as the sensor saw it
    clip = write_clip(tmp_path / "clip.mp4", lying, turn=90)
    assert run(inputs, out, images=clip).exit_code == 0
    np.testing.assert_allclose(read_capture(out).load_image(1), pictures(known)[1], atol=25)
    np.testing.assert_allclose(known.overlap_of(out), known.overlap, atol=0.01)


def test_variable_frame_rate_changes_nothing(known, inputs, tmp_path, out):
    clip = write_clip(tmp_path / "clip.mp4", pictures(known), times=[0, 20, 100, 110, 400, 900])
    assert run(inputs, out, images=clip).exit_code == 0
    assert len(read_capture(out)) == 6


def test_part_of_the_frames(known, inputs, out):
    assert run(inputs, out, start=1, stop=6, step=2).exit_code == 0
    capture = read_capture(out)
    np.testing.assert_allclose(capture.trans.numpy(), known.trans[1:6:2], atol=1e-6)
    np.testing.assert_array_equal(capture.load_mask(1), read_capture(known.root).load_mask(3))
    np.testing.assert_allclose(known.overlap_of(out), known.overlap[1:6:2], atol=0.01)


def test_cut_out_pictures_bring_their_masks(known, inputs, tmp_path, out):
    (tmp_path / "cut").mkdir()
    capture = read_capture(known.root)
    for frame in range(6):
        alpha = capture.load_mask(frame).astype(np.uint8) * 255
        cv2.imwrite(str(tmp_path / "cut" / f"{frame}.png"), np.dstack((capture.load_image(frame)[..., ::-1], alpha)))
    assert run(inputs, out, images=tmp_path / "cut", masks=None).exit_code == 0
    np.testing.assert_array_equal(read_capture(out).load_mask(4), capture.load_mask(4))
    np.testing.assert_array_equal(read_capture(out).load_image(4), capture.load_image(4))


def test_sixteen_bits_and_exif(known, inputs, tmp_path, out):
    (tmp_path / "odd").mkdir()
    for frame, picture in enumerate(pictures(known)):
        if frame % 2:
            (tmp_path / "odd" / f"{frame:06d}.jpg").write_bytes(jpeg_with_orientation(np.rot90(picture), 6))
        else:
            cv2.imwrite(str(tmp_path / "odd" / f"{frame:06d}.png"), picture[..., ::-1].astype(np.uint16) * 257)
    assert run(inputs, out, images=tmp_path / "odd").exit_code == 0
    capture = read_capture(out)
    for frame, picture in enumerate(pictures(known)):
        np.testing.assert_allclose(capture.load_image(frame), picture, atol=25 if frame % 2 else 0)
    assert {file.suffix for file in capture.image_files} == {".png"}


def test_frames_without_a_pose_are_left_out_and_told(known, inputs, tmp_path, out):
    import joblib

    joblib.dump(
        {
            0: {
                "pose": known.poses[[0, 1, 4, 5]].reshape(-1, 72),
                "trans": known.trans[[0, 1, 4, 5]],
                "betas": np.tile(known.betas, (4, 1)),
                "frame_ids": np.array([0, 1, 4, 5]),
            }
        },
        tmp_path / "wham_output.pkl",
    )
    result = run(inputs, out, smpl=tmp_path / "wham_output.pkl")
    assert result.exit_code == 0
    assert "2 frames without a pose are left out, the first is 2" in result.stderr
    np.testing.assert_allclose(known.overlap_of(out), known.overlap[[0, 1, 4, 5]], atol=1e-3)


def test_picture_names_tie_phalp_frames_to_pictures(known, inputs, tmp_path, out):
    names = [f"{frame:06d}" for frame in range(6)]
    body = files.phalp(tmp_path / "p.pkl", known.poses[::-1], known.trans[::-1], known.betas, names[::-1])
    assert run(inputs, out, smpl=body).exit_code == 0
    np.testing.assert_allclose(known.overlap_of(out), known.overlap, atol=1e-3)


def test_pictures_that_phalp_counted_from_one_are_not_shifted(known, inputs, tmp_path, out):
    names = [f"{frame + 1:06d}" for frame in range(5)]  # all of these are also names of our pictures
    body = files.phalp(tmp_path / "p.pkl", known.poses[:5], known.trans[:5], known.betas, names)
    assert run(inputs, out, smpl=body).exit_code == 0
    np.testing.assert_allclose(known.overlap_of(out), known.overlap[:5], atol=1e-3)


# ---- bad input ------------------------------------------------------------------------------------------------------


def test_fewer_poses_than_frames(known, inputs, tmp_path, out):
    body = files.gvhmr(tmp_path / "few.pt", known.poses[:4], known.trans[:4], known.betas)
    require_refused(run(inputs, out, smpl=body), "few.pt covers 4 frames", "has 6", "--stop 4")
    assert only_inputs(tmp_path)
    assert run(inputs, out, smpl=body, stop=4).exit_code == 0
    assert len(read_capture(out)) == 4


def test_more_poses_than_frames(known, inputs, tmp_path, out):
    twice = (np.tile(known.poses, (2, 1, 1)), np.tile(known.trans, (2, 1)), known.betas)
    result = run(inputs, out, smpl=files.gvhmr(tmp_path / "many.pt", *twice))
    assert result.exit_code == 0
    assert "12 poses, the last 6 have no picture" in result.stderr
    require_refused(run(inputs, tmp_path / "out2", smpl=files.wham(tmp_path / "w.pkl", *twice)), "different videos")


def test_code_in_a_pickle(inputs, tmp_path, out):
    body = files.hostile_pickle(tmp_path / "wham_output.pkl", tmp_path / "created")
    require_refused(run(inputs, out, smpl=body), "wham_output.pkl: refused: the pickle asks for", "Do not trust it")
    assert not (tmp_path / "created").exists()
    assert only_inputs(tmp_path)


def test_code_in_a_torch_file(inputs, tmp_path, out):
    import torch

    torch.save({"smpl_params_incam": files.Bomb(tmp_path / "created")}, tmp_path / "r.pt")
    require_refused(run(inputs, out, smpl=tmp_path / "r.pt"), "holds more than tensors, which is never loaded")
    assert not (tmp_path / "created").exists()


def test_no_video_and_no_frames(inputs, tmp_path, out):
    (tmp_path / "a.mp4").write_bytes(b"text")
    require_refused(run(inputs, out, images=tmp_path / "a.mp4"), "a.mp4 cannot be read as a video")
    (tmp_path / "none").mkdir()
    require_refused(run(inputs, out, images=tmp_path / "none"), "holds no pictures")
    require_refused(run(inputs, out, images=tmp_path / "nowhere"), "does not exist")
    require_refused(run(inputs, out, start=9), "--start 9", "has only 6 frames")
    require_refused(run(inputs, out, start=3, stop=2), "expected 0 <= start < stop")
    require_refused(run(inputs, out, start=5), "tracked in 1 of the 1 frames")
    assert only_inputs(tmp_path)


def test_nobody_in_a_mask(known, inputs, tmp_path, out):
    masks = Path(shutil.copytree(known.root / "masks", tmp_path / "masks"))
    cv2.imwrite(str(masks / "000003.png"), np.zeros((128, 128), np.uint8))
    require_refused(run(inputs, out, masks=masks), "the mask of frame 000003 is empty")
    assert only_inputs(tmp_path)


def test_two_people_and_a_person_leaving_the_picture_are_told(known, inputs, tmp_path, out):
    masks = Path(shutil.copytree(known.root / "masks", tmp_path / "masks"))
    for frame in range(3):
        mask = read_capture(known.root).load_mask(frame).astype(np.uint8) * 255
        mask[20:120, 2:20] = 255
        cv2.imwrite(str(masks / f"{frame:06d}.png"), mask)
        mask = read_capture(known.root).load_mask(frame).astype(np.uint8) * 255
        cv2.imwrite(str(masks / f"{frame + 3:06d}.png"), np.roll(mask, -60, 0))
    result = run(inputs, out, masks=masks)
    assert "more than one large part in" in result.stderr
    assert "the person is cut off by the picture's border in 3 of 6 frames" in result.stderr


def test_cameras_that_cannot_be(inputs, tmp_path, out):
    require_refused(run(inputs, out, focal=100), "give --camera or --focal, not both")
    require_refused(run(inputs, out, camera=None, focal=-3), "--focal must be a positive number")
    np.savez(tmp_path / "c.npz", f=3)
    require_refused(run(inputs, out, camera=tmp_path / "c.npz"), "no camera in it")


def test_pictures_of_two_sizes(known, inputs, tmp_path, out):
    images = Path(shutil.copytree(known.root / "imgs", tmp_path / "imgs"))
    cv2.imwrite(str(images / "000004.jpg"), np.zeros((100, 128, 3), np.uint8))
    masks = Path(shutil.copytree(known.root / "masks", tmp_path / "masks"))
    cv2.imwrite(str(masks / "000004.png"), np.full((100, 128), 255, np.uint8))
    require_refused(run(inputs, out, images=images, masks=masks), "frame 000004 is 128x100, the first 128x128")
    assert only_inputs(tmp_path)


def test_a_body_that_misses_the_masks_is_told(known, inputs, tmp_path, out):
    body = files.gvhmr(tmp_path / "off.pt", known.poses, known.trans + np.float32([0.9, 0, 0]), known.betas)
    result = run(inputs, out, smpl=body)
    assert result.exit_code == 0
    assert "the body meets the masks by only" in result.stderr


def test_what_is_there_is_not_overwritten_by_accident(inputs, out):
    out.mkdir()
    (out / "mine").write_text("x")
    require_refused(run(inputs, out), "exists and is not empty")
    assert [path.name for path in out.iterdir()] == ["mine"]


@pytest.mark.parametrize("command", ["people-snapshot", "import", "normals", "boxes", "merge"])
def test_every_command_has_help(command):
    assert prepare(command, "-h").exit_code == 0


def test_other_commands_run_from_the_command_line(known, tmp_path):
    result = prepare("merge", known.root, known.root, "--out", tmp_path / "merged")
    assert result.exit_code == 0, result.output
    assert "12 frames in 2 captures' clips" in result.stdout
    assert "squares: 12" in prepare("boxes", tmp_path / "merged").stdout
    require_refused(prepare("normals", tmp_path / "merged", "--model", tmp_path / "n.onnx"), "pass --overwrite")
    require_refused(prepare("people-snapshot", known.root, "--out", tmp_path / "ps"), "expected camera.pkl")
