"""Every check that needs a GPU, in order of value, inside a time limit, into one results file.

``python benchmarks/gpu_session.py [--minutes 25] [--out FOLDER] [--only STEP ...] [--plan]``: the CUDA tests of the
kernels, ``selfrecon bench --quick``, the whole job with ``fast``, the full ``selfrecon bench``, the other CUDA tests,
and the whole job with ``quality`` and with the published networks. Each step's exit code, seconds, last lines and what
it measured go to ``FOLDER/gpu_session.json`` as soon as the step ends, and benchmarks save row by row, so that a
session cut short loses nothing. A step that succeeded is not repeated: where no command may run for the whole time,
call this again with the same folder. Tests run in several processes, for most of their time goes into compiling
kernels.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from selfrecon_warp.benchmarks.runner import RESULTS, environment

ROOT = Path(__file__).resolve().parents[1]
TAIL = 4000
"""Characters kept of what a command printed last."""
PROCESSES = 4
"""Processes that tests are shared among."""
NO_TESTS = 5
"""Exit code of pytest where no test was chosen: as good as a success."""


@dataclass(frozen=True)
class Step:
    """Commands that run side by side."""

    name: str
    minutes: float
    """The most they may take."""
    commands: Sequence[list[str]]
    measured: str = ""
    """File in the results' folder that they write, taken over into the session's."""


def kernel_tests(files: Sequence[Path]) -> list[list[str]]:
    """Commands that run the CUDA cases of some test files, all but the compile gate, which needs no GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rf", "-k", "cuda and not compiles_for"]
    shares = [files[k::PROCESSES] for k in range(PROCESSES)]
    return [[*command, *map(str, share)] for share in shares if share]


def steps(folder: Path) -> list[Step]:
    """The session, most valuable first."""
    tests = ROOT / "tests"
    kernels = sorted((tests / "kernels").glob("test_*.py"))
    others = sorted(set(tests.rglob("test_*.py")) - set(kernels))
    bench = [sys.executable, "-m", "selfrecon_warp", "bench", "--device", "cuda", "--json"]
    job = [sys.executable, str(ROOT / "benchmarks" / "bench_pipeline.py"), "--device", "cuda", "--out"]

    def writing(name: str, minutes: float, command: list[str], file: str, *options: str) -> Step:
        return Step(name, minutes, [[*command, str(folder / file), *options]], file)

    return [
        Step("tests of the kernels", 6.0, kernel_tests(kernels)),
        writing("bench --quick", 4.0, bench, "kernels_cuda_quick.json", "--quick"),
        writing("fast", 5.0, job, "pipeline_cuda.json", "--config", "fast", "--size", "1080"),
        writing("bench", 10.0, bench, "kernels_cuda.json"),
        Step("other tests", 4.0, kernel_tests(others)),
        writing("quality", 10.0, job, "pipeline_cuda_quality.json", "--config", "quality", "--size", "1080"),
        writing("selfrecon", 25.0, job, "pipeline_cuda_selfrecon.json", "--config", "selfrecon"),
    ]


def run_step(step: Step, folder: Path, seconds: float) -> dict[str, Any]:
    """Run a step for so many seconds at most; its row of the result."""
    started = time.monotonic()
    logs: list[IO[str]] = []
    processes = []
    for command in step.commands:
        logs.append(tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace"))  # noqa: SIM115
        processes.append(subprocess.Popen(command, cwd=ROOT, stdout=logs[-1], stderr=subprocess.STDOUT))
    codes = [_wait(process, started + seconds) for process in processes]
    failures = [code for code in codes if code not in (0, NO_TESTS)]
    outputs = []
    for log in logs:
        log.seek(0)
        outputs.append(log.read()[-TAIL:])
        log.close()
    row: dict[str, Any] = {
        "step": step.name,
        "code": None if None in codes else failures[0] if failures else 0,
        "seconds": round(time.monotonic() - started, 1),
        "note": f"cut off after {seconds:.0f} s" if None in codes else "",
        "output": outputs,
    }
    measured = folder / step.measured
    if step.measured and measured.exists():
        row["measured"] = json.loads(measured.read_text(encoding="utf-8"))
    return row


def _wait(process: subprocess.Popen[bytes], end: float) -> int | None:
    """Exit code, or ``None`` of a process that had to be ended."""
    try:
        return process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # a benchmark then still writes its table
    try:
        process.wait(20.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return None


def run_session(plan: Sequence[Step], folder: Path, seconds: float, device: str = "cuda") -> list[dict[str, Any]]:
    """Run the steps that have not succeeded yet until the time is up; the rows of the results file."""
    end = time.monotonic() + seconds
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "gpu_session.json"
    before = json.loads(out.read_text(encoding="utf-8"))["steps"] if out.exists() else []
    rows = {row["step"]: row for row in before}
    for step in plan:
        if rows.get(step.name, {}).get("code") == 0:
            print(f"{step.name}: done before", flush=True)
            continue
        left = end - time.monotonic()
        if left < 5.0:
            rows.setdefault(step.name, {"step": step.name, "code": None, "note": "not started: time is up"})
        else:
            rows[step.name] = run_step(step, folder, min(left, 60.0 * step.minutes))
        content = {"environment": environment(device), "steps": list(rows.values())}
        out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        row = rows[step.name]
        print(f"{step.name}: exit {row['code']}, {row.get('seconds', 0.0)} s {row['note']}", flush=True)
    return list(rows.values())


def main() -> None:
    """Run the steps until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER", help="where all results go")
    parser.add_argument("--only", nargs="+", metavar="STEP", help="names of steps, in quotes where they hold blanks")
    parser.add_argument("--plan", action="store_true", help="print the steps and leave")
    options = parser.parse_args()
    folder = options.out.resolve()
    plan = steps(folder)
    unknown = set(options.only or ()) - {step.name for step in plan}
    if unknown:
        parser.error(f"no such step: {', '.join(sorted(unknown))}; there are {', '.join(step.name for step in plan)}")
    plan = [step for step in plan if not options.only or step.name in options.only]
    if options.plan:
        for step in plan:
            print(f"{step.name}: {step.minutes:.0f} min", *(" ".join(command) for command in step.commands), sep="\n  ")
        return
    if not torch.cuda.is_available():
        sys.exit("no CUDA device: this session is for a machine with a GPU")
    run_session(plan, folder, 60.0 * options.minutes)


if __name__ == "__main__":
    main()
