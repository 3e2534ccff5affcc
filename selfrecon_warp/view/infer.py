"""From a fitted run to files to look at: meshes, pictures and videos of every frame.

``canonical.ply``
    The mesh in the canonical pose, coloured as seen from outside.
``infer/meshes/%06d.ply``
    The mesh in each frame: world frame of the capture, metres, one topology, the canonical mesh's colours.
``infer/shaded``, ``infer/normals``, ``infer/colour``
    ``%06d.png`` in the capture's size: clay on white; normals encoded as captures store them; the appearance network
    asked at every pixel, on white. Each has an ``.mp4`` with the input beside it.
``infer/turntable.mp4``
    The canonical mesh turning once, coloured at every pixel.
``infer/overlap.json``
    Intersection over union of mesh and mask, frame by frame, and the ten worst.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from selfrecon_warp.capture.dataset import Capture
from selfrecon_warp.capture.image_file import read_image
from selfrecon_warp.errors import RunError
from selfrecon_warp.train.run_folder import RunFolder
from selfrecon_warp.train.saved import load_fit
from selfrecon_warp.view.mesh_io import write_ply
from selfrecon_warp.view.metrics import silhouette_iou
from selfrecon_warp.view.reconstruction import Reconstruction
from selfrecon_warp.view.render import Canvas, orbit_camera, turn_about_vertical
from selfrecon_warp.view.video import write_video

PICTURES = ("shaded", "normals", "colour")
"""Folders of pictures, and videos of the same name."""
SUPERSAMPLE = 2
FRAMES_PER_SECOND = 30
TURNTABLE_VIEWS = 72
TURNTABLE_SIZE = (540, 405)  # height, width [px]
TURNTABLE_PER_SECOND = 24
WORST = 10


def infer_run(
    run: RunFolder, device: torch.device, *, cell: float | None = None, console: Console | None = None
) -> dict[int, float]:
    """Write everything this module's head lists; earlier results go only once the new ones are complete.

    Args:
        run: A fitted run.
        device: Where to compute.
        cell: Cell edge of the extraction lattice [m]; the configured one when absent.
        console: Where progress is shown; standard error when absent.

    Returns:
        Silhouette overlap of every frame.

    Raises:
        RunError: The run has no usable checkpoint, its capture is gone or changed, or the folder cannot be written.
        CaptureError: The capture is damaged.
    """
    fit = load_fit(run, device)
    reconstruction = Reconstruction(fit.avatar, cell or fit.config.output_cell)
    colours = reconstruction.vertex_colours()
    with _replacing(run.infer) as folder, progress_bars(console) as progress:
        overlaps = _write_frames(folder, reconstruction, colours, fit.capture, progress)
        _write_videos(folder, fit.capture, progress)
        task = progress.add_task("turntable", total=TURNTABLE_VIEWS)
        write_video(
            folder / "turntable.mp4",
            turntable_colours(reconstruction, TURNTABLE_VIEWS),
            TURNTABLE_PER_SECOND,
            progress=lambda done: progress.update(task, completed=done),
        )
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
    folder: Path, reconstruction: Reconstruction, colours: torch.Tensor, capture: Capture, progress: Progress
) -> dict[int, float]:
    """Meshes and pictures of every frame; returns the overlaps."""
    for name in PICTURES:
        (folder / name).mkdir()
    overlaps: dict[int, float] = {}
    camera, faces = reconstruction.avatar.camera, reconstruction.faces
    task = progress.add_task("meshes, pictures", total=len(capture))
    for frames in reconstruction.batches(range(len(capture))):
        posed = reconstruction.posed(frames)
        jacobians = reconstruction.jacobians(frames, posed)
        for frame, vertices, jacobian in zip(frames, posed, jacobians, strict=True):
            write_ply(folder / "meshes" / f"{frame:06d}.ply", vertices, faces, colours)
            canvas = Canvas(vertices, faces, camera, SUPERSAMPLE)
            coloured = canvas.painted(*reconstruction.pixel_colours(canvas, jacobian))
            for name, picture in zip(PICTURES, (canvas.shaded(), canvas.normals(), coloured), strict=True):
                _write_png(folder / name / f"{frame:06d}.png", picture)
            mask = (canvas.centre_faces >= 0).cpu().numpy()
            overlaps[frame] = float(silhouette_iou(mask, capture.load_mask(frame)))
            progress.advance(task)
    return overlaps


def _write_videos(folder: Path, capture: Capture, progress: Progress) -> None:
    """Each kind of picture with the input to its left."""
    task = progress.add_task("videos", total=len(PICTURES) * len(capture))

    def pairs(name: str) -> Iterator[np.ndarray]:
        for frame in range(len(capture)):
            progress.advance(task)
            yield np.hstack((capture.load_image(frame), read_image(folder / name / f"{frame:06d}.png")))

    for name in PICTURES:
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


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A hidden sibling that takes the folder's place when the block ends well and vanishes otherwise."""
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            staging.chmod(folder.parent.stat().st_mode)
            yield staging
            shutil.rmtree(folder, ignore_errors=True)
            staging.replace(folder)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"{folder}: cannot be written ({reason}); free some space or check permissions") from error
