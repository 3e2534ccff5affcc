"""Commands that bring in what the reference implementation left. ``cli.py`` adds them to ``selfrecon``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfrecon_warp.cli_options import AVATAR, BodyModels, Capture

commands = typer.Typer()


@commands.command("import-run", rich_help_panel=AVATAR)
def import_run(
    folder: Annotated[Path, typer.Argument(help="Folder the reference implementation trained into.")],
    capture: Capture,
    out: Annotated[Path, typer.Option(help="Run folder to make.")],
    checkpoint: Annotated[str, typer.Option(help="File in the folder.")] = "latest.pth",
    sdf_model: Annotated[
        Path | None,
        typer.Option(
            help="File whose signed-distance field is taken instead: a checkpoint, or a field alone such as "
            "initial_sdf_idr_6_1.pth.",
            show_default=False,
        ),
    ] = None,
    model_rm_prefix: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PREFIX",
            help="Parameters of this prefix stay untrained, such as netRender; may be repeated.",
            show_default=False,
        ),
    ] = None,
    skinner: Annotated[
        Path | None,
        typer.Option(
            metavar="PTH",
            help="Skinning cache of the reference; when absent, the capture's initial_skinner_*.pth if it has one.",
            show_default=False,
        ),
    ] = None,
    body_models: BodyModels = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a run that is there.")] = False,
) -> None:
    """Bring a model trained by the reference implementation into a run, for infer, evaluate and view."""
    from selfrecon_warp.train.published_checkpoint import import_published_run

    run = import_published_run(
        folder,
        capture,
        out,
        checkpoint=checkpoint,
        sdf=sdf_model,
        leave_out=model_rm_prefix or (),
        skinner=skinner,
        body_models=body_models,
        overwrite=overwrite,
    )
    typer.echo(f"run: {run.path}")


@commands.command("import-config", rich_help_panel=AVATAR)
def import_config(
    conf: Annotated[Path, typer.Argument(help="config.conf (HOCON) of the reference implementation.")],
    out: Annotated[Path, typer.Option(help="YAML file to write, for `fit --config`.")],
) -> None:
    """Translate a configuration of the reference implementation."""
    from selfrecon_warp.config_io import dump_section
    from selfrecon_warp.errors import ConfigError
    from selfrecon_warp.train.published_config import read_published_config

    text = dump_section(read_published_config(conf))
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    typer.echo(f"configuration: {out}")
