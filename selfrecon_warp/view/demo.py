"""The whole pipeline on a person made up on the spot, with nothing from outside the package."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from selfrecon_warp.asset.export import export_run
from selfrecon_warp.asset.texture import texture_run
from selfrecon_warp.capture.ground_truth import read_ground_truth
from selfrecon_warp.errors import RunError
from selfrecon_warp.synthesis.synthesize import synthesize_capture
from selfrecon_warp.train.progress import FitInterrupted
from selfrecon_warp.train.session import fit_capture
from selfrecon_warp.view.evaluate import evaluate_run
from selfrecon_warp.view.infer import infer_run, progress_bars
from selfrecon_warp.view.run_report import report_run

CAPTURE, RUN, AVATAR, REPORT = "capture", "run", "avatar.glb", "report.html"


@dataclass(frozen=True)
class DemoSize:
    """How large a demo is.

    Attributes:
        frames: Pictures of the turn.
        size: Side of the pictures [px].
        config: Configuration of the fit.
        texels: Side of the texture.
        faces: Triangles of the exported avatar.
        outfit: What the person wears.
        seed: Of the person and the fit's random numbers.
    """

    frames: int
    size: int
    config: str
    texels: int
    faces: int
    outfit: str = "casual"
    seed: int = 1


FULL = DemoSize(frames=60, size=360, config="fast", texels=2048, faces=30_000)
SMOKE = DemoSize(frames=8, size=112, config="smoke", texels=256, faces=2_000)


def run_demo(
    out: Path,
    device: torch.device,
    smoke: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> Path:
    """Synthesize a capture, fit, infer, texture, export, score and report.

    Args:
        out: Folder that will hold ``capture``, ``run``, ``avatar.glb`` and ``report.html``.
        device: Where to fit.
        smoke: A tiny capture and a few steps: does everything run?
        overwrite: Replace an earlier demo.
        console: Where progress is shown; standard error when absent.

    Returns:
        The report.

    Raises:
        RunError: ``out`` holds something already, or cannot be written.
    """
    _require_free(out, overwrite)
    size = SMOKE if smoke else FULL
    console = console or Console(stderr=True)

    console.print(f"1/5 a person is made up: {size.frames} pictures of {size.size}x{size.size}")
    with progress_bars(console) as progress:
        task = progress.add_task("pictures", total=size.frames)
        synthesize_capture(
            out / CAPTURE,
            seed=size.seed,
            frames=size.frames,
            size=size.size,
            outfit=size.outfit,
            overwrite=overwrite,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    console.print("2/5 the avatar is fitted")
    try:
        run = fit_capture(
            out / CAPTURE,
            out / RUN,
            config=size.config,
            overrides=[f"seed={size.seed}"],
            device=str(device),
            overwrite=overwrite,
            console=console,
        )
    except FitInterrupted as stop:
        raise KeyboardInterrupt from stop
    console.print("3/5 meshes and pictures are written")
    infer_run(run, device, console=console)
    console.print("4/5 a texture is baked, a rigged and animated avatar.glb is written")
    texture_run(run, device, size=size.texels, face_count=size.faces, console=console)
    export_run(run, device, out / AVATAR)
    console.print("5/5 scores and report")
    truth = read_ground_truth(out / CAPTURE)
    evaluation = evaluate_run(run, truth.root, device, console=console)
    console.print(evaluation.table())
    report = report_run(
        run,
        device,
        truth=truth,
        title="selfrecon demo",
        summary=f"A synthetic person turning once before a camera, {size.frames} pictures of {size.size}x{size.size} "
        "pixels with noisy body poses and noisy normals, reconstructed and scored against the exact ground truth.",
        console=console,
    )
    return Path(shutil.copyfile(report, out / REPORT))


def _require_free(out: Path, overwrite: bool) -> None:
    """Refuse to touch what no demo has made."""
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: is a file; give a folder for the demo with --out")
    held = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
    if held and not overwrite:
        raise RunError(f"{out}: is not empty; replace an earlier demo with --overwrite or choose another --out")
    foreign = sorted(held - {CAPTURE, RUN, AVATAR, REPORT})
    if foreign:
        raise RunError(f"{out}: holds {foreign[0]}, which no demo made, so it is left alone; choose another --out")
