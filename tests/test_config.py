"""Configuration files and overrides: the machinery on a schema of its own, then the packaged files."""

from pathlib import Path

import pytest
from pydantic import Field

from selfrecon_warp.config import load_config
from selfrecon_warp.config_io import Section, differing_keys, dump_section, load_section, packaged_configs
from selfrecon_warp.errors import ConfigError


class Field_(Section):
    kind: str = "grid"
    cell: float = Field(0.01, gt=0, description="cell edge [m]")


class Stage(Section):
    name: str
    iterations: int = Field(ge=0, description="optimiser steps")


class Settings(Section):
    seed: int = Field(0, ge=0)
    field: Field_ = Field_()
    extra: Field_ | None = None
    stages: list[Stage] = Field(default=[Stage(name="coarse", iterations=10), Stage(name="fine", iterations=20)])


@pytest.fixture
def write(tmp_path: Path):
    def write_file(text: str, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_file


def complaint(path: Path, overrides: list[str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_section(Settings, path, overrides or [])
    return str(caught.value)


def test_values_come_from_the_file_and_the_rest_from_defaults(write):
    settings = load_section(Settings, write("seed: 3\nfield: {cell: 2e-2}\n"))
    assert (settings.seed, settings.field.cell, settings.field.kind) == (3, 0.02, "grid")


def test_empty_file_is_all_defaults(write):
    assert load_section(Settings, write("")) == Settings()


def test_extends_merges_mappings_and_replaces_lists(write):
    write("seed: 1\nfield: {kind: mlp, cell: 0.5}\n", "base.yaml")
    text = "extends: base.yaml\nfield: {cell: 0.25}\nstages: [{name: only, iterations: 1}]\n"
    settings = load_section(Settings, write(text))
    assert settings == Settings(seed=1, field=Field_(kind="mlp", cell=0.25), stages=[Stage(name="only", iterations=1)])


def test_extends_changes_list_items_by_name(write):
    write("stages: [{name: coarse, iterations: 1}, {name: fine, iterations: 2}]\n", "base.yaml")
    settings = load_section(Settings, write("extends: base.yaml\nstages: {fine: {iterations: 5}}\n"))
    assert [(stage.name, stage.iterations) for stage in settings.stages] == [("coarse", 1), ("fine", 5)]


def test_overrides_reach_sections_list_items_and_absent_sections(write):
    overrides = ["seed=4", "field.kind=mlp", "stages.fine.iterations=7", "stages.0.iterations=8", "extra.cell=0.5"]
    settings = load_section(Settings, write(""), overrides)
    assert (settings.seed, settings.field.kind) == (4, "mlp")
    assert [stage.iterations for stage in settings.stages] == [8, 7]
    assert settings.extra == Field_(cell=0.5)


def test_later_override_wins_and_null_switches_off(write):
    settings = load_section(Settings, write(""), ["seed=1", "seed=2", "extra.cell=0.5", "extra=null"])
    assert (settings.seed, settings.extra) == (2, None)


def test_dump_reads_back_unchanged_and_provenance_is_ignored(write):
    settings = Settings(seed=9, extra=Field_(cell=1e-7))
    path = write(dump_section(settings, {"commit": "abc"}))
    assert "commit: abc" in path.read_text()
    assert load_section(Settings, path) == settings


def test_differing_keys_are_dotted_names():
    other = Settings(seed=1, stages=[Stage(name="coarse", iterations=11), Stage(name="fine", iterations=20)])
    assert differing_keys(Settings(), other) == ["seed", "stages.0.iterations"]
    assert differing_keys(other, other) == []


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Settings().seed = 2


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("sed: 1\n", 1, "unknown key 'sed'; did you mean 'seed'?"),
        ("seed: 1\nfield:\n  cel: 1\n", 3, "unknown key 'field.cel'; did you mean 'field.cell'?"),
        ("field: {cell: wide}\n", 1, "field.cell: Input should be a valid number"),
        ("field: {cell: -1}\n", 1, "field.cell: Input should be greater than 0, got -1 (cell edge [m])"),
        ("field: {cell: .nan}\n", 1, "field.cell"),
        ("stages:\n- name: a\n  iteration: 1\n", 3, "did you mean 'stages.0.iterations'?"),
        ("stages:\n- name: a\n", 2, "'stages.0.iterations' is missing; add it (optimiser steps)"),
        ("seed: 1\nseed: 2\n", 2, "seed is given twice"),
    ],
)
def test_faults_name_file_line_key_and_remedy(write, text, line, expected):
    path = write(text)
    message = complaint(path)
    assert f"{path}:{line}: " in message
    assert expected in message


def test_fault_in_an_extending_file_is_not_blamed_on_its_base(write):
    write("stages: [{name: coarse, iterations: 1}]\n", "base.yaml")
    path = write("extends: base.yaml\nstages:\n  coarse:\n    iteratons: 5\n")
    assert complaint(path).startswith(f"{path}:4: unknown key 'stages.0.iteratons'")


def test_several_faults_are_reported_together(write):
    assert len(complaint(write("sed: 1\nfeild: 2\n")).splitlines()) == 2


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("sed=1", "unknown key 'sed'; did you mean 'seed'?"),
        ("field.cel=1", "unknown key 'cel' in field; did you mean 'field.cell'?"),
        ("field.cell=0", "field.cell: Input should be greater than 0"),
        ("field={cel: 1}", "did you mean 'field.cell'?"),
        ("stages.corse.iterations=1", "no item 'corse' in stages; did you mean 'stages.coarse'?"),
        ("stages.5.iterations=1", "(valid: coarse, fine)"),
        ("seed.deeper=1", "seed is a single value"),
        ("extra.cel=1", "did you mean 'extra.cell'?"),
        ("seed", "must read key=value"),
        ("=1", "must read key=value"),
        ("seed=[1", "not valid YAML"),
    ],
)
def test_faulty_override_is_named(write, override, expected):
    message = complaint(write("seed: 3\n"), [override])
    assert message.startswith(f"--set {override}: ")
    assert expected in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- 1\n", "must hold `key: value` lines, found a list"),
        ("seed: [1\n", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("extends: mine.yaml\n", "extends itself"),
        ("extends: fats\n", "did you mean 'fast'?"),
    ],
)
def test_unusable_file_is_named(write, text, expected):
    path = write(text)
    message = complaint(path)
    assert str(path) in message
    assert expected in message


def test_unreadable_bytes_are_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00\x00seed")
    assert f"{path}: not valid YAML" in complaint(path)


def test_unknown_name_lists_the_packaged_ones():
    with pytest.raises(ConfigError, match=r"--config: no configuration 'fsat'.*fast.*did you mean 'fast'"):
        load_config("fsat")


@pytest.mark.parametrize("name", sorted(packaged_configs()))
def test_packaged_config_is_valid_and_reads_back(name, tmp_path):
    config = load_config(name)
    path = tmp_path / "again.yaml"
    path.write_text(dump_section(config))
    assert load_config(path) == config


def test_fast_and_selfrecon_are_packaged():
    assert {"fast", "selfrecon"} <= packaged_configs().keys()


def test_every_packaged_setting_says_what_it_is():
    def undescribed(kind: type[Section], name: str) -> list[str]:
        missing = []
        for field_name, field in kind.model_fields.items():
            inner = [t for t in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(t, type)]
            sections = [t for t in inner if issubclass(t, Section)]
            here = f"{name}.{field_name}"
            missing += [m for section in sections for m in undescribed(section, here)]
            missing += [] if sections or field.description else [here]
        return missing

    assert undescribed(type(load_config("fast")), "config") == []
