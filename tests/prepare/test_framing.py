"""A cut and resampled picture has the camera that its pixels ask for."""

import cv2
import numpy as np
import pytest

from selfrecon_warp.prepare.camera_file import Intrinsics
from selfrecon_warp.prepare.framing import Framing

BOXES = np.array([[300.0, 100, 420, 700], [280, 120, 460, 690]])


@pytest.mark.parametrize("resolution", [4000, 333])
def test_projection_and_cutting_commute(resolution):
    framing = Framing.around(BOXES, (720, 1280), resolution)
    whole = Intrinsics(1000, 1010, 630, 350)
    cut = framing.intrinsics(whole)
    x, y = np.array([[0.1, -0.2], [-0.3, 0.25]])
    seen = framing.points(np.stack((whole.cx + whole.fx * x, whole.cy + whole.fy * y), -1))
    np.testing.assert_allclose(seen, np.stack((cut.cx + cut.fx * x, cut.cy + cut.fy * y), -1))


@pytest.mark.parametrize("resolution", [4000, 333])
def test_pixels_are_where_points_say(resolution):
    picture = np.zeros((720, 1280, 3), np.uint8)
    cv2.circle(picture, (350, 400), 30, (255, 255, 255), -1)
    framing = Framing.around(BOXES, (720, 1280), resolution)
    v, u = np.nonzero(framing.cut(picture)[..., 0] > 127)
    np.testing.assert_allclose(framing.points(np.array([350.0, 400.0])), [u.mean(), v.mean()], atol=0.1)


@pytest.mark.parametrize("reduction", [1.0, 0.5])
def test_coarse_fields_are_sampled_in_place(reduction):
    framing = Framing.around(BOXES, (720, 1280), 333)
    size = round(720 * reduction), round(1280 * reduction)
    u = np.tile(np.arange(size[1], dtype=np.float32), (size[0], 1))
    sampled = framing.sampled(u, np.array([reduction, reduction]))
    middle = (np.array([350.0, 400.0]) + 0.5) * reduction - 0.5
    column, row = framing.points(np.array([350.0, 400.0]))
    assert sampled[round(row), round(column)] == pytest.approx(middle[0], abs=1.5)


def test_window_has_a_margin_and_stays_within_the_picture():
    framing = Framing.around(BOXES, (720, 1280), 4000)
    assert (framing.top, framing.top + framing.height) == (52, 720)
    assert framing.left < 280 - 40
    assert framing.left + framing.width > 460 + 40
    assert framing.size == (framing.height, framing.width)


def test_nothing_is_enlarged_and_the_longer_side_is_kept():
    assert Framing.around(BOXES, (720, 1280), 333).size[0] == 333
