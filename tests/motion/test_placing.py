import numpy as np
import pytest
import torch

from selfrecon_warp.errors import MotionError
from selfrecon_warp.model.rotation import rotation_from_axis_angle
from selfrecon_warp.motion.clip import Motion
from selfrecon_warp.motion.library import load_motion
from selfrecon_warp.motion.placing import place
from selfrecon_warp.motion.rotations import about, vectors
from selfrecon_warp.motion.skeleton import Skeleton


def test_a_skeleton_is_found_in_any_pose(body, skeleton):
    canonical, _, model = body
    np.testing.assert_allclose(skeleton.joints, canonical.joints_rest, atol=1e-6)
    posed, _joints = model.posed(*(x.float() for x in _pose()))
    frames = model._joint_frames(_rotations(), canonical.joints_rest)[0].double()
    found = Skeleton.of_mesh(frames.numpy(), posed[0].numpy(), canonical.weights.numpy())
    np.testing.assert_allclose(found.joints, canonical.joints_rest, atol=1e-5)
    for foot, same in zip(found.feet, skeleton.feet, strict=True):
        assert foot.sole == pytest.approx(same.sole, abs=0.01)
    with pytest.raises(ValueError, match=r"bind must have shape \[24, 4, 4\]"):
        Skeleton.of_mesh(np.eye(4)[None], posed[0], canonical.weights)


def _pose():
    poses = torch.zeros(1, 24, 3)
    poses[:, 1, 0], poses[:, 0, 1] = -0.3, 0.5
    return torch.zeros(10), poses, torch.zeros(1, 3)


def _rotations():
    return rotation_from_axis_angle(_pose()[1])


def test_paths_shrink_with_the_legs_and_begin_at_the_origin_facing_front(skeleton):
    poses = np.zeros((5, 24, 3))
    poses[:, 0] = vectors(about("y", 2.0))
    forward = about("y", 2.0) @ [0.0, 0.0, 1.0]
    path = np.linspace(0, 4, 5)[:, None] * forward * 100 + [700.0, 90.0, -300.0]
    motion = Motion("far", poses, path, 30.0, leg_length=2 * 100 * skeleton.leg_length)

    def lowest(_, trans):
        return trans[:, 1] - 0.3

    placed = place(motion, skeleton, lowest)
    np.testing.assert_allclose(placed.trans[0, [0, 2]] + skeleton.joints[0, [0, 2]], 0, atol=1e-9)
    np.testing.assert_allclose(np.diff(placed.trans, axis=0), np.tile([0.0, 0.0, 0.5], (4, 1)), atol=1e-9)
    np.testing.assert_allclose(placed.poses[:, 0], 0, atol=1e-9)
    np.testing.assert_allclose(lowest(placed.poses, placed.trans), 0, atol=1e-9)
    told = place(motion, skeleton, lowest, path_scale=0.01)
    np.testing.assert_allclose(np.diff(told.trans, axis=0), np.tile([0.0, 0.0, 1.0], (4, 1)), atol=1e-9)


def test_a_jump_stays_a_jump(skeleton):
    path = np.zeros((30, 3))
    path[10:20, 1] = 0.4
    motion = Motion("jump", np.zeros((30, 24, 3)), path, 30.0, skeleton.leg_length)
    placed = place(motion, skeleton, lambda _, trans: trans[:, 1])
    np.testing.assert_allclose(placed.trans[:10, 1], 0, atol=1e-9)
    np.testing.assert_allclose(placed.trans[10:20, 1], 0.4, atol=1e-9)


def test_motions_come_by_name_or_by_suffix(tmp_path, skeleton):
    assert len(load_motion("walk", skeleton, 60.0)) == 2 * len(load_motion("walk", skeleton, 30.0))
    np.savez(tmp_path / "a.npz", poses=np.zeros((61, 72)), fps=60)
    assert len(load_motion(str(tmp_path / "a.npz"), skeleton, 30.0)) == 31
    for bad in ("jog", str(tmp_path / "a.fbx"), ""):
        with pytest.raises(MotionError, match=r"give sway, walk, or a file ending in \.npz, \.npy, \.bvh"):
            load_motion(bad, skeleton, 30.0)
