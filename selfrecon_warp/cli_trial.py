"""Commands that need no capture of one's own, or compare. ``cli.py`` adds them to ``selfrecon``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfrecon_warp import __version__
from selfrecon_warp.cli_options import BodyModels, Capture, Device

commands = typer.Typer()

PANEL = "Without a capture of your own"

Frames = Annotated[int, typer.Option(min=2, help="Number of frames, one full turn.")]
Size = Annotated[int, typer.Option(min=64, help="Image width and height [px].")]


@commands.command(rich_help_panel=PANEL)
def synthesize(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Capture folder to write.")],
    seed: Annotated[int, typer.Option(min=0, help="Another seed is another person.")] = 0,
    frames: Frames = 60,
    size: Size = 540,
    outfit: Annotated[str, typer.Option(help="casual, dress, coat, sport, skirt or hoodie.")] = "casual",
    pose_noise: Annotated[float, typer.Option(min=0, help="Error of the given poses [degrees per joint].")] = 2.6,
    mask_noise: Annotated[float, typer.Option(min=0, help="Error of the given masks [px].")] = 0.0,
    normal_noise: Annotated[float, typer.Option(min=0, help="Error of the given normals [degrees].")] = 9.0,
    hold_out_poses: Annotated[int, typer.Option(min=0, help="Extra frames in unseen poses, in gt/novel.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what OUT holds.")] = False,
) -> None:
    """Make a capture with exact ground truth from open parts alone."""
    from selfrecon_warp.synthesis import synthesize_capture

    synthesize_capture(
        out,
        seed=seed,
        frames=frames,
        size=size,
        outfit=outfit,
        pose_noise_deg=pose_noise,
        mask_noise_px=mask_noise,
        normal_noise_deg=normal_noise,
        hold_out_poses=hold_out_poses,
        overwrite=overwrite,
    )
    typer.echo(f"capture: {out}; next: selfrecon check {out}")


@commands.command(rich_help_panel=PANEL)
def ablate(
    capture: Capture,
    out: Annotated[Path, typer.Option(help="Folder of the runs and the table.")],
    part: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Part to switch off; may be repeated. All when absent.", show_default=False),
    ] = None,
    config: Annotated[str, typer.Option(help="Packaged configuration or YAML file.")] = "fast",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="For every variant.", show_default=False)
    ] = None,
    device: Device = "auto",
    body_models: BodyModels = None,
) -> None:
    """Measure what each part of the method is worth on a capture with ground truth."""
    from rich.console import Console
    from rich.table import Table

    from selfrecon_warp.view.ablation import ablate, ablation_rows

    variants = ablate(
        capture,
        out,
        parts=part or (),
        config=config,
        overrides=overrides or (),
        device=device,
        body_models=body_models,
    )
    heading, *rows = ablation_rows(variants)
    table = Table(*heading, title="Ablation")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    typer.echo(f"table: {out / 'ablation.md'}")


@commands.command(rich_help_panel=PANEL)
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write.")] = Path("demo"),
    device: Device = "auto",
    smoke: Annotated[bool, typer.Option("--smoke", help="A tiny capture, a few steps: does it run?")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the demo that is at --out.")] = False,
) -> None:
    """Synthesize a person, fit, texture, export, score and report; needs no other file."""
    from selfrecon_warp.devices import select_device
    from selfrecon_warp.view.demo import AVATAR, run_demo

    report = run_demo(out, device=select_device(device), smoke=smoke, overwrite=overwrite)
    typer.echo(f"report: {report}\navatar: {out / AVATAR}")


@commands.command(rich_help_panel=PANEL)
def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="Small cases, few repeats: minutes instead of a third of an hour.")
    ] = False,
    device: Device = "cpu",
    json: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Result file; table (.md) and plot (.svg) go beside it. With --op, other ops' rows in it stay. "
            "When absent, a run of everything writes kernels_DEVICE.json, a quick or partial one nothing.",
            show_default=False,
        ),
    ] = None,
    op: Annotated[
        list[str] | None,
        typer.Option(metavar="STEM", help="Only this op, such as rasterize; may be repeated.", show_default=False),
    ] = None,
    peer_python: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Python that has PyTorch3D; when absent, this one or .venv-bench (`make bench-env`), if they have it.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Time every kernel beside plain torch, PyTorch3D and other libraries. Ctrl-C keeps the finished rows."""
    from selfrecon_warp.benchmarks.runner import exit_code, run_benchmarks

    run = run_benchmarks(op or (), device=device, quick=quick, out=json, peer_python=peer_python)
    if run.out is None:
        typer.echo(run.table())
    raise typer.Exit(exit_code(run))


@commands.command(rich_help_panel=PANEL)
def version() -> None:
    """Print the versions that matter in a bug report."""
    import platform
    from importlib import metadata

    import torch

    typer.echo(f"selfrecon-warp {__version__}")
    typer.echo(f"python {platform.python_version()}, {platform.platform()}")
    typer.echo(f"torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}, warp {metadata.version('warp-lang')}")
    for index in range(torch.cuda.device_count()):
        typer.echo(f"cuda:{index} {torch.cuda.get_device_name(index)}")
