"""The ``selfrecon`` command: each command parses, calls one library function and prints.

Library modules are imported inside the commands, so that ``--help`` and complaints about the command line come at once.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from selfrecon_warp import __version__, cli_avatar, cli_fit, cli_prepare, cli_reference, cli_trial
from selfrecon_warp.cli_options import AVATAR, BAD_INPUT, FAILED, INTERRUPTED, complain
from selfrecon_warp.errors import SelfReconError


class _Commands(TyperGroup):
    """Turns errors meant for the user into one message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SelfReconError as error:
            complain(str(error))
            raise typer.Exit(BAD_INPUT) from error
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":  # torch's; importing torch here would cost seconds
                raise
            remedy = "take fewer frames or rays per step with --set, smaller images, or --device cpu"
            complain(f"{error}\n{remedy}")
            raise typer.Exit(FAILED) from error
        except KeyboardInterrupt as interrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from interrupt


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with `selfrecon demo`. For your own capture: `selfrecon check CAPTURE`, then "
    "`selfrecon fit CAPTURE --out RUN`, `selfrecon texture RUN`, `selfrecon export RUN`, `selfrecon report RUN`. "
    "Bad input exits with code 2 and writes nothing.",
)


@app.callback(invoke_without_command=True)
def selfrecon(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    """One phone video of a person turning around in, a clothed, rigged avatar out."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


app.add_typer(cli_fit.commands)
app.add_typer(cli_reference.commands)
app.add_typer(cli_prepare.prepare, name="prepare", rich_help_panel=AVATAR)
app.add_typer(cli_avatar.commands)
app.add_typer(cli_trial.commands)


def main() -> None:
    """Entry point of the ``selfrecon`` command."""
    app()
