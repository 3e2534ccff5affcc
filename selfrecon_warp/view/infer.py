"""From a fitted run to files to look at: meshes, pictures and videos of every frame.

``canonical.ply``
    The mesh in the canonical pose, coloured as seen from outside.
``infer/meshes/%06d.ply``
    The mesh in each frame: world frame of the capture, metres, one topology, the canonical mesh's colours.
``infer/shaded``, ``infer/normals``, ``infer/colour``
    ``%06d.png`` in the capture's size: clay on white; normals encoded as captures store them; the appearance network
    asked at every pixel, on white. Each has an ``.mp4`` with the input beside it.
``infer/offset``
    On request: the canonical mesh as the learned offset alone moves it in each frame, from the front, with ``.mp4``.
``infer/turntable.mp4``
    The canonical mesh turning once, coloured at every pixel.
``infer/overlap.json``
    Intersection over union of mesh and mask, frame by frame, and the ten worst.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from selfrecon_warp.capture.dataset import Capture
from selfrecon_warp.capture.image_file import read_image
from selfrecon_warp.errors import ConfigError
from selfrecon_warp.staging import replacing_folder
from selfrecon_warp.train.run_folder import RunFolder
from selfrecon_warp.train.saved import load_fit
from selfrecon_warp.view.mesh_io import write_ply
from selfrecon_warp.view.metrics import silhouette_iou
from selfrecon_warp.view.reconstruction import Reconstruction
from selfrecon_warp.view.render import WHITE, Canvas, orbit_camera, turn_about_vertical
from selfrecon_warp.view.video import write_video

COLOUR, OFFSET = "colour", "offset"
PICTURES = ("shaded", "normals", COLOUR)
"""Folders of pictures in the capture's camera, and videos of the same name."""
SUPERSAMPLE = 2
FRAMES_PER_SECOND = 30
TURNTABLE_VIEWS = 72
TURNTABLE_SIZE = (540, 405)  # height, width [px]
TURNTABLE_PER_SECOND = 24
WORST = 10


@dataclass(frozen=True)
class Wanted:
    """What to write besides the meshes and their overlaps.

    Attributes:
        frames: Which frames, ascending; all when ``None``.
        images: Keep a picture of every frame.
        videos: Write videos, the turntable too.
        colour: Ask the appearance network at every pixel, the slowest part.
        over_photo: Draw shaded and coloured pictures over the photograph instead of on white.
        offset: Also draw what the learned offset alone does to the canonical mesh.
    """

    frames: Sequence[int] | None = None
    images: bool = True
    videos: bool = True
    colour: bool = True
    over_photo: bool = False
    offset: bool = False

    @property
    def pictures(self) -> tuple[str, ...]:
        """Kinds of pictures to draw."""
        if not (self.images or self.videos):
            return ()
        chosen = [name for name in PICTURES if self.colour or name != COLOUR]
        return (*chosen, OFFSET) if self.offset else tuple(chosen)


EVERYTHING = Wanted()


def parse_frames(text: str, count: int) -> list[int]:
    """Frames that a text names, ascending: numbers and ranges ``first:end:step`` with commas between them.

    A range works as Python's: its end is left out, any part may be missing, negative numbers count from the end.

    Args:
        text: Such as ``:60``, ``::4`` or ``0,5,20:30``.
        count: Frames there are.

    Raises:
        ConfigError: The text is not understood, or names no frame of those there are.
    """
    chosen: set[int] = set()
    for part in text.split(","):
        try:
            numbers = [int(number) if number.strip() else None for number in part.split(":")]
            if len(numbers) == 1 and numbers[0] is not None:
                chosen.add(range(count)[numbers[0]])
            elif len(numbers) in (2, 3):
                chosen.update(range(count)[slice(*numbers)])
            else:
                raise ValueError
        except (ValueError, IndexError) as error:
            raise ConfigError(
                f"--frames {text}: '{part}' is neither a frame from 0 to {count - 1} nor a range such as 0:{count}:4"
            ) from error
    if not chosen:
        raise ConfigError(f"--frames {text}: names none of the {count} frames; give a range such as 0:{count}:4")
    return sorted(chosen)


def infer_run(
    run: RunFolder,
    device: torch.device,
    *,
    cell: float | None = None,
    wanted: Wanted = EVERYTHING,
    console: Console | None = None,
) -> dict[int, float]:
    """Write what this module's head lists; earlier results go only once the new ones are complete.

    Args:
        run: A fitted run.
        device: Where to compute.
        cell: Cell edge of the extraction lattice [m]; the configured one when absent.
        wanted: Which frames and files.
        console: Where progress is shown; standard error when absent.

    Returns:
        Silhouette overlap of every frame asked for.

    Raises:
        RunError: The run has no usable checkpoint, its capture is gone or changed, or the folder cannot be written.
        CaptureError: The capture is damaged.
    """
    fit = load_fit(run, device)
    frames = range(len(fit.capture)) if wanted.frames is None else wanted.frames
    reconstruction = Reconstruction(fit.avatar, cell or fit.config.output_cell)
    colours = reconstruction.vertex_colours()
    with replacing_folder(run.infer) as folder, progress_bars(console) as progress:
        overlaps = _write_frames(folder, reconstruction, colours, fit.capture, frames, wanted, progress)
        if wanted.videos:
            _write_videos(folder, fit.capture, frames, wanted, progress)
            task = progress.add_task("turntable", total=TURNTABLE_VIEWS)
            write_video(
                folder / "turntable.mp4",
                turntable_colours(reconstruction, TURNTABLE_VIEWS),
                TURNTABLE_PER_SECOND,
                progress=lambda done: progress.update(task, completed=done),
            )
        if not wanted.images:
            for name in wanted.pictures:
                shutil.rmtree(folder / name)
        _write_overlaps(folder / "overlap.json", overlaps)
    write_ply(run.canonical_mesh, reconstruction.vertices, reconstruction.faces, colours)
    return overlaps


def turntable_colours(reconstruction: Reconstruction, views: int) -> Iterator[np.ndarray]:
    """Views of the canonical mesh turning once about the vertical axis, RGB ``[H, W, 3]`` uint8 on white."""
    vertices = reconstruction.vertices
    camera = orbit_camera(vertices, *TURNTABLE_SIZE).to(vertices.device)
    middle = (vertices.amin(0) + vertices.amax(0)) / 2
    for view in range(views):
        turn = turn_about_vertical(view / views).to(vertices)
        canvas = Canvas((vertices - middle) @ turn.T + middle, reconstruction.faces, camera, SUPERSAMPLE)
        yield canvas.painted(*reconstruction.pixel_colours(canvas, turn.expand(len(vertices), 3, 3)))


def progress_bars(console: Console | None = None) -> Progress:
    """A display for loops over frames, on standard error unless told otherwise."""
    return Progress(
        TextColumn("{task.description:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console or Console(stderr=True),
    )


def _write_frames(
    folder: Path,
    reconstruction: Reconstruction,
    colours: torch.Tensor,
    capture: Capture,
    frames: Sequence[int],
    wanted: Wanted,
    progress: Progress,
) -> dict[int, float]:
    """Meshes and pictures of some frames; returns the overlaps."""
    for name in wanted.pictures:
        (folder / name).mkdir()
    overlaps: dict[int, float] = {}
    camera, faces = reconstruction.avatar.camera, reconstruction.faces
    front = orbit_camera(reconstruction.vertices, camera.height, camera.width).to(reconstruction.vertices.device)
    task = progress.add_task("meshes, pictures", total=len(frames))
    for batch in reconstruction.batches(frames):
        posed = reconstruction.posed(batch)
        jacobians = reconstruction.jacobians(batch, posed) if COLOUR in wanted.pictures else posed[..., None]
        for frame, vertices, jacobian in zip(batch, posed, jacobians, strict=True):
            write_ply(folder / "meshes" / f"{frame:06d}.ply", vertices, faces, colours)
            canvas = Canvas(vertices, faces, camera, SUPERSAMPLE)
            background = capture.load_image(frame) if wanted.over_photo else WHITE
            for name in wanted.pictures:
                if name == "shaded":
                    picture = canvas.shaded(background)
                elif name == "normals":
                    picture = canvas.normals()
                elif name == COLOUR:
                    picture = canvas.painted(*reconstruction.pixel_colours(canvas, jacobian), background)
                else:
                    picture = Canvas(reconstruction.offset(frame), faces, front, SUPERSAMPLE).shaded()
                _write_png(folder / name / f"{frame:06d}.png", picture)
            mask = (canvas.centre_faces >= 0).cpu().numpy()
            overlaps[frame] = float(silhouette_iou(mask, capture.load_mask(frame)))
            progress.advance(task)
    return overlaps


def _write_videos(folder: Path, capture: Capture, frames: Sequence[int], wanted: Wanted, progress: Progress) -> None:
    """Each kind of picture with the input to its left."""
    task = progress.add_task("videos", total=len(wanted.pictures) * len(frames))

    def pairs(name: str) -> Iterator[np.ndarray]:
        for frame in frames:
            progress.advance(task)
            yield np.hstack((capture.load_image(frame), read_image(folder / name / f"{frame:06d}.png")))

    for name in wanted.pictures:
        write_video(folder / f"{name}.mp4", pairs(name), FRAMES_PER_SECOND)


def _write_overlaps(path: Path, overlaps: Mapping[int, float]) -> None:
    worst = sorted(overlaps, key=lambda frame: overlaps[frame])[:WORST]
    values = list(overlaps.values())
    record = {
        "mean": round(float(np.mean(values)), 5),
        "min": round(min(values), 5),
        "max": round(max(values), 5),
        "worst": {f"{frame:06d}": round(overlaps[frame], 5) for frame in worst},
        "frames": {f"{frame:06d}": round(overlap, 5) for frame, overlap in overlaps.items()},
    }
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _write_png(path: Path, picture: np.ndarray) -> None:
    path.write_bytes(cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes())
