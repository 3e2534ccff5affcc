import numpy as np
import pytest

from selfrecon_warp.motion.clip import Motion
from selfrecon_warp.motion.rotations import about, between, matrices, slerp, vectors


def test_slerp_turns_at_constant_speed_about_a_fixed_axis(turns):
    axis = np.array([1.0, 2.0, -0.5]) / np.linalg.norm([1.0, 2.0, -0.5])
    start = matrices(turns[:1, :1])
    share = np.linspace(0, 1, 11)
    end = vectors(start @ matrices(2.5 * axis))
    found = slerp(np.repeat(turns[:1, :1], 11, 0), np.repeat(end, 11, 0), share)
    expected = start @ matrices(share[:, None, None] * 2.5 * axis)
    np.testing.assert_allclose(matrices(found), expected, atol=1e-12)


def test_slerp_takes_the_short_way_and_meets_both_ends():
    first, second = np.array([[[0.0, 0.0, 3.0]]]), np.array([[[0.0, 0.0, -3.0]]])
    half = slerp(first, second, np.array([0.5]))
    np.testing.assert_allclose(np.abs(half), [[[0.0, 0.0, np.pi]]], atol=1e-12)
    for share, end in ((0.0, first), (1.0, second)):
        np.testing.assert_allclose(matrices(slerp(first, second, np.array([share]))), matrices(end), atol=1e-12)


def test_between_turns_one_direction_into_the_other():
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(20, 3)), rng.normal(size=(20, 3))
    second[0] = -2 * first[0]
    second[1] = 3 * first[1]
    turned = (between(first, second) @ first[..., None])[..., 0]
    np.testing.assert_allclose(
        turned / np.linalg.norm(first, axis=1, keepdims=True),
        second / np.linalg.norm(second, axis=1, keepdims=True),
        atol=1e-9,
    )
    np.testing.assert_allclose(between(first[1], second[1]), np.eye(3), atol=1e-9)


def spinning(rate: float, seconds: float) -> Motion:
    """A turn about y at one radian a second along a straight path at one metre a second."""
    times = np.arange(round(rate * seconds) + 1) / rate
    poses = np.zeros((len(times), 24, 3))
    poses[:, :, 1] = times[:, None]
    return Motion("spin", poses, times[:, None] * [1.0, 0.0, 0.0], rate, 0.8)


@pytest.mark.parametrize(("rate", "target"), [(120.0, 30.0), (24.0, 30.0), (29.97, 60.0), (60.0, 59.0)])
def test_resampling_a_steady_motion_is_exact(rate, target):
    motion = spinning(rate, 2.0).resampled(target)
    times = np.arange(len(motion)) / target
    assert motion.frame_rate == target
    assert abs(motion.seconds - spinning(rate, 2.0).seconds) < 1 / target + 1e-9
    np.testing.assert_allclose(motion.poses[:, 5, 1], times, atol=1e-9)
    np.testing.assert_allclose(motion.pelvis[:, 0], times, atol=1e-9)


def test_one_frame_and_the_same_rate_stay_as_they_are():
    one = Motion("one", np.zeros((1, 24, 3)), np.zeros((1, 3)), 30.0, 0.8)
    assert len(one.resampled(60.0)) == 1
    motion = spinning(30.0, 1.0)
    np.testing.assert_array_equal(motion.resampled(30.0).poses, motion.poses)


def test_motions_refuse_wrong_shapes():
    with pytest.raises(ValueError, match=r"poses must have shape \[N, 24, 3\]"):
        Motion("bad", np.zeros((3, 22, 3)), np.zeros((3, 3)), 30.0, 0.8)
    with pytest.raises(ValueError, match="frame_rate must be positive"):
        Motion("bad", np.zeros((3, 24, 3)), np.zeros((3, 3)), 0.0, 0.8)
    with pytest.raises(ValueError, match="frame_rate must be positive"):
        spinning(30.0, 1.0).resampled(-1)


def test_about_follows_the_right_hand():
    np.testing.assert_allclose(about("y", np.pi / 2) @ [0, 0, 1], [1, 0, 0], atol=1e-12)
