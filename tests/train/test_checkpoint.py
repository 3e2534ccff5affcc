"""Checkpoints: exact resume, atomic writing, refusal of everything that is not one."""

import random

import pytest
import torch
from torch import nn

from selfrecon_warp.errors import RunError
from selfrecon_warp.train import checkpoint
from selfrecon_warp.train.checkpoint import load_checkpoint, restore_random_state, save_checkpoint


class Trainee:
    """A small fit with momentum, dropout and a schedule: everything an inexact resume would disturb."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=1e-2)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimiser, 3, 0.5)

    def train(self, steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            loss = self.network(torch.randn(5, 4) + random.random()).square().mean()
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            self.schedule.step()
            losses.append(loss.item())
        return losses

    def state(self) -> dict:
        return {name: getattr(self, name).state_dict() for name in ("network", "optimiser", "schedule")}

    def load(self, state: dict) -> None:
        for name, part in state.items():
            getattr(self, name).load_state_dict(part)


def test_resumed_fit_repeats_the_uninterrupted_one_exactly(tmp_path):
    trainee = Trainee()
    trainee.train(4)
    path = save_checkpoint(tmp_path, trainee.state(), iteration=4, stage="coarse")
    uninterrupted = trainee.train(4)
    torch.manual_seed(99)
    random.seed(99)
    resumed = Trainee()
    saved = load_checkpoint(path)
    resumed.load(saved.state)
    restore_random_state(saved.random)
    assert (saved.iteration, saved.stage) == (4, "coarse")
    assert resumed.train(4) == uninterrupted


def test_saving_does_not_disturb_the_fit(tmp_path):
    watched, alone = Trainee(), Trainee()
    torch.manual_seed(1)
    random.seed(1)
    expected = alone.train(3)
    torch.manual_seed(1)
    random.seed(1)
    found = []
    for _ in range(3):
        found += watched.train(1)
        save_checkpoint(tmp_path, watched.state(), iteration=1, stage="a")
    assert found == expected


def test_label_is_a_copy_that_later_saves_leave_alone(tmp_path):
    save_checkpoint(tmp_path, {"x": torch.tensor(1.0)}, iteration=1, stage="a", label="coarse")
    save_checkpoint(tmp_path, {"x": torch.tensor(2.0)}, iteration=2, stage="b")
    assert load_checkpoint(tmp_path / "coarse.pt").state["x"] == 1
    assert load_checkpoint(tmp_path / "latest.pt").state["x"] == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["coarse.pt", "latest.pt"]


def test_failed_save_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, {"x": 1}, iteration=1, stage="a")

    def fail(_content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", fail)
    with pytest.raises(RunError, match=r"No space left.*free some space"):
        save_checkpoint(tmp_path, {"x": 2}, iteration=2, stage="a")
    assert load_checkpoint(tmp_path / "latest.pt").state == {"x": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["latest.pt"]


def test_views_are_saved_without_the_rest_of_their_storage(tmp_path):
    path = save_checkpoint(tmp_path, {"row": torch.zeros(1_000_000, 3)[0]}, iteration=0, stage="a")
    assert path.stat().st_size < 100_000
    assert load_checkpoint(path).state["row"].shape == (3,)


def test_unplain_state_is_refused_and_named(tmp_path):
    with pytest.raises(TypeError, match=r"state\['a'\]\[1\]"):
        save_checkpoint(tmp_path, {"a": [1, object()]}, iteration=0, stage="a")
    assert list(tmp_path.iterdir()) == []


def test_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(RunError, match=r"none\.pt: no such checkpoint"):
        load_checkpoint(tmp_path / "none.pt")


def test_truncated_checkpoint_is_named(tmp_path):
    path = save_checkpoint(tmp_path, {"x": torch.zeros(1000)}, iteration=0, stage="a")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"latest\.pt: damaged"):
        load_checkpoint(path)


class Payload:
    """Would run code when unpickled the ordinary way."""

    ran = False

    def __reduce__(self):
        return setattr, (Payload, "ran", True)


def test_code_in_a_file_is_never_run(tmp_path):
    torch.save({"format": checkpoint.FORMAT, "version": 1, "state": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(RunError, match=r"evil\.pt: damaged or not a checkpoint"):
        load_checkpoint(tmp_path / "evil.pt")
    assert not Payload.ran


def test_foreign_and_newer_files_are_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "foreign.pt")
    with pytest.raises(RunError, match="not a selfrecon checkpoint"):
        load_checkpoint(tmp_path / "foreign.pt")
    torch.save({"format": checkpoint.FORMAT, "version": 99}, tmp_path / "newer.pt")
    with pytest.raises(RunError, match=r"format 99, this version reads 2"):
        load_checkpoint(tmp_path / "newer.pt")


def test_tensors_arrive_on_the_asked_device(tmp_path, device):
    path = save_checkpoint(tmp_path, {"x": torch.ones(2, device=device)}, iteration=0, stage="a")
    saved = load_checkpoint(path, device)
    assert saved.state["x"].device.type == device.type
    assert saved.random["torch"].device.type == "cpu"
