"""What each part of the fit is worth: the same fit again and again, one part switched off at a time, scored."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.capture.ground_truth import read_ground_truth
from selfrecon_warp.config import Config, load_config
from selfrecon_warp.devices import select_device
from selfrecon_warp.errors import ConfigError, RunError
from selfrecon_warp.train.run_folder import RunFolder
from selfrecon_warp.train.session import DEFAULT_CONFIG, fit_capture
from selfrecon_warp.view.evaluate import evaluate_run

WHOLE = "everything"
PARTS: dict[str, tuple[str, ...]] = {
    "silhouettes": ("losses.contour=0", "losses.mask=0", "registration.contour_count=0"),
    "consistency": ("losses.consistency=0",),
    "normals": ("losses.normal=0", "registration.normal_count=0"),
    "colours": ("losses.colour=0", "registration.colour_count=0"),
    "rigidity": ("losses.rigidity=0",),
    "eikonal": ("losses.eikonal=0",),
    "pull": ("losses.pull=0",),
    "temporal": ("losses.temporal=0",),
    "poses": ("registration_period=0", "optimiser.poses=0", "optimiser.trans=0", "registration.body_sweeps=0"),
    "implicit gradient": ("method.implicit_gradient=false",),
}
"""Parts that can be switched off, and how; what a stage holds counts in every stage."""
STAGE_FIELDS = ("losses.", "registration_period")

COLUMNS = {
    "chamfer_aligned_cm": "chamfer [cm]",
    "normal_consistency_aligned": "normals",
    "silhouette_iou": "IoU",
    "joint_error_cm": "joints [cm]",
    "psnr_db": "PSNR [dB]",
}
"""Scores shown, by their name in ``metrics.json``."""


@dataclass(frozen=True)
class Variant:
    """One fit of an ablation.

    Attributes:
        without: Part that was switched off, or ``everything`` for none.
        seconds: What the fit took.
        scores: As in ``metrics.json``.
    """

    without: str
    seconds: float
    scores: dict[str, float]


def overrides_without(part: str, config: Config) -> list[str]:
    """Assignments that switch a part off in every stage of a configuration.

    Raises:
        ConfigError: There is no such part.
    """
    if part == WHOLE:
        return []
    if part not in PARTS:
        raise ConfigError(f"--part: no part '{part}'; there are {', '.join(PARTS)}")
    chosen = []
    for assignment in PARTS[part]:
        if assignment.startswith(STAGE_FIELDS):
            chosen += [f"stages.{index}.{assignment}" for index in range(len(config.stages))]
        else:
            chosen.append(assignment)
    return chosen


def ablate(
    capture_folder: Path,
    out: Path,
    *,
    parts: Sequence[str] = (),
    config: str | Path = DEFAULT_CONFIG,
    overrides: Sequence[str] = (),
    device: str = "auto",
    body_models: Path | None = None,
    console: Console | None = None,
) -> list[Variant]:
    """Fit once with everything and once without each part; write ``ablation.json`` and ``ablation.md``.

    A variant whose run is there and scored is not fitted again, so a stopped ablation goes on where it was.

    Args:
        capture_folder: Capture with ground truth beside it (``gt/``), as ``selfrecon synthesize`` writes.
        out: Folder of the runs and the tables.
        parts: Names from `PARTS`; all of them when empty.
        config: Packaged name or YAML file.
        overrides: ``path.to.key=value`` for every variant.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        body_models: Body model; the packaged one when absent.
        console: Where progress is shown.

    Raises:
        SelfReconError: An input is not usable, or a part is not known.
    """
    console = console or Console(stderr=True)
    base = load_config(config, overrides)
    plans = {part: overrides_without(part, base) for part in (WHOLE, *(parts or PARTS))}
    chosen_device = select_device(device)
    read_ground_truth(capture_folder)
    read_capture(capture_folder)
    folders = {part: out / part.replace(" ", "_") for part in plans}
    for folder in folders.values():
        RunFolder.require_available(folder, overwrite=True)
    variants = []
    for part, switches in plans.items():
        folder = folders[part]
        timing = folder / "seconds.json"
        if not timing.is_file():
            console.print(f"{part if part == WHOLE else f'without {part}'}", highlight=False)
            begun = time.monotonic()
            fit_capture(
                capture_folder,
                folder,
                config=config,
                overrides=[*overrides, *switches],
                device=device,
                body_models=body_models,
                overwrite=True,
                console=console,
            )
            seconds = time.monotonic() - begun
            evaluate_run(RunFolder.open(folder), capture_folder, chosen_device, console=console)
            timing.write_text(json.dumps(seconds), encoding="utf-8")
        scores = json.loads(RunFolder.open(folder).metrics_file.read_text(encoding="utf-8"))["fit"]
        seconds = json.loads(timing.read_text(encoding="utf-8"))
        variants.append(Variant(part, seconds, {name: scores[name] for name in COLUMNS if name in scores}))
        _write(out, variants)
    return variants


def ablation_rows(variants: Sequence[Variant]) -> list[list[str]]:
    """Heading and one row a variant, as text; differences to the whole fit in brackets."""
    whole = variants[0].scores
    rows = [["without", *COLUMNS.values(), "seconds"]]
    for variant in variants:
        cells = []
        for name in COLUMNS:
            value = variant.scores.get(name)
            if value is None:
                cells.append("-")
            elif variant is variants[0]:
                cells.append(f"{value:.4g}")
            else:
                cells.append(f"{value:.4g} ({value - whole[name]:+.2g})")
        rows.append(["nothing" if variant.without == WHOLE else variant.without, *cells, f"{variant.seconds:.0f}"])
    return rows


def _write(out: Path, variants: Sequence[Variant]) -> None:
    heading, *rows = ablation_rows(variants)
    lines = [heading, ["---", *("---:" for _ in heading[1:])], *rows]
    try:
        (out / "ablation.json").write_text(json.dumps([asdict(each) for each in variants], indent=1) + "\n", "utf-8")
        (out / "ablation.md").write_text("".join(f"| {' | '.join(line)} |\n" for line in lines), "utf-8")
    except OSError as error:
        raise RunError(f"{out}: cannot be written ({error.strerror or error}); choose another --out") from error
