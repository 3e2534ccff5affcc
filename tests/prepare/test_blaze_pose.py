"""The decoding of the person networks, and the networks themselves where they are installed."""

import zipfile

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from selfrecon_warp.cli import app
from selfrecon_warp.errors import PrepareError
from selfrecon_warp.prepare import network_files
from selfrecon_warp.prepare.blaze_pose import LANDMARK_SIZE, BlazePose, Square, anchors, box_overlap, refined
from selfrecon_warp.prepare.network_files import DIGESTS, install_networks, network_file, network_folder
from selfrecon_warp.prepare.observations import BODY_33


def test_anchors_cover_the_picture():
    points = anchors()
    assert points.shape == (2254, 2)
    np.testing.assert_allclose(points.mean(0), 0.5)
    np.testing.assert_allclose(points[:2], 4 / 224)
    np.testing.assert_allclose(points[2], (12 / 224, 4 / 224))


def test_a_square_maps_its_picture_onto_itself():
    square = Square.spanned(np.array([50.0, 80.0]), np.array([50.0, 40.0]))
    assert square.size == pytest.approx(100)
    assert square.angle == pytest.approx(0)
    to_picture = square.picture_from_square(100)
    np.testing.assert_allclose(to_picture @ (49.5, 49.5, 1), (50, 80))
    np.testing.assert_allclose(to_picture @ (49.5, 9.5, 1), (50, 40))
    np.testing.assert_allclose(to_picture @ (59.5, 49.5, 1), (60, 80))


def test_a_person_lying_on_the_right_is_turned_upright():
    square = Square.spanned(np.array([50.0, 80.0]), np.array([90.0, 80.0]))
    np.testing.assert_allclose(square.picture_from_square(100) @ (49.5, 9.5, 1), (90, 80))


def test_keypoints_move_to_the_heat():
    heat = np.full((64, 64, 2), -9.0, np.float32)
    heat[20, 30, 0] = 9
    points = np.array([[32.0, 21.5], [15.0, 20.0]]) * LANDMARK_SIZE / 64 - 0.5
    moved = refined(points, heat)
    np.testing.assert_allclose(moved[0], np.array([30.0, 20.0]) * LANDMARK_SIZE / 64 - 0.5, atol=0.2)
    np.testing.assert_array_equal(moved[1], points[1])


def test_box_overlap():
    boxes = np.array([[0.0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6]])
    np.testing.assert_allclose(box_overlap(boxes[0], boxes), (1, 1 / 3, 0))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SELFRECON_NETWORKS", str(tmp_path / "networks"))
    return tmp_path / "networks"


def wheel_of(path, contents):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(f"mediapipe/modules/some/{name}", content)
    return path


def test_networks_are_taken_from_a_wheel(folder, tmp_path, monkeypatch):
    known = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"  # of "foo"
    monkeypatch.setattr(network_files, "DIGESTS", dict.fromkeys(DIGESTS, known))
    wheel = wheel_of(tmp_path / "a.whl", dict.fromkeys(DIGESTS, b"foo") | {"other.tflite": b"bar"})
    result = CliRunner().invoke(app, ["prepare", "networks", "--wheel", str(wheel)])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in folder.iterdir()) == sorted(DIGESTS)
    assert network_file("pose_detection.tflite").read_bytes() == b"foo"


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read as a wheel"), ({}, "does not hold the pose"), (dict.fromkeys(DIGESTS, b"x"), "not hold")],
)
def test_other_wheels_are_refused(content, words, folder, tmp_path):
    wheel = tmp_path / "a.whl"
    wheel.write_bytes(b"no archive") if content is None else wheel_of(wheel, content)
    with pytest.raises(PrepareError, match=words):
        install_networks(wheel=wheel)
    assert not folder.exists()


def test_a_failing_pip_tells_the_way_without_it(folder, monkeypatch):
    monkeypatch.setattr(network_files, "WHEEL_OPTIONS", ("--no-index", "--no-deps"))
    with pytest.raises(PrepareError, match=r"--wheel FILE"):
        install_networks()
    assert not folder.exists()


@pytest.mark.usefixtures("folder")
def test_missing_networks_are_told_with_the_command():
    pytest.importorskip("ai_edge_litert")
    with pytest.raises(PrepareError, match="run `selfrecon prepare networks`"):
        BlazePose()


@pytest.fixture(scope="module")
def finder():
    pytest.importorskip("ai_edge_litert")
    if not all((network_folder() / name).is_file() for name in DIGESTS):
        pytest.skip("the person networks are not installed: selfrecon prepare networks")
    return BlazePose()


def test_the_networks_find_a_rendered_person(finder, known):
    picture = cv2.imread(str(known.root / "imgs" / "000000.jpg"))[..., ::-1]
    mask = cv2.imread(str(known.root / "masks" / "000000.png"), 0) > 0
    people = finder.find(cv2.resize(picture, (512, 512), interpolation=cv2.INTER_CUBIC))
    assert len(people) == 1
    person = people[0]
    found = cv2.resize(person.probability, mask.shape[::-1], interpolation=cv2.INTER_AREA) > 0.5
    assert (found & mask).sum() / (found | mask).sum() > 0.85
    assert person.keypoints.shape == (33, 2)
    assert person.keypoints3d is not None
    left, right = (person.keypoints[BODY_33.index(f"{side}_shoulder")] for side in ("left", "right"))
    assert left[0] > right[0]
    ankle, nose = person.keypoints3d[BODY_33.index("left_ankle")], person.keypoints3d[0]
    assert 1.0 < ankle[1] - nose[1] < 2.2


def test_the_networks_find_nobody_on_a_wall(finder):
    assert finder.find(np.random.default_rng(0).integers(100, 130, (200, 300, 3), np.uint8)) == []
