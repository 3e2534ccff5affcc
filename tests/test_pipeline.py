"""The whole pipeline on a tiny capture: a person is made up, fitted, drawn, scored and reported."""

import base64
import json
from pathlib import Path

import pytest
import torch
from glb_file import Glb
from html_page import HtmlPage
from typer.testing import CliRunner, Result

from selfrecon_warp.cli import app
from selfrecon_warp.errors import RunError
from selfrecon_warp.train.checkpoint import load_checkpoint
from selfrecon_warp.train.run_folder import RunFolder
from selfrecon_warp.train.session import fit_capture
from selfrecon_warp.view import demo as demo_module
from selfrecon_warp.view.demo import SMOKE


def selfrecon(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pipeline") / "demo"
    result = selfrecon("demo", "--smoke", "--out", out, "--device", "cpu")
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert result.stdout.splitlines()[-2:] == [f"report: {out}/report.html", f"avatar: {out}/avatar.glb"]
    return out


def test_run_folder_holds_what_others_build_on(demo):
    run = demo / "run"
    for name in ("config.yaml", "log.jsonl", "canonical.ply", "metrics.json", "report.html"):
        assert (run / name).stat().st_size > 0, name
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"latest.pt", "coarse.pt", "fine.pt"}
    for name, suffix in (("meshes", "ply"), ("shaded", "png"), ("normals", "png"), ("colour", "png")):
        found = sorted(path.name for path in (run / "infer" / name).iterdir())
        assert found == [f"{frame:06d}.{suffix}" for frame in range(SMOKE.frames)]
    for name in ("shaded", "normals", "colour", "turntable"):
        assert (run / "infer" / f"{name}.mp4").stat().st_size > 0
    assert not [path for path in demo.rglob("*") if path.name.startswith(".")]


def test_fit_is_closer_to_the_truth_than_the_given_body(demo):
    scores = json.loads((demo / "run" / "metrics.json").read_text())
    fit, initial = scores["fit"], scores["initial"]
    assert fit["silhouette_iou"] > initial["silhouette_iou"] + 0.05
    assert fit["chamfer_aligned_cm"] < initial["chamfer_aligned_cm"]
    assert fit["chamfer_aligned_cm"] < 3
    assert fit["joint_error_cm"] < 10


def test_fit_improves_from_step_to_step(demo):
    records = [json.loads(line) for line in (demo / "run" / "log.jsonl").read_text().splitlines()]
    steps = [record for record in records if record["event"] == "step"]
    assert steps[-1]["iteration"] == 20
    for term in ("explicit", "contour_px", "mask"):  # of whole frames; colours and normals are of few rays drawn anew
        assert steps[-1][term] < 0.75 * steps[0][term], term


def test_a_rigged_animated_file_is_left_for_other_programs(demo):
    document = Glb(demo / "avatar.glb").json
    assert len(document["skins"][0]["joints"]) == 24
    assert document["animations"]
    assert document["images"]


def test_report_shows_frames_scores_and_videos(demo):
    page = (demo / "report.html").read_text()
    assert page == (demo / "run" / "report.html").read_text()
    assert page.count("<article") == 6
    assert page.count("data:video/mp4") == 4
    viewer = base64.b64decode(HtmlPage(page).texts["viewer-glb"])
    assert Glb(viewer).json["images"][0]["mimeType"] == "image/jpeg"
    for label in ("Input", "Texture", "Colours", "Shape", "True shape", "Normals", "True normals"):
        assert page.count(f"<figcaption>{label}</figcaption>") == 6
    assert "Chamfer distance, aligned" in page
    assert page.count('class="chart"') >= 5


def test_viewer_finds_the_meshes(demo):
    result = selfrecon("view", demo / "run", "--frame", "99", "--screenshot", demo / "never.png")
    assert result.exit_code == 2
    assert f"has frames 0 to {SMOKE.frames - 1}" in result.stderr


def test_same_seed_gives_the_same_avatar(demo, tmp_path):
    again = fit_capture(
        demo / "capture", tmp_path / "run", config=SMOKE.config, overrides=[f"seed={SMOKE.seed}"], device="cpu"
    )
    first, second = (
        load_checkpoint(run / "checkpoints" / "latest.pt").state["avatar"] for run in (demo / "run", again.path)
    )
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-3, rtol=1e-2, msg=name)


def test_finished_fit_resumes_to_itself(demo):
    before = load_checkpoint(demo / "run" / "checkpoints" / "latest.pt")
    result = selfrecon("fit", demo / "capture", "--out", demo / "run", "--resume", "--device", "cpu")
    assert result.exit_code == 0, result.output + repr(result.exception)
    after = load_checkpoint(RunFolder.open(demo / "run").checkpoints / "latest.pt")
    assert after.iteration == before.iteration


# ---- where the demo may write ---------------------------------------------------------------------------------------


def require_refused(out: Path, *flags: str, expected: str) -> None:
    before = {path: path.read_bytes() for path in out.parent.rglob("*") if path.is_file()}
    result = selfrecon("demo", "--smoke", "--out", out, "--device", "cpu", *flags)
    assert result.exit_code == 2, result.output + repr(result.exception)
    assert expected in result.stderr
    assert {path: path.read_bytes() for path in out.parent.rglob("*") if path.is_file()} == before


def test_demo_leaves_an_earlier_one_alone(tmp_path):
    (tmp_path / "demo" / "run").mkdir(parents=True)
    require_refused(tmp_path / "demo", expected="--overwrite")


def test_demo_never_replaces_what_no_demo_made(tmp_path):
    (tmp_path / "thesis.tex").touch()
    require_refused(tmp_path, "--overwrite", expected="thesis.tex")


def test_demo_refuses_a_file(tmp_path):
    (tmp_path / "demo").touch()
    require_refused(tmp_path / "demo", "--overwrite", expected="is a file")


def test_demo_replaces_an_earlier_one_when_told(tmp_path, monkeypatch):
    (tmp_path / "demo" / "run").mkdir(parents=True)

    def stop(*_, overwrite, **__):
        raise RunError(f"got as far as writing, overwrite={overwrite}")

    monkeypatch.setattr(demo_module, "synthesize_capture", stop)
    require_refused(tmp_path / "demo", "--overwrite", expected="overwrite=True")
