import json
import shutil
from pathlib import Path

import pytest
import torch
from html_page import HtmlPage
from typer.testing import CliRunner, Result

from selfrecon_warp.asset.rigged import AVATAR, rigged_from_run
from selfrecon_warp.cli import app
from selfrecon_warp.train.run_folder import RunFolder
from selfrecon_warp.view import report_frames, run_report
from selfrecon_warp.view.report_scores import MEASURES

CPU = torch.device("cpu")


@pytest.fixture
def run(sphere, tmp_path) -> RunFolder:
    return RunFolder(shutil.copytree(sphere.run.path, tmp_path / "run"))


def report(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, arguments), "--device", "cpu"])


def page_of(path: Path) -> tuple[str, HtmlPage]:
    text = path.read_text(encoding="utf-8")
    return text, HtmlPage(text)


def require_refused(run: RunFolder, expected: str, *arguments: object) -> None:
    result = report(run.path, *arguments)
    assert result.exit_code == 2, result.output + repr(result.exception)
    assert expected in result.stderr
    assert not run.report_file.exists()


def test_a_fit_alone_gives_a_page_with_the_avatar(run):
    result = report(run.path, "--title", "A ball")
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert result.stdout.strip() == f"report: {run.report_file}"
    text, page = page_of(run.report_file)
    sections = [section["id"] for section in page.all("section")]
    assert sections == ["avatar", "problems", "compare", "frame-scores", "frames", "run"]
    assert "<h1>A ball</h1>" in text
    assert "Coloured" in text
    assert text.count("<article") == 3
    for label in ("Input", "Colours", "Shape", "Normals"):
        assert text.count(f"<figcaption>{label}</figcaption>") == 3
    assert json.loads(page.texts["viewer-data"])["frames"] == 3
    assert not run.infer.exists()


def test_what_is_there_is_shown(run, tmp_path):
    rigged_from_run(run, CPU).save(run.path / AVATAR)
    run.metrics_file.write_text(json.dumps({"fit": {name: 0.5 for name, *_ in MEASURES}}))
    steps = [{"event": "step", "iteration": k, "stage": "fine", "iou": 0.9, "elapsed_s": k} for k in (1, 2, 3)]
    run.log_file.write_text("\n".join(map(json.dumps, steps)))
    result = report(run.path, "--out", tmp_path / "pages" / "ball.html")
    assert result.exit_code == 0, result.output + repr(result.exception)
    text, page = page_of(tmp_path / "pages" / "ball.html")
    sections = [section["id"] for section in page.all("section")]
    assert {"avatar", "compare", "scores", "frames", "losses", "run"} <= set(sections)
    assert text.count("<figcaption>Texture</figcaption>") == 3
    assert "Chamfer distance, aligned" in text
    assert not run.report_file.exists()


def test_the_worst_frame_is_shown(run, monkeypatch):
    monkeypatch.setattr(report_frames, "FRAMES_SHOWN", 2)
    run.infer.mkdir()
    overlaps = {"000000": 0.99, "000001": 0.5, "000002": 0.98}
    (run.infer / "overlap.json").write_text(json.dumps({"frames": overlaps}))
    assert report(run.path).exit_code == 0
    text, page = page_of(run.report_file)
    assert [article["data-frame"] for article in page.all("article")] == ["0", "1", "2"]
    assert "overlap with the mask 0.500" in text
    assert "1 of 3 frames overlaps its mask by less than 0.95: 1 (0.500)." in text


def test_large_pictures_and_videos_do_not_fill_the_page(run, monkeypatch):
    monkeypatch.setattr(run_report, "VIDEO_BYTES", 25)
    monkeypatch.setattr(report_frames, "PICTURE_HEIGHT", 20)
    run.infer.mkdir()
    for name in run_report.VIDEOS.values():
        (run.infer / name).write_bytes(bytes(10))
    assert report(run.path).exit_code == 0
    text, page = page_of(run.report_file)
    assert len(page.all("video")) == 2
    assert f"<code>{run.infer / 'normals.mp4'}</code>" in text
    pictures = [image for image in page.all("img") if "height" in image]
    assert len(pictures) == 12
    assert {image["height"] for image in pictures} == {"20"}


def test_damaged_results_are_named(run):
    run.metrics_file.write_text("{")
    require_refused(run, f"{run.metrics_file}: cannot be read")
    run.metrics_file.unlink()
    run.infer.mkdir()
    (run.infer / "overlap.json").write_text("[]")
    require_refused(run, "overlap.json: cannot be read")


@pytest.mark.parametrize("name", ["page.pdf", "page"])
def test_a_page_ends_in_html(run, tmp_path, name):
    require_refused(run, "must be a file ending in .html", "--out", tmp_path / name)


def test_ground_truth_has_to_be_there(run, tmp_path):
    require_refused(run, "holds no ground truth", "--ground-truth", tmp_path)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    result = report(tmp_path)
    assert result.exit_code == 2
    assert "not a run folder" in result.stderr
