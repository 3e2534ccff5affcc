"""Trained models of the reference implementation, brought into a run folder of this project.

A checkpoint of the reference holds, as plain tensors, the networks' state, the camera, poses and per-frame codes. The
networks' layers keep their meaning; what changes is

* names: ``sdf.lin0`` ... and ``netRender.lin0`` ... (weight norm as ``weight_g``, ``weight_v``), ``deformer.defs.0``;
* colours: the reference learns blue, green, red in [-1, 1], so the renderer's last layer is turned round;
* the colours' per-frame code, which it never uses, and its extraction buffers are left behind, as its own loader does;
* skinning: all of it is the capture's ``initial_skinner_*.pth``, which its own loader takes too; without that file, box
  and rest joints are the checkpoint's and weights are built from the body model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfrecon_warp.capture.dataset import Capture, read_capture
from selfrecon_warp.config import Config, load_config
from selfrecon_warp.errors import RunError
from selfrecon_warp.model.avatar import Avatar
from selfrecon_warp.model.body import BodyModel, load_body
from selfrecon_warp.train.checkpoint import save_checkpoint
from selfrecon_warp.train.published_config import read_published_config
from selfrecon_warp.train.published_skinner import (
    PublishedSkinner,
    read_published_file,
    read_published_skinner,
    skeleton_of,
)
from selfrecon_warp.train.run_folder import RunFolder

CAMERA = {
    "focal": "focal_length",
    "principal": "princeple_points",
    "quat": "cam2world_coord_quat",
    "T": "world2cam_coord_trans",
}
LAYER = re.compile(r"(?:.*\.)?(sdf|netRender|deformer\.defs\.0)\.lin(\d+)\.(weight_g|weight_v|weight|bias)$")
FIELD_LAYER = re.compile(r"lin(\d+)\.(weight_g|weight_v|weight|bias)$")
SKINNER = "deformer.defs.1."


@dataclass(frozen=True)
class PublishedCheckpoint:
    """What a reference checkpoint says.

    Attributes:
        path: The file.
        epoch: Passes over the capture.
        layers: Parameters by network (``sdf``, ``netRender``, ``deformer.defs.0``), layer number and kind.
        frames: ``poses [N, J, 3]``, ``trans [N, 3]``, ``codes [N, C]``, ``betas [K]``, each where the file has it.
        camera: The camera's parameters by our names.
        skinner: Canonical box and skeleton, where the file has them.
    """

    path: Path
    epoch: int
    layers: dict[tuple[str, int, str], Tensor]
    frames: dict[str, Tensor]
    camera: dict[str, Tensor]
    skinner: PublishedSkinner | None


def read_published_checkpoint(path: Path) -> PublishedCheckpoint:
    """Read a ``.pth`` of the reference without running any code in it.

    Raises:
        RunError: The file is missing, damaged, or holds no networks of the reference.
    """
    content = read_published_file(path, "a checkpoint of the reference, such as its latest.pth")
    flat = dict(_flattened(content)) if isinstance(content, Mapping) else {}
    layers = {}
    for name, tensor in flat.items():
        match = LAYER.match(name)
        if match and isinstance(tensor, Tensor):
            layers[match[1], int(match[2]), match[3]] = tensor.float()
    if not any(network == "sdf" for network, _, _ in layers):
        raise RunError(f"{path}: no checkpoint of the reference: it holds no sdf.lin0; give its latest.pth")
    named = {name.rsplit(".", 1)[-1]: value for name, value in flat.items() if isinstance(value, Tensor)}
    frames = {
        ours: named[theirs].float()
        for ours, theirs in (("poses", "poses"), ("trans", "trans"), ("betas", "shape"), ("codes", "dcond"))
        if theirs in named
    }
    if "poses" in frames:
        frames["poses"] = frames["poses"].reshape(len(frames["poses"]), -1, 3)
    if "betas" in frames:
        frames["betas"] = frames["betas"].flatten()
    camera = {ours: named[theirs].float().flatten() for ours, theirs in CAMERA.items() if theirs in named}
    held = {name.split(SKINNER)[1]: value for name, value in flat.items() if SKINNER in name}
    skinner = None
    if {"b_min", "b_max", "Js"} <= held.keys():
        skinner = skeleton_of(path, held["b_min"], held["b_max"], held["Js"], held.get("init_pose"))
    return PublishedCheckpoint(path, int(flat.get("epoch", 0)), layers, frames, camera, skinner)


def read_published_field(path: Path) -> dict[tuple[str, int, str], Tensor]:
    """The field's layers of a checkpoint, or of a file that holds a field alone, such as ``initial_sdf_idr_6_1.pth``.

    Raises:
        RunError: The file is missing, damaged, or holds no field of the reference.
    """
    content = read_published_file(path, "a checkpoint of the reference or its initial_sdf_idr_*.pth")
    alone = {}
    for name, value in content.items() if isinstance(content, Mapping) else ():
        match = FIELD_LAYER.match(name)
        if match and isinstance(value, Tensor):
            alone["sdf", int(match[1]), match[2]] = value.float()
    if alone:
        return alone
    layers = read_published_checkpoint(path).layers
    return {key: value for key, value in layers.items() if key[0] == "sdf"}


def import_published_run(
    folder: Path,
    capture_folder: Path,
    out: Path,
    *,
    checkpoint: str = "latest.pth",
    sdf: Path | None = None,
    leave_out: Sequence[str] = (),
    skinner: Path | None = None,
    body_models: Path | None = None,
    overwrite: bool = False,
) -> RunFolder:
    """Turn a folder the reference trained into a run: ``infer``, ``evaluate`` and all others then work on it.

    Args:
        folder: Where the reference saved; its ``config.conf`` is used when it is there.
        capture_folder: The capture it was trained on.
        out: Run folder to be made.
        checkpoint: File in ``folder``.
        sdf: A file whose field replaces this one's: another checkpoint, or a field alone.
        leave_out: Prefixes of the reference's parameter names that are not taken over; they start untrained.
        skinner: Its skinning cache; ``initial_skinner_{pose type}.pth`` in the capture when absent, if it is there.
        body_models: Body model it was trained with; the body that comes with the package when absent.
        overwrite: Replace a run that is there.

    Raises:
        SelfReconError: A file is missing or damaged, or does not fit the capture, the configuration or the body.
    """
    RunFolder.require_available(out, overwrite=overwrite)
    conf = folder / "config.conf"
    config = read_published_config(conf) if conf.is_file() else load_config("selfrecon")
    read = read_published_checkpoint(folder / checkpoint)
    layers = {
        key: value
        for key, value in read.layers.items()
        if not f"{key[0]}.lin{key[1]}.{key[2]}".startswith(tuple(leave_out))
    }
    if sdf is not None:
        layers = {key: value for key, value in layers.items() if key[0] != "sdf"} | read_published_field(sdf)
    capture = read_capture(capture_folder)
    body = load_body(body_models, capture.gender)
    cache = capture_folder / f"initial_skinner_{config.model.canonical_pose}.pth"
    if skinner is not None or cache.is_file():
        around: PublishedSkinner | None = read_published_skinner(skinner or cache)
    else:
        around = read.skinner
    if around is not None:
        config = config.model_copy(update={"model": around.placed(config.model)})
    avatar = _avatar(read, layers, config, capture, body, around)
    run = RunFolder.create(out, config, capture=capture, body=body, body_models=body_models, overwrite=overwrite)
    save_checkpoint(
        run.checkpoints,
        {"avatar": avatar.fitted_state()},
        iteration=config.model.offset.anneal_iterations + 1,
        stage=config.stages[-1].name,
    )
    return run


def _flattened(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for name, value in content.items():
        if isinstance(value, Mapping):
            leaves += _flattened(value, f"{prefix}{name}.")
        else:
            leaves.append((f"{prefix}{name}", value))
    return leaves


def _avatar(
    read: PublishedCheckpoint,
    layers: Mapping[tuple[str, int, str], Tensor],
    config: Config,
    capture: Capture,
    body: BodyModel,
    skinner: PublishedSkinner | None,
) -> Avatar:
    given = {"poses": capture.poses, "trans": capture.trans, "betas": capture.betas, **read.frames}
    count = len(given["poses"])
    if count < len(capture):
        raise RunError(
            f"{read.path}: was trained on {count} frames, {capture.root} has {len(capture)}; give the capture it was "
            "trained on"
        )
    camera = capture.camera
    with torch.no_grad():
        for name, values in read.camera.items():
            getattr(camera, name).copy_(values)
    offsets = torch.zeros(body.joint_count, 3)
    if skinner is not None:
        offsets = skinner.joint_offsets(body, given["betas"], config.model.canonical_pose)
    torch.manual_seed(config.seed)
    avatar = Avatar(
        config.model,
        body,
        camera,
        given["poses"][: len(capture)],
        given["trans"][: len(capture)],
        given["betas"],
        offsets,
        None if skinner is None else skinner.weights,
    )
    state = avatar.state_dict()
    for (network, layer, kind), value in layers.items():
        name = _our_name(network, layer, kind, config)
        if network == "netRender" and layer == config.model.appearance.depth:
            value = value.flip(0)
        _require_shape(read.path, f"{network}.lin{layer}.{kind}", value, name, state)
        state[name] = value
    if "codes" in given:
        codes = given["codes"][: len(capture)]
        _require_shape(read.path, "dcond", codes, "codes", state)
        state["codes"] = codes
    avatar.load_state_dict(state)
    return avatar


def _our_name(network: str, layer: int, kind: str, config: Config) -> str:
    normed = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    leaf = normed.get(kind, kind)
    if network == "sdf":
        return f"sdf.layers.{layer}.{leaf}"
    owner, depth = (
        ("appearance", config.model.appearance.depth)
        if network == "netRender"
        else ("deformation.offset", config.model.offset.depth)
    )
    place = "last" if layer == depth else f"hidden.{layer}"
    return f"{owner}.network.{place}.{leaf}"


def _require_shape(path: Path, theirs: str, value: Tensor, ours: str, state: Mapping[str, Tensor]) -> None:
    if ours not in state:
        raise RunError(f"{path}: {theirs} has no place in a network of the configured depth; check config.conf")
    if state[ours].shape != value.shape:
        expected, found = list(state[ours].shape), list(value.shape)
        raise RunError(f"{path}: {theirs} must have shape {expected} by the configuration, got {found}")
