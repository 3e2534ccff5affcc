"""What several command modules share: arguments, options, exit codes, messages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AVATAR = "From capture to avatar"
"""Heading of commands in the help."""
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
"""Exit codes."""

Capture = Annotated[
    Path, typer.Argument(metavar="CAPTURE", help="Capture folder: imgs/, masks/, camera.npz, smpl_rec.npz, normals/.")
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder written by `selfrecon fit`.")]
Device = Annotated[
    str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda or cuda:N; auto takes the first GPU if there is one.")
]
BodyModels = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        envvar="SELFRECON_BODY_MODELS",
        help="Your SMPL files: a folder or one .pkl/.npz. Without it: the CC0 body that comes with the package.",
        show_default=False,
    ),
]


def complain(message: str, kind: str = "error", colour: str = "red") -> None:
    """One message on standard error, ``error:`` or another kind before it."""
    typer.echo(f"{typer.style(f'{kind}:', fg=colour, bold=True)} {message}", err=True)
