"""The ``selfrecon`` command: each command parses, calls one library function and prints.

Library modules are imported inside the commands, so that ``--help`` and complaints about the command line come at once.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from selfrecon_warp import __version__, cli_avatar, cli_prepare
from selfrecon_warp.cli_options import BodyModels, Device, Run
from selfrecon_warp.errors import SelfReconError

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130


class _Commands(TyperGroup):
    """Turns errors meant for the user into one message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SelfReconError as error:
            _complain(str(error))
            raise typer.Exit(BAD_INPUT) from error
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":  # torch's; importing torch here would cost seconds
                raise
            remedy = "take fewer frames or rays per step with --set, smaller images, or --device cpu"
            _complain(f"{error}\n{remedy}")
            raise typer.Exit(FAILED) from error
        except KeyboardInterrupt as interrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from interrupt


def _complain(message: str, kind: str = "error", colour: str = "red") -> None:
    typer.echo(f"{typer.style(f'{kind}:', fg=colour, bold=True)} {message}", err=True)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with `selfrecon demo`. For your own capture: `selfrecon check CAPTURE`, then "
    "`selfrecon fit CAPTURE --out RUN`, `selfrecon infer RUN`, `selfrecon view RUN`. "
    "Bad input exits with code 2 and writes nothing.",
)

AVATAR, TRIAL = "From capture to avatar", "Without a capture of your own"

Capture = Annotated[
    Path, typer.Argument(metavar="CAPTURE", help="Capture folder: imgs/, masks/, camera.npz, smpl_rec.npz, normals/.")
]
Seed = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Seed of every random number; same as --set seed=N.")
]
Frames = Annotated[int, typer.Option(min=2, help="Number of frames, one full turn.")]
Size = Annotated[int, typer.Option(min=64, help="Image width and height [px].")]


@app.callback(invoke_without_command=True)
def selfrecon(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    """One phone video of a person turning around in, a clothed, rigged avatar out."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command(rich_help_panel=AVATAR)
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
        _complain(problem.message, "warning", "yellow")
    height, width = loaded.image_size
    typer.echo(
        f"{capture}: {len(loaded)} frames of {width}x{height}, {body.name}; body and mask overlap "
        f"{report.overlap.mean():.2f} on average, {report.overlap.min():.2f} at least; contact sheet: {path}"
    )


@app.command(rich_help_panel=AVATAR)
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


@app.command(rich_help_panel=AVATAR)
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


@app.command(rich_help_panel=AVATAR)
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


@app.command(rich_help_panel=AVATAR)
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


@app.command("import-run", rich_help_panel=AVATAR)
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


@app.command("import-config", rich_help_panel=AVATAR)
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


@app.command(rich_help_panel=TRIAL)
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


@app.command(rich_help_panel=TRIAL)
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


@app.command(rich_help_panel=TRIAL)
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


@app.command(rich_help_panel=TRIAL)
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


@app.command(rich_help_panel=TRIAL)
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


app.add_typer(cli_prepare.prepare, name="prepare", rich_help_panel=AVATAR)
app.add_typer(cli_avatar.commands)


def main() -> None:
    """Entry point of the ``selfrecon`` command."""
    app()
