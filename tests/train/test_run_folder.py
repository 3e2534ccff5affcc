"""Run folders: made whole or not at all, never replacing what is not a run, resumed only with what they began with."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import yaml

from selfrecon_warp.config import load_config
from selfrecon_warp.errors import RunError
from selfrecon_warp.train.checkpoint import save_checkpoint
from selfrecon_warp.train.run_folder import RunFolder


@dataclass
class StubCapture:
    root: Path
    content: str = "pictures"

    def fingerprint(self) -> str:
        return self.content


@dataclass
class StubBody:
    name: str = "CC0 body"
    fingerprint: str = "body"


@dataclass
class Inputs:
    path: Path
    capture: StubCapture
    body: StubBody = field(default_factory=StubBody)
    overrides: tuple[str, ...] = ()

    def create(self, **flags) -> RunFolder:
        config = load_config("fast", self.overrides)
        return RunFolder.create(self.path, config, capture=self.capture, body=self.body, **flags)


@pytest.fixture
def inputs(tmp_path) -> Inputs:
    (tmp_path / "capture").mkdir()
    return Inputs(tmp_path / "runs" / "first", StubCapture(tmp_path / "capture"))


def test_new_run_holds_the_contract(inputs):
    inputs.overrides = ("seed=7",)
    run = inputs.create(body_models=Path("models"))
    assert sorted(file.name for file in run.path.iterdir()) == ["checkpoints", "config.yaml", "log.jsonl"]
    assert [file.name for file in run.path.parent.iterdir()] == ["first"]
    assert run.config == load_config("fast", ["seed=7"])
    record = run.provenance
    assert record["seed"] == 7
    assert record["versions"].keys() >= {"selfrecon_warp", "python", "torch", "warp-lang"}
    assert record["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert record["capture"] == {"path": str(inputs.capture.root), "fingerprint": "pictures"}
    assert record["body"] == {"name": "CC0 body", "fingerprint": "body", "models": str(Path("models").resolve())}
    assert "commit" in record
    assert run.capture_folder == inputs.capture.root
    assert run.body_models == Path("models").resolve()
    assert RunFolder.open(run.path) == run


def test_empty_folder_may_become_a_run(inputs):
    inputs.path.mkdir(parents=True)
    assert inputs.create().config_file.is_file()


def test_existing_run_is_refused_and_untouched(inputs):
    before = inputs.create().config_file.read_text()
    with pytest.raises(RunError, match=r"first: already holds a run.*--resume.*--overwrite"):
        inputs.create()
    assert inputs.path.joinpath("config.yaml").read_text() == before


def test_overwrite_replaces_the_whole_run(inputs):
    (inputs.create().path / "canonical.ply").touch()
    inputs.overrides = ("seed=5",)
    run = inputs.create(overwrite=True)
    assert run.config.seed == 5
    assert not run.canonical_mesh.exists()
    assert [file.name for file in inputs.path.parent.iterdir()] == ["first"]


@pytest.mark.parametrize("flags", [{}, {"overwrite": True}, {"resume": True}])
def test_folder_that_is_no_run_is_never_replaced(inputs, flags):
    inputs.path.mkdir(parents=True)
    (inputs.path / "thesis.tex").touch()
    with pytest.raises(RunError, match="first: "):
        inputs.create(**flags)
    assert [file.name for file in inputs.path.iterdir()] == ["thesis.tex"]


def test_folder_below_a_file_is_refused(inputs, tmp_path):
    (tmp_path / "file").touch()
    inputs.path = tmp_path / "file" / "run"
    with pytest.raises(RunError, match=r"run: cannot be created because .*file is a file; choose another --out"):
        inputs.create()


def test_unwritable_folder_is_refused(inputs, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(RunError, match="is not writable; change its permissions or choose another --out"):
        inputs.create()
    assert not inputs.path.parent.exists()


def test_failure_while_writing_leaves_nothing(inputs, monkeypatch):
    def fail(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(RunError, match="No space left on device"):
        inputs.create()
    assert list(inputs.path.parent.iterdir()) == []


def test_failed_overwrite_keeps_the_old_run(inputs, monkeypatch):
    before = inputs.create().config_file.read_text()

    replace = Path.replace
    moves = []

    def fail_second(self: Path, target: Path) -> Path:
        moves.append(self)
        if len(moves) == 2:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_second)
    with pytest.raises(RunError, match="No space left on device"):
        inputs.create(overwrite=True)
    assert inputs.path.joinpath("config.yaml").read_text() == before
    assert [file.name for file in inputs.path.parent.iterdir()] == ["first"]


def resumable(inputs: Inputs) -> None:
    save_checkpoint(inputs.create().checkpoints, {}, iteration=1, stage="a")


def test_resume_reopens_the_same_run(inputs):
    resumable(inputs)
    before = inputs.path.joinpath("config.yaml").read_text()
    assert inputs.create(resume=True).config_file.read_text() == before


def test_resume_needs_a_checkpoint(inputs):
    inputs.create()
    with pytest.raises(RunError, match="has no checkpoint to resume from; start anew with --overwrite"):
        inputs.create(resume=True)


def test_resume_needs_a_run(inputs):
    with pytest.raises(RunError, match="not a run folder"):
        inputs.create(resume=True)
    assert not inputs.path.exists()


def test_resume_with_other_settings_names_them(inputs):
    resumable(inputs)
    inputs.overrides = ("seed=3",)
    with pytest.raises(RunError, match=r"other settings \(seed\)"):
        inputs.create(resume=True)


def test_resume_with_other_inputs_names_them(inputs):
    resumable(inputs)
    inputs.capture.content = "other pictures"
    with pytest.raises(RunError, match="began with the capture"):
        inputs.create(resume=True)
    inputs.capture.content = "pictures"
    inputs.body = StubBody("SMPL female", "other")
    with pytest.raises(RunError, match="began with the body CC0 body, which differs from SMPL female"):
        inputs.create(resume=True)


def test_resume_and_overwrite_exclude_each_other(inputs):
    with pytest.raises(RunError, match="exclude each other"):
        inputs.create(resume=True, overwrite=True)


def test_gone_capture_is_named(inputs):
    run = inputs.create()
    inputs.capture.root.rmdir()
    with pytest.raises(RunError, match=r"capture: the capture of .*first is gone"):
        _ = run.capture_folder


def test_config_of_a_run_can_be_used_again(inputs):
    run = inputs.create()
    assert yaml.safe_load(run.config_file.read_text())["provenance"]
    assert load_config(run.config_file, ["seed=2"]).seed == 2
