"""One person's body over a video as an estimator saw it, before it is put into a capture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from selfrecon_warp.errors import PrepareError
from selfrecon_warp.prepare.camera_file import Intrinsics
from selfrecon_warp.prepare.rotations import Floats, axis_angles, finite

JOINTS = 24
SMPLX_BODY_JOINTS = 22
"""The pelvis and 21 body joints, which SMPL-X shares with SMPL; SMPL's two hand joints follow."""
PELVIS = {"SMPL": (-0.0018, -0.2233, 0.0282), "SMPL-X": (0.0031, -0.3514, 0.0120)}
"""Where the root joint of the neutral mean body rests [m]; the origins of body models differ by so much."""


@dataclass(frozen=True)
class Path3D:
    """A translation of the body for every frame, added after the root has turned about the pelvis.

    Attributes:
        words: What it is, for reports.
        values: [m], ``[N, 3]``, x right, y down, z forward.
        intrinsics: The camera it was estimated for, ``None`` where the file does not tell.
    """

    words: str
    values: Floats
    intrinsics: Intrinsics | None


@dataclass(frozen=True)
class BodyTrack:
    """One person in camera axes (x right, y down, z forward).

    Attributes:
        path: File it came from.
        source: Name of the format.
        model: Whose joints and shape coefficients these are: ``SMPL``, ``SMPL-X`` or ``capture`` for the body in use.
        poses: Axis-angle [rad], ``[N, 24, 3]``.
        betas: Shape, ``[K]``.
        paths: Translations, at least one; several where the format leaves open which is meant.
        frames: Frame index of each row, increasing, ``[N]``.
        indexed: Whether the file itself tells the frames; otherwise rows are frames 0 to N-1.
        names: Stems of the pictures that the file tells, or empty.
        gender: As stored, ``neutral`` without.
        clip_ends: Where clips end, in frames; empty for one.
        remark: Something to tell the user, or empty.
    """

    path: Path
    source: str
    model: str
    poses: Floats
    betas: Floats
    paths: tuple[Path3D, ...]
    frames: np.ndarray
    indexed: bool = False
    names: tuple[str, ...] = ()
    gender: str = "neutral"
    clip_ends: tuple[int, ...] = ()
    remark: str = ""

    def __post_init__(self) -> None:
        count = len(self.poses)
        if count == 0:
            raise PrepareError(f"{self.path} holds no frames of a person")
        for path in self.paths:
            if path.values.shape != (count, 3):
                raise PrepareError(
                    f"{self.path}: the translation must have shape ({count}, 3) like the poses, got {path.values.shape}"
                )

    def rows(self, chosen: Sequence[int]) -> BodyTrack:
        """The track of some of its rows."""
        rows = list(chosen)
        return replace(
            self,
            poses=self.poses[rows],
            paths=tuple(replace(path, values=path.values[rows]) for path in self.paths),
            frames=self.frames[rows],
            names=tuple(self.names[row] for row in rows) if self.names else (),
        )


def full_pose(parts: Sequence[tuple[str, Any]], path: Path) -> Floats:
    """Axis-angle ``[N, 24, 3]`` of root, body and hands in any form; joints that are not given do not turn.

    Args:
        parts: Name and stored array, in joint order.
        path: The file, for messages.
    """
    pieces = [axis_angles(np.asarray(stored), f"{path}: {name}") for name, stored in parts]
    counts = {len(piece) for piece in pieces}
    if len(counts) > 1:
        told = ", ".join(f"{name} {len(piece)}" for (name, _), piece in zip(parts, pieces, strict=True))
        raise PrepareError(f"{path}: its parts have different numbers of frames: {told}")
    given = np.concatenate(pieces, 1)
    if given.shape[1] not in (SMPLX_BODY_JOINTS, JOINTS):
        raise PrepareError(f"{path}: expected {JOINTS} or {SMPLX_BODY_JOINTS} joints, got {given.shape[1]}")
    return np.concatenate((given, np.zeros((len(given), JOINTS - given.shape[1], 3))), 1)


def mean_betas(stored: Any, name: str) -> Floats:
    """One shape, ``[K]``, of one or many: estimators give one a frame, a person has one."""
    numbers = finite(np.asarray(stored), name)
    return np.asarray(numbers.reshape(-1, numbers.shape[-1]).mean(0)[:10])


def translations(stored: Any, name: str) -> Floats:
    """``[N, 3]`` [m] of any array with three numbers a frame."""
    numbers = finite(np.asarray(stored), name)
    if numbers.shape[-1] != 3 or numbers.size != len(numbers.reshape(-1, 3)) * 3:
        raise PrepareError(f"{name} must hold 3 numbers a frame, got shape {numbers.shape}")
    return np.asarray(numbers.reshape(-1, 3))


def described(content: Any, depth: int = 2) -> str:
    """The keys of nested dictionaries, for messages."""
    if isinstance(content, Mapping):
        shown = list(content.items())[:8]
        inner = [f"{key}{_inside(value, depth)}" for key, value in shown]
        more = ", ..." if len(content) > len(shown) else ""
        return "{" + ", ".join(inner) + more + "}"
    if isinstance(content, np.ndarray):
        return f"array {content.shape}"
    if isinstance(content, list | tuple):
        return f"{type(content).__name__} of {len(content)}"
    return type(content).__name__


def _inside(value: Any, depth: int) -> str:
    return f": {described(value, depth - 1)}" if isinstance(value, Mapping) and depth > 1 else ""
