"""Any representation of a rotation gives the same axis-angle vectors."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from selfrecon_warp.errors import PrepareError
from selfrecon_warp.prepare.rotations import axis_angles

JOINTS = 24
VECTORS = Rotation.random(5 * JOINTS, random_state=0).as_rotvec().reshape(5, JOINTS, 3)
MATRICES = Rotation.from_rotvec(VECTORS.reshape(-1, 3)).as_matrix().reshape(5, JOINTS, 3, 3)
QUATERNIONS = Rotation.from_rotvec(VECTORS.reshape(-1, 3)).as_quat().reshape(5, JOINTS, 4)[..., (3, 0, 1, 2)]


@pytest.mark.parametrize(
    "stored",
    [
        VECTORS,
        VECTORS.reshape(5, 72),
        MATRICES,
        MATRICES.reshape(5, 216),
        MATRICES[..., :2],
        MATRICES[..., :2].reshape(5, JOINTS, 6),
        MATRICES[..., :2].reshape(5, 144),
        MATRICES[..., :2, :].reshape(5, JOINTS, 6),
        QUATERNIONS,
        MATRICES[..., :2] * 1.01,
    ],
    ids=["vectors", "flat", "matrices", "flat 9", "columns", "six", "flat six", "rows", "quaternions", "raw network"],
)
def test_every_form_is_read(stored):
    np.testing.assert_allclose(axis_angles(stored, "pose"), VECTORS, atol=1e-6)


@pytest.mark.parametrize(("count", "shape"), [(21, (5, 63)), (22, (5, 66)), (23, (5, 69)), (1, (5, 3)), (1, (5, 1, 3))])
def test_parts_of_a_body_are_read(count, shape):
    np.testing.assert_array_equal(axis_angles(VECTORS[:, :count].reshape(shape), "pose"), VECTORS[:, :count])


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (np.zeros((5, 70)), "one rotation for each frame and joint"),
        (np.zeros((5, 24, 3, 3)), "must hold rotation matrices, that of frame 0, joint 0"),
        (MATRICES * np.array([1, 1, -1]), "rotation matrices"),
        (np.zeros((5, 24, 6)), "independent directions"),
        (np.zeros((5, 24, 4)), "unit quaternions"),
        (np.full((5, 72), np.nan), "NaN or infinity, first in frame 0"),
        (np.array([["a"] * 72]), "must hold numbers"),
    ],
)
def test_everything_else_is_refused(stored, message):
    with pytest.raises(PrepareError, match=message):
        axis_angles(stored, "file: pose")
