import json

import pytest

from selfrecon_warp.errors import RunError
from selfrecon_warp.view.metrics import AvatarScore, GeometryScore, JointScore
from selfrecon_warp.view.metrics_surface import SurfaceScore
from selfrecon_warp.view.report_scores import MEASURES, SavedScores, headline_rows, read_scores, score_rows


def avatar(chamfer: float, overlap: float) -> AvatarScore:
    surface = SurfaceScore(chamfer, chamfer, chamfer, 0.95)
    return AvatarScore(GeometryScore(surface, surface, (0,), (surface,), (surface,)), JointScore(0.02, 0.01), overlap)


def test_rows_know_what_is_better():
    rows = {row.name: row for row in score_rows(avatar(0.006, 0.9), avatar(0.009, 0.95))}
    assert rows["chamfer_cm"].improved is True
    assert rows["silhouette_iou"].improved is False
    assert rows["joint_error_cm"].improved is None
    assert rows["chamfer_cm"].difference == "\u22120.30"
    assert "psnr_db" not in rows
    assert score_rows(None) == []
    alone = score_rows(avatar(0.006, 0.9))[0]
    assert alone.improved is None
    assert alone.difference == alone.shown(None)


def test_a_record_gives_the_same_rows():
    fit, initial = avatar(0.006, 0.9), avatar(0.009, 0.95)
    assert score_rows(fit.as_dict(), initial.as_dict()) == score_rows(fit, initial)


def test_every_measure_says_what_it_means():
    for _, title, unit, better, decimals, meaning in MEASURES:
        assert title
        assert unit in ("cm", "dB", "")
        assert better in ("lower", "higher")
        assert decimals > 0
        assert meaning.endswith(".")


def test_headlines_are_few_and_the_telling_ones():
    names = [row.name for row in headline_rows(score_rows(avatar(0.006, 0.9)))]
    assert names == ["chamfer_aligned_cm", "normal_consistency_aligned", "silhouette_iou", "joint_error_cm"]


def test_scores_are_read_back(tmp_path):
    path = tmp_path / "metrics.json"
    assert read_scores(path) == SavedScores()
    novel = {"psnr_db": 21.0, "calibrated": {"psnr_db": 24.0}}
    path.write_text(json.dumps({"fit": {"psnr_db": 25.0}, "initial": {"ssim": 0.5}, "novel": novel}))
    scores = read_scores(path)
    assert (scores.fit, scores.initial) == ({"psnr_db": 25.0}, {"ssim": 0.5})
    (row,) = score_rows(scores.calibrated, scores.novel)
    assert (row.initial, row.fit) == (21.0, 24.0)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"fit": {"psnr_db": "high"}}', '{"fit": 3}', '{"fit": {}, "novel": 1}']
)
def test_damaged_scores_are_named(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(RunError, match=r"metrics\.json: cannot be read .* `selfrecon evaluate`"):
        read_scores(tmp_path / "metrics.json")
