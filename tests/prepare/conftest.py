"""A small synthesized capture whose true bodies are known."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from selfrecon_warp.capture.check import check_capture
from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.capture.ground_truth import read_ground_truth
from selfrecon_warp.model.body import load_body
from selfrecon_warp.synthesis import synthesize_capture

FRAMES, SIZE = 6, 128


@dataclass(frozen=True)
class Known:
    """A capture and its true bodies in the axes of its camera, which are those of the world.

    Attributes:
        root: The capture.
        poses: ``[N, 24, 3]``.
        trans: ``[N, 3]``.
        betas: ``[10]``.
        focal: [px].
        centre: (cx, cy) [px].
        overlap: Of the true naked body and the masks, ``[N]``.
    """

    root: Path
    poses: np.ndarray
    trans: np.ndarray
    betas: np.ndarray
    focal: float
    centre: np.ndarray
    overlap: np.ndarray

    def overlap_of(self, folder: Path) -> np.ndarray:
        return check_capture(read_capture(folder), load_body()).overlap


@pytest.fixture(scope="session")
def known(tmp_path_factory) -> Known:
    root = tmp_path_factory.mktemp("known") / "capture"
    synthesize_capture(root, seed=3, frames=FRAMES, size=SIZE, outfit="casual")
    truth, camera = read_ground_truth(root), read_capture(root).camera
    with np.load(root / "smpl_rec.npz") as given:
        arrays = dict(given)
    exact = {"poses": truth.poses.numpy(), "trans": truth.trans.numpy(), "shape": truth.betas.numpy()}
    np.savez(root / "smpl_rec.npz", **{**arrays, **exact})
    overlap = check_capture(read_capture(root), load_body()).overlap
    return Known(
        root,
        exact["poses"],
        exact["trans"],
        exact["shape"],
        float(camera.focal[0]),
        np.array(camera.principal.tolist()),
        overlap,
    )


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def _no_smpl_files(monkeypatch):
    monkeypatch.delenv("SELFRECON_BODY_MODELS", raising=False)
