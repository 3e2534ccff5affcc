"""Every check that needs a GPU, in order of value, inside a time limit, into one results file.

``python benchmarks/gpu_session.py [--minutes 25]`` runs the CUDA tests, the whole job with ``fast`` and with the
published networks, then every kernel's benchmark; each step's exit code, seconds and last lines go to
``benchmarks/results/gpu_session.json`` as soon as the step ends, so that a session cut short loses nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from harness import RESULTS, environment

ROOT = Path(__file__).resolve().parents[1]
TAIL = 4000


def steps() -> list[tuple[str, list[str]]]:
    """Names and commands, most valuable first."""
    python, here = sys.executable, ROOT / "benchmarks"
    pipeline = [python, str(here / "bench_pipeline.py"), "--device", "cuda"]
    published = ["--config", "selfrecon", "--out", str(RESULTS / "pipeline_cuda_selfrecon.json")]
    kernels = sorted(path for path in here.glob("bench_*.py") if path.stem != "bench_pipeline")
    return [
        ("tests", [python, "-m", "pytest", "-k", "cuda", "-q"]),
        ("fast", pipeline),
        ("selfrecon", [*pipeline, *published]),
        *((path.stem, [python, str(path), "--device", "cuda"]) for path in kernels),
    ]


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
    rows = []
    for name, command in steps():
        left = end - time.monotonic()
        if left < 5.0:
            rows.append({"step": name, "code": None, "output": "not started: time is up"})
            continue
        started = time.monotonic()
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=left, check=False)
            code, output = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired as error:
            code, output = None, f"{error.stdout or ''}{error.stderr or ''}\ncut off: time is up"
        rows.append(
            {"step": name, "code": code, "seconds": round(time.monotonic() - started, 1), "output": output[-TAIL:]}
        )
        out.write_text(json.dumps({"environment": environment("cuda"), "steps": rows}, indent=1) + "\n")
        print(f"{name}: exit {code}, {rows[-1]['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
