"""A video alone becomes a capture, or one message says why it cannot."""

import json
import re

import cv2
import numpy as np
import pytest
from drawn_person import HEIGHT, NAMES, SIZE, DrawnFinder, draw, outline, turn
from picture_files import write_clip
from typer.testing import CliRunner

from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.cli import app
from selfrecon_warp.errors import PrepareError
from selfrecon_warp.prepare import video_capture, video_sheet
from selfrecon_warp.prepare.body_fit import FittedBody, fit_body
from selfrecon_warp.prepare.video_capture import VideoSettings, prepare_video

FOCAL = 300.0


@pytest.fixture(autouse=True)
def fitted(monkeypatch):
    """The body is placed, not fitted; the observations that the fit was given."""
    given = []

    def placed(observations, camera, _body, **more):
        given.append((observations, camera, more))
        count = len(observations)
        poses = np.zeros((count, 24, 3))
        poses[:, 0, 0] = np.pi
        trans = np.tile([0.0, 0.0, 4.0], (count, 1))
        focal = 321.0 if more["focal_free"] else float(camera.focal[0])
        return FittedBody(poses, trans, np.zeros(10), focal, 1.0, 0.5, ())

    monkeypatch.setattr(video_capture, "fit_body", placed)
    monkeypatch.setattr(video_capture, "draw_video_sheet", lambda *_: None)
    return given


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "turn.mp4", turn(48))


def prepared(video, out, finder=None, **more):
    settings = VideoSettings(video=video, **{"focal": FOCAL, "frames": 20, **more})
    return prepare_video(settings, out, finder=finder or DrawnFinder())


def record(out):
    return json.loads((out / "prepared.json").read_text())


def test_frames_masks_camera_and_keypoints_fit_together(clip, out, fitted, monkeypatch):
    monkeypatch.setattr(video_capture, "draw_video_sheet", video_sheet.draw_video_sheet)
    done = prepared(clip, out)
    capture, window = read_capture(out), record(out)["window of the picture"]
    assert done.frames == len(capture) == 20
    assert len(done.remarks) == 1
    assert "px tall, 300 or more are good" in done.remarks[0]
    assert float(capture.camera.focal[0]) == FOCAL
    middle = np.array([0.5 * (SIZE[1] - 1), 0.5 * (SIZE[0] - 1)])
    np.testing.assert_allclose(capture.camera.principal.tolist(), middle - (window["left"], window["top"]), atol=1e-4)
    frames = record(out)["source frames"]
    assert frames == sorted(set(frames))
    assert np.diff(frames).max() <= 4
    observations, camera, _ = fitted[0]
    np.testing.assert_allclose(observations.times, np.array(frames) / 30, atol=1e-6)
    assert camera.height == capture.image_size[0]
    for number in (0, 7, 19):
        truth = outline(draw(2 * np.pi * frames[number] / 48))
        truth = truth[window["top"] :, window["left"] :][: window["height"], : window["width"]]
        mask = capture.load_mask(number)
        assert (mask & truth).sum() / (mask | truth).sum() > 0.93
        np.testing.assert_array_equal(mask, observations.masks[number])
        nose = observations.keypoints[number, NAMES.index("nose")]
        assert mask[round(float(nose[1])), round(float(nose[0]))]
    with np.load(out / "keypoints.npz") as stored:
        np.testing.assert_array_equal(stored["keypoints"], observations.keypoints)
    assert (out / "contact_sheet.png").is_file()
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_the_true_fit_takes_what_it_is_given(tmp_path, out, monkeypatch):
    monkeypatch.setattr(video_capture, "fit_body", fit_body)
    prepared(write_clip(tmp_path / "a.mp4", turn(10)), out, frames=10, height=170.0)
    capture = read_capture(out)
    assert record(out)["body"]["overlap with the masks"] > 0.4
    depth = (capture.trans @ capture.camera.rotation())[:, 2] + capture.camera.T[2]
    np.testing.assert_allclose(depth, 1.7 * FOCAL / HEIGHT, rtol=0.3)


def test_resolution_shrinks_pictures_and_camera(clip, out):
    prepared(clip, out, resolution=80)
    capture, window = read_capture(out), record(out)["window of the picture"]
    assert max(capture.image_size) == 80
    assert float(capture.camera.focal[1]) == pytest.approx(FOCAL * 80 / window["height"])


def test_field_of_view_is_that_of_the_longer_side(clip, out):
    prepared(clip, out, focal=None, fov=60.0)
    assert float(read_capture(out).camera.focal[0]) == pytest.approx(0.5 * SIZE[0] / np.tan(np.radians(30)), rel=1e-5)


def test_an_unknown_focal_length_is_estimated(clip, out, fitted):
    prepared(clip, out, focal=None, height=172.0)
    assert fitted[0][2]["focal_free"]
    assert fitted[0][2]["height_cm"] == 172.0
    assert float(read_capture(out).camera.focal[0]) == pytest.approx(321)


def test_frames_a_second(clip, out):
    prepared(clip, out, frames=None, fps=10.0)
    assert len(read_capture(out)) == 16


def test_a_phone_held_upright(tmp_path, out):
    lying = [np.rot90(picture) for picture in turn(24)]
    prepared(write_clip(tmp_path / "a.mp4", lying, turn=90), out)
    height, width = read_capture(out).image_size
    assert height > width


def test_a_variable_frame_rate_gives_the_true_times(tmp_path, out, fitted):
    times = np.cumsum(np.where(np.arange(24) % 5, 33, 90)).tolist()
    prepared(write_clip(tmp_path / "a.mp4", turn(24), times=times), out)
    taken = record(out)["source frames"]
    np.testing.assert_allclose(fitted[0][0].times, np.array(times)[taken] / 1000, atol=2e-3)


def test_a_folder_of_deep_pictures_with_alpha(tmp_path, out):
    folder = tmp_path / "frames"
    folder.mkdir()
    for index, picture in enumerate(turn(24)):
        deep = np.dstack((picture[..., ::-1], np.full(picture.shape[:2], 255, np.uint8))).astype(np.uint16) * 257
        cv2.imwrite(str(folder / f"{index}.png"), deep)
    prepared(folder, out)
    assert read_capture(out).load_image(0)[..., 1].max() > 150


def test_a_finder_without_3d_keypoints(clip, out, fitted):
    done = prepared(clip, out, DrawnFinder(flat=True))
    assert fitted[0][0].keypoints3d is None
    assert any("cannot be told without 3D keypoints" in remark for remark in done.remarks)


@pytest.mark.parametrize("call", [5, 60])
def test_a_killed_run_leaves_no_capture_and_goes_on(call, clip, out):
    with pytest.raises(KeyboardInterrupt):
        prepared(clip, out, DrawnFinder(interrupt_at=call))
    assert not out.exists()
    finder = DrawnFinder()
    prepared(clip, out, finder)
    assert len(read_capture(out)) == 20
    assert finder.calls < 48 if call > 48 else finder.calls == 48 + 20
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []


def test_other_options_start_afresh(clip, out):
    with pytest.raises(KeyboardInterrupt):
        prepared(clip, out, DrawnFinder(interrupt_at=60))
    finder = DrawnFinder()
    prepared(clip, out, finder, frames=12)
    assert finder.calls == 48 + 12


def wall(count):
    return [draw(0.0, middles=()) for _ in range(count)]


IMPOSSIBLE = {
    "nobody": (lambda: wall(24), "no person found in any of the 24 frames"),
    "two people": (lambda: turn(24, size=(SIZE[0], 200), middles=(0.25, 0.75)), "more than one person in 24 of 24"),
    "gone": (lambda: turn(14) + wall(26), "found in only 14 of 40 frames"),
    "tiny": (lambda: turn(24, height=80), "only 79 px tall"),
    "short": (lambda: turn(8), "only 8 frames show one person well enough"),
}


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_what_cannot_work_is_refused(kind, tmp_path, out):
    pictures, words = IMPOSSIBLE[kind]
    with pytest.raises(PrepareError, match=words):
        prepared(write_clip(tmp_path / "bad.mp4", pictures()), out)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.mp4"]


def test_a_trunk_outside_the_picture_is_refused(clip, out):
    with pytest.raises(PrepareError, match="within the picture in only 0 of 48"):
        prepared(clip, out, DrawnFinder(lifted=70.0))


POOR = {
    "half a turn": (lambda: turn(36, 180), "no full turn: the person turns by about 1[78]"),
    "somebody passes": (
        lambda: turn(36, size=(SIZE[0], 240))[:33] + turn(36, size=(SIZE[0], 240), middles=(0.5, 0.85))[33:],
        "somebody else is in 3 frames",
    ),
    "feet cut": (lambda: turn(36, top=SIZE[0] - HEIGHT + 4), "feet are cut off by the lower edge in 100%"),
    "blurred": (lambda: turn(36, blur=5), "frames are blurred"),
    "dark": (lambda: [picture // 5 + 30 * outline(picture)[..., None] * (0, 1, 0) for picture in turn(36)], "too dark"),
    "gone for a while": (lambda: turn(36)[:30] + wall(8), "nobody is found in 8 of 38"),
    "few frames": (lambda: turn(15), "15 frames instead of 20"),
}


@pytest.mark.parametrize("kind", POOR)
def test_what_is_poor_is_told(kind, tmp_path, out):
    pictures, words = POOR[kind]
    video = write_clip(tmp_path / "poor.mp4", [np.asarray(picture, np.uint8) for picture in pictures()])
    done = prepared(video, out)
    assert any(re.search(words, remark) for remark in done.remarks), done.remarks
    assert record(out)["remarks"] == list(done.remarks)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"focal": 300, "fov": 60}, "--focal or --fov"),
        ({"frames": 20, "fps": 5}, "--frames or --fps"),
        ({"focal": -1}, "--focal must be a positive"),
        ({"focal": None, "fov": 170}, "--fov must lie between"),
        ({"frames": None, "fps": 0}, "--fps must be a positive"),
        ({"height": 1.75}, "--height must be .* in centimetres"),
    ],
)
def test_impossible_options(options, words, clip, out):
    with pytest.raises(PrepareError, match=words):
        prepared(clip, out, **options)


def test_a_file_that_is_no_video(tmp_path, out):
    (tmp_path / "a.mp4").write_bytes(b"no video at all" * 100)
    with pytest.raises(PrepareError, match=r"a\.mp4 cannot be read as a video"):
        prepared(tmp_path / "a.mp4", out)


def test_the_command(clip, out, monkeypatch):
    monkeypatch.setattr(video_capture, "BlazePose", DrawnFinder)
    arguments = ["prepare", "video", str(clip), "--out", str(out), "--focal", "300", "--frames", "20"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "20 frames" in result.output
    assert "px tall" in result.output


def test_absent_networks_are_told_with_the_command_that_brings_them(clip, out, tmp_path, monkeypatch):
    monkeypatch.setenv("SELFRECON_NETWORKS", str(tmp_path / "none"))
    with pytest.raises(PrepareError, match="selfrecon prepare networks"):
        prepare_video(VideoSettings(clip), out)
