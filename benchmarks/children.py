"""The processes that benchmarks run in, and the interpreter that has PyTorch3D."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

_HERE = Path(__file__).resolve().parent
ROOT = _HERE.parent if (_HERE.parent / "pyproject.toml").exists() else None
"""The checkout, if this is one."""
LOAD_LIMIT_S = 120.0
"""Seconds in which a process must have loaded its libraries."""
_PROBE = (
    "import pytorch3d.ops, pytorch3d.renderer, selfrecon_warp, torch, platform; "
    "print('python', platform.python_version() + ', torch', torch.__version__)"
)


def find_peer(given: Path | None) -> tuple[str | None, str]:
    """First interpreter that can import PyTorch3D and this package.

    Args:
        given: The one to take; otherwise the running one, then ``.venv-bench`` in the working folder and the checkout.

    Returns:
        Its path, or ``None``, and its versions, or why there is none.
    """
    folders = [Path.cwd(), *([ROOT] if ROOT else [])]
    candidates = (
        [given] if given else [Path(sys.executable), *(folder / ".venv-bench/bin/python" for folder in folders)]
    )
    reason = ""
    for candidate in candidates:
        if not candidate.exists():
            reason = reason or f"{candidate}: there is no such file"
            continue
        command = [str(candidate), "-c", _PROBE]
        try:
            probe = subprocess.run(
                command, capture_output=True, text=True, check=False, env=_child_environment(), timeout=LOAD_LIMIT_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = f"{candidate}: {error}"
            continue
        if probe.returncode == 0:
            return str(candidate), probe.stdout.strip().splitlines()[-1]
        reason = f"{candidate}: {last_line(probe.stderr)}"
    return None, f"{reason} (`make bench-env` installs PyTorch3D into .venv-bench)"


class Nursery:
    """Starts children from one interpreter: a process that has loaded the libraries forks them (``nursery.py``)."""

    def __init__(self, python: str) -> None:
        self._python = python
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None

    def child(self, file: Path, request: dict[str, Any], log: IO[str]) -> Child:
        """A child that measures the rows of one request.

        Args:
            file: The bench file.
            request: What ``run_rows`` reads.
            log: Takes what the child prints, and the first one's what loading the libraries does.
        """
        if self._link is None:
            self._start(log)
        assert self._link is not None
        read, write = os.pipe()
        try:
            with contextlib.suppress(BrokenPipeError):  # then the pipe's end tells
                message = json.dumps({**request, "file": str(file)}).encode() + b"\n"
                socket.send_fds(self._link, [message], [write, log.fileno()])
        finally:
            os.close(write)
        return Child(self, read)

    def exit_code(self, seconds: float) -> int:
        """The child's exit code; it is killed when it has not ended in time."""
        assert self._link is not None
        if select.select([self._link], [], [], seconds)[0]:
            with contextlib.suppress(ConnectionResetError):
                answer = self._link.recv(64)
                if answer:
                    return int(answer)
        return self.close()

    def close(self) -> int:
        """End the process, with its child; its exit code."""
        if self._process is None or self._link is None:
            return 0
        self._link.close()
        self._link = None
        try:
            code = self._process.wait(timeout=0.1)  # it has ended by itself, perhaps
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            code = self._process.wait()
        return code

    def _start(self, log: IO[str]) -> None:
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            self._process = subprocess.Popen(
                [self._python, "-m", "selfrecon_warp.benchmarks.nursery", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(),),
                env=_child_environment(),
                start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the other's session
            )


class Child:
    """A process that measures rows of one implementation and reports them line by line through a pipe."""

    def __init__(self, nursery: Nursery, pipe: int) -> None:
        self._nursery = nursery
        self._pipe = os.fdopen(pipe, "rb", buffering=0)
        self._buffer = b""

    def line(self, seconds: float) -> dict[str, Any] | None:
        """The next line; ``None`` when the child has ended.

        Raises:
            TimeoutError: None came in time.
        """
        end = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._pipe], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError
            part = os.read(self._pipe.fileno(), 65536)
            if not part:
                return None
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        content: dict[str, Any] = json.loads(line)
        return content

    def end(self) -> int:
        """Wait for the child if it has closed the pipe, else kill it; its exit code."""
        code = self._nursery.exit_code(2.0)
        self._pipe.close()
        return code


def _child_environment() -> dict[str, str]:
    """The environment, with this checkout first on the path, so that every interpreter measures the same code."""
    if ROOT is None:
        return dict(os.environ)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
