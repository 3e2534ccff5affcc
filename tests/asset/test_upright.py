import dataclasses

import numpy as np
import pytest
from rigged_meshes import make_rigged
from scipy.spatial.transform import Rotation

from selfrecon_warp.asset.rigged import RiggedMesh
from selfrecon_warp.asset.upright import upright


def in_world(rigged: RiggedMesh, turn: np.ndarray, shift: np.ndarray) -> RiggedMesh:
    """The same motion seen from a world that is turned and shifted."""
    pelvis = rigged.bind[0, :3, 3]
    poses = rigged.poses.copy()
    poses[:, 0] = (Rotation.from_matrix(turn) * Rotation.from_rotvec(poses[:, 0])).as_rotvec()
    trans = (pelvis + rigged.trans) @ turn.T + shift - pelvis
    return dataclasses.replace(rigged, poses=poses, trans=trans.astype(np.float32))


UPSIDE_DOWN = np.diag([1.0, -1.0, -1.0])
CROOKED = Rotation.from_rotvec([0.7, -1.1, 0.4]).as_matrix()


@pytest.mark.parametrize("turn", [np.eye(3), UPSIDE_DOWN, CROOKED])
def test_any_world_becomes_the_one_with_y_up(turn):
    rigged = make_rigged(spread=0.0)  # a full turn about y in six steps, begun facing +z
    moved, capture_from_asset = upright(in_world(rigged, turn, np.array([0.3, -0.2, 3.0])))
    posed = moved.posed(moved.poses, moved.trans)
    assert np.median(posed[..., 1].min(1)) == pytest.approx(0.0, abs=1e-5)
    frames = moved.joint_frames(moved.poses, moved.trans)
    np.testing.assert_allclose(frames[:, 0, :3, 1], np.tile([0, 1, 0], (len(frames), 1)), atol=1e-6)
    np.testing.assert_allclose(frames[0, 0, :3, 2], [0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(frames[0, 0, [0, 2], 3], 0, atol=1e-6)
    assert moved.vertices[:, 1].min() == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(capture_from_asset[:3, :3], turn, atol=1e-6)
    assert np.linalg.det(capture_from_asset[:3, :3]) == pytest.approx(1.0)


def test_the_transform_leads_back_into_the_capture():
    captured = in_world(make_rigged(), CROOKED, np.array([0.3, -0.2, 3.0]))
    moved, capture_from_asset = upright(captured)
    posed = moved.posed(moved.poses, moved.trans)
    back = posed @ capture_from_asset[:3, :3].T + capture_from_asset[:3, 3]
    np.testing.assert_allclose(back, captured.posed(captured.poses, captured.trans), atol=2e-6)


def test_the_skeleton_moves_with_the_vertices():
    rigged = make_rigged()
    moved, _ = upright(rigged)
    lift = moved.vertices - rigged.vertices
    np.testing.assert_allclose(lift, np.tile([0, lift[0, 1], 0], (len(lift), 1)), atol=1e-7)
    np.testing.assert_allclose((moved.bind - rigged.bind)[:, :3, 3], lift[: len(moved.bind)], atol=1e-6)


def test_a_pelvis_tilted_forward_stays_tilted_in_a_motion_that_turns_unevenly():
    rigged = make_rigged(spread=0.0, frames=48)
    headings = np.concatenate((np.zeros(36), np.arange(12) * 30))  # mostly to the front, then one full turn
    tilted = Rotation.from_euler("y", headings[:, None], degrees=True) * Rotation.from_euler("x", 10, degrees=True)
    poses = rigged.poses.copy()
    poses[:, 0] = tilted.as_rotvec()
    _, capture_from_asset = upright(dataclasses.replace(rigged, poses=poses))
    np.testing.assert_allclose(capture_from_asset[:3, :3], np.eye(3), atol=0.01)
