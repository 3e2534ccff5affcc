import numpy as np
import pytest
import torch

from selfrecon_warp.asset.morphs import morphs_from_avatar, principal_morphs

RANDOM = np.random.default_rng(0)
RANK, FRAMES, POINTS = 3, 12, 40
DISPLACEMENTS = 0.01 * np.tensordot(RANDOM.normal(size=(FRAMES, RANK)), RANDOM.normal(size=(RANK, POINTS, 3)), 1)


def test_as_many_shapes_as_there_are_hold_everything():
    morphs = principal_morphs(DISPLACEMENTS, RANK + 1)
    for frame in range(FRAMES):
        np.testing.assert_allclose(morphs.displacement(frame), DISPLACEMENTS[frame], atol=1e-7)
    assert morphs.residual < 1e-9


def test_more_shapes_leave_less():
    left = [principal_morphs(DISPLACEMENTS, count).residual for count in range(1, RANK + 2)]
    assert left == sorted(left, reverse=True)
    assert left[0] == pytest.approx(np.sqrt(((DISPLACEMENTS - DISPLACEMENTS.mean(0)) ** 2).sum(-1).mean()))


@pytest.mark.parametrize("count", [1, 3, 50])
def test_weights_lie_between_none_and_full(count):
    morphs = principal_morphs(DISPLACEMENTS, count)
    assert morphs.weights.min() >= 0
    assert morphs.weights.max() <= 1
    assert (morphs.weights[:, 0] == 1).all()
    assert len(morphs.offsets) == morphs.weights.shape[1] == min(count, FRAMES)


def test_a_single_frame_is_one_shape():
    morphs = principal_morphs(DISPLACEMENTS[:1], 4)
    assert morphs.weights.tolist() == [[1.0]]
    np.testing.assert_allclose(morphs.offsets[0], DISPLACEMENTS[0], atol=1e-8)


def test_an_offset_that_never_changes_needs_no_second_shape():
    morphs = principal_morphs(np.repeat(DISPLACEMENTS[:1], 5, 0), 3)
    assert np.isfinite(morphs.weights).all()
    np.testing.assert_allclose(morphs.displacement(4), DISPLACEMENTS[0], atol=1e-7)


def test_an_avatars_offsets_come_back(sphere):
    avatar = sphere.avatar
    codes = avatar.codes.clone()
    try:
        avatar.codes.copy_(torch.randn_like(codes))
        points = torch.rand(50, 3)
        expected = avatar.deformation.offset(points, avatar.codes).numpy()
        morphs = morphs_from_avatar(avatar, points.numpy(), len(codes))
        for frame, displacement in enumerate(expected):
            np.testing.assert_allclose(morphs.displacement(frame), displacement, atol=1e-6)
        assert np.abs(expected).max() > 1e-3
    finally:
        avatar.codes.copy_(codes)
