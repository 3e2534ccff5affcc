"""The commands from capture to avatar. ``cli.py`` adds them to ``selfrecon``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from selfrecon_warp.cli_options import AVATAR, INTERRUPTED, BodyModels, Capture, Device, Run, complain

commands = typer.Typer()

Seed = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Seed of every random number; same as --set seed=N.")
]


@commands.command(rich_help_panel=AVATAR)
def check(
    capture: Capture,
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="PNG",
            help="Contact sheet to write, faults or not; when absent, CAPTURE_check.png here if all is well.",
        ),
    ] = None,
    body_models: BodyModels = None,
) -> None:
    """Validate a capture before any work and draw the body over its images on one contact sheet."""
    from selfrecon_warp.capture.check import check_capture, require_fit_ready
    from selfrecon_warp.capture.contact_sheet import draw_contact_sheet
    from selfrecon_warp.capture.dataset import read_capture
    from selfrecon_warp.model.body import load_body

    loaded = read_capture(capture)
    body = load_body(body_models, loaded.gender)
    report = check_capture(loaded, body)
    path = sheet
    if path is None and not report.errors:
        path = Path(f"{capture.resolve().name}_check.png")
    if path is not None:
        draw_contact_sheet(loaded, report, body, path)
    require_fit_ready(report)
    for problem in report.warnings:
        complain(problem.message, "warning", "yellow")
    height, width = loaded.image_size
    typer.echo(
        f"{capture}: {len(loaded)} frames of {width}x{height}, {body.name}; body and mask overlap "
        f"{report.overlap.mean():.2f} on average, {report.overlap.min():.2f} at least; contact sheet: {path}"
    )


@commands.command(rich_help_panel=AVATAR)
def fit(
    capture: Capture,
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="Run folder to write.")],
    config: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|YAML",
            help="fast (minutes on two CPU cores), selfrecon (the published settings, for a GPU) or your own YAML "
            "file, which may start with `extends: fast`.",
            show_default="fast",
        ),
    ] = None,
    device: Device = "auto",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, e.g. `seed=1`; may be repeated."),
    ] = None,
    seed: Seed = None,
    body_models: BodyModels = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that is at --out.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run at --out where it stopped.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write RUN/tensorboard.")] = False,
) -> None:
    """Fit an avatar to a capture. Ctrl-C saves a checkpoint; `--resume` continues from it."""
    from selfrecon_warp.train.progress import FitInterrupted
    from selfrecon_warp.train.session import fit_capture

    try:
        run = fit_capture(
            capture,
            out,
            config=config,
            overrides=[*(settings or []), *([] if seed is None else [f"seed={seed}"])],
            device=device,
            body_models=body_models,
            overwrite=overwrite,
            resume=resume,
            tensorboard=tensorboard,
        )
    except FitInterrupted as stop:
        again = shlex.join(["selfrecon", "fit", str(capture), "--out", str(out), "--device", device, "--resume"])
        typer.echo(f"{stop}; continue with: {again}", err=True)
        raise typer.Exit(INTERRUPTED) from stop
    typer.echo(f"fitted {run.path}; next: selfrecon infer {run.path}")


@commands.command(rich_help_panel=AVATAR)
def infer(
    run: Run,
    frames: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Only these frames: numbers and ranges first:end:step, commas between, such as `:60` or `0,5,::4`.",
            show_default=False,
        ),
    ] = None,
    over_photo: Annotated[
        bool, typer.Option("--over-photo", help="Draw shape and colours over the photographs instead of on white.")
    ] = False,
    no_images: Annotated[bool, typer.Option("--no-images", help="Keep no picture of each frame.")] = False,
    no_video: Annotated[bool, typer.Option("--no-video", help="Write no videos.")] = False,
    no_colour: Annotated[bool, typer.Option("--no-colour", help="Leave out colours, the slowest part.")] = False,
    offset: Annotated[
        bool, typer.Option("--offset", help="Also show what the learned offset alone does to the canonical mesh.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Write the canonical mesh and, for every frame, mesh, shaded, normal and colour images, with videos."""
    from selfrecon_warp.devices import select_device
    from selfrecon_warp.train.run_folder import RunFolder

    opened = RunFolder.open(run)
    from selfrecon_warp.capture.dataset import read_capture
    from selfrecon_warp.view.infer import Wanted, infer_run, parse_frames

    chosen = None if frames is None else parse_frames(frames, len(read_capture(opened.capture_folder)))
    wanted = Wanted(chosen, not no_images, not no_video, not no_colour, over_photo, offset)
    infer_run(opened, select_device(device), wanted=wanted)
    typer.echo(f"canonical mesh: {opened.canonical_mesh}\nframes: {opened.infer}")


@commands.command(rich_help_panel=AVATAR)
def evaluate(
    run: Run,
    ground_truth: Annotated[
        Path, typer.Option("--ground-truth", metavar="DIR", help="The gt/ folder of the capture, or the capture.")
    ],
    device: Device = "auto",
) -> None:
    """Score a run against ground truth, the body it started from beside it."""
    from selfrecon_warp.devices import select_device
    from selfrecon_warp.train.run_folder import RunFolder

    opened = RunFolder.open(run)
    from rich.console import Console

    from selfrecon_warp.view.evaluate import evaluate_run

    scores = evaluate_run(opened, ground_truth, select_device(device))
    Console().print(scores.table())
    typer.echo(f"scores: {opened.metrics_file}")


@commands.command(rich_help_panel=AVATAR)
def view(
    run: Run,
    frame: Annotated[int, typer.Option(min=0, help="Frame shown first.")] = 0,
    screenshot: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Draw one picture without a window and leave.")
    ] = None,
    ground_truth: Annotated[
        Path | None, typer.Option(metavar="DIR", help="For the layer error.", show_default=False)
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="On from the start: body, normals, error, weights, slice, misses or cameras; may be repeated.",
            show_default=False,
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the checkpoint of a fit that is running.")] = False,
) -> None:
    """Look at a run: canonical and posed meshes on a time slider, images in their cameras, layers over them."""
    from selfrecon_warp.train.run_folder import RunFolder
    from selfrecon_warp.view.viewer import view_run

    view_run(
        RunFolder.open(run),
        frame=frame,
        screenshot=screenshot,
        ground_truth=ground_truth,
        layers=layer or (),
        watch=watch,
    )
    if screenshot is not None:
        typer.echo(f"picture: {screenshot}")
