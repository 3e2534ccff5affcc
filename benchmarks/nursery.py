"""A process that has loaded torch and Warp and forks children that measure: loading them would take each two seconds.

It only loads: neither OpenMP's threads nor a CUDA context would survive a fork. A child is what a fresh process would
be, with the libraries' pages counted in its memory before anything is timed. It ends without tearing the libraries
down, which would take another second.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
import traceback
import warnings
from pathlib import Path
from typing import NoReturn

import torch  # noqa: F401  (so that children need not)
import warp  # noqa: F401

from selfrecon_warp.benchmarks.harness import load_benchmark, run_rows


def serve(link: socket.socket) -> None:
    """Fork a child for each message, a line of JSON with two open files, and answer with its exit code.

    Args:
        link: The files are the pipe for rows and the log for what the child prints; the message holds the bench
            ``file`` and what :func:`run_rows` reads. Its other end closed ends the service.
    """
    gc.freeze()
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # BLAS's survive a fork
    while True:
        message, files = b"", list[int]()
        while not message.endswith(b"\n"):
            part, sent, *_ = socket.recv_fds(link, 65536, 2)
            if not part:
                return
            message += part
            files += sent
        child = os.fork()
        if child == 0:
            link.close()
            _measure(message, *files)
        for file in files:
            os.close(file)
        _, status = os.waitpid(child, 0)
        link.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _measure(message: bytes, pipe: int, log: int) -> NoReturn:
    """The child's life: load the bench file, say so with an empty row, send one row after another."""
    code = 1
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        request = json.loads(message)
        with os.fdopen(pipe, "w", buffering=1) as rows:
            benchmark = load_benchmark(Path(request["file"]))
            print("{}", file=rows)  # from here on a crash is a row's
            run_rows(benchmark, request, lambda row: print(json.dumps(row, default=str), file=rows))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as runner:
        serve(runner)
