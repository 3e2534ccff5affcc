"""Runs the ``bench_*`` files: one child process for each implementation of an op, its rows joined into one result."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from selfrecon_warp.benchmarks.children import LOAD_LIMIT_S, ROOT, Nursery, find_peer, last_line
from selfrecon_warp.benchmarks.harness import Benchmark, load_benchmark, memory_bandwidth
from selfrecon_warp.benchmarks.report import table, write_report
from selfrecon_warp.devices import select_device
from selfrecon_warp.errors import BenchError, SelfReconError

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
"""Where a checkout keeps what was measured."""
PACKAGES = ("warp-lang", "numpy", "scipy", "scikit-image", "embreex", "libigl", "nvdiffrast", "diso")
PIPELINES = "bench_pipeline", "bench_robustness"
"""Bench files that are scripts of their own: they time and score whole fits."""
PEER = "pytorch3d"
"""The implementation that may live in an interpreter of its own."""


@dataclass
class Run:
    """One run of the benchmarks: what was asked for, and what has come of it."""

    device: torch.device
    quick: bool
    out: Path | None
    """Where rows are saved as they come; ``None`` prints only."""
    peer_python: Path | None
    """Interpreter that has PyTorch3D, if the user named one."""
    console: Console = field(
        default_factory=lambda: Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    )
    environment: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    done: int = 0
    total: int = 0
    broken: int = 0
    """Bench files that could not be loaded."""
    _peer: tuple[str | None, str] | None = None
    _nurseries: dict[str, Nursery] = field(default_factory=dict)

    @property
    def row_limit(self) -> float:
        """Seconds one row may take, building its inputs and compiling its kernels included."""
        return 60.0 if self.quick else 240.0

    def peer(self) -> tuple[str | None, str]:
        """First interpreter that can import PyTorch3D and this package, with its versions or why there is none."""
        if self._peer is None:
            self._peer = find_peer(self.peer_python)
        return self._peer

    def nursery(self, python: str) -> Nursery:
        """Where children of an interpreter come from."""
        return self._nurseries.setdefault(python, Nursery(python))

    def close(self) -> None:
        """End the processes that children come from."""
        for nursery in self._nurseries.values():
            nursery.close()

    def add(self, row: dict[str, Any]) -> None:
        """Join a finished row, show it and save."""
        self.rows.append(row)
        self.done += 1
        self.console.print(f"{self.elapsed()}  {self.done}/{self.total}  {_described(row)}")
        self.save()

    def save(self) -> None:
        """Write the rows so far."""
        if self.out is not None:
            content = {"benchmark": "kernels", "environment": self.environment, "rows": self.rows}
            draft = self.out.with_name(f".{self.out.name}.part")
            draft.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
            draft.replace(self.out)

    def table(self) -> str:
        """The rows so far as Markdown."""
        return table(self.environment, self.rows)

    def elapsed(self) -> str:
        """Minutes and seconds since the start."""
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        return f"{minutes:2d}:{seconds:02d}"


def available() -> dict[str, Path]:
    """Op to its bench file."""
    files = sorted(HERE.glob("bench_*.py"))
    return {file.stem.removeprefix("bench_"): file for file in files if file.stem not in PIPELINES}


def run_benchmarks(
    ops: Sequence[str] = (),
    *,
    device: str = "cpu",
    quick: bool = False,
    out: Path | None = None,
    peer_python: Path | None = None,
    files: Sequence[Path] | None = None,
) -> Run:
    """Run benchmarks and write their result, table and plot.

    Args:
        ops: Stems of the ops; all when empty.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        quick: Small cases and few repeats.
        out: Result file; ``.md`` and ``.svg`` of the same name go beside it. A run of some ops keeps the file's other
            rows. When absent, a run of everything writes ``benchmarks/results/kernels_<device>.json`` in a checkout and
            ``kernels_<device>.json`` in the working folder elsewhere; a quick or partial run writes nothing.
        peer_python: Interpreter that has PyTorch3D; see :func:`find_peer`.
        files: Bench files to run instead of those of ``ops``.

    Raises:
        BenchError: An op does not exist, a result cannot be written, or the interpreter named has no PyTorch3D.
        ConfigError: There is no such device.
    """
    chosen = select_device(device)
    known = available()
    unknown = [op for op in ops if op not in known]
    if unknown:
        raise BenchError(f"--op {unknown[0]}: no such benchmark; there are {', '.join(known)}")
    partial = bool(ops) or files is not None
    paths = list(files) if files is not None else [known[op] for op in dict.fromkeys(ops or known)]
    if out is None and not quick and not partial:
        out = (RESULTS if ROOT else Path()) / f"kernels_{chosen.type}.json"
    run = Run(chosen, quick, out, peer_python)
    kept = _prepare_output(out)
    loaded = [(path, _load(run, path)) for path in paths]
    benchmarks = [(path, benchmark) for path, benchmark in loaded if benchmark is not None]
    if peer_python is not None:
        python, reason = run.peer()
        if python is None:
            raise BenchError(f"--peer-python {reason}")
    renewed = {benchmark.op for _, benchmark in benchmarks}
    run.rows = [row for row in kept if partial and row["op"] not in renewed]
    bandwidth = memory_bandwidth(chosen)
    run.environment = environment(chosen) | {"quick": quick, "bandwidth_gb_s": round(bandwidth / 1e9, 2)}
    jobs = [
        (path, benchmark, name, benchmark.selected(name, str(chosen), quick))
        for path, benchmark in benchmarks
        for name in benchmark.implementations
    ]
    run.total = sum(len(rows) for *_, rows in jobs)
    try:
        for path, benchmark, name, rows in jobs:
            if rows:
                _run_implementation(run, path, benchmark, name, rows, bandwidth)
            if name == list(benchmark.implementations)[-1]:
                _extrapolate(run, benchmark)
    except KeyboardInterrupt:
        run.console.print(f"stopped after {run.done} of {run.total} rows" + (f", kept in {out}" if out else ""))
        raise
    finally:
        run.close()
        run.save()
        if run.rows and run.out is not None:
            write_report(run.out, run.environment, run.rows, run.console)
    return run


def environment(device: torch.device | str) -> dict[str, Any]:
    """Where a number was measured: processor or GPU, threads, commit, versions and time."""
    device = torch.device(device)
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **versions,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def run_file(file: Path, arguments: Sequence[str]) -> int:
    """Command line of one bench file; returns the exit code."""
    parser = argparse.ArgumentParser(prog=file.name, description=f"Benchmark of {file.stem.removeprefix('bench_')}.")
    parser.add_argument("--quick", action="store_true", help="small cases, few repeats")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="result file; table and plot go beside it")
    parser.add_argument("--peer-python", type=Path, metavar="PATH", help="interpreter that has PyTorch3D")
    options = parser.parse_args(arguments)
    try:
        run = run_benchmarks(
            device=options.device, quick=options.quick, out=options.json, peer_python=options.peer_python, files=[file]
        )
    except SelfReconError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    if run.out is None:
        print(run.table())
    return exit_code(run)


def exit_code(run: Run) -> int:
    """1 if a row of ours failed or a file could not be loaded, else 0: a peer's failure is its own."""
    return int(
        run.broken > 0 or any(row["implementation"] in ("ours", "torch") and row.get("failed") for row in run.rows)
    )


def _prepare_output(out: Path | None) -> list[dict[str, Any]]:
    """Make sure that the result can be written before anything is measured; rows that the file already holds."""
    if out is None:
        return []
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        existing = out.read_text(encoding="utf-8") if out.exists() else ""
        with out.open("a", encoding="utf-8"):
            pass
        if not existing:
            out.unlink()
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"--json {out}: cannot be written ({error}); name another file") from error
    if not existing:
        return []
    try:
        rows: list[dict[str, Any]] = json.loads(existing)["rows"]
        return [row for row in rows if row["op"]]
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(f"--json {out}: holds something else than benchmark rows; name another file") from error


def _load(run: Run, file: Path) -> Benchmark | None:
    """The ``BENCHMARK`` that a file declares; a file that cannot be read does not cost the others."""
    try:
        return load_benchmark(file)
    except Exception as error:
        run.broken += 1
        run.console.print(f"{file}: cannot be loaded: {type(error).__name__}: {error}")
        return None


def _run_implementation(
    run: Run, file: Path, benchmark: Benchmark, name: str, rows: list[Any], bandwidth: float
) -> None:
    """All rows of one implementation, a new child taking over after each row that crashes or takes too long."""
    python: str | None = sys.executable
    if name == PEER:
        python, reason = run.peer()
        if python is not None:
            run.environment[PEER] = reason
    pending = [(case, direction) for case, direction in rows]
    timeouts = 0

    def finish(row: dict[str, Any]) -> None:
        case, direction = pending.pop(0)
        common = {"op": benchmark.op, "case": case.name, "sizes": dict(case.sizes), "device": run.device.type}
        common |= {"implementation": name, "direction": direction, "commit": run.environment["commit"]}
        if row.get("absent"):
            run.total -= 1
            return
        run.add(common | {key: value for key, value in row.items() if key not in ("case", "direction")})

    while pending:
        if python is None:
            finish({"missing": True, "note": f"not installed: {reason}"})
            continue
        if timeouts == 2:
            finish({"failed": True, "note": f"left out after two rows that took more than {run.row_limit:.0f} s"})
            continue
        request = {
            "implementation": name,
            "device": str(run.device),
            "quick": run.quick,
            "bandwidth": bandwidth,
            "rows": [(case.name, direction) for case, direction in pending],
        }
        loaded = False
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log, run.console.status("") as status:
            child = run.nursery(python).child(file, request, log)
            try:
                while pending:
                    case, direction = pending[0]
                    status.update(f"{run.elapsed()}  {benchmark.op}, {case.name}: {name}, {direction}")
                    line = child.line(run.row_limit if loaded else LOAD_LIMIT_S)
                    if line is None:
                        break
                    if loaded:
                        finish(line)
                    loaded = True
            except TimeoutError:
                timeouts += 1
                finish({"failed": True, "note": f"took more than {run.row_limit if loaded else LOAD_LIMIT_S:.0f} s"})
                continue
            finally:
                code = child.end()
            if pending:
                log.seek(0)
                note = f"ended with exit code {code}: {last_line(log.read())}"
                finish({"failed": True, "note": note})
                while pending and not loaded:
                    finish({"failed": True, "note": note})


def _extrapolate(run: Run, benchmark: Benchmark) -> None:
    """Add the rows that cases derive from another's measured time."""
    for case in benchmark.cases:
        for name, (other, factor) in case.extrapolate.items():
            for row in [
                r for r in run.rows if (r["op"], r["case"], r["implementation"]) == (benchmark.op, other, name)
            ]:
                if row["direction"] not in case.directions or "median_ms" not in row or (run.quick and not case.quick):
                    continue
                scaled = {key: factor * row[key] for key in ("median_ms", "low_ms", "high_ms")}
                note = f"extrapolated: {factor:.4g} times `{other}`"
                derived = {**row, **scaled, "case": case.name, "sizes": dict(case.sizes), "repeats": 0, "note": note}
                derived |= {"peak_mb": None, "throughput": None}
                run.total += 1
                run.add(derived)


def _described(row: dict[str, Any]) -> str:
    head = f"{row['op']}, {row['case']}: {row['implementation']}, {row['direction']}"
    if "median_ms" not in row:
        return f"{head}: {row['note']}"
    return f"{head}: {row['median_ms']:.3g} ms" + (f" ({row['note']})" if row.get("note") else "")


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores"


def _commit() -> str:
    if ROOT is None:
        return f"release {metadata.version('selfrecon-warp')}"
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
