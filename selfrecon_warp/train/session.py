"""From a capture folder and settings to a fitted run: everything around the fit itself, in order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from selfrecon_warp.capture.check import check_capture, require_fit_ready
from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.config import Config, load_config
from selfrecon_warp.devices import select_device
from selfrecon_warp.model.body import load_body
from selfrecon_warp.train.fit import fit_avatar
from selfrecon_warp.train.run_folder import RunFolder

DEFAULT_CONFIG = "fast"


def fit_capture(
    capture_folder: Path,
    out: Path,
    *,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
    body_models: Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    tensorboard: bool = False,
    console: Console | None = None,
) -> RunFolder:
    """Check the inputs, make or reopen the run folder, and fit.

    Args:
        capture_folder: Capture in the reference layout.
        out: Run folder.
        config: Packaged name or YAML file; ``fast`` when absent, or what the run began with when resuming.
        overrides: ``path.to.key=value`` assignments on top.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        body_models: Body model file or folder; the body that comes with the package when absent.
        overwrite: Replace a run that is there.
        resume: Continue the run that is there from its last checkpoint.
        tensorboard: Also write TensorBoard events.
        console: Where progress is shown; standard error when absent.

    Raises:
        SelfReconError: An input is not usable; nothing has been written then.
        FitInterrupted: The user stopped the fit; a checkpoint was saved.
    """
    RunFolder.require_available(out, overwrite=overwrite, resume=resume)
    chosen = _choose_config(out, config, overrides, resume)
    torch_device = select_device(device)
    if resume and body_models is None:
        body_models = RunFolder.open(out).body_models
    capture = read_capture(capture_folder)
    body = load_body(body_models, capture.gender)
    report = check_capture(capture, body)
    require_fit_ready(report)
    run = RunFolder.create(
        out, chosen, capture=capture, body=body, body_models=body_models, overwrite=overwrite, resume=resume
    )
    console = console or Console(stderr=True)
    for problem in report.warnings:
        console.print(f"warning: {problem.message}", markup=False, highlight=False, soft_wrap=True)
    fit_avatar(capture, body, run, chosen, torch_device, resume=resume, tensorboard=tensorboard, console=console)
    return run


def _choose_config(out: Path, config: str | Path | None, overrides: Sequence[str], resume: bool) -> Config:
    if resume and config is None:
        return load_config(RunFolder.open(out).config_file, overrides)
    return load_config(config or DEFAULT_CONFIG, overrides)
