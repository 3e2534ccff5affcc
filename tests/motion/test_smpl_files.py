import numpy as np
import pytest

from selfrecon_warp.errors import MotionError
from selfrecon_warp.motion.rotations import about, matrices
from selfrecon_warp.motion.smpl_files import read_smpl_motion


@pytest.mark.parametrize("columns", [156, 165])
def test_amass_stands_up_and_keeps_the_body_alone(tmp_path, turns, columns):
    stored = np.random.default_rng(1).normal(0, 0.3, (7, columns))
    stored[:, :66] = turns[:, :22].reshape(7, 66)
    trans = np.random.default_rng(2).normal(size=(7, 3))
    np.savez(tmp_path / "take.npz", poses=stored, trans=trans, mocap_framerate=120.0, betas=np.zeros(16), gender="male")
    motion = read_smpl_motion(tmp_path / "take.npz")
    assert motion.frame_rate == 120
    assert motion.name == "take"
    np.testing.assert_allclose(motion.poses[:, 1:22], turns[:, 1:22])
    assert not motion.poses[:, 22:].any()
    upright = about("x", -np.pi / 2)
    np.testing.assert_allclose(matrices(motion.poses[:, 0]), upright @ matrices(turns[:, 0]), atol=1e-9)
    np.testing.assert_allclose(motion.pelvis, trans @ upright.T)
    np.testing.assert_allclose(upright @ [0, 0, 1], [0, 1, 0], atol=1e-12)


@pytest.mark.parametrize("layout", ["flat", "vectors", "matrices"])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_smpl_arrays_of_every_layout(tmp_path, turns, layout, suffix):
    stored = {"flat": turns.reshape(7, 72), "vectors": turns, "matrices": matrices(turns)}[layout]
    path = tmp_path / f"poses{suffix}"
    if suffix == ".npy":
        np.save(path, stored)
    else:
        np.savez(path, poses=stored, trans=np.ones((7, 3)), fps=50)
    motion = read_smpl_motion(path)
    np.testing.assert_allclose(matrices(motion.poses), matrices(turns), atol=1e-9)
    assert motion.frame_rate == (30 if suffix == ".npy" else 50)
    assert (motion.pelvis == (0 if suffix == ".npy" else 1)).all()


def test_the_files_axis_and_rate_can_be_told(tmp_path, turns):
    np.save(tmp_path / "p.npy", turns)
    motion = read_smpl_motion(tmp_path / "p.npy", up="z", frame_rate=12.5)
    assert motion.frame_rate == 12.5
    np.testing.assert_allclose(matrices(motion.poses[:, 0]), about("x", -np.pi / 2) @ matrices(turns[:, 0]), atol=1e-9)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"verts": np.zeros((3, 6890, 3))}, "holds no poses.*found verts"),
        ({"poses": np.zeros((3, 70))}, r"must have shape \(frames, 72 or 24, 3 \(SMPL\)"),
        ({"poses": np.zeros((0, 72))}, "must have shape"),
        ({"poses": np.full((3, 72), np.nan)}, "NaN or infinity, first in frame 0"),
        ({"poses": np.full((3, 24, 3, 3), 0.5)}, "must be rotation matrices"),
        ({"poses": np.array([["a"] * 72])}, "must hold numbers"),
        ({"poses": np.zeros((3, 72)), "trans": np.zeros((2, 3))}, r"trans must have shape \(3, 3\)"),
        ({"poses": np.zeros((3, 72)), "fps": np.array(0.0)}, "fps must be one positive number"),
    ],
)
def test_bad_arrays_are_named(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(MotionError, match=message):
        read_smpl_motion(tmp_path / "bad.npz")


def test_nothing_is_ever_unpickled(tmp_path):
    np.savez(tmp_path / "evil.npz", poses=np.array([{"a": 1}], dtype=object))
    with pytest.raises(MotionError, match="never loaded"):
        read_smpl_motion(tmp_path / "evil.npz")
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(MotionError, match="never loaded"):
        read_smpl_motion(tmp_path / "evil.npy")


def test_missing_and_damaged_files_are_told_apart(tmp_path):
    with pytest.raises(MotionError, match="no such file"):
        read_smpl_motion(tmp_path / "none.npz")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(MotionError, match="damaged"):
        read_smpl_motion(tmp_path / "cut.npz")
