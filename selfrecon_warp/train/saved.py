"""A fitted avatar, brought back from its run folder."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from selfrecon_warp.capture.dataset import Capture, read_capture
from selfrecon_warp.config import Config
from selfrecon_warp.errors import BodyModelError, RunError
from selfrecon_warp.model.avatar import Avatar
from selfrecon_warp.model.body import DEFAULT_BODY, BodyModel, load_body
from selfrecon_warp.train.checkpoint import LATEST, Checkpoint, load_checkpoint
from selfrecon_warp.train.run_folder import RunFolder


@dataclass(frozen=True)
class SavedFit:
    """What a run holds of its fit, and what it was fitted to.

    Attributes:
        run: The run folder.
        config: The settings of the fit.
        capture: The capture, with the camera and the body parameters it came with.
        avatar: The avatar of the last checkpoint; nothing in it asks for gradients.
        iteration: Optimiser steps the avatar has seen.
    """

    run: RunFolder
    config: Config
    capture: Capture
    avatar: Avatar
    iteration: int


def load_avatar(run: RunFolder, device: torch.device) -> Avatar:
    """The avatar of a run's last checkpoint; see :func:`load_fit`."""
    return load_fit(run, device).avatar


def load_fit(run: RunFolder, device: torch.device) -> SavedFit:
    """Open a run's last checkpoint together with its capture.

    Args:
        run: The run folder.
        device: Where the avatar shall live.

    Raises:
        RunError: There is no checkpoint, it is damaged or of other settings, or the capture or the body model is gone
            or no longer what the run was fitted to.
        CaptureError: The capture is damaged.
    """
    checkpoint = load_checkpoint(run.checkpoints / LATEST, device)
    config = run.config
    capture = read_capture(run.capture_folder)
    if capture.fingerprint() != run.provenance["capture"]["fingerprint"]:
        raise RunError(
            f"{capture.root}: has changed since {run.path} was fitted to it; restore it or fit anew with --overwrite"
        )
    body = _load_body(run, capture.gender).to(device)
    avatar = _rebuild(run, config, body, capture, checkpoint, device)
    return SavedFit(run, config, capture, avatar, checkpoint.iteration)


def _load_body(run: RunFolder, gender: str) -> BodyModel:
    recorded = run.provenance["body"]
    try:
        body = load_body(run.body_models or DEFAULT_BODY, gender)
    except BodyModelError as error:
        raise RunError(f"{run.path}: its body model {recorded['name']} cannot be loaded: {error}") from error
    if body.fingerprint != recorded["fingerprint"]:
        raise RunError(
            f"{run.path}: was fitted with another version of the body model {recorded['name']} than the one at "
            f"{run.body_models or 'its place in the package'}; put that one back or fit anew with --overwrite"
        )
    return body


def _rebuild(
    run: RunFolder, config: Config, body: BodyModel, capture: Capture, checkpoint: Checkpoint, device: torch.device
) -> Avatar:
    camera = copy.deepcopy(capture.camera).to(device)
    try:
        avatar = Avatar.from_state(config.model, body, camera, checkpoint.state["avatar"])
    except (KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(" ".join(str(error).split())[:200].split(" ")[:-1])
        raise RunError(
            f"{run.checkpoints / LATEST}: does not fit the settings in {run.config_file} or this version of "
            f"selfrecon-warp ({reason} ...); use what the run began with or fit anew with --overwrite"
        ) from error
    avatar.anneal(checkpoint.iteration - 1)
    return avatar.requires_grad_(False).eval()
