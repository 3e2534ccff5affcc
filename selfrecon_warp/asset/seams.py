"""One texture coordinate a vertex, as glTF wants it: vertices doubled along the texture's seams."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from selfrecon_warp.asset.rigged import RiggedMesh


@dataclass(frozen=True)
class SplitMesh:
    """A mesh whose vertices have one texture coordinate each.

    Attributes:
        source: The rigged mesh's vertex behind each of ours, ``[C]``.
        faces: ``[F, 3]`` int32, in the rigged mesh's order.
        texcoords: As the rigged mesh's, ``[C, 2]`` float32; ``None`` where it has none.
    """

    source: np.ndarray
    faces: np.ndarray
    texcoords: np.ndarray | None


def split_at_seams(rigged: RiggedMesh) -> SplitMesh:
    """Double the vertices that lie on seams of the texture; without one, all stay as they are."""
    if rigged.texcoords is None or rigged.face_texcoords is None:
        return SplitMesh(np.arange(len(rigged.vertices)), rigged.faces, None)
    pairs = np.stack((rigged.faces.ravel(), rigged.face_texcoords.ravel()), 1)
    corners, index = np.unique(pairs, axis=0, return_inverse=True)
    return SplitMesh(corners[:, 0], index.reshape(-1, 3).astype(np.int32), rigged.texcoords[corners[:, 1]])
