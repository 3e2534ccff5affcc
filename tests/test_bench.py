"""The benchmark's machinery on a benchmark of milliseconds: children, joining, table, faults."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from selfrecon_warp.benchmarks import runner
from selfrecon_warp.benchmarks.children import find_peer
from selfrecon_warp.benchmarks.harness import BACKWARD, FORWARD, Benchmark, Case, Only, Prepared, measure, timed
from selfrecon_warp.benchmarks.report import speedups, table
from selfrecon_warp.cli import app
from selfrecon_warp.errors import BenchError

FAKE = '''
"""A benchmark of nothing much."""

import os
import time

import torch

from selfrecon_warp.benchmarks.harness import Benchmark, Bound, Case, Only, Prepared, main, timed


def ours(case, direction, device):
    return timed(lambda x: x.square(), [torch.rand(case["P"], device=device)], direction, "note of ours")


def reference(case, direction, device):
    x = torch.rand(case["P"], device=device)
    return (lambda: time.sleep(0.01)) if direction == "forward" else None


def missing(case, direction, device):
    import a_library_that_nobody_has

    return a_library_that_nobody_has.call


def crashing(case, direction, device):
    if case["P"] > 1000 and direction == "forward":
        print("last words", flush=True)
        os._exit(7)
    return Prepared(lambda: None)


def wrong(case, direction, device):
    raise ValueError("such sizes are wrong")


def slow(case, direction, device):
    return lambda: time.sleep(60.0 if case["P"] > 1000 else 0.0)


IMPLEMENTATIONS = {"ours": ours, "torch": reference, "pytorch3d": reference, "missing": missing, "crashing": crashing,
                   "wrong": wrong, "slow": slow, "elsewhere": Only("cuda", ours)}
BENCHMARK = Benchmark(
    op="fake",
    cases=[
        Case("large", {"P": 2000}, skip=("wrong",), extrapolate={"torch": ("small", 20.0)}),
        Case("small", {"P": 100}, quick=True, once=("torch",)),
    ],
    implementations={name: IMPLEMENTATIONS[name] for name in os.environ["FAKE"].split()},
    items=lambda case: (case["P"], "points"),
    bound=lambda case, direction, device: Bound("reads points", bytes=4.0 * case["P"]),
)

if __name__ == "__main__":
    main(BENCHMARK)
'''


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "bench_fake.py"
    file.write_text(FAKE)

    def run(implementations: str, **options: object) -> runner.Run:
        monkeypatch.setenv("FAKE", implementations)
        return runner.run_benchmarks(files=[file], **options)

    return run


def found(run: runner.Run, implementation: str) -> dict[tuple[str, str], dict]:
    return {(r["case"], r["direction"]): r for r in run.rows if r["implementation"] == implementation}


def test_each_implementation_is_measured_in_a_child_and_joined(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "find_peer", lambda _: (None, "nobody has it"))
    run = fake("ours torch pytorch3d missing elsewhere", out=tmp_path / "out" / "fake.json")
    saved = json.loads((tmp_path / "out" / "fake.json").read_text())
    assert saved["rows"] == run.rows
    assert saved["environment"]["bandwidth_gb_s"] > 0
    assert {"device", "threads", "commit", "python", "torch", "warp-lang"} <= saved["environment"].keys()

    ours = found(run, "ours")
    assert list(ours) == [(case, direction) for case in ("large", "small") for direction in (FORWARD, BACKWARD)]
    for row in ours.values():
        assert row["low_ms"] <= row["median_ms"] <= row["high_ms"]
        assert row["repeats"] >= 3
        assert row["peak_mb"] >= 0
        assert row["note"] == "note of ours"
        assert row["sizes"] == {"P": 2000 if row["case"] == "large" else 100}
        assert row["throughput"] == pytest.approx(1e3 * row["sizes"]["P"] / row["median_ms"])
        assert row["bound_ms"] == pytest.approx(4e-6 * row["sizes"]["P"] / run.environment["bandwidth_gb_s"], rel=0.01)

    torch_rows = found(run, "torch")  # no backward; small measured once, large derived from it
    assert set(torch_rows) == {("large", FORWARD), ("small", FORWARD)}
    assert torch_rows["small", FORWARD]["repeats"] == 1
    assert torch_rows["large", FORWARD]["median_ms"] == 20 * torch_rows["small", FORWARD]["median_ms"]
    assert "extrapolated" in torch_rows["large", FORWARD]["note"]

    assert {row["note"] for row in found(run, "pytorch3d").values()} == {"not installed: nobody has it"}
    assert all("a_library_that_nobody_has" in row["note"] for row in found(run, "missing").values())
    assert not found(run, "elsewhere")
    assert runner.exit_code(run) == 0
    assert len(run.rows) == run.done == run.total

    page = (tmp_path / "out" / "fake.md").read_text()
    assert "not installed" in page
    assert "~" in page
    assert "reads points" in page
    assert (tmp_path / "out" / "fake.svg").exists() == ("fake.svg" in page)


def test_quick_takes_the_small_case_and_writes_nothing_unasked(fake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    run = fake("ours", quick=True)
    assert {row["case"] for row in run.rows} == {"small"}
    assert run.out is None
    assert set(tmp_path.iterdir()) == before
    assert "| small | forward |" in run.table()


def test_a_crash_an_exception_and_a_timeout_cost_their_rows_alone(fake, monkeypatch):
    monkeypatch.setattr(runner.Run, "row_limit", 1.5)
    run = fake("crashing wrong slow")
    crashing = found(run, "crashing")
    assert crashing["large", FORWARD]["note"] == "ended with exit code 7: last words"
    assert [key for key, row in crashing.items() if "median_ms" in row] == [
        ("large", BACKWARD), ("small", FORWARD), ("small", BACKWARD)
    ]  # fmt: skip
    assert {row["note"] for row in found(run, "wrong").values()} == {"ValueError: such sizes are wrong"}
    slow = found(run, "slow")
    assert slow["large", FORWARD]["note"] == "took more than 2 s"
    assert "left out" in slow["small", FORWARD]["note"]


def test_a_failure_of_ours_is_the_exit_code():
    run = runner.Run(torch.device("cpu"), quick=True, out=None, peer_python=None)
    run.rows = [{"implementation": "embree", "failed": True}]
    assert runner.exit_code(run) == 0
    run.rows.append({"implementation": "ours", "failed": True})
    assert runner.exit_code(run) == 1


def test_a_file_that_cannot_be_loaded_costs_itself_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE", "ours")
    good, broken = tmp_path / "bench_fake.py", tmp_path / "bench_broken.py"
    good.write_text(FAKE)
    broken.write_text("import a_library_that_nobody_has\n")
    run = runner.run_benchmarks(files=[broken, good], quick=True)
    assert {row["op"] for row in run.rows} == {"fake"}
    assert runner.exit_code(run) == 1


def test_a_run_of_one_op_keeps_the_other_rows(fake, tmp_path):
    out = tmp_path / "fake.json"
    other = {"op": "other", "case": "c", "direction": FORWARD, "implementation": "ours", "median_ms": 2.0}
    other |= {"low_ms": 1.0, "high_ms": 3.0, "repeats": 5, "peak_mb": 0.0}
    out.write_text(json.dumps({"environment": {}, "rows": [other, {**other, "op": "fake", "case": "old"}]}))
    run = fake("ours", quick=True, out=out)
    assert run.rows[0] == other
    assert {row["case"] for row in run.rows if row["op"] == "fake"} == {"small"}
    assert "## other" in out.with_suffix(".md").read_text()


def test_interrupting_keeps_finished_rows(tmp_path):
    file, out = tmp_path / "bench_fake.py", tmp_path / "fake.json"
    file.write_text(FAKE)
    command = [sys.executable, str(file), "--json", str(out)]
    environment = {**os.environ, "FAKE": "ours slow", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in a background shell job
    )
    end = time.monotonic() + 90
    while time.monotonic() < end and not (out.exists() and len(json.loads(out.read_text())["rows"]) == 4):
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopped after 4 of 8 rows" in said
    assert {row["implementation"] for row in json.loads(out.read_text())["rows"]} == {"ours"}
    assert "| small |" in out.with_suffix(".md").read_text()


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--op", "juggle"], "--op juggle: no such benchmark; there are"),
        (["--device", "abacus"], "--device abacus: must be auto, cpu, cuda or cuda:N"),
        (["--op", "encode", "--json", "/proc/nowhere/x.json"], "cannot be written"),
        (["--op", "encode", "--json", __file__], "holds something else"),
        (["--op", "encode", "--json", Path(__file__).parent], "cannot be written"),
        (["--op", "encode", "--peer-python", "/nowhere/python"], "/nowhere/python: there is no such file"),
    ],
)
def test_bad_input_ends_with_one_message(arguments, message):
    result = bench(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("error:") == 1


def test_an_interpreter_without_pytorch3d_is_told_apart(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'No module named pytorch3d' >&2\nexit 1\n")
    python.chmod(0o755)
    found_python, reason = find_peer(python)
    assert found_python is None
    assert "No module named pytorch3d" in reason
    assert "make bench-env" in reason
    with pytest.raises(BenchError, match="--peer-python"):
        runner.run_benchmarks(["encode"], peer_python=python)


def test_every_bench_file_declares_a_benchmark_named_like_it():
    for op, file in runner.available().items():
        run = runner.Run(torch.device("cpu"), quick=True, out=None, peer_python=None)
        benchmark = runner._load(run, file)
        assert benchmark is not None, file
        assert benchmark.op == op
        names = [case.name for case in benchmark.cases]
        assert len(set(names)) == len(names)
        assert benchmark.selected("ours", "cpu", quick=True), f"{op} has no quick case"
        for case in benchmark.cases:
            mentioned = {*case.skip, *case.once, *case.extrapolate}
            assert mentioned <= set(benchmark.implementations), f"{op}, {case.name}: {mentioned}"
            assert {other for other, _ in case.extrapolate.values()} <= set(names)


def test_selection_follows_the_device_and_the_flags():
    cases = [Case("a", {}, quick=True, skip=("peer",)), Case("b", {}, directions=(FORWARD,))]
    benchmark = Benchmark("op", cases, {"ours": print, "peer": print, "gpu": Only("cuda", print)})
    assert [(c.name, d) for c, d in benchmark.selected("ours", "cpu", quick=False)] == [
        ("a", FORWARD), ("a", BACKWARD), ("b", FORWARD)
    ]  # fmt: skip
    assert [c.name for c, _ in benchmark.selected("peer", "cpu", quick=False)] == ["b"]
    assert [c.name for c, _ in benchmark.selected("ours", "cpu", quick=True)] == ["a", "a"]
    assert benchmark.selected("gpu", "cpu", quick=False) == []
    assert len(benchmark.selected("gpu", "cuda:1", quick=False)) == 3


def test_measure_counts_calls_and_memory():
    calls = []
    once = measure(lambda: calls.append(1), warmup=0, repeats=1)
    assert (len(calls), once.repeats) == (1, 1)
    assert once.low_ms == once.median_ms == once.high_ms
    large = measure(lambda: torch.ones(16 * 2**20), repeats=3)
    assert 60 < large.peak_mb < 100


def test_a_quick_call_is_warmed_up_until_it_settles():
    calls = []
    measure(lambda: calls.append(time.perf_counter()), repeats=1, settle=0.05)
    assert calls[-1] - calls[0] > 0.05
    calls.clear()
    measure(lambda: calls.append(0), warmup=0, repeats=1)
    assert len(calls) == 1


def test_timed_differentiates_what_it_is_told_to():
    x = torch.ones(3)
    forward: Prepared = timed(lambda x: x.square(), [x], FORWARD)
    assert not forward.call().requires_grad
    (gradient,) = timed(lambda x: (x.square(), torch.arange(3)), [x], BACKWARD).call()
    assert gradient.tolist() == [2, 2, 2]
    assert not x.requires_grad


def test_table_and_speedups_set_times_beside_ours():
    def row(name: str, median: float, **more: object) -> dict:
        common = {"op": "rasterize", "case": "7k", "direction": FORWARD, "implementation": name, "repeats": 5}
        return {**common, "median_ms": median, "low_ms": median, "high_ms": median, "peak_mb": 1.0, **more}

    rows = [row("embree", 6.0), row("ours", 2.0, note="a|b"), row("pytorch3d", 4000.0, repeats=0)]
    page = table({"device": "abacus"}, rows)
    assert "| case | direction | ours | pytorch3d | embree |" in page
    assert "| 7k | forward | 2 (2-2), 1.0 MB | ~4000, **2000x**, 1.0 MB | 6 (6-6), **3x**, 1.0 MB |" in page
    assert "- ours: a|b" in page
    assert speedups(rows) == [("rasterize: 7k", "pytorch3d", 2000.0), ("rasterize: 7k", "embree", 3.0)]
