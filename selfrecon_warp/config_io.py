"""From YAML files and ``--set`` overrides to a checked, frozen configuration; every complaint names its file and line.

A file may start from another with ``extends: fast`` (a packaged name, or a path relative to the file). Mappings merge
key by key; lists are replaced as a whole, except that a mapping given where the base has a list of named items changes
those items by name::

    extends: fast
    stages:
      coarse:
        iterations: 100

Overrides address the same values by path: ``model.sdf=mlp``, ``stages.coarse.iterations=100``,
``stages.0.iterations=100``.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from selfrecon_warp.errors import ConfigError

PROVENANCE_KEY = "provenance"
"""Top-level block of a run's ``config.yaml`` that tells where the run came from; no part of the configuration."""

PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")

Key = tuple[str | int, ...]
Origins = dict[Key, str]


class Section(BaseModel):
    """Base of every configuration class: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


SectionType = TypeVar("SectionType", bound=Section)


def packaged_configs() -> dict[str, Path]:
    """The configurations that come with the package, by name, in alphabetical order."""
    package = Path(str(resources.files("selfrecon_warp")))
    folder = package / "configs"  # an installed wheel; a checkout keeps the folder beside the package
    if not folder.is_dir():
        folder = package.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_section(kind: type[SectionType], name_or_path: str | Path, overrides: Sequence[str] = ()) -> SectionType:
    """Read a configuration file, apply overrides and check the result.

    Args:
        kind: The class the file must describe.
        name_or_path: A packaged name such as ``fast``, or a YAML file.
        overrides: ``path.to.key=value`` assignments, applied in order; values are read as YAML.

    Raises:
        ConfigError: The file is missing or not YAML, a key is unknown, or a value is not allowed; the message names the
            file and line (or the override), the key, and the nearest valid name.
    """
    values, origins = _read_layers(_resolve(name_or_path, relative_to=None, asked_by="--config"), chain=())
    section = _validate(kind, values, origins)
    if not overrides:
        return section
    values = section.model_dump(mode="json")
    for override in overrides:
        _assign(values, override, origins)
    return _validate(kind, values, origins)


def dump_section(section: Section, provenance: Mapping[str, Any] | None = None) -> str:
    """Write a configuration as YAML that :func:`load_section` reads back unchanged."""
    values = section.model_dump(mode="json")
    if provenance is not None:
        values[PROVENANCE_KEY] = dict(provenance)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)


def differing_keys(first: Section, second: Section) -> list[str]:
    """Dotted names of the values in which two configurations differ."""
    a, b = (_leaves(section.model_dump(mode="json")) for section in (first, second))
    return sorted(_dotted(key) for key in a.keys() | b.keys() if a.get(key, _ABSENT) != b.get(key, _ABSENT))


_ABSENT = object()


def _leaves(value: Any, key: Key = ()) -> dict[Key, Any]:
    if isinstance(value, (dict, list)) and value:
        items: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: leaf for name, item in items for k, leaf in _leaves(item, (*key, name)).items()}
    return {key: value}


def _dotted(key: Iterable[str | int]) -> str:
    return ".".join(str(part) for part in key)


# ---- files ----------------------------------------------------------------------------------------------------------


def _resolve(name_or_path: str | Path, relative_to: Path | None, asked_by: str) -> Path:
    packaged = packaged_configs()
    if str(name_or_path) in packaged:
        return packaged[str(name_or_path)]
    path = Path(name_or_path).expanduser()
    if relative_to is not None and not path.is_absolute():
        path = relative_to / path
    if path.is_file():
        return path
    raise ConfigError(
        f"{asked_by}: no configuration '{name_or_path}': neither a readable file nor one of the packaged "
        f"{_listed(packaged)}{_suggestion(str(name_or_path), packaged)}"
    )


def _read_layers(path: Path, chain: tuple[Path, ...]) -> tuple[dict[str, Any], Origins]:
    """Values of a file on top of what it extends, and the ``file:line`` each came from."""
    if path.resolve() in chain:
        raise ConfigError(f"{path}: extends itself through {' -> '.join(p.name for p in chain)}; remove one `extends:`")
    values, origins = _read_yaml(path)
    values.pop(PROVENANCE_KEY, None)
    base = values.pop("extends", None)
    if base is None:
        return values, origins
    base_path = _resolve(str(base), relative_to=path.parent, asked_by=f"{path}: extends")
    base_values, base_origins = _read_layers(base_path, (*chain, path.resolve()))
    return _merge(base_values, values, base_origins, origins, (), ()), base_origins


def _read_yaml(path: Path) -> tuple[dict[str, Any], Origins]:
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        origins: Origins = {}
        values = {} if root is None else _construct(loader, root, (), path, origins)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the file's permissions") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold `key: value` lines, found a {type(values).__name__}")
    return values, origins


def _construct(loader: yaml.SafeLoader, node: yaml.Node, key: Key, path: Path, origins: Origins) -> Any:
    """Plain values of a YAML node; unlike the stock loader this keeps line numbers and refuses duplicate keys."""
    origins[key] = f"{path}:{node.start_mark.line + 1}"
    if not isinstance(node, yaml.ScalarNode) and node.tag not in PLAIN_TAGS:
        raise yaml.YAMLError(f"line {node.start_mark.line + 1}: tag {node.tag} is not allowed")
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, (*key, i), path, origins) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node, deep=True)
    mapping: dict[str, Any] = {}
    for name_node, item in node.value:
        name = str(loader.construct_object(name_node, deep=True))
        here = f"{path}:{name_node.start_mark.line + 1}"
        if name in mapping:
            raise ConfigError(f"{here}: {_dotted((*key, name))} is given twice; keep one")
        mapping[name] = _construct(loader, item, (*key, name), path, origins)
        origins[(*key, name)] = here
    return mapping


def _merge(base: Any, top: Any, origins: Origins, top_origins: Origins, key: Key, top_key: Key) -> Any:
    """``top`` over ``base``; ``origins``, which describe ``base``, are brought up to date in place."""
    if isinstance(base, dict) and isinstance(top, dict):
        merged = {
            name: _merge(base.get(name), value, origins, top_origins, (*key, name), (*top_key, name))
            for name, value in top.items()
        }
        return base | merged
    if isinstance(base, list) and isinstance(top, dict):
        merged_items = list(base)
        for name, value in top.items():
            source = top_origins.get((*top_key, name), "configuration")
            i = _child(base, name, source, key)
            merged_items[int(i)] = _merge(base[int(i)], value, origins, top_origins, (*key, i), (*top_key, name))
        return merged_items
    for stale in [k for k in origins if k[: len(key)] == key]:
        del origins[stale]
    origins |= {(*key, *k[len(top_key) :]): v for k, v in top_origins.items() if k[: len(top_key)] == top_key}
    return copy.deepcopy(top)


# ---- overrides ------------------------------------------------------------------------------------------------------


def _assign(values: dict[str, Any], override: str, origins: Origins) -> None:
    """Carry out one ``path.to.key=value`` on ``values`` in place."""
    path, separator, text = override.partition("=")
    source = f"--set {override}"
    parts = path.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(f"{source}: must read key=value, e.g. --set seed=1")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: the value is not valid YAML: {' '.join(str(error).split())}") from error
    parent: Any = values
    key: Key = ()
    for part in parts[:-1]:
        key = (*key, _child(parent, part, source, key))
        if parent[key[-1]] is None:  # an optional section that is off
            parent[key[-1]] = {}
        parent = parent[key[-1]]
    name = _child(parent, parts[-1], source, key)
    parent[name] = _merge(parent[name], value, origins, dict.fromkeys([(), *_leaves(value)], source), (*key, name), ())


def _child(parent: Any, part: str, source: str, above: Key) -> str | int:
    """The key or index that ``part`` names inside ``parent``."""
    where = f" in {_dotted(above)}" if above else ""
    if isinstance(parent, dict):
        if part in parent or not parent:
            parent.setdefault(part, None)
            return part
        near = _suggestion(part, parent, above)
        raise ConfigError(f"{source}: unknown key '{part}'{where}{near} (valid: {_listed(parent)})")
    if isinstance(parent, list):
        names = [str(item.get("name", i)) if isinstance(item, dict) else str(i) for i, item in enumerate(parent)]
        if part in names:
            return names.index(part)
        if part.isdigit() and int(part) < len(parent):
            return int(part)
        near = _suggestion(part, names, above)
        raise ConfigError(f"{source}: no item '{part}'{where}{near} (valid: {_listed(names)})")
    raise ConfigError(f"{source}: {_dotted(above)} is a single value and has no '{part}'; set {_dotted(above)} itself")


# ---- checking -------------------------------------------------------------------------------------------------------


def _validate(kind: type[SectionType], values: dict[str, Any], origins: Origins) -> SectionType:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        messages = [_explain(kind, details, origins) for details in error.errors(include_url=False)]
        raise ConfigError("\n".join(dict.fromkeys(messages))) from error


def _explain(kind: type[Section], details: Any, origins: Origins) -> str:
    key: Key = details["loc"]
    depths = (key[:depth] for depth in range(len(key), -1, -1))
    source = next((origins[prefix] for prefix in depths if prefix in origins), "configuration")
    if details["type"] == "extra_forbidden":
        siblings = _field_names(kind, key[:-1])
        suggestion = _suggestion(str(key[-1]), siblings, key[:-1])
        return f"{source}: unknown key '{_dotted(key)}'{suggestion} (valid: {_listed(siblings)})"
    if details["type"] == "missing":
        return f"{source}: '{_dotted(key)}' is missing; add it{_described(kind, key)}"
    found = details["input"]
    shown = f", got {found!r}" if isinstance(found, (str, int, float, bool, type(None))) else ""
    return f"{source}: {_dotted(key)}: {details['msg']}{shown}{_described(kind, key)}"


def _sections_at(kind: type[Section], key: Key) -> list[type[BaseModel]]:
    """The section classes that may stand at a key: more than one where the schema offers alternatives."""
    sections: list[type[BaseModel]] = [kind]
    for part in key:
        fields = [s.model_fields[part] for s in sections if isinstance(part, str) and part in s.model_fields]
        if fields:  # list indices and union tags stay where they are
            sections = [found for field in fields for found in _sections_in(field.annotation)]
    return sections


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _sections_in(argument)]


def _field_names(kind: type[Section], key: Key) -> list[str]:
    return list(dict.fromkeys(name for section in _sections_at(kind, key) for name in section.model_fields))


def _described(kind: type[Section], key: Key) -> str:
    name = next((part for part in reversed(key) if isinstance(part, str)), None)
    if name is None:
        return ""
    parent = key[: len(key) - 1 - list(reversed(key)).index(name)]
    fields = [s.model_fields[name] for s in _sections_at(kind, parent) if name in s.model_fields]
    return f" ({fields[0].description.rstrip('.')})" if fields and fields[0].description else ""


def _suggestion(name: str, valid: Iterable[str | int], above: Iterable[str | int] = ()) -> str:
    nearest = difflib.get_close_matches(name, [str(v) for v in valid], n=1, cutoff=0.5)
    return f"; did you mean '{_dotted((*above, nearest[0]))}'?" if nearest else ""


def _listed(names: Iterable[str | int]) -> str:
    return ", ".join(str(name) for name in names)
