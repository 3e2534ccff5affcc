"""Timing and memory for every benchmark: warm-up, synchronisation, median and spread, with device, commit and versions.

A benchmark file names its sizes in ``CASES``, times one operation of one case in ``run`` and ends with

    if __name__ == "__main__":
        main("skinning", CASES, {"warp": skin_points, "reference": reference.skin_points}, run)

``python benchmarks/bench_skinning.py [--device cuda] [--case NAME ...] [--out FILE]`` then prints a table and writes
``benchmarks/results/skinning_<device>.json``. Times are milliseconds, memory is MiB above what was in use at the start.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
import warp as wp

RESULTS = Path(__file__).parent / "results"
_MIB = 2**20


@dataclass(frozen=True)
class Measurement:
    """One timed operation; every time in milliseconds, memory in MiB."""

    median: float
    """Median over the repeats."""
    low: float
    """Lower quartile over the repeats."""
    high: float
    """Upper quartile over the repeats."""
    repeats: int
    """Calls timed after the warm-up."""
    memory: float
    """Peak during the timed calls above what was in use before them."""


def measure(
    function: Callable[[], Any],
    device: torch.device | str = "cpu",
    *,
    warmup: int = 2,
    repeats: int = 15,
    seconds: float = 4.0,
) -> Measurement:
    """Time ``function`` after a warm-up, synchronising around each call.

    Args:
        function: What is timed; inputs are prepared outside it.
        device: Where it runs; CUDA work is waited for.
        warmup: Untimed calls first (compilation, allocator).
        repeats: Timed calls at most.
        seconds: No further call starts once this much time is spent, but three are always made.
    """
    device = torch.device(device)
    for _ in range(warmup):
        function()
    before = _begin_memory(device)
    times: list[float] = []
    while len(times) < repeats and (len(times) < 3 or sum(times) < 1e3 * seconds):
        _synchronise(device)
        start = time.perf_counter()
        function()
        _synchronise(device)
        times.append(1e3 * (time.perf_counter() - start))
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return Measurement(median, low, high, len(times), max(0.0, _peak_memory(device) - before) / _MIB)


def environment(device: torch.device | str) -> dict[str, Any]:
    """Where a number was measured: device, threads, commit, versions and time."""
    device = torch.device(device)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "warp": wp.config.version,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def main(
    stem: str,
    cases: Mapping[str, Any],
    operations: Mapping[str, Any],
    run: Callable[[Any, str, torch.device], Measurement | None],
    arguments: Sequence[str] | None = None,
) -> None:
    """Run every case with every operation, print a table and write the JSON.

    Args:
        stem: The operation's stem; names the result file.
        cases: Case name to its sizes, stored beside the numbers.
        operations: Label to what ``run`` receives first, the reference included.
        run: ``run(operation, case, device)``; ``None`` leaves a case out (a reference too slow for it).
        arguments: Command line; that of the process when absent.
    """
    parser = argparse.ArgumentParser(description=f"Benchmark of {stem}.")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--case", nargs="*", choices=list(cases), default=list(cases), help="only these cases")
    parser.add_argument("--out", type=Path, help="result file; default benchmarks/results/STEM_DEVICE.json")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    rows = []
    print(f"{'case':<32}{'operation':<26}{'median ms':>10}{'quartiles':>20}{'MiB':>9}")
    for case in options.case:
        for label, operation in operations.items():
            result = run(operation, case, device)
            if result is None:
                continue
            rows.append({"case": case, "sizes": cases[case], "operation": label, **asdict(result)})
            spread = f"{result.low:.2f} - {result.high:.2f}"
            print(f"{case:<32}{label:<26}{result.median:>10.2f}{spread:>20}{result.memory:>9.1f}", flush=True)
    out = options.out or RESULTS / f"{stem}_{device.type}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    content = {"benchmark": stem, "environment": environment(device), "results": rows}
    out.write_text(json.dumps(content, indent=1, default=str) + "\n")
    print(f"wrote {out}")


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _begin_memory(device: torch.device) -> float:
    """Reset the peak counter and return the bytes in use now (resident set on the CPU)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return float(torch.cuda.memory_allocated(device))
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _peak_memory(device)
    return _status_bytes("VmRSS")


def _peak_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    if Path("/proc/self/status").exists():
        return _status_bytes("VmHWM")
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def _status_bytes(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024.0 * float(line.split()[1]) for line in lines if line.startswith(field + ":"))


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores"


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
