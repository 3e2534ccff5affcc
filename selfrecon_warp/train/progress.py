"""Progress of a fit: a live display in a terminal, plain lines elsewhere, ``log.jsonl`` and TensorBoard beside it.

Also turns Ctrl-C into a request that the fit honours between two iterations, so that a checkpoint can be written::

    with FitProgress([StageProgress("coarse", 100)], run.log_file) as progress:
        for iteration in range(100):
            losses = step()
            progress.update("coarse", iteration + 1, losses, iou=iou)
            if progress.stop_requested:
                save_checkpoint(...)
                raise FitInterrupted(run.path)
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol, SupportsFloat

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from selfrecon_warp.errors import RunError

PLAIN_LINE_SECONDS = 10.0
DISPLAYED_VALUES = 5


class FitInterrupted(Exception):  # noqa: N818 - asked for, not an error
    """The user stopped the fit; a checkpoint holds everything done so far."""

    def __init__(self, run: Path) -> None:
        super().__init__(f"{run}: stopped after saving a checkpoint")
        self.run = run


class ScalarWriter(Protocol):
    """The part of TensorBoard's ``SummaryWriter`` in use."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Record one value."""

    def close(self) -> None:
        """Write what is buffered."""


@dataclass(frozen=True)
class StageProgress:
    """One stage as the display sees it.

    Attributes:
        name: Shown and logged.
        iterations: Optimiser steps in this stage.
        cost: Time of one step relative to the other stages', for the time left before a stage has been timed.
    """

    name: str
    iterations: int
    cost: float = 1.0


class FitProgress:
    """Shows and logs a fit; a context manager that restores terminal and signal handlers when left.

    Args:
        stages: The schedule.
        log_file: Where JSON lines are appended; none when ``None``. Lines about iterations after ``completed``, left by
            a fit that was cut off, are dropped first.
        completed: Iterations done before this process, when resuming.
        log_every: Iterations between two records in ``log_file`` and TensorBoard.
        tensorboard: Folder for TensorBoard events; none when ``None``.
        console: Where to show; standard error by default, so that results can be piped.

    Raises:
        RunError: ``tensorboard`` was asked for and is not installed, or the log cannot be written.
    """

    def __init__(
        self,
        stages: Sequence[StageProgress],
        log_file: Path | None = None,
        *,
        completed: int = 0,
        log_every: int = 10,
        tensorboard: Path | None = None,
        console: Console | None = None,
    ) -> None:
        self._stages = list(stages)
        self._total = sum(stage.iterations for stage in stages)
        self._log_every = max(1, log_every)
        self._console = console or Console(stderr=True)
        self._pace = _Pace(self._stages, completed)
        self._stage = self._stages[0].name if stages else ""
        self._iteration = completed
        self._values: dict[str, float | None] = {}
        self._started = time.monotonic()
        self._stop = threading.Event()
        self._live: Live | None = None
        self._last_shown = -math.inf
        self._previous_handlers: dict[int, Any] = {}
        self._scalars = _tensorboard_writer(tensorboard)
        self._log_file = log_file
        self._elapsed_before = _rewind_log(log_file, completed) if log_file is not None else 0.0

    @property
    def stop_requested(self) -> bool:
        """Whether Ctrl-C or a termination signal has asked the fit to stop at the next opportunity."""
        return self._stop.is_set()

    @property
    def elapsed(self) -> float:
        """Seconds spent on the fit, earlier sittings included."""
        return self._elapsed_before + time.monotonic() - self._started

    def __enter__(self) -> FitProgress:
        self._started = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous_handlers[number] = signal.signal(number, self._on_signal)
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers.clear()
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._scalars is not None:
            self._scalars.close()

    def update(
        self, stage: str, iteration: int, losses: Mapping[str, SupportsFloat], *, iou: SupportsFloat | None = None
    ) -> None:
        """Tell that an iteration is done.

        Values are read, which waits for a GPU, only in iterations that are shown or logged.

        Args:
            stage: Name of the stage it belonged to.
            iteration: Steps done so far, counted over all stages.
            losses: Values to log, the most telling first.
            iou: Mean silhouette overlap of the batch, when known.
        """
        new_stage, self._stage, self._iteration = stage != self._stage, stage, iteration
        self._pace.done(iteration)
        logged = iteration % self._log_every == 0 or iteration == self._total or new_stage
        plain = self._live is None and time.monotonic() - self._last_shown >= PLAIN_LINE_SECONDS
        if not (logged or plain or new_stage):
            return
        named = {**losses, "iou": iou} if iou is not None else losses
        self._values = {name: _finite(float(value)) for name, value in named.items()}
        if logged:
            self._record({"event": "step", "stage": stage, "iteration": iteration, **self._values})
            for name, value in self._values.items():
                if self._scalars is not None and value is not None:
                    self._scalars.add_scalar(name, value, iteration)
        if self._live is None and (plain or new_stage or iteration == self._total):
            self._last_shown = time.monotonic()
            self._console.print(self._line(), highlight=False, markup=False, soft_wrap=True)

    def phase(self, text: str) -> None:
        """Show what is going on before the first iteration, such as ``registering the body 3/14``."""
        self._stage = text
        if self._live is None and time.monotonic() - self._last_shown >= PLAIN_LINE_SECONDS:
            self._last_shown = time.monotonic()
            self.note(text)

    def event(self, event: str, **values: Any) -> None:
        """Log something that happened, such as a mesh extraction with its vertex count; not shown."""
        self._record({"event": event, "iteration": self._iteration, **values})

    def note(self, text: str) -> None:
        """Show one line to the user, above the live display."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._stop.is_set():  # asked twice: now
            raise KeyboardInterrupt
        self._stop.set()
        self.note("stopping after this iteration; press Ctrl-C again to stop at once and lose what is not saved")

    def _record(self, record: Mapping[str, Any]) -> None:
        if self._log_file is None:
            return
        line = json.dumps({"elapsed_s": round(self.elapsed, 3), **record}, allow_nan=False)
        try:
            with self._log_file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise RunError(f"{self._log_file}: cannot be written ({error.strerror}); free some space") from error

    def _line(self) -> str:
        shown = list(self._values.items())
        if len(shown) > DISPLAYED_VALUES:
            shown = [item for item in shown if item[0] != "iou"][: DISPLAYED_VALUES - 1] + [
                item for item in shown if item[0] == "iou"
            ]
        values = "  ".join(f"{name} {'-' if value is None else format(value, '.4g')}" for name, value in shown)
        times = f"{_clock(self.elapsed)} elapsed, {_clock(self._pace.seconds_left())} left"
        return f"{self._stage:<8} {self._iteration:>6}/{self._total}  {values}  {times}"

    def _render(self) -> Table:
        fraction = self._iteration / self._total if self._total else 1.0
        filled = round(40 * fraction)
        table = Table.grid(padding=(0, 2))
        table.add_row(
            Text(self._stage, style="bold"),
            Text("━" * filled, style="green") + Text("━" * (40 - filled), style="dim"),
            Text(f"{self._iteration}/{self._total}"),
            Text(f"{_clock(self.elapsed)} elapsed, {_clock(self._pace.seconds_left())} left", style="cyan"),
        )
        lines = Table.grid()
        lines.add_row(table)
        values = "   ".join(f"{n} {'-' if v is None else format(v, '.4g')}" for n, v in self._values.items())
        lines.add_row(Text(values, style="dim", overflow="ellipsis", no_wrap=True))
        return lines


class _Pace:
    """Time left, from the recent seconds per unit of cost."""

    SMOOTHING = 0.03

    def __init__(self, stages: Sequence[StageProgress], completed: int) -> None:
        self._stages = stages
        self._spent = self._cost_until(completed)
        self._total = self._cost_until(sum(stage.iterations for stage in stages))
        self._seconds_per_cost = 0.0
        self._measured = 0
        self._last: float | None = None

    def done(self, iteration: int) -> None:
        now, spent = time.monotonic(), self._cost_until(iteration)
        if self._last is not None and spent > self._spent:  # what came before the first iteration tells nothing
            self._measured += 1
            pace = (now - self._last) / (spent - self._spent)
            self._seconds_per_cost += max(self.SMOOTHING, 1 / self._measured) * (pace - self._seconds_per_cost)
        self._spent, self._last = spent, now

    def seconds_left(self) -> float | None:
        return self._seconds_per_cost * (self._total - self._spent) if self._measured else None

    def _cost_until(self, iteration: int) -> float:
        cost = 0.0
        for stage in self._stages:
            steps = min(iteration, stage.iterations)
            cost, iteration = cost + steps * stage.cost, iteration - steps
        return cost


def _rewind_log(path: Path, completed: int) -> float:
    """Drop records later than ``completed`` and half-written lines; returns the seconds logged so far."""
    if not path.is_file():
        return 0.0
    kept: list[str] = []
    elapsed = 0.0
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        for line in lines:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if completed > 0 and record.get("iteration", 0) <= completed:
                kept.append(line)
                elapsed = float(record.get("elapsed_s", elapsed))
        if kept != lines:
            partial = path.with_name(f".{path.name}.partial")
            partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
            partial.replace(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be rewritten ({error.strerror}); check the run folder's permissions") from error
    return elapsed


def _tensorboard_writer(folder: Path | None) -> ScalarWriter | None:
    if folder is None:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise RunError("TensorBoard is not installed; pip install 'selfrecon-warp[tensorboard]'") from error
    writer: ScalarWriter = SummaryWriter(str(folder))
    return writer


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "--:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
