"""Every check that needs a GPU, in order of value, inside a time limit, into one results file.

``python benchmarks/gpu_session.py [--minutes 25]`` runs the CUDA tests of the kernels, ``selfrecon bench --quick`` and
in full, the other CUDA tests, then the whole job with ``fast`` and with the published networks. Each step's exit code,
seconds and last lines go to ``benchmarks/results/gpu_session.json`` as soon as the step ends, and the benchmark saves
row by row, so that a session cut short loses nothing.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from selfrecon_warp.benchmarks.runner import RESULTS, environment

ROOT = Path(__file__).resolve().parents[1]
TAIL = 4000


def steps() -> list[tuple[str, float, list[str]]]:
    """Names, the most minutes each may take, and commands; most valuable first."""
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "cuda"]
    bench = [sys.executable, "-m", "selfrecon_warp", "bench", "--device", "cuda"]
    pipeline = [sys.executable, str(ROOT / "benchmarks" / "bench_pipeline.py"), "--device", "cuda"]
    published = ["--config", "selfrecon", "--out", str(RESULTS / "pipeline_cuda_selfrecon.json")]
    return [
        ("tests of the kernels", 6.0, [*tests, "tests/kernels"]),
        ("bench --quick", 4.0, [*bench, "--quick", "--json", str(RESULTS / "kernels_cuda_quick.json")]),
        ("bench", 10.0, bench),
        ("other tests", 4.0, [*tests, "--ignore=tests/kernels"]),
        ("fast", 5.0, pipeline),
        ("selfrecon", 25.0, [*pipeline, *published]),
    ]


def run_step(name: str, command: list[str], seconds: float) -> dict[str, Any]:
    """Run one command for so many seconds at most; its row of the result."""
    started = time.monotonic()
    code: int | None = None
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # a benchmark then still writes its table
            try:
                process.wait(20.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        log.seek(0)
        output = log.read()[-TAIL:]
    note = "" if code is not None else f"cut off after {seconds:.0f} s"
    return {"step": name, "code": code, "seconds": round(time.monotonic() - started, 1), "note": note, "output": output}


def main() -> None:
    """Run the steps until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=25.0)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device: this session is for a machine with a GPU")
    end = time.monotonic() + 60.0 * options.minutes
    out = RESULTS / "gpu_session.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name, minutes, command in steps():
        left = end - time.monotonic()
        if left < 5.0:
            rows.append({"step": name, "code": None, "note": "not started: time is up"})
        else:
            rows.append(run_step(name, command, min(left, 60.0 * minutes)))
        out.write_text(json.dumps({"environment": environment("cuda"), "steps": rows}, indent=1) + "\n")
        print(f"{name}: exit {rows[-1]['code']}, {rows[-1].get('seconds', 0.0)} s {rows[-1]['note']}", flush=True)


if __name__ == "__main__":
    main()
