"""What the viewer shows: meshes of a run, inferred or of a fit that is running."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import trimesh

from selfrecon_warp.capture.dataset import Capture, read_capture
from selfrecon_warp.errors import RunError
from selfrecon_warp.train.checkpoint import LATEST
from selfrecon_warp.train.run_folder import RunFolder
from selfrecon_warp.train.saved import SavedFit, load_fit
from selfrecon_warp.view.mesh_io import to_bytes
from selfrecon_warp.view.reconstruction import Reconstruction

WATCH_SECONDS = 2.0
"""Between two looks at a running fit's checkpoint."""
WATCH_COARSER = 2.0
"""Cell edge of a watched fit's lattice, of the configured one."""


class Scene(ABC):
    """Meshes of a run, frame by frame, and the fit behind them where there is one.

    Attributes:
        run: The run.
        capture: What it was fitted to.
    """

    run: RunFolder
    capture: Capture

    @property
    @abstractmethod
    def frame_count(self) -> int:
        """Number of frames."""

    @abstractmethod
    def canonical(self) -> Any:
        """The canonical mesh, as ``trimesh`` has it."""

    @abstractmethod
    def posed(self, frame: int) -> Any:
        """A frame's mesh in the world."""

    @abstractmethod
    def refreshed(self) -> bool:
        """Whether the meshes are others than when last asked."""

    @cached_property
    def fit(self) -> SavedFit:
        """The last checkpoint; what most layers are computed from.

        Raises:
            RunError: There is none.
        """
        return load_fit(self.run, torch.device("cpu"))

    @cached_property
    def overlaps(self) -> list[float]:
        """Silhouette overlap of every frame, as `selfrecon infer` found it; empty when it has not."""
        try:
            frames = json.loads((self.run.infer / "overlap.json").read_text(encoding="utf-8"))["frames"]
            return [float(frames[name]) for name in sorted(frames)]
        except (OSError, ValueError, KeyError, TypeError):
            return []


class InferredScene(Scene):
    """What `selfrecon infer` wrote."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self._files = sorted((run.infer / "meshes").glob("*.ply"))
        if not self._files or not run.canonical_mesh.is_file():
            raise RunError(f"{run.path}: has no meshes yet; run `selfrecon infer {run.path}` first")
        self.capture = read_capture(run.capture_folder)

    @property
    def frame_count(self) -> int:
        """See the interface."""
        return len(self._files)

    def canonical(self) -> Any:
        """See the interface."""
        return _read_mesh(self.run.canonical_mesh)

    def posed(self, frame: int) -> Any:
        """See the interface."""
        return _read_mesh(self._files[frame])

    def refreshed(self) -> bool:
        """See the interface."""
        return False


class LiveScene(Scene):
    """The last checkpoint of a fit that may still be running, on a coarse lattice."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self._checked = time.monotonic()
        self._stamp = self._latest_stamp()
        self._load()
        self.capture = self.fit.capture

    @property
    def frame_count(self) -> int:
        """See the interface."""
        return len(self.capture)

    def canonical(self) -> Any:
        """See the interface."""
        mesh = self._reconstruction
        colours = to_bytes(mesh.vertex_colours()).cpu().numpy()
        faces, vertices = mesh.faces.cpu().numpy(), mesh.vertices.cpu().numpy()
        return trimesh.Trimesh(vertices, faces, vertex_colors=colours, process=False)

    def posed(self, frame: int) -> Any:
        """See the interface."""
        vertices, faces = self._reconstruction.posed([frame])[0].cpu().numpy(), self._reconstruction.faces.cpu().numpy()
        return trimesh.Trimesh(vertices, faces, process=False)

    def refreshed(self) -> bool:
        """See the interface."""
        if time.monotonic() - self._checked < WATCH_SECONDS:
            return False
        self._checked = time.monotonic()
        stamp = self._latest_stamp()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self._load()
        except RunError:  # between two checkpoints, or the field has no surface at the moment
            return False
        return True

    def _latest_stamp(self) -> float:
        try:
            return (self.run.checkpoints / LATEST).stat().st_mtime
        except OSError:
            return 0.0

    def _load(self) -> None:
        fit = load_fit(self.run, torch.device("cpu"))
        self._reconstruction = Reconstruction(fit.avatar, WATCH_COARSER * fit.config.output_cell)
        self.__dict__["fit"] = fit


def _read_mesh(path: Path) -> Any:
    try:
        return trimesh.load(path, process=False)
    except Exception as error:  # the reader raises many kinds
        raise RunError(f"{path}: damaged mesh ({error}); run `selfrecon infer` again") from error
