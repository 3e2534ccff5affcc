"""Checkpoints: plain tensors and numbers in a versioned file, written whole or not at all, read without code."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from selfrecon_warp.errors import RunError

FORMAT = "selfrecon-warp checkpoint"
VERSION = 2
LATEST = "latest.pt"


@dataclass(frozen=True)
class Checkpoint:
    """State of a fit between two iterations.

    Attributes:
        iteration: Optimiser steps done so far, counted over all stages.
        stage: Name of the stage the next step belongs to.
        state: Nested dicts, lists and tuples of tensors, numbers, strings and ``None``: networks, per-frame parameters,
            optimisers, schedules.
        random: Random-number generators, as :func:`random_state` gives them.
    """

    iteration: int
    stage: str
    state: dict[str, Any]
    random: dict[str, Any]


def save_checkpoint(
    folder: Path, state: Mapping[str, Any], *, iteration: int, stage: str, label: str | None = None
) -> Path:
    """Write ``folder/latest.pt``, and a copy named ``label`` that later saves leave alone.

    The random-number generators are saved as they stand at the call, so a resumed fit draws what this one would have.
    A crash or a full disk during the call leaves the previous checkpoint untouched.

    Args:
        folder: Checkpoint folder; created when absent.
        state: Nested dicts, lists and tuples of tensors, numbers, strings and ``None``.
        iteration: Optimiser steps done so far, counted over all stages.
        stage: Name of the stage the next step belongs to.
        label: Name of the lasting copy, such as a stage just finished; no copy when ``None``.

    Returns:
        The path of the file that was written last.

    Raises:
        TypeError: ``state`` holds something that could not be read back without running code.
        RunError: The folder cannot be written.
    """
    _require_plain(state, "state")
    content = {
        "format": FORMAT,
        "version": VERSION,
        "iteration": iteration,
        "stage": stage,
        "state": _plain(state),
        "random": random_state(),
    }
    latest = folder / LATEST
    partial = folder / f".{LATEST}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(latest)
        if label is None:
            return latest
        shutil.copyfile(latest, partial)
        return partial.replace(folder / f"{label}.pt")
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        partial.unlink(missing_ok=True)
        raise RunError(
            f"{folder}: checkpoint cannot be written ({error}); free some space or choose another --out"
        ) from error


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint; tensors arrive on ``device``, random states on the CPU.

    Raises:
        RunError: The file is missing, damaged, no checkpoint of this project, or of a newer format.
    """
    if not path.is_file():
        raise RunError(
            f"{path}: no such checkpoint; the fit stopped before its first save, start it anew with --overwrite"
        )
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # the reader raises many kinds: zip, pickle, runtime, end of file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(
            f"{path}: damaged or not a checkpoint ({reason}); use another one there or fit anew with --overwrite"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise RunError(f"{path}: not a selfrecon checkpoint; give one that `selfrecon fit` wrote")
    if content["version"] != VERSION:
        raise RunError(
            f"{path}: checkpoint format {content['version']}, this version reads {VERSION}; "
            "use the selfrecon version named in the run's config.yaml or fit anew with --overwrite"
        )
    return Checkpoint(content["iteration"], content["stage"], content["state"], _on_cpu(content["random"]))


def random_state() -> dict[str, Any]:
    """The global random-number generators of Python and torch, every CUDA device included, as plain data."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    version, words, gauss = random.getstate()
    return {"torch": torch.get_rng_state(), "cuda": cuda, "python": [version, list(words), gauss]}


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Undo everything drawn since :func:`random_state`; CUDA states are restored as far as this machine has devices."""
    torch.set_rng_state(state["torch"])
    for index, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda_state, index)
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))


def _plain(value: Any) -> Any:
    """Mappings become dicts and tensors lose their graph and their share of larger storages."""
    if isinstance(value, torch.Tensor):
        detached = value.detach()
        whole = detached.numel() * detached.element_size() == detached.untyped_storage().nbytes()
        return detached if whole else detached.clone()
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return value


def _require_plain(value: Any, name: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, (str, int)):
                raise TypeError(f"{name}: keys must be str or int, got {key!r}")
            _require_plain(item, f"{name}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            _require_plain(item, f"{name}[{index}]")
    elif not isinstance(value, torch.Tensor) and type(value) not in (int, float, bool, str, type(None)):
        raise TypeError(f"{name}: must be tensors, numbers, str, None or dict, list, tuple of them, got {type(value)}")


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {name: _on_cpu(item) for name, item in value.items()}
    return [_on_cpu(item) for item in value] if isinstance(value, list) else value
