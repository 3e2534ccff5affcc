import numpy as np
import pytest
import torch

from selfrecon_warp.kernels.skinning import skin_points
from selfrecon_warp.motion.joints import JOINT
from selfrecon_warp.motion.procedural import CYCLE_SECONDS, sway, walk
from selfrecon_warp.motion.skeleton import Foot, Skeleton

FLOOR_M = 0.006
SLIDE_M = 0.003
"""How far a vertex of a standing foot may move along the floor between two frames, 30 a second."""


@pytest.fixture(scope="module", params=["default", "long legs"])
def walker(request, skeleton) -> Skeleton:
    if request.param == "default":
        return skeleton
    joints = skeleton.joints.copy()
    for side in ("left", "right"):
        drop = np.array([0.0, -0.09, 0.0])
        joints[[JOINT[f"{side}_knee"]]] += drop
        joints[[JOINT[f"{side}_ankle"], JOINT[f"{side}_foot"]]] += 2 * drop
    return Skeleton(joints, skeleton.feet)


@pytest.fixture(scope="module")
def soles(body, skeleton):
    """The default body's vertices [N, V, 3] on its walk, and those that belong to the feet, left and right."""
    canonical, _, model = body
    motion = walk(skeleton)
    trans = torch.from_numpy(motion.pelvis - skeleton.joints[0]).float()
    bones = model.bones(torch.from_numpy(motion.poses).float(), trans, None, canonical)
    vertices = skin_points(canonical.vertices, canonical.weights, bones).numpy()
    feet = [canonical.weights[:, [JOINT[f"{s}_ankle"], JOINT[f"{s}_foot"]]].sum(1) > 0.9 for s in ("left", "right")]
    return vertices, [foot.numpy() for foot in feet]


def test_feet_neither_sink_nor_float(soles):
    vertices, _ = soles
    lowest = vertices[..., 1].min(1)
    assert lowest.min() > -FLOOR_M
    assert lowest.max() < FLOOR_M


def test_standing_feet_do_not_slide(soles):
    vertices, feet = soles
    cycle = CYCLE_SECONDS * 30
    for foot, late in zip(feet, (0.0, 0.5), strict=True):
        phase = (np.arange(len(vertices)) / cycle + late) % 1
        stands = (phase[:-1] > 0.03) & (phase[1:] < 0.60) & (phase[1:] > phase[:-1])
        low = (vertices[:-1, foot, 1] < FLOOR_M) & (vertices[1:, foot, 1] < FLOOR_M) & stands[:, None]
        moved = np.linalg.norm(np.diff(vertices[:, foot][..., [0, 2]], axis=0), axis=-1)
        assert low.sum() > 1000
        assert moved[low].max() < SLIDE_M
        assert moved[low].mean() < 0.1 * SLIDE_M


def test_the_swinging_foot_clears_the_floor(soles):
    vertices, feet = soles
    phase = (np.arange(len(vertices)) / (CYCLE_SECONDS * 30)) % 1
    swings = (phase > 0.70) & (phase < 0.95)
    assert vertices[swings][:, feet[0], 1].min() > 0.01


def test_walking_suits_any_legs(walker):
    motion = walk(walker)
    rotations, places = walker.forward(motion.poses, motion.pelvis - walker.joints[0])
    assert motion.pelvis[-1, 2] / motion.seconds == pytest.approx(1.34 * walker.leg_length / CYCLE_SECONDS, rel=0.01)
    knees = np.degrees(np.linalg.norm(motion.poses[:, [JOINT["left_knee"], JOINT["right_knee"]]], axis=-1))
    assert knees.min() > 2
    assert 45 < knees.max() < 75
    ankles = places[:, [JOINT["left_ankle"], JOINT["right_ankle"]]]
    assert ankles[..., 1].min() > 0.9 * -walker.feet[0].sole
    assert (rotations[:, JOINT["head"], 1, 1] > 0.99).all()
    height = motion.pelvis[:, 1] / motion.pelvis[:, 1].mean()
    assert 0.005 < height.max() - height.min() < 0.06


def test_the_left_side_does_what_the_right_did_half_a_cycle_before(skeleton):
    joints = skeleton.joints.copy()
    for name, index in JOINT.items():
        if name.startswith("left"):
            joints[JOINT[name.replace("left", "right")]] = joints[index] * [-1, 1, 1]
        elif not name.startswith("right"):
            joints[index, 0] = 0.0
    even = Skeleton(joints, (Foot(-0.07, -0.04, 0.13),) * 2)
    motion = walk(even, frame_rate=40.0)
    half = round(0.5 * CYCLE_SECONDS * 40)
    left, right = motion.poses[half : 2 * half, JOINT["left_hip"]], motion.poses[:half, JOINT["right_hip"]]
    np.testing.assert_allclose(left, right * [1, -1, -1], atol=1e-6)


@pytest.mark.parametrize("make", [walk, sway])
def test_motions_loop_without_a_jump(skeleton, make):
    motion = make(skeleton, 30.0)
    assert motion.loops
    steps = np.abs(np.diff(motion.poses, axis=0)).max()
    assert np.abs(motion.poses[0] - motion.poses[-1]).max() < 1.2 * steps
    height = motion.pelvis[:, 1]
    assert abs(height[0] - height[-1]) < 1.2 * np.abs(np.diff(height)).max()


@pytest.mark.parametrize("make", [walk, sway])
def test_another_frame_rate_is_the_same_motion(skeleton, make):
    slow, fast = make(skeleton, 30.0), make(skeleton, 60.0)
    np.testing.assert_allclose(fast.poses[::2][: len(slow)], slow.poses[: len(fast.poses[::2])], atol=5e-3)


def test_swaying_feet_stand_still(skeleton):
    motion = sway(skeleton)
    rotations, places = skeleton.forward(motion.poses, motion.pelvis - skeleton.joints[0])
    for side in ("left", "right"):
        ankle, foot = JOINT[f"{side}_ankle"], JOINT[f"{side}_foot"]
        assert np.ptp(places[:, [ankle, foot]], axis=0).max() < 1e-6
        np.testing.assert_allclose(rotations[:, ankle, 1, 1], 1.0, atol=1e-9)
    assert np.ptp(places[:, JOINT["head"]], axis=0).max() > 0.03
