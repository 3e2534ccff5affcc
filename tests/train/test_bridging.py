from collections.abc import Sequence

import numpy as np
import torch

from selfrecon_warp.train.bridging import astray_runs, bridged, limbs

PARENTS = [-1, 0, 1, 0, 3, 0]  # two chains of two joints and one of one hang on the root


def test_limbs_are_the_chains_below_branches():
    assert sorted(limbs(PARENTS)) == [[2, 1], [4, 3], [5]]


def test_only_short_drops_inside_a_clip_are_astray():
    overlap = np.full(100, 0.97)
    overlap[20:24] -= 0.05
    overlap[50 : 50 + 13] -= 0.05
    overlap[99] -= 0.05
    assert astray_runs(overlap, [(0, 100)], 12) == [(20, 24), (99, 100)]


def test_a_drop_within_the_usual_spread_is_none():
    noise = np.random.default_rng(0).normal(0.9, 0.02, 200)
    assert astray_runs(noise, [(0, 200)], 12) == []


def test_nothing_astray_changes_nothing():
    poses, trans = torch.rand(40, 6, 3), torch.rand(40, 3)
    same, place, count = bridged(poses, trans, np.ones(40), [(0, 40)], PARENTS, lambda *_: np.zeros(0), 12)
    assert same is poses
    assert place is trans
    assert count == 0


def moving(frames: int) -> torch.Tensor:
    """Joints that turn slowly, each about an axis of its own."""
    axes = torch.nn.functional.normalize(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    return torch.linspace(0.1, 0.6, frames)[:, None, None] * axes


def nearness(truth: torch.Tensor):
    """Overlap that falls with the distance of the joints' turns to the true ones."""

    def overlap_of(poses: torch.Tensor, _trans: torch.Tensor, frames: Sequence[int]) -> np.ndarray:
        return 1.0 - 0.1 * (poses - truth)[list(frames)].norm(dim=(1, 2)).numpy()

    return overlap_of


def test_a_limb_comes_back_and_the_others_stay():
    truth, trans = moving(40), torch.zeros(40, 3)
    poses = truth.clone()
    poses[12:15, 3] += 0.7
    overlap_of = nearness(truth)
    mended, _, count = bridged(poses, trans, overlap_of(poses, trans, range(40)), [(0, 40)], PARENTS, overlap_of, 12)
    assert count == 3
    torch.testing.assert_close(mended[12:15, [3, 4]], truth[12:15, [3, 4]], atol=1e-3, rtol=0)
    kept = [joint for joint in range(6) if joint not in (3, 4)]
    assert torch.equal(mended[:, kept], poses[:, kept])
    assert torch.equal(mended[:12], poses[:12])
    assert torch.equal(mended[15:], poses[15:])


def test_at_the_end_of_a_clip_the_last_good_frame_is_held():
    truth, trans = moving(40), torch.zeros(40, 3)
    poses = truth.clone()
    poses[38:, 1] -= 0.6
    overlap_of = nearness(truth)
    mended, _, count = bridged(poses, trans, overlap_of(poses, trans, range(40)), [(0, 40)], PARENTS, overlap_of, 12)
    assert count == 2
    torch.testing.assert_close(mended[38:, [1, 2]], truth[37, [1, 2]].expand(2, -1, -1))


def test_what_does_not_help_is_not_taken():
    truth, trans = moving(40), torch.zeros(40, 3)
    overlap = np.ones(40)
    overlap[20] = 0.5
    poses, _, count = bridged(
        truth, trans, overlap, [(0, 40)], PARENTS, lambda _poses, _trans, frames: np.full(len(frames), 0.5), 12
    )
    assert count == 0
    assert torch.equal(poses, truth)
