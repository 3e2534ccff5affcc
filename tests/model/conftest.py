"""A body model of forty vertices with SMPL's tree of joints."""

import numpy as np
import pytest

PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)


@pytest.fixture
def tiny_arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(7)
    count = 40
    weights, regressor = random.random((count, 24)) ** 4, random.random((24, count)) ** 8
    return {
        "v_template": random.standard_normal((count, 3)).astype(np.float32),
        "shapedirs": 0.05 * random.standard_normal((count, 3, 10)).astype(np.float32),
        "posedirs": 0.01 * random.standard_normal((count, 3, 207)).astype(np.float32),
        "J_regressor": (regressor / regressor.sum(1, keepdims=True)).astype(np.float32),
        "weights": (weights / weights.sum(1, keepdims=True)).astype(np.float32),
        "kintree_table": np.array([PARENTS, range(24)]),
        "f": random.integers(0, count, (60, 3)),
    }
