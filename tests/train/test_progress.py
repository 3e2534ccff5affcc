"""Progress: what is logged, what is shown outside a terminal, how Ctrl-C is heard."""

import io
import json
import os
import signal
import sys

import pytest
import torch
from rich.console import Console

from selfrecon_warp.errors import RunError
from selfrecon_warp.train import progress as progress_module
from selfrecon_warp.train.progress import FitProgress, StageProgress

STAGES = [StageProgress("coarse", 20), StageProgress("fine", 10, cost=2.0)]


def plain() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=200)


def run(progress: FitProgress, first: int, last: int) -> None:
    for iteration in range(first, last + 1):
        stage = "coarse" if iteration <= 20 else "fine"
        progress.update(stage, iteration, {"mask": torch.tensor(1.0 / iteration)}, iou=0.5)


def records(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_log_has_every_tenth_iteration_stage_changes_and_events(tmp_path):
    log = tmp_path / "log.jsonl"
    with FitProgress(STAGES, log, console=plain()) as progress:
        run(progress, 1, 30)
        progress.event("remesh", vertices=5)
    steps = [record for record in records(log) if record["event"] == "step"]
    assert [record["iteration"] for record in steps] == [10, 20, 21, 30]
    assert steps[0]["stage"] == "coarse"
    assert steps[0]["mask"] == pytest.approx(0.1)
    assert steps[0]["iou"] == 0.5
    elapsed = records(log)[-1].pop("elapsed_s")
    assert elapsed >= 0
    assert records(log)[-1] | {"elapsed_s": 0} == {"elapsed_s": 0, "event": "remesh", "iteration": 30, "vertices": 5}


def test_values_that_are_no_numbers_stay_readable_json(tmp_path):
    log = tmp_path / "log.jsonl"
    with FitProgress(STAGES, log, console=plain(), log_every=1) as progress:
        progress.update("coarse", 1, {"mask": float("nan")})
    assert records(log)[0]["mask"] is None


def test_values_are_only_read_when_used(tmp_path):
    class Costly:
        reads = 0

        def __float__(self) -> float:
            Costly.reads += 1
            return 1.0

    with FitProgress(STAGES, tmp_path / "log.jsonl", console=plain()) as progress:
        progress.update("coarse", 1, {"mask": Costly()})
        Costly.reads = 0
        for iteration in range(2, 10):
            progress.update("coarse", iteration, {"mask": Costly()})
        assert Costly.reads == 0


def test_resumed_log_continues_at_the_checkpoint(tmp_path):
    log = tmp_path / "log.jsonl"
    with FitProgress(STAGES, log, console=plain(), log_every=1) as progress:
        run(progress, 1, 8)
    log.write_text(log.read_text() + '{"half')
    with FitProgress(STAGES, log, console=plain(), log_every=1, completed=5) as progress:
        run(progress, 6, 10)
    assert [record["iteration"] for record in records(log)] == list(range(1, 11))
    assert [r["elapsed_s"] for r in records(log)] == sorted(r["elapsed_s"] for r in records(log))


def test_plain_output_has_lines_without_control_codes():
    console = plain()
    with FitProgress(STAGES, console=console) as progress:
        run(progress, 1, 30)
    lines = console.file.getvalue().splitlines()
    assert [line.split()[:2] for line in lines] == [["coarse", "1/30"], ["fine", "21/30"], ["fine", "30/30"]]
    assert all("mask" in line and "iou 0.5" in line and "left" in line for line in lines)
    assert "\x1b" not in console.file.getvalue()


def test_phase_before_the_first_iteration_is_shown():
    console = plain()
    with FitProgress(STAGES, console=console) as progress:
        progress.phase("registering the body 1/14")
        progress.phase("registering the body 2/14")
    assert console.file.getvalue() == "registering the body 1/14\n"


def test_terminal_shows_stage_and_values():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with FitProgress(STAGES, console=console) as progress:
        run(progress, 1, 10)
        progress.note("extracted")
    shown = console.file.getvalue()
    assert all(text in shown for text in ("coarse", "10/30", "iou 0.5", "extracted"))


def test_time_left_weighs_stages_by_cost(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    progress = FitProgress(STAGES, console=plain())
    for iteration in range(1, 11):
        now[0] += 0.5
        progress.update("coarse", iteration, {})
    assert progress._pace.seconds_left() == pytest.approx(0.5 * (10 + 2 * 10))


def test_interrupt_asks_to_stop_once_and_insists_twice():
    before = signal.getsignal(signal.SIGINT)
    with FitProgress(STAGES, console=plain()) as progress:
        assert not progress.stop_requested
        os.kill(os.getpid(), signal.SIGINT)
        assert progress.stop_requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_missing_tensorboard_names_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(RunError, match=r"pip install 'selfrecon-warp\[tensorboard\]'"):
        FitProgress(STAGES, console=plain(), tensorboard=tmp_path)
