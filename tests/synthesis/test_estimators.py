import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from selfrecon_warp.synthesis.estimators import BlurryNormals, RaggedMask, estimated
from selfrecon_warp.synthesis.person import Motion, turn_motion

SIZE = 128


def disc() -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    return np.hypot(x, y) < 0.35 * SIZE


def ball_normals(mask: np.ndarray) -> np.ndarray:
    y, x = (np.mgrid[:SIZE, :SIZE] - SIZE / 2) / (0.36 * SIZE)
    z = np.sqrt(np.clip(1 - x**2 - y**2, 0, 1))
    return np.stack((x, -y, z), -1).astype(np.float32) * mask[..., None]


@pytest.mark.parametrize("degrees", [0.0, 2.6, 8.0])
def test_pose_noise_has_the_asked_size_and_lasts(degrees: float) -> None:
    rng = np.random.default_rng(0)
    motion = turn_motion(rng, 60)
    given, shape = estimated(rng, motion, np.zeros(10, np.float32), degrees)
    turned = Rotation.from_rotvec(motion.poses.reshape(-1, 3)).inv() * Rotation.from_rotvec(given.poses.reshape(-1, 3))
    assert np.degrees(turned.magnitude()).mean() == pytest.approx(degrees, abs=1e-3)
    wrong = given.trans - motion.trans
    assert np.sqrt((wrong**2).sum(1).mean()) == pytest.approx(0.018 * degrees / 2.6, rel=0.4, abs=1e-6)
    assert (np.abs(shape).max() > 0) == (degrees > 0)
    if degrees:
        error = turned.as_rotvec().reshape(60, 72)
        assert np.corrcoef(error[:-1].ravel(), error[1:].ravel())[0, 1] > 0.7
        assert wrong[:, 2].std() + abs(wrong[:, 2].mean()) > 0.005


@pytest.mark.parametrize("degrees", [0.0, 3.0, 9.0, 20.0])
def test_normals_err_by_the_asked_angle(degrees: float) -> None:
    mask = disc()
    normals = ball_normals(mask)
    predict = BlurryNormals(np.random.default_rng(1), 4, SIZE, degrees)
    for frame in range(4):
        cosine = (predict(normals, mask, frame)[mask] * normals[mask]).sum(1)
        angle = np.degrees(np.arccos(np.clip(cosine / np.linalg.norm(normals[mask], axis=1), -1, 1))).mean()
        assert angle == pytest.approx(degrees, rel=0.25, abs=0.2)


@pytest.mark.parametrize("pixels", [0.0, 1.5, 4.0])
def test_mask_outline_wanders_by_the_asked_pixels(pixels: float) -> None:
    mask = disc()
    ragged = RaggedMask(np.random.default_rng(2), 3, SIZE, pixels)
    length = 2 * np.pi * 0.35 * SIZE
    changed = np.mean([(ragged(mask, frame) != mask).sum() for frame in range(3)]) / length
    assert changed == pytest.approx(pixels, rel=0.4, abs=1e-9)


def test_turn_is_full_and_starts_facing_the_camera() -> None:
    motion = turn_motion(np.random.default_rng(3), 48)
    assert isinstance(motion, Motion)
    ahead = Rotation.from_rotvec(motion.poses[:, 0]).apply([0, 0, 1])
    assert ahead[0, 2] < -0.95
    heading = np.unwrap(np.arctan2(ahead[:, 0], -ahead[:, 2]))
    assert abs(heading[-1] - heading[0]) == pytest.approx(2 * np.pi * 47 / 48, abs=0.3)
    up = Rotation.from_rotvec(motion.poses[:, 0]).apply([0, 1, 0])
    assert up[:, 1].max() < -0.98
