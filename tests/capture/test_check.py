from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from capture_files import default_body, shared_capture, write_capture

from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.capture.check import check_capture, require_fit_ready
from selfrecon_warp.capture.contact_sheet import MASK_COLOUR, draw_contact_sheet
from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.capture.overlap import intersection_over_union, mask_box, sample_frames
from selfrecon_warp.errors import CaptureError


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    return read_capture(write_capture(tmp_path_factory.mktemp("check") / "capture"))


def with_camera(capture, **changes):
    camera = capture.camera
    values = {name: parameter.tolist() for name, parameter in camera.named_parameters()} | changes
    return replace(capture, camera=Camera(**values, height=camera.height, width=camera.width))


def only_problem(capture) -> tuple[str, str]:
    report = check_capture(capture, default_body())
    assert len(report.problems) == 1, report.problems
    return report.problems[0].severity, report.problems[0].message


def test_a_consistent_capture_has_no_problems(capture):
    report = check_capture(capture, default_body())
    assert report.problems == ()
    assert report.overlap == pytest.approx(np.ones(4))
    assert report.body_visible.all()
    assert not report.touches_border.any()
    masks = capture.load_all().masks.numpy()
    assert report.mask_fraction == pytest.approx(masks.mean((1, 2)))
    assert report.mask_box.tolist() == [list(mask_box(mask)) for mask in masks]
    assert report.normal_agreement > 0.99
    require_fit_ready(report)


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (lambda c: with_camera(c, quat=[0.0, 1.0, 0.0, 0.0]), "camera.npz should say quat|y and z of the world"),
        (lambda c: with_camera(c, quat=[1.0, 0.0, 0.0, 0.0]), "x and y of the world|camera.npz should say quat"),
        (lambda c: with_camera(c, focal=[400.0, 400.0], principal=[90.0, 160.0]), "another image size or lens"),
        (lambda c: replace(c, trans=c.trans * 1000), "trans is in millimetres"),
        (lambda c: replace(c, trans=c.trans * 100), "trans is in centimetres"),
    ],
    ids=["opengl", "upside down", "focal", "mm", "cm"],
)
def test_the_broken_convention_is_named(capture, spoil, cause):
    severity, message = only_problem(spoil(capture))
    assert severity == "error"
    assert "overlaps the masks by only 0" in message
    assert any(part in message for part in cause.split("|")), message


def test_swapped_camera_rotation_is_named(capture):
    angle = 0.6
    quat = [np.cos(angle / 2), 0.0, np.sin(angle / 2), 0.0]
    turned = with_camera(capture, quat=quat)
    rotation = turned.camera.rotation()
    flip = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    vectors = [
        cv2.Rodrigues((rotation @ flip).numpy() @ cv2.Rodrigues(pose.numpy())[0])[0] for pose in capture.poses[:, 0]
    ]
    poses = capture.poses.clone()
    pelvis = default_body().shaped(capture.betas)[1][0]
    poses[:, 0] = torch.from_numpy(np.stack(vectors)[..., 0])
    # The same scene seen from a turned world: overlap stays perfect with the right quaternion.
    trans = (capture.trans + pelvis) @ (rotation @ flip).T - pelvis
    right = replace(turned, poses=poses, trans=trans)
    assert check_capture(right, default_body()).overlap == pytest.approx(np.ones(4), abs=0.02)
    wrong = with_camera(right, quat=[quat[0], *(-value for value in quat[1:])])
    assert "world-to-camera" in only_problem(wrong)[1]


def test_frames_without_body_are_an_error(capture):
    trans = capture.trans.clone()
    trans[2, 0] += 20
    severity, message = only_problem(replace(capture, trans=trans))
    assert severity == "error"
    assert "projects outside the image in frame 2" in message


def test_a_body_off_the_mask_in_one_frame_is_a_warning(capture):
    trans = capture.trans.clone()
    trans[1, 0] += 0.8
    severity, message = only_problem(replace(capture, trans=trans))
    assert severity == "warning"
    assert "hardly meets the mask in frame 1" in message


def test_a_body_too_large_throughout_is_a_warning_that_names_the_scale(capture):
    severity, message = only_problem(with_camera(capture, focal=[205.0, 205.0]))
    assert severity == "warning"
    assert "another image size or lens" in message


def test_a_hopeless_capture_gets_general_advice(capture):
    trans = capture.trans + torch.tensor([0.0, 0.0, -50.0])
    message = only_problem(replace(capture, trans=trans))[1]
    assert "projects outside the image in 4 frames" in message
    assert "Check axis convention" in message


def test_inverted_masks_are_named(tmp_path):
    folder = write_capture(tmp_path / "capture")
    for file in (folder / "masks").iterdir():
        cv2.imwrite(str(file), 255 - cv2.imread(str(file)))
    messages = [problem.message for problem in check_capture(read_capture(folder), default_body()).errors]
    assert len(messages) == 1
    assert "the masks are inverted" in messages[0]


def test_cut_off_and_tiny_persons_are_warned_about(tmp_path):
    folder = write_capture(tmp_path / "capture")
    mask = np.zeros((120, 90), np.uint8)
    mask[0, 40:44] = 255
    cv2.imwrite(str(folder / "masks" / "000001.png"), mask)
    warnings = " ".join(p.message for p in check_capture(read_capture(folder), default_body()).warnings)
    assert "cut off by the image border in frame 1" in warnings
    assert "covers less than 0.5% of the image in frame 1" in warnings


def test_normals_of_another_convention_are_warned_about(tmp_path):
    folder = write_capture(tmp_path / "capture")
    for file in (folder / "normals").iterdir():
        encoded = cv2.imread(str(file))
        cv2.imwrite(str(file), np.where(encoded.any(-1, keepdims=True), 255 - encoded, 0))
    severity, message = only_problem(read_capture(folder))
    assert severity == "warning"
    assert "normals disagree with the body's" in message


def test_missing_unusable_and_surplus_files_are_warned_about(tmp_path):
    severity, message = only_problem(read_capture(write_capture(tmp_path / "none", normals=())))
    assert (severity, "no normal images" in message) == ("warning", True)
    folder = write_capture(tmp_path / "some", normals=(0, 1, 2))
    cv2.imwrite(str(folder / "masks" / "000004.png"), np.full((120, 90), 255, np.uint8))
    for frame in range(3):
        cv2.imwrite(str(folder / "normals" / f"{frame:06d}.png"), np.zeros((120, 90, 3), np.uint8))
    warnings = " ".join(p.message for p in check_capture(read_capture(folder), default_body()).warnings)
    assert "no normals for frame 3" in warnings
    assert "only 0% of the mask holds usable normals" in warnings
    assert "masks without an image: 1" in warnings


def test_files_damaged_after_opening_are_refused(tmp_path):
    folder = write_capture(tmp_path / "capture")
    capture = read_capture(folder)
    (folder / "imgs" / "000002.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(CaptureError, match=r"000002\.jpg is truncated"):
        check_capture(capture, default_body())


def test_errors_stop_a_fit_in_one_message(capture):
    report = check_capture(replace(capture, trans=capture.trans * 1000), default_body())
    with pytest.raises(CaptureError, match="millimetres"):
        require_fit_ready(report)
    with pytest.raises(CaptureError, match=r"cannot be fitted:\n- .*\n- "):
        require_fit_ready(replace(report, problems=report.problems * 2))


def test_contact_sheet_shows_mask_body_and_problems(capture, tmp_path):
    body, path = default_body(), tmp_path / "sheet.png"
    trans = capture.trans.clone()
    trans[3, 0] += 0.8
    moved = replace(capture, trans=trans)
    sheet = draw_contact_sheet(moved, check_capture(moved, body), body, path)
    stored = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    assert (stored == sheet).all()
    assert sheet.shape[1] == 1920
    fine = draw_contact_sheet(capture, check_capture(capture, body), body, path)
    assert sheet.shape[0] > fine.shape[0]  # the warning takes lines of its own
    uncovered = [(drawn == MASK_COLOUR).all(-1).sum() for drawn in (sheet, fine)]
    assert uncovered[0] > 10 * uncovered[1]  # the body's outline no longer hides the mask's


@pytest.mark.parametrize(("size", "frames"), [((60, 200), 3), ((200, 40), 1), ((120, 90), 12)])
def test_contact_sheet_fits_any_shape(tmp_path, size, frames):
    capture = read_capture(write_capture(tmp_path / "capture", frames=frames, size=size))
    report = check_capture(capture, default_body())
    sheet = draw_contact_sheet(capture, report, default_body(), tmp_path / "sheet.png")
    assert sheet.shape[1:] == (1920, 3)


def test_unwritable_sheet_is_named(capture, tmp_path):
    report = check_capture(capture, default_body())
    with pytest.raises(CaptureError, match=r"sheet\.png cannot be written"):
        draw_contact_sheet(capture, report, default_body(), tmp_path / "nowhere" / "sheet.png")


def test_small_helpers():
    assert sample_frames(5, 12) == [0, 1, 2, 3, 4]
    assert sample_frames(101, 3) == [0, 50, 100]
    empty, full = np.zeros((1, 4, 4), bool), np.ones((1, 4, 4), bool)
    assert intersection_over_union(empty, empty)[0] == 0
    assert intersection_over_union(full, full)[0] == 1
    assert mask_box(empty[0]) == (0, 0, 0, 0)
    assert mask_box(full[0]) == (0, 0, 3, 3)


def test_a_rendered_capture_is_ready():
    capture = read_capture(shared_capture("female_skirt"))
    report = check_capture(capture, default_body())
    assert report.problems == ()
    assert report.overlap.mean() > 0.7
    assert report.overlap.min() > 0.55
    assert report.normal_agreement > 0.85
