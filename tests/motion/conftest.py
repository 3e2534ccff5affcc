import numpy as np
import pytest
import torch

from selfrecon_warp.model.body import load_body
from selfrecon_warp.motion.skeleton import Skeleton


@pytest.fixture(scope="session")
def body():
    """The default body in its canonical pose: vertices, weights, bind transforms."""
    model = load_body()
    canonical = model.canonical(torch.zeros(10))
    bind = torch.linalg.inv(canonical.bones_inverse.double()).numpy()
    return canonical, bind, model


@pytest.fixture(scope="session")
def skeleton(body) -> Skeleton:
    canonical, bind, _ = body
    return Skeleton.of_mesh(bind, canonical.vertices.numpy(), canonical.weights.numpy())


@pytest.fixture
def turns():
    """Random local rotations, axis-angle, shorter than half a turn."""
    return np.random.default_rng(0).normal(0, 0.5, (7, 24, 3))
