import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import yaml

from selfrecon_warp.benchmarks import bench_robustness as bench
from selfrecon_warp.benchmarks.runner import available
from selfrecon_warp.synthesis import synthesize_capture
from selfrecon_warp.train.progress import FitInterrupted
from selfrecon_warp.train.run_folder import RunFolder

GOOD = {
    "chamfer_aligned_cm": 0.5,
    "normal_consistency_aligned": 0.97,
    "silhouette_iou": 0.98,
    "joint_error_cm": 1.0,
    "joint_error_procrustes_cm": 0.8,
    "psnr_db": 25.0,
}
CLEAN = bench.Result("clean", {}, scores=GOOD)


@pytest.fixture(scope="module")
def capture(tmp_path_factory) -> Path:
    return synthesize_capture(tmp_path_factory.mktemp("robust") / "capture", frames=6, size=64)


@dataclass
class Fits:
    """What was fitted, and whether it was continued; what shall become of a case."""

    done: list[tuple[str, bool]] = field(default_factory=list)
    interrupted: str = ""
    broken: str = ""
    worse: str = ""


@pytest.fixture
def fits(monkeypatch) -> Fits:
    """Stands in for fit and evaluation."""
    told = Fits()

    def fit(_, out, *, resume, **__):
        told.done.append((out.parent.name, resume))
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        (out / "checkpoints" / "latest.pt").touch()
        (out / "config.yaml").write_text(yaml.safe_dump({}))
        if out.parent.name == told.interrupted:
            raise FitInterrupted("interrupted at 3")
        if out.parent.name == told.broken:
            raise ValueError("singular matrix")
        return RunFolder(out)

    def evaluate(run, *_, **__):
        worse = 3.0 if run.path.parent.name == told.worse else 1.0
        scores = {**GOOD, "chamfer_aligned_cm": worse * GOOD["chamfer_aligned_cm"], "frames": {"0": {}}}
        novel = {"psnr_db": 20.0, "frames": {}, "calibrated": {"psnr_db": 21.0, "frames": {}}}
        run.metrics_file.write_text(json.dumps({"fit": scores, "initial": GOOD, "novel": novel}))

    monkeypatch.setattr(bench, "fit_capture", fit)
    monkeypatch.setattr(bench, "evaluate_run", evaluate)
    return told


def run(capture: Path, out: Path, *cases: str, config: str = "smoke", more: tuple[str, ...] = ()) -> int:
    chosen = [argument for case in cases for argument in ("--case", case)]
    return bench.main([str(capture), "--out", str(out), "--config", config, "--device", "cpu", *chosen, *more])


def table(out: Path) -> dict[str, dict]:
    return {row["case"]: row for row in json.loads((out / "robustness.json").read_text())["results"]}


def test_a_done_case_is_not_done_again_until_asked(capture, fits, tmp_path):
    assert run(capture, tmp_path, "no-normals") == 0
    assert fits.done == [("clean", False), ("no-normals", False)]
    assert run(capture, tmp_path, "no-normals") == 0
    assert len(fits.done) == 2
    assert run(capture, tmp_path, "no-normals", more=("--set", "seed=5")) == 0
    assert fits.done[2:] == [("clean", False), ("no-normals", False)]
    assert run(capture, tmp_path, "no-normals", more=("--set", "seed=5", "--again")) == 0
    assert fits.done[4:] == [("clean", False), ("no-normals", False)]


def test_an_interrupted_fit_goes_on(capture, fits, tmp_path):
    fits.interrupted = "poses-wrong"
    assert run(capture, tmp_path, "poses-wrong") == 130
    fits.interrupted = ""
    assert run(capture, tmp_path, "poses-wrong") == 0
    assert fits.done == [("clean", False), ("poses-wrong", False), ("poses-wrong", True)]
    assert table(tmp_path)["poses-wrong"]["fit_s"] is None  # only part of it was timed


def test_a_case_that_fails_is_told_and_the_others_go_on(capture, fits, tmp_path, capsys):
    fits.broken = "poses-wrong"
    assert run(capture, tmp_path, "poses-wrong", "no-normals") == 1
    rows = table(tmp_path)
    assert rows["poses-wrong"]["error"] == "ValueError: singular matrix"
    assert rows["no-normals"]["error"] is None
    assert "**failed**: ValueError: singular matrix" in (tmp_path / "robustness.md").read_text()
    assert "Traceback" in capsys.readouterr().err


def test_worse_than_twice_the_clean_is_flagged(capture, fits, tmp_path, capsys):
    fits.worse = "no-normals"
    assert run(capture, tmp_path, "no-normals") == 1
    row = table(tmp_path)["no-normals"]
    assert row["worse"] == ["chamfer_aligned_cm"]
    assert row["ratios"]["chamfer_aligned_cm"] == pytest.approx(3)
    assert "**1.50 (3.00)**" in capsys.readouterr().out
    content = json.loads((tmp_path / "robustness.json").read_text())
    assert row["environment"]["torch"] == torch.__version__
    assert {"device", "commit"} <= set(row["environment"])
    assert content["config"] == "smoke"
    assert row["novel"] == {"psnr_db": 20.0, "calibrated": {"psnr_db": 21.0}}
    assert "frames" not in row["scores"]


def test_scores_are_compared_by_what_they_lack():
    worse = bench.Result(
        "poses-wrong",
        {},
        scores={**GOOD, "normal_consistency_aligned": 0.91, "silhouette_iou": 0.97, "psnr_db": 25 - 6.0206},
    )
    ratios = bench.ratios(worse, CLEAN)
    assert ratios["normal_consistency_aligned"] == pytest.approx(3)
    assert ratios["silhouette_iou"] == pytest.approx(1.5)
    assert ratios["psnr_db"] == pytest.approx(2, abs=1e-3)
    assert ratios["joint_error_cm"] == 1


def test_places_in_the_world_are_not_compared_where_the_depth_is_wrong():
    far = bench.Result("focal-wrong", {}, scores={**GOOD, "joint_error_cm": 30.0})
    assert "joint_error_cm" not in bench.ratios(far, CLEAN)
    assert "joint_error_procrustes_cm" in bench.ratios(far, CLEAN)


def test_capture_without_truth_is_refused(fits, tmp_path, capsys):
    (tmp_path / "bare").mkdir()
    assert run(tmp_path / "bare", tmp_path / "out") == 2
    assert "error:" in capsys.readouterr().err
    assert not fits.done


def test_selfrecon_bench_leaves_whole_fits_alone():
    assert "robustness" not in available()
    assert "encode" in available()
