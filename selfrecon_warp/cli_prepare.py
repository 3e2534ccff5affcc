"""The ``selfrecon prepare`` commands: from videos and other programs' files to captures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from selfrecon_warp.cli_options import BodyModels

prepare = typer.Typer(no_args_is_help=True, help="Make a capture from a video or from estimators' files.")

Out = Annotated[Path, typer.Option("--out", metavar="CAPTURE", help="Capture folder to write.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


@prepare.command()
def video(
    video: Annotated[
        Path, typer.Argument(metavar="VIDEO", help="One person, turning once before a camera that stands.")
    ],
    out: Out,
    height: Annotated[
        float | None,
        typer.Option(metavar="CM", help="The person's height; gives the avatar its size.", show_default=False),
    ] = None,
    focal: Annotated[
        float | None,
        typer.Option(
            metavar="PX", help="Focal length of the whole picture; estimated when absent.", show_default=False
        ),
    ] = None,
    fov: Annotated[
        float | None,
        typer.Option(metavar="DEG", help="Angle of the picture's longer side, instead.", show_default=False),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(min=10, metavar="N", help="Frames to take of the turn; 120 when absent.", show_default=False),
    ] = None,
    fps: Annotated[
        float | None, typer.Option(metavar="N", help="Frames to take a second, instead.", show_default=False)
    ] = None,
    resolution: Annotated[int, typer.Option(min=128, metavar="PX", help="Longer side of the pictures, at most.")] = 720,
    body_models: BodyModels = None,
    overwrite: Overwrite = False,
) -> None:
    """A video alone: frames, masks, keypoints and body are found in it."""
    from selfrecon_warp.prepare.video_capture import VideoSettings, prepare_video

    settings = VideoSettings(
        video=video, frames=frames, fps=fps, resolution=resolution, focal=focal, fov=fov, height=height
    )
    done = prepare_video(settings, out, body_models=body_models, overwrite=overwrite)
    _notes(done.remarks)
    typer.echo(
        f"capture: {out}, {done.frames} frames, focal length {done.focal:.0f} px; look at {out / 'contact_sheet.png'}; "
        f"next: selfrecon fit {out} --out RUN"
    )


@prepare.command()
def networks(
    wheel: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="MediaPipe 0.10.14's wheel, where pip reaches no index.", show_default=False),
    ] = None,
) -> None:
    """Install, once, the networks that `prepare video` finds people with."""
    from selfrecon_warp.prepare.network_files import install_networks

    typer.echo(f"networks: {install_networks(wheel=wheel)}")


@prepare.command("people-snapshot")
def people_snapshot(
    folder: Annotated[Path, typer.Argument(help="With camera.pkl, masks.hdf5, reconstructed_poses.hdf5, one video.")],
    out: Out,
    start: Annotated[int, typer.Option(min=0, help="First frame taken; the rest is renumbered.")] = 0,
    undistort: Annotated[bool, typer.Option("--undistort", help="Remove the lens distortion camera_k.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """A PeopleSnapshot or VideoAvatars folder."""
    from selfrecon_warp.prepare.people_snapshot import import_people_snapshot

    count, remark = import_people_snapshot(folder, out, start=start, undistort=undistort, overwrite=overwrite)
    _notes([remark] if remark else [])
    typer.echo(f"capture: {out}, {count} frames; next: selfrecon check {out}")


@prepare.command("import")
def import_(
    images: Annotated[Path, typer.Option(metavar="DIR|VIDEO", help="Pictures that the estimator saw.")],
    smpl: Annotated[Path, typer.Option(metavar="FILE", help="The estimator's file or folder.")],
    out: Out,
    source: Annotated[
        str, typer.Option("--format", help="auto, gvhmr, wham, tram, 4dhumans, romp or selfrecon.")
    ] = "auto",
    masks: Annotated[
        Path | None,
        typer.Option(metavar="DIR|VIDEO", help="Masks; when absent, the pictures' alpha.", show_default=False),
    ] = None,
    normals: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Normal maps, .png or .npy.", show_default=False)
    ] = None,
    camera: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Camera: .npz, .npy, .json, .txt or .pkl.", show_default=False),
    ] = None,
    focal: Annotated[
        float | None, typer.Option(metavar="PX", help="Focal length instead of a file.", show_default=False)
    ] = None,
    track: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Which person; the one seen longest when absent.", show_default=False),
    ] = None,
    start: Annotated[int, typer.Option(min=0, help="First frame.")] = 0,
    stop: Annotated[int | None, typer.Option(min=1, help="Frame before which to stop.", show_default=False)] = None,
    step: Annotated[int, typer.Option(min=1, help="Take every so many frames.")] = 1,
    mask_threshold: Annotated[float, typer.Option(help="Share of white from which on a pixel is the person.")] = 0.5,
    normals_frame: Annotated[
        str, typer.Option(help="Axes of the normals: viewer, camera, viewer-bgr, camera-bgr, or auto.")
    ] = "auto",
    normals_crop: Annotated[str, typer.Option(help="What the maps show: full or square.")] = "full",
    gender: Annotated[str | None, typer.Option(help="neutral, female or male.", show_default=False)] = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="Store video frames as PNG, not JPEG.")] = False,
    body_models: BodyModels = None,
    overwrite: Overwrite = False,
) -> None:
    """Pictures, masks and the file of GVHMR, WHAM, TRAM, 4D-Humans, ROMP or a capture."""
    from selfrecon_warp.prepare.import_capture import ImportSettings, import_capture

    settings = ImportSettings(
        images=images,
        body_file=smpl,
        source=source,
        track=track,
        masks=masks,
        mask_threshold=mask_threshold,
        normals=normals,
        normals_frame=normals_frame,
        normals_crop=normals_crop,
        camera=camera,
        focal=focal,
        start=start,
        stop=stop,
        step=step,
        gender=gender,
        lossless=lossless,
    )
    done = import_capture(settings, out, body_models=body_models, overwrite=overwrite)
    _notes(done.remarks)
    typer.echo(
        f"capture: {out}, {done.frames} frames from {done.source}, read as {done.reading.words}; body and masks "
        "overlap "
        f"{done.reading.overlap:.2f}; next: selfrecon check {out}"
    )


@prepare.command()
def normals(
    capture: Annotated[Path, typer.Argument(help="Capture, or a folder of captures named 0, 1, 2...")],
    model: Annotated[Path, typer.Option(metavar="ONNX", help="Network: one picture in, normals out.")],
    scaling: Annotated[
        str, typer.Option("--input", help="What it takes: signed (-1..1), unit (0..1), imagenet or bytes.")
    ] = "signed",
    frame: Annotated[str, typer.Option(help="What it gives: viewer, camera, viewer-bgr or camera-bgr.")] = "viewer",
    keep_background: Annotated[
        bool, typer.Option("--keep-background", help="Show it the surroundings, not black.")
    ] = False,
    body_models: BodyModels = None,
    overwrite: Overwrite = False,
) -> None:
    """Predict the normals of a capture with a network exported to ONNX."""
    from selfrecon_warp.prepare.normal_network import predict_normals

    written = predict_normals(
        capture,
        model,
        scaling=scaling,
        axes=frame,
        keep_background=keep_background,
        body_models=body_models,
        overwrite=overwrite,
    )
    typer.echo("normals: " + ", ".join(map(str, written)))


@prepare.command()
def boxes(
    capture: Annotated[Path, typer.Argument(help="Capture, or a folder of captures named 0, 1, 2...")],
    body_models: BodyModels = None,
) -> None:
    """Write imgs/*_rect.txt: the person's square in every frame, for normal predictors."""
    from selfrecon_warp.prepare.normal_network import write_squares

    typer.echo(f"squares: {write_squares(capture, body_models=body_models)}")


@prepare.command()
def merge(
    captures: Annotated[list[Path], typer.Argument(help="Captures of one person in the same clothes.")],
    out: Out,
    body_models: BodyModels = None,
    overwrite: Overwrite = False,
) -> None:
    """Several clips of one person in one capture."""
    from selfrecon_warp.prepare.merge import merge_captures

    count, remarks = merge_captures(captures, out, body_models=body_models, overwrite=overwrite)
    _notes(remarks)
    typer.echo(f"capture: {out}, {count} frames in {len(captures)} captures' clips; next: selfrecon check {out}")


@prepare.command()
def refine(
    capture: Annotated[Path, typer.Argument(help="Capture whose body is fitted to its masks.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="CAPTURE2", help="Capture to write.", show_default=False)
    ] = None,
    height: Annotated[float | None, typer.Option(metavar="CM", help="The person's height.", show_default=False)] = None,
    focal_free: Annotated[
        bool, typer.Option("--focal-free", help="The focal length is a guess: improve it as well.")
    ] = False,
    keypoints: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keypoints as .npz, docs/prepare.md; when absent, keypoints.npz of the capture if there is one.",
            show_default=False,
        ),
    ] = None,
    body_models: BodyModels = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace CAPTURE2 or, without --out, the body.")
    ] = False,
) -> None:
    """Fit poses, shape and, if wanted, focal length anew, from the ones that a capture has."""
    from selfrecon_warp.prepare.refine import refine_capture

    done = refine_capture(
        capture,
        out,
        overwrite=overwrite,
        height_cm=height,
        focal_free=focal_free,
        keypoints=keypoints,
        body_models=body_models,
    )
    _notes(done.remarks)
    typer.echo(
        f"capture: {done.folder}, {done.frames} frames; body and masks overlap by {done.overlap:.3f}, before by "
        f"{done.overlap_before:.3f}; next: selfrecon check {done.folder}"
    )


def _notes(remarks: Iterable[str]) -> None:
    for remark in remarks:
        typer.echo(f"{typer.style('note:', fg='yellow', bold=True)} {remark}", err=True)
