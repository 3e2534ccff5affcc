"""The commands after the fit: what is taken away from a run. ``cli.py`` adds them to ``selfrecon``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfrecon_warp.cli_options import Device, Run

commands = typer.Typer()

PANEL = "What is taken away"


@commands.command(rich_help_panel=PANEL)
def texture(
    run: Run,
    size: Annotated[int, typer.Option(metavar="TEXELS", help="Width and height of the texture.")] = 2048,
    faces: Annotated[int, typer.Option(metavar="N", help="Triangles of the mesh, about.")] = 30_000,
    delight: Annotated[
        bool, typer.Option("--delight", help="Take the capture's light out of the colours, as far as it is smooth.")
    ] = False,
    videoavatar: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write what VideoAvatar's extractor reads (.npz).", show_default=False),
    ] = None,
    device: Device = "auto",
) -> None:
    """Simplify and unwrap the canonical mesh, bake colours from the photos and a normal map, into RUN/avatar."""
    from selfrecon_warp.devices import select_device
    from selfrecon_warp.train.run_folder import RunFolder

    opened = RunFolder.open(run)
    from selfrecon_warp.asset.texture import texture_run

    made = texture_run(
        opened, select_device(device), size=size, face_count=faces, delight=delight, videoavatar=videoavatar
    )
    typer.echo(
        f"{run}/avatar: {len(made.rigged.faces)} triangles in {made.charts} charts, texture of {size}x{size}, "
        f"{100 * made.seen:.0f} % of the surface seen in {len(made.frames)} frames; next: selfrecon export {run}"
    )
    if videoavatar is not None:
        typer.echo(f"VideoAvatar: {videoavatar}")


@commands.command(rich_help_panel=PANEL)
def export(
    run: Run,
    format: Annotated[  # noqa: A002
        str,
        typer.Option(
            "--format",
            metavar="glb|obj|ply|usd|npz|fbx-via-blender",
            help="glb, usd and fbx hold skeleton, skin and motion; obj and ply one pose; npz every array.",
        ),
    ] = "glb",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write; RUN/export/avatar.* when absent.", show_default=False),
    ] = None,
    influences: Annotated[
        int, typer.Option(metavar="4|8", help="Joints a vertex follows; three.js and many games read 4.")
    ] = 4,
    morphs: Annotated[
        int,
        typer.Option(metavar="K", min=0, max=64, help="Add the fit's pose-dependent offsets as K animated shapes."),
    ] = 0,
    frame: Annotated[
        int | None,
        typer.Option(min=0, help="Pose of obj and ply; the canonical one when absent.", show_default=False),
    ] = None,
    untextured: Annotated[
        bool, typer.Option("--untextured", help="The full-resolution mesh with vertex colours, textured or not.")
    ] = False,
    unlit: Annotated[bool, typer.Option("--unlit", help="Ask the viewer to show colours as they are (glb).")] = False,
    image: Annotated[str, typer.Option(metavar="jpeg|png", help="Base colour inside the GLB file.")] = "jpeg",
    blender: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Blender for fbx; the one on PATH when absent.", show_default=False),
    ] = None,
    device: Device = "auto",
) -> None:
    """Write the avatar for other programs: skeleton, skin, looks and the captured motion in one file."""
    from selfrecon_warp.devices import select_device
    from selfrecon_warp.train.run_folder import RunFolder

    opened = RunFolder.open(run)
    from rich.console import Console

    from selfrecon_warp.asset.export import ExportChoices, export_run

    choices = ExportChoices(format, influences, morphs, frame, untextured, unlit, image, blender)
    with Console(stderr=True).status("writing the avatar"):
        written = export_run(opened, select_device(device), out, choices)
    rigged = written.rigged
    looks = "textured" if rigged.texture is not None else "vertex colours (for a texture: selfrecon texture)"
    size = f"{len(rigged.vertices)} vertices, {len(rigged.faces)} triangles"
    motion = "" if format in ("obj", "ply") else f", {len(rigged.parents)} joints, {rigged.frame_count} frames"
    typer.echo(f"{written.path}: {size}{motion}, {looks}")
    if written.morphs is not None:
        typer.echo(f"offsets: {1000 * written.morphs.residual:.2f} mm of them are left out (root mean square)")


@commands.command(rich_help_panel=PANEL)
def animate(
    run: Run,
    motion: Annotated[
        str,
        typer.Option(
            metavar="FILE|walk|sway",
            help="AMASS or SMPL poses (.npz, .npy), a .bvh file with SMPL's, CMU's or Mixamo's joint names, or one of "
            "the motions that ship.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder to write; RUN/animations/NAME when absent.", show_default=False),
    ] = None,
    frame_rate: Annotated[float, typer.Option(min=1, max=240, help="Frames a second of the results.")] = 30.0,
    orbit: Annotated[bool, typer.Option("--orbit", help="The camera goes around.")] = False,
    camera: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Camera file as in captures; world with y up, floor at 0.", show_default=False
        ),
    ] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Stay in one place, as on a treadmill.")] = False,
    up: Annotated[
        str | None,
        typer.Option(metavar="y|z", help="Vertical axis of SMPL poses; AMASS's is found out.", show_default=False),
    ] = None,
    source_rate: Annotated[
        float | None, typer.Option(min=0.1, help="Frames a second of FILE, if it does not tell.", show_default=False)
    ] = None,
    path_scale: Annotated[
        float | None,
        typer.Option(min=0, help="Metres per unit of FILE's path; when absent, as legs compare.", show_default=False),
    ] = None,
    size: Annotated[int, typer.Option(min=32, max=4096, help="Height and width of the video [px].")] = 720,
    device: Device = "auto",
) -> None:
    """Let the avatar move: a GLB file that plays the motion, and a video of it."""
    from selfrecon_warp.devices import select_device
    from selfrecon_warp.train.run_folder import RunFolder

    opened = RunFolder.open(run)
    from selfrecon_warp.asset.animate import animate_run

    animation = animate_run(
        opened,
        motion,
        select_device(device),
        out=out,
        frame_rate=frame_rate,
        up=up,
        source_rate=source_rate,
        path_scale=path_scale,
        in_place=in_place,
        orbit=orbit,
        camera=camera,
        size=size,
    )
    typer.echo(f"{animation.frames} frames: {animation.glb}, {animation.video}")


@commands.command(rich_help_panel=PANEL)
def render(
    run: Run,
    what: Annotated[
        str,
        typer.Option(
            metavar="colour|texture|lit|shaded|normals|depth|mask|wireframe",
            help="colour asks the appearance network at every pixel; texture and lit, the texture in the "
            "capture's light, need `selfrecon texture`.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="DIR|VIDEO", help="Folder for PNG files, or a video ending in .mp4."),
    ],
    frames: Annotated[
        str | None, typer.Option(metavar="A:B", help="Frames A to before B; all when absent.", show_default=False)
    ] = None,
    over_photo: Annotated[bool, typer.Option("--over-photo", help="Draw over the capture's photographs.")] = False,
    transparent: Annotated[bool, typer.Option("--transparent", help="PNG files without a background.")] = False,
    orbit: Annotated[bool, typer.Option("--orbit", help="The camera goes around while the frames pass.")] = False,
    turntable: Annotated[bool, typer.Option("--turntable", help="The canonical pose, turning once.")] = False,
    camera: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Camera file as in captures, same world.", show_default=False)
    ] = None,
    size: Annotated[
        int, typer.Option(min=32, max=4096, help="Height and width, where the capture's camera is not used [px].")
    ] = 720,
    frame_rate: Annotated[float, typer.Option(min=1, max=240, help="Frames a second of a video.")] = 30.0,
    device: Device = "auto",
) -> None:
    """Draw the frames, or the canonical pose, as PNG files or a video."""
    from selfrecon_warp.devices import select_device
    from selfrecon_warp.train.run_folder import RunFolder

    opened = RunFolder.open(run)
    from selfrecon_warp.view.render_run import render_run

    count = render_run(
        opened,
        what,
        out,
        select_device(device),
        frames=None if frames is None else _frame_range(frames),
        over_photo=over_photo,
        transparent=transparent,
        orbit=orbit,
        turntable=turntable,
        camera=camera,
        size=size,
        frame_rate=frame_rate,
    )
    typer.echo(f"{count} pictures: {out}")


@commands.command(rich_help_panel=PANEL)
def report(
    run: Run,
    out: Annotated[
        Path | None, typer.Option(metavar="HTML", help="File; RUN/report.html when absent.", show_default=False)
    ] = None,
    ground_truth: Annotated[
        Path | None,
        typer.Option(
            "--ground-truth",
            metavar="DIR",
            help="The gt/ folder of the capture, or the capture: true shapes are shown beside the results.",
            show_default=False,
        ),
    ] = None,
    texels: Annotated[
        int, typer.Option(min=64, max=8192, help="Width and height at most of the texture inside the page.")
    ] = 1536,
    title: Annotated[
        str | None, typer.Option(help="Headline; the capture's name when absent.", show_default=False)
    ] = None,
    device: Device = "auto",
) -> None:
    """Write one page that holds everything: the avatar to turn and play, scores, problems, pictures, curves."""
    from selfrecon_warp.devices import select_device
    from selfrecon_warp.train.run_folder import RunFolder

    opened = RunFolder.open(run)
    from selfrecon_warp.capture.ground_truth import read_ground_truth
    from selfrecon_warp.view.run_report import report_run

    truth = None if ground_truth is None else read_ground_truth(ground_truth)
    path = report_run(opened, select_device(device), truth=truth, title=title, texels=texels, out=out)
    typer.echo(f"report: {path}")


def _frame_range(text: str) -> tuple[int, int]:
    first, colon, end = text.partition(":")
    if not (colon and first.isdigit() and end.isdigit()):
        raise typer.BadParameter(f"expected FIRST:END, such as 0:30, got {text!r}", param_hint="--frames")
    return int(first), int(end)
