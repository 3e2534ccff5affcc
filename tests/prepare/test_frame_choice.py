"""Frames are sharp, distinct, in order, and spread over one turn."""

import numpy as np
import pytest

from selfrecon_warp.prepare.frame_choice import choose_frames, find_turn, headings
from selfrecon_warp.prepare.survey import Survey

NAMES = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")


def survey_of(heading, sharpness=None, people=None) -> Survey:
    """People who face ``heading`` [rad] in every frame."""
    heading = np.asarray(heading, float)
    count = len(heading)
    across = np.stack((np.cos(heading), np.zeros(count), np.sin(heading)), -1)[:, None]
    sides = np.array([0.2, -0.2, 0.1, -0.1])[:, None]
    return Survey(
        frames=np.arange(count) * 2,
        people=np.ones(count, int) if people is None else np.asarray(people),
        boxes=np.tile([10.0, 10, 60, 310], (count, 1)),
        keypoints=np.full((count, 4, 2), 50.0),
        confidence=np.ones((count, 4)),
        keypoints3d=across * sides,
        sharpness=np.ones(count) if sharpness is None else np.asarray(sharpness, float),
        blur=np.full(count, 0.3),
        brightness=np.full(count, 120.0),
        shift=np.zeros(count),
    )


def turn_of(survey, usable=None):
    usable = survey.found if usable is None else usable
    return find_turn(survey, usable, NAMES, survey.frames / 30)


@pytest.mark.parametrize("direction", [1, -1])
def test_headings_follow_several_turns(direction):
    heading = direction * np.linspace(0, 4 * np.pi, 80)
    np.testing.assert_allclose(headings(survey_of(heading), NAMES), heading, atol=0.35)


def test_front_and_back_confused_for_two_frames_do_not_count():
    heading = np.linspace(0, 2 * np.pi, 60)
    confused = heading.copy()
    confused[[20, 41, 42]] += np.pi
    np.testing.assert_allclose(headings(survey_of(confused), NAMES), heading, atol=0.35)


def test_the_quickest_full_turn_is_found():
    heading = np.concatenate(
        (np.linspace(0, 2 * np.pi, 100), np.linspace(2 * np.pi, 4 * np.pi, 40)[1:], [4.05 * np.pi])
    )
    turn = turn_of(survey_of(heading))
    assert 95 <= turn.rows[0] <= 101
    assert 136 <= turn.rows[-1] <= 140
    assert np.degrees(turn.angle) == pytest.approx(360)


def test_less_than_a_turn_is_taken_whole():
    turn = turn_of(survey_of(np.linspace(0, np.pi, 30)))
    assert len(turn.rows) == 30
    assert np.degrees(turn.angle) == pytest.approx(180, abs=10)


def test_standing_still_before_and_after_gives_no_frames():
    heading = np.concatenate((np.zeros(50), np.linspace(0, 2 * np.pi, 60), np.full(50, 2 * np.pi)))
    survey = survey_of(heading)
    rows = choose_frames(turn_of(survey), survey, 30)
    assert len(rows) == 30
    assert (heading[rows] == 0).sum() + (heading[rows] == 2 * np.pi).sum() <= 4


def test_frames_are_even_in_angle_and_sharp():
    rng = np.random.default_rng(0)
    pace = np.cumsum(rng.uniform(0.3, 1.7, 400))
    heading = (pace - pace[0]) / (pace[-1] - pace[0]) * 2 * np.pi * 0.99
    survey = survey_of(heading, rng.uniform(0.5, 1.5, 400))
    rows = choose_frames(turn_of(survey), survey, 40)
    assert len(rows) == 40
    assert (np.diff(rows) > 0).all()
    gaps = np.diff(heading[rows]) * 40 / (2 * np.pi)
    assert gaps.max() < 2.2
    assert survey.sharpness[rows].mean() > 1.2


def test_sharpness_counts_against_the_neighbours():
    """The back has less detail than the front and still gets its frames."""
    heading = np.linspace(0, 2 * np.pi * 0.99, 200)
    survey = survey_of(heading, np.where(np.cos(heading) > 0, 1000, 10))
    rows = choose_frames(turn_of(survey), survey, 40)
    assert 18 <= (np.cos(heading[rows]) > 0).sum() <= 22


def test_no_more_frames_than_there_are():
    survey = survey_of(np.linspace(0, 2 * np.pi, 25))
    np.testing.assert_array_equal(choose_frames(turn_of(survey), survey, 60), turn_of(survey).rows)


def test_unusable_frames_are_never_taken():
    survey = survey_of(np.linspace(0, 2 * np.pi * 0.99, 90), people=np.arange(90) % 3)
    usable = survey.people == 1
    rows = choose_frames(turn_of(survey, usable), survey, 20)
    assert len(rows) == 20
    assert usable[rows].all()


def test_without_3d_keypoints_time_decides():
    survey = survey_of(np.full(60, np.nan))
    turn = turn_of(survey)
    assert np.isnan(turn.angle)
    rows = choose_frames(turn, survey, 20)
    assert len(rows) == 20
    assert np.diff(rows).max() <= 5
