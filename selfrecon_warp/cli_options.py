"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
