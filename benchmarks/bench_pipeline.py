"""The whole job, timed and scored: capture in, avatar and scores out.

``python benchmarks/bench_pipeline.py CAPTURE [CAPTURE ...] [--config fast] [--device auto] [--set KEY=VALUE ...]`` fits
each capture, brings it out and scores it against the ground truth inside it. Without a capture one of 120 frames is
synthesized, ``--size`` pixels wide and high. Peak memory is the process's, on a GPU torch's there as well, so give one
capture a run where that matters.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from selfrecon_warp.benchmarks.runner import RESULTS, environment
from selfrecon_warp.devices import select_device
from selfrecon_warp.synthesis import synthesize_capture
from selfrecon_warp.train.session import fit_capture
from selfrecon_warp.view.evaluate import evaluate_run
from selfrecon_warp.view.infer import infer_run


def run_capture(capture: Path, work: Path, config: str, device: str, overrides: list[str]) -> dict[str, Any]:
    """Fit, infer and score one capture; seconds, MiB and the run's metrics."""
    started = time.perf_counter()
    run = fit_capture(capture, work / capture.name, config=config, overrides=overrides, device=device)
    fitted = time.perf_counter()
    torch_device = select_device(device)
    on_gpu = torch_device.type == "cuda"
    infer_run(run, torch_device)
    inferred = time.perf_counter()
    evaluate_run(run, capture, torch_device)
    metrics = json.loads(run.metrics_file.read_text(encoding="utf-8"))
    return {
        "capture": capture.name,
        "config": config,
        "overrides": overrides,
        "fit_s": round(fitted - started, 1),
        "infer_s": round(inferred - fitted, 1),
        "evaluate_s": round(time.perf_counter() - inferred, 1),
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "peak_gpu_memory_mib": round(torch.cuda.max_memory_allocated(torch_device) / 2**20) if on_gpu else None,
        "fit": metrics["fit"],
        "initial": metrics["initial"],
    }


def main() -> None:
    """Run every capture and write one result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captures", nargs="*", type=Path)
    parser.add_argument("--config", default="fast")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", type=int, default=540, help="pixels of the synthesized capture")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, help="result file; default benchmarks/results/pipeline_DEVICE.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        captures = options.captures or [synthesize_capture(work / "synthesized", frames=120, size=options.size)]
        rows = [run_capture(c, work / "runs", options.config, options.device, options.overrides) for c in captures]
    device = select_device(options.device)
    out = options.out or RESULTS / f"pipeline_{device.type}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"benchmark": "pipeline", "environment": environment(device), "results": rows}, indent=1))
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
