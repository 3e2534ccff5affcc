import pytest
import torch

from selfrecon_warp.train.pace import acceleration_factor, turn_per_frame


def test_smoothness_follows_the_pace_of_the_frames():
    turn = torch.zeros(120, 3)
    turn[:, 1] = torch.deg2rad(torch.arange(120.0) * 3.0)
    assert acceleration_factor(turn_per_frame(turn, [(0, 120)])) == pytest.approx(1.0, rel=0.02)
    assert acceleration_factor(turn_per_frame(turn[::2], [(0, 60)])) == pytest.approx(4.0, rel=0.02)
    assert acceleration_factor(turn_per_frame(turn[::2], [(0, 30), (30, 60)])) == pytest.approx(4.0, rel=0.02)
    assert acceleration_factor(turn_per_frame(turn[::15], [(0, 8)])) == pytest.approx(225.0, rel=0.02)
    assert acceleration_factor(turn_per_frame(turn[:1], [(0, 1)])) == 1.0
