"""What is wrong with a video is measured and said."""

import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
from drawn_person import NAMES, DrawnFinder, draw, outline
from picture_files import write_clip

from selfrecon_warp.prepare.frames import open_frames
from selfrecon_warp.prepare.quality import judge, remarks_on, usable_rows
from selfrecon_warp.prepare.survey import Survey, Surveyor, blur, main_person, reduced, sharpness

SIZE = 720, 480
COUNT = 40


def good() -> Survey:
    """A person 500 px tall with arms apart, turning once."""
    person = DrawnFinder().find(draw(0.0, (720, 480), height=500))[0]
    heading = 2 * np.pi * np.arange(COUNT) / COUNT
    turned = np.repeat(person.keypoints3d[None], COUNT, 0)
    across = turned[..., 0].copy()
    turned[..., 0], turned[..., 2] = across * np.cos(heading)[:, None], across * np.sin(heading)[:, None]
    return Survey(
        frames=np.arange(COUNT),
        people=np.ones(COUNT, int),
        boxes=np.tile(person.box, (COUNT, 1)),
        keypoints=np.tile(person.keypoints, (COUNT, 1, 1)),
        confidence=np.ones((COUNT, len(NAMES))),
        keypoints3d=turned,
        sharpness=np.ones(COUNT),
        blur=np.full(COUNT, 0.3),
        brightness=np.full(COUNT, 130.0),
        shift=np.full(COUNT, 0.4),
    )


def remarks(survey, angle=2 * np.pi, wanted=COUNT):
    usable = usable_rows(survey, NAMES, SIZE)
    return remarks_on(judge(survey, usable, np.flatnonzero(usable), angle, NAMES, SIZE), wanted)


def test_a_good_video_has_no_faults():
    assert remarks(good()) == []


def boxed(**edges):
    boxes = good().boxes.copy()
    for edge, value in edges.items():
        boxes[: COUNT // 4, ("left", "top", "right", "bottom").index(edge)] = value
    return replace(good(), boxes=boxes)


def with_arms_down():
    survey = good()
    points = survey.keypoints3d.copy()
    for side in ("left", "right"):
        shoulder, wrist, hip = (NAMES.index(f"{side}_{part}") for part in ("shoulder", "wrist", "hip"))
        points[:, wrist] = points[:, hip] + 0.05 * (points[:, shoulder] - points[:, hip])
    return replace(survey, keypoints3d=points)


@pytest.mark.parametrize(
    ("survey", "words"),
    [
        (boxed(bottom=SIZE[0] - 1), "feet are cut off by the lower edge in 25%"),
        (boxed(top=0), "head is cut off by the upper edge in 25%"),
        (boxed(left=0), "cut off at the side in 25%"),
        (boxed(right=SIZE[1] - 1), "cut off at the side in 25%"),
        (with_arms_down(), "arms are at the body"),
        (replace(good(), blur=np.full(COUNT, 0.7)), r"blurred \(0.70 of 1"),
        (replace(good(), brightness=np.full(COUNT, 30.0)), "too dark"),
        (replace(good(), shift=np.linspace(0, 25, COUNT)), "camera moves"),
        (replace(good(), people=np.where(np.arange(COUNT) < 3, 2, 1)), "somebody else is in 3 frames"),
    ],
)
def test_each_fault_is_told(survey, words):
    told = remarks(survey, wanted=int((survey.people == 1).sum()))
    assert len(told) == 1
    assert re.search(words, told[0]), told


def test_part_of_a_turn_is_told():
    assert "by about 200 degrees" in remarks(good(), np.radians(200))[0]


def test_missing_frames_are_told():
    assert "40 frames instead of 120" in remarks(good(), wanted=120)[0]


def test_the_background_tells_that_the_camera_moves(tmp_path):
    still = [draw(0.3, (240, 240)) for _ in range(6)]
    for shift, pictures in ((0, still), (6, [np.roll(p, (0, i), (0, 1)) for i, p in enumerate(still)])):
        video = open_frames(write_clip(tmp_path / f"{shift}.mp4", pictures))
        survey = Surveyor(video, DrawnFinder()).look(range(6))
        np.testing.assert_allclose(survey.shift[-1], 5 if shift else 0, atol=0.4)


def test_places_are_those_of_the_large_picture(tmp_path):
    picture = draw(0.3, (1600, 800), height=1200)
    video = open_frames(write_clip(tmp_path / "a.mp4", [picture]))
    survey = Surveyor(video, DrawnFinder()).look([0])
    rows, columns = np.flatnonzero(outline(picture).any(1)), np.flatnonzero(outline(picture).any(0))
    np.testing.assert_allclose(survey.boxes[0], [columns[0], rows[0], columns[-1], rows[-1]], atol=2)


def test_a_survey_is_read_back_as_it_was(tmp_path):
    good().save(tmp_path / "survey.npz")
    again = Survey.load(tmp_path / "survey.npz")
    np.testing.assert_array_equal(again.keypoints3d, good().keypoints3d)
    assert [path.name for path in tmp_path.iterdir()] == ["survey.npz"]


def test_only_large_pictures_are_reduced():
    small, scale = reduced(np.zeros((540, 300, 3), np.uint8))
    assert small.shape == (540, 300, 3)
    assert (scale == 1).all()
    small, scale = reduced(np.zeros((2160, 1001, 3), np.uint8))
    assert small.shape[0] == 1080
    np.testing.assert_allclose(np.array([1001, 2160]) * scale, small.shape[1::-1])


def test_the_person_seen_before_is_followed():
    people = DrawnFinder().find(draw(0.0, (168, 240), middles=(0.25, 0.75)))
    for person in people:
        assert main_person(people, person.box + 5) is person
    assert main_person(people, None) is people[0]


def test_blur_and_sharpness_rank_pictures():
    rng = np.random.default_rng(0)
    sharp = rng.integers(0, 255, (120, 90), np.uint8)
    pictures = [sharp, cv2.GaussianBlur(sharp, (0, 0), 1), cv2.GaussianBlur(sharp, (0, 0), 3)]
    mask, box = np.ones((120, 90), bool), np.array([0, 0, 89, 119])
    assert np.all(np.diff([blur(picture, box) for picture in pictures]) > 0)
    assert np.all(np.diff([sharpness(picture, mask) for picture in pictures]) < 0)
    assert blur(np.zeros((5, 5), np.uint8), np.array([0, 0, 4, 4])) == 1
