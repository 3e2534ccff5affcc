"""The reference implementation's HOCON configuration, read into this project's.

Every key of its schema has a place here or is inert there: the scheduler's type, ``shuffle`` (frames are always
shuffled), ``num_workers`` (captures stay in memory) and the colour network's unused code and normal bands.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from selfrecon_warp.config import Config, load_config
from selfrecon_warp.errors import ConfigError

STAGES = ("coarse", "medium", "fine")
CAMERA_TERMS = {"focal_length": "focal", "princeple_points": "principal", "quat": "quat", "T": "T"}
INERT = {
    "train.shuffle",
    "train.num_workers",
    "train.scheduler.type",
    "sdf_net.type",
    "sdf_net.multires_p",
    "sdf_net.multires_x",
    "mlp_deformer.type",
    "render_net.condlen",
    "render_net.multires_n",
    "render_net.multires_p",
    "render_net.multires_x",
}
APPEARANCE = {"idr": "full", "no_view_dir": "no_view", "no_normal": "no_normal"}
LOSSES = {
    "color_weight": "colour",
    "normal_weight": "normal",
    "grad_weight": "eikonal",
    "offset_weight": "offset",
    "dct_weight": "temporal",
    "def_regu.weight": "rigidity",
    "def_regu.c": "rigidity_scale",
    "pc_weight.weight": "pull",
    "pc_weight.mask_weight": "mask",
    "pc_weight.laplacian_weight": "laplacian",
    "pc_weight.edge_weight": "edge",
    "pc_weight.norm_weight": "normal_consistency",
    "pc_weight.def_consistent.weight": "consistency",
}
"""Their loss keys and ours; a negative weight of theirs switches a term off."""


@dataclass
class _Values:
    """Leaves of a parsed file by dotted key, and which of them were asked for."""

    path: Path
    leaves: dict[str, Any]
    asked: set[str] = field(default_factory=set)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return self.leaves.get(key, default)

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default)
        try:
            return float(value)
        except (TypeError, ValueError):
            found = "nothing" if value is None else repr(value)
            raise ConfigError(f"{self.path}: {key} must be a number, got {found}") from None

    def switch(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
        raise ConfigError(f"{self.path}: {key} must be true or false, got {value!r}")

    def require_all_known(self) -> None:
        known = sorted(self.asked | INERT)
        for key in self.leaves:
            if key not in known and not key.startswith("train.milestones"):
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ConfigError(f"{self.path}: {key} is no key of the reference's configuration{hint}")


def read_published_config(path: Path) -> Config:
    """Translate a ``config.conf`` of the reference implementation.

    What the file does not say is as in the packaged ``selfrecon``.

    Args:
        path: The HOCON file.

    Raises:
        ConfigError: The file is missing or not HOCON, pyhocon is not installed, or a key or value is not understood;
            the message names which.
    """
    values = _Values(path, dict(_leaves(_parse(path))))
    settings = load_config("selfrecon").model_dump(mode="json")
    stages = _stages(values, settings["stages"])
    model, method, init, optimiser = (settings[name] for name in ("model", "method", "init", "optimiser"))
    model["canonical_pose"] = int(values.number("train.skinner_pose_type", model["canonical_pose"]))
    model["sdf"]["bands"] = int(values.number("sdf_net.multires", model["sdf"]["bands"]))
    model["offset"]["bands"] = int(values.number("mlp_deformer.multires", model["offset"]["bands"]))
    model["offset"]["code_length"] = int(values.number("mlp_deformer.condlen", model["offset"]["code_length"]))
    kind = str(values.get("render_net.type", "idr"))
    model["appearance"]["inputs"] = APPEARANCE.get(kind, "full")
    if int(values.number("render_net.multires_v", 4)) != 4:
        raise ConfigError(f"{path}: render_net.multires_v must be 4 here, got {values.get('render_net.multires_v')}")
    passes = int(values.number("train.initial_iters", -1))
    init["cache"] = passes <= 0
    if passes > 0:
        init["iterations"] = passes
    rate = values.number("train.learning_rate", optimiser["network"])
    for name in ("network", "codes", "camera"):
        optimiser[name] = rate
    for name, switch in (("poses", "train.opt_pose"), ("trans", "train.opt_trans")):
        optimiser[name] = rate if values.switch(switch, True) else 0.0
    flags = {ours: values.get(f"train.opt_camera.{theirs}") for theirs, ours in CAMERA_TERMS.items()}
    if any(flag is not None for flag in flags.values()):
        chosen = [values.switch(f"train.opt_camera.{theirs}", False) for theirs in CAMERA_TERMS]
        optimiser["camera_terms"] = [ours for ours, on in zip(CAMERA_TERMS.values(), chosen, strict=True) if on]
    optimiser["milestones"] = [int(x) for x in values.get("train.scheduler.milestones", optimiser["milestones"])]
    optimiser["milestone_factor"] = values.number("train.scheduler.factor", optimiser["milestone_factor"])
    weighted = [values.switch(f"loss_{stage}.weighted_normal", True) for stage in STAGES]
    method["weighted_normals"] = all(weighted)
    values.require_all_known()
    settings["stages"] = stages
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: its values make {where} = {first['input']!r}: {first['msg']}") from error


def _parse(path: Path) -> Mapping[str, Any]:
    try:
        import pyhocon
        from pyparsing import ParseBaseException
    except ImportError as error:
        raise ConfigError(
            f"{path}: reading the reference's configuration needs pyhocon: pip install 'selfrecon-warp[reference]'"
        ) from error
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give the reference's config.conf")
    try:
        parsed: Mapping[str, Any] = pyhocon.ConfigFactory.parse_file(str(path), resolve=True)
    except (ParseBaseException, pyhocon.exceptions.ConfigException, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not HOCON: {' '.join(str(error).split())}") from error
    if not isinstance(parsed, Mapping):
        raise ConfigError(f"{path}: must hold keys and values, found a {type(parsed).__name__}")
    return parsed


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _stages(values: _Values, defaults: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The stages that take place, with the epochs between their starts."""
    rays = values.get("train.sample_pix_num")
    total = int(values.number("train.nepoch", 201))
    begun: list[tuple[int, dict[str, Any]]] = []
    for stage, epoch in zip(defaults, (0, 6, 12), strict=True):
        name = stage["name"]
        start = int(values.number(f"train.{name}.start_epoch", epoch))
        render, loss = f"train.{name}.point_render", f"loss_{name}"
        stage["splat_radius"] = values.number(f"{render}.radius", stage["splat_radius"])
        stage["remesh_period"] = int(values.number(f"{render}.remesh_intersect", stage["remesh_period"]))
        stage["frames_per_step"] = int(values.number(f"{render}.batch_size", stage["frames_per_step"]))
        stage["rays"] = int(values.number(f"{loss}.sample_pix_num", rays if rays is not None else stage["rays"]))
        for theirs, ours in LOSSES.items():
            stage["losses"][ours] = max(values.number(f"{loss}.{theirs}", stage["losses"][ours]), 0.0)
        scale = values.number(f"{loss}.pc_weight.def_consistent.c", stage["losses"]["consistency_scale"])
        stage["losses"]["consistency_scale"] = scale if scale > 0 else None
        if start >= 0:
            begun.append((start, stage))
    begun.sort(key=lambda each: each[0])
    if not begun:
        raise ConfigError(f"{values.path}: every stage's start_epoch is negative; one must take place")
    ends = [start for start, _ in begun[1:]] + [total]
    first = begun[0][0]
    for (start, stage), end in zip(begun, ends, strict=True):
        stage["epochs"] = max(min(end, total) - (0 if start == first else start), 0)
    return [stage for _, stage in begun]
