import numpy as np

from selfrecon_warp.view.report_problems import (
    overlap_problems,
    progress_problems,
    score_problems,
    unsteady_problems,
)
from selfrecon_warp.view.report_scores import score_rows


def test_overlap_problems_name_the_worst_first():
    assert overlap_problems({0: 0.99, 1: 0.96}) == []
    (text,) = overlap_problems({4: 0.93, 5: 0.9, 6: 0.99}, most=1)
    assert text.startswith("2 of 3 frames")
    assert "5 (0.900) and 1 more" in text
    assert overlap_problems({4: 0.93, 6: 0.99})[0].startswith("1 of 2 frame")


def turning(count: int) -> np.ndarray:
    """Mask areas of somebody who turns once: widest from the front and the back."""
    return 0.09 + 0.06 * np.abs(np.cos(2 * np.pi * np.arange(count) / count))


def test_a_steady_turn_is_no_problem():
    for count in (1, 2, 8, 60, 120):
        areas = turning(count)
        assert unsteady_problems(areas, dict(enumerate(0.97 + 0.1 * (areas - 0.1)))) == []


def test_a_single_frame_that_stands_out_is_named():
    areas, overlaps = turning(60), dict.fromkeys(range(60), 0.97)
    areas[17] *= 0.8
    overlaps[41] = 0.91
    area, overlap = unsteady_problems(areas, overlaps)
    assert "in frame 17;" in area
    assert overlap.endswith("in frame 41.")


def test_scores_that_got_worse_are_named():
    rows = score_rows({"silhouette_iou": 0.9, "psnr_db": 20.0}, {"silhouette_iou": 0.95, "psnr_db": 18.0})
    (text,) = score_problems(rows)
    assert text == "Worse than the body before the fit: Silhouette IoU (0.950 before, 0.900 after)."
    assert score_problems(rows[1:]) == []


def test_an_unfinished_fit_is_told():
    assert progress_problems(720, 720) == []
    assert "300 of 720" in progress_problems(300, 720)[0]
