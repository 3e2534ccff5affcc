"""The form every kernel benchmark has, and how one row of its table is measured.

A file ``bench_<op>.py`` says in its docstring where its sizes come from, and declares one benchmark::

    CASES = (
        Case("7k faces, 512 px", {"B": 1, "F": 7_000, "size": 512}, quick=True, once=("pytorch3d",)),
        Case("100k faces, 512 px", {"B": 1, "F": 100_000, "size": 512}, skip=("torch",),
             extrapolate={"pytorch3d": ("7k faces, 512 px", 100 / 7)}),
    )

    def ours(case: Case, direction: str, device: torch.device) -> Prepared | None:
        vertices, faces = figure(case["B"], case["F"], case["size"], device)
        return timed(lambda v: rasterize(v, faces, case["size"], case["size"]), [vertices], direction)

    def embree(case: Case, direction: str, device: torch.device) -> Prepared | None:
        if direction != FORWARD:
            return None
        import embreex
        ...

    BENCHMARK = Benchmark(
        op="rasterize",
        cases=CASES,
        implementations={"ours": ours, "torch": reference, "pytorch3d": pytorch3d, "embree": Only("cpu", embree)},
        items=lambda case: (case["B"] * case["size"] ** 2, "pixels"),
        bound=lambda case, direction, device: Bound("writes fragments", bytes=...),
    )

    if __name__ == "__main__":
        main(BENCHMARK)

``selfrecon bench`` runs all files, ``python benchmarks/bench_rasterize.py [--quick] [--device cuda] [--json FILE]``
one. Each implementation of an op runs in a child process of its own: its peak memory is its own, its crash or its
running out of time costs one row, and ``pytorch3d`` may live in another interpreter. What an implementation's ``build``
function does is not timed: it makes the inputs and returns the call to time. It imports its library itself, so that a
file can be read where the library is missing; an ``ImportError`` then becomes a row that says so. The same seed is set
before every build. Times are milliseconds, memory is MB (2^20 bytes).
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORWARD = "forward"
BACKWARD = "forward+backward"
_QUICK = 1000.0
"""Longest call that is repeated to measure its memory [ms]."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of two settings of ``mallopt``."""
_MB = 2**20


@dataclass(frozen=True)
class Case:
    """Sizes of one row group of the table."""

    name: str
    """Unique within the benchmark; heads the row."""
    sizes: Mapping[str, Any]
    """What ``build`` reads as ``case["B"]``; stored beside the numbers."""
    quick: bool = False
    """Part of ``--quick``: then every implementation that takes part should need less than a few seconds a call."""
    skip: Sequence[str] = ()
    """Implementations that leave this case out."""
    once: Sequence[str] = ()
    """Implementations too slow to repeat: one call, no warm-up."""
    extrapolate: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    """Implementation to another case's name and the factor its measured time is multiplied with, where its cost is
    known to follow the sizes and measuring it would take minutes; the row says so."""
    directions: Sequence[str] = (FORWARD, BACKWARD)
    """What is timed."""

    def __getitem__(self, name: str) -> Any:
        return self.sizes[name]


@dataclass(frozen=True)
class Prepared:
    """What ``build`` hands back: the call to time, and a remark for its row."""

    call: Callable[[], Any]
    note: str = ""


@dataclass(frozen=True)
class Bound:
    """The least time a case can take on this machine: memory traffic at the measured bandwidth, plus given time."""

    what: str
    """What bounds it, in a few words: ``reads 24 weights a point, writes points`` or ``145,895 queries of the SDF``."""
    bytes: float = 0.0
    """Bytes that have to be moved between memory and processor, each counted once."""
    milliseconds: float = 0.0
    """Time that cannot be avoided, measured by the benchmark itself (with :func:`measure`), such as SDF queries."""


Build = Callable[[Case, str, torch.device], "Prepared | Callable[[], Any] | None"]


@dataclass(frozen=True)
class Only:
    """An implementation for one kind of device: ``cpu`` or ``cuda``."""

    device: str
    build: Build


@dataclass(frozen=True)
class Benchmark:
    """One op's cases and implementations."""

    op: str
    """Stem of the kernel file; the benchmark is ``bench_<op>.py``."""
    cases: Sequence[Case]
    """In the table's order."""
    implementations: Mapping[str, Build | Only]
    """``ours``, ``torch`` (the plain reference), ``pytorch3d`` or a peer's name, to its ``build(case, direction,
    device)``; ``None`` from it means that it offers no such thing."""
    items: Callable[[Case], tuple[float, str]] | None = None
    """How many of what a call deals with, for the throughput."""
    bound: Callable[[Case, str, torch.device], Bound | None] | None = None
    """The bound of a row; called once a case and direction, in the child of ``ours``, after its timing."""

    def selected(self, implementation: str, device: str, quick: bool) -> list[tuple[Case, str]]:
        """Rows to measure of one implementation, in order."""
        entry = self.implementations[implementation]
        if isinstance(entry, Only) and entry.device != torch.device(device).type:
            return []
        left_out = [c for c in self.cases if implementation in c.skip or implementation in c.extrapolate]
        cases = [c for c in self.cases if c not in left_out and (c.quick or not quick)]
        return [(case, direction) for case in cases for direction in case.directions]


@dataclass(frozen=True)
class Measurement:
    """One timed call; every time in milliseconds, memory in MB."""

    median_ms: float
    """Median over the repeats."""
    low_ms: float
    """Lower quartile over the repeats."""
    high_ms: float
    """Upper quartile over the repeats."""
    repeats: int
    """Calls timed after the warm-up."""
    peak_mb: float
    """Peak during the calls above what was in use before them: the resident set, of calls that take less than a second
    without what the allocator holds on to between and beside its blocks; or on a GPU the memory of torch and that of
    Warp's pool, whose peak cannot be reset and so is that of the preparation if that took more."""


def timed(function: Callable[..., Any], inputs: Sequence[Tensor], direction: str, note: str = "") -> Prepared:
    """The call that runs ``function(*inputs)``, and its gradients where asked for.

    Args:
        function: Returns a tensor or a sequence of them; integer ones carry no gradient.
        inputs: Differentiable inputs. Other inputs belong into the function's closure.
        direction: ``forward`` runs without recording; ``forward+backward`` differentiates every floating output with
            respect to every input, with ones coming in.
        note: Remark for the row.
    """
    inputs = [x.detach() for x in inputs]
    if direction == FORWARD:
        return Prepared(lambda: _no_grad(function, inputs), note)
    inputs = [x.requires_grad_() for x in inputs]
    incoming: list[Tensor] = []  # filled once: a fill by many threads leaves them spinning beside what is timed

    def call() -> Any:
        result = function(*inputs)
        outputs = [result] if isinstance(result, Tensor) else list(result)
        outputs = [x for x in outputs if isinstance(x, Tensor) and x.requires_grad]
        if [x.shape for x in incoming] != [x.shape for x in outputs]:
            incoming[:] = [torch.ones_like(x) for x in outputs]
        return torch.autograd.grad(outputs, inputs, incoming, allow_unused=True)

    return Prepared(call, note)


def _no_grad(function: Callable[..., Any], inputs: Sequence[Tensor]) -> Any:
    with torch.no_grad():
        return function(*inputs)


def measure(
    function: Callable[[], Any],
    device: torch.device | str = "cpu",
    *,
    warmup: int = 2,
    settle: float = 0.1,
    repeats: int = 15,
    seconds: float = 1.0,
) -> Measurement:
    """Time ``function`` after a warm-up, synchronising around each call.

    Args:
        function: What is timed; inputs are prepared outside it.
        device: Where it runs; CUDA work is waited for.
        warmup: Untimed calls first (compilation, allocator); 0 with one repeat for what is too slow for more.
        settle: Seconds that warming up takes at least: a quick call is timed at the pace it settles at.
        repeats: Timed calls at most.
        seconds: No further call starts once this much time is spent, except to make three within four times as much.
    """
    device = torch.device(device)
    started = since = time.perf_counter()
    calls = 0
    while calls < warmup or (calls and time.perf_counter() - since < settle):
        if calls and time.perf_counter() - started > seconds:
            break
        function()
        calls += 1
        since = since if calls > 1 else time.perf_counter()
    before = _begin_memory(device)
    times: list[float] = []
    while len(times) < repeats and sum(times) < 1e3 * seconds * (4 if len(times) < 3 else 1):
        _synchronise(device)
        start = time.perf_counter()
        function()
        _synchronise(device)
        times.append(1e3 * (time.perf_counter() - start))
    peak = _peak_memory(device) - before
    if device.type == "cpu" and len(times) > 1 and statistics.median(times) < _QUICK:
        peak = min(peak, _memory_asked_for(function, device))
    low, median, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return Measurement(median, low, high, len(times), max(0.0, peak) / _MB)


def memory_bandwidth(device: torch.device | str) -> float:
    """Bytes a second that one large copy reads and writes, the best of several."""
    device = torch.device(device)
    source = torch.ones(2**27 if device.type == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)
    best = min(_seconds(lambda: target.copy_(source), device) for _ in range(8))
    return 2 * source.nbytes / best


def _seconds(function: Callable[[], Any], device: torch.device) -> float:
    _synchronise(device)
    start = time.perf_counter()
    function()
    _synchronise(device)
    return time.perf_counter() - start


def run_rows(benchmark: Benchmark, request: Mapping[str, Any], send: Callable[[dict[str, Any]], None]) -> None:
    """Measure the rows of one implementation: the child's work.

    Args:
        benchmark: What the child's file declares.
        request: ``implementation``, ``device``, ``quick``, ``bandwidth`` [bytes/s] and ``rows``, pairs of case name and
            direction.
        send: Called with one row after another; ``median_ms`` is absent where there is nothing to time.
    """
    _keep_freed_memory()
    cases = {case.name: case for case in benchmark.cases}
    name = request["implementation"]
    for case_name, direction in request["rows"]:
        row: dict[str, Any] = {"case": case_name, "direction": direction}
        try:
            row |= _measure_row(benchmark, cases[case_name], direction, request)
        except Exception as error:  # one row's failure must not cost the others
            traceback.print_exc()
            if isinstance(error, ImportError) and name not in ("ours", "torch"):
                row |= {"missing": True, "note": f"not installed: {error}"}
            else:
                row |= {"failed": True, "note": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}
        send(row)


def _measure_row(benchmark: Benchmark, case: Case, direction: str, request: Mapping[str, Any]) -> dict[str, Any]:
    name, device = request["implementation"], torch.device(request["device"])
    entry = benchmark.implementations[name]
    build = entry.build if isinstance(entry, Only) else entry
    torch.manual_seed(0)
    built = build(case, direction, device)
    if built is None:
        return {"absent": True}
    prepared = built if isinstance(built, Prepared) else Prepared(built)
    effort: dict[str, Any] = {"settle": 0.05, "seconds": 0.25} if request["quick"] else {}
    if name in case.once:
        effort = {"warmup": 0, "repeats": 1}
    row: dict[str, Any] = {"note": prepared.note, **asdict(measure(prepared.call, device, **effort))}
    if benchmark.items is not None:
        count, item = benchmark.items(case)
        row |= {"throughput": 1e3 * count / row["median_ms"], "item": item}
    bound = benchmark.bound(case, direction, device) if benchmark.bound and name == "ours" else None
    if bound is not None:
        milliseconds = bound.milliseconds + 1e3 * bound.bytes / request["bandwidth"]
        row |= {"bound_ms": milliseconds, "bound": bound.what}
    return row


def load_benchmark(file: Path) -> Benchmark:
    """The ``BENCHMARK`` that a bench file declares; whatever goes wrong in the file is raised."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    benchmark: Benchmark = module.BENCHMARK
    return benchmark


def main(_benchmark: Benchmark) -> None:
    """Command line of a bench file: measure its op alone."""
    from selfrecon_warp.benchmarks.runner import run_file

    sys.exit(run_file(Path(sys.argv[0]).resolve(), sys.argv[1:]))


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _begin_memory(device: torch.device) -> float:
    """Reset the peak counter and return the bytes in use now (resident set on the CPU)."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return float(torch.cuda.memory_allocated(device)) + _warp_memory(device)[0]
    try:
        ctypes.CDLL(None).malloc_trim(0)  # else a call could live on what the warm-up left behind, uncounted
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return _peak_memory(device)
    return _status_bytes("VmRSS")


def _memory_asked_for(function: Callable[[], Any], device: torch.device) -> float:
    """Peak of calls whose blocks of 128 KB and more come from the system one by one and go back to it."""
    try:
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 2**17)
    except AttributeError:
        return float("inf")
    try:
        before = _begin_memory(device)
        function()
        function()
        return _peak_memory(device) - before
    finally:
        _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Set the C library's allocator to what it comes to by itself once a few large blocks were freed.

    It raises its thresholds each time one larger than ever before is freed, so that rows would else be timed under
    those that the rows before them led to.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, 2**25)
        libc.mallopt(_TRIM_THRESHOLD, 2**26)
    except AttributeError:
        return


def _peak_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) + _warp_memory(device)[1]
    if Path("/proc/self/status").exists():
        return _status_bytes("VmHWM")
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def _warp_memory(device: torch.device) -> tuple[float, float]:
    """Bytes that Warp's pool on a GPU, which torch does not count, holds now and has held at most."""
    import warp as wp

    if not wp.is_mempool_supported(str(device)):
        return 0.0, 0.0
    return float(wp.get_mempool_used_mem_current(str(device))), float(wp.get_mempool_used_mem_high(str(device)))


def _status_bytes(field_name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024.0 * float(line.split()[1]) for line in lines if line.startswith(field_name + ":"))
