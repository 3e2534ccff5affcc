"""Smooth bumps along a mesh's normals: the canonical shape's part in registration.

Poses and the surface they carry explain the same pictures. Moved in turns they creep, because each is fitted to the
other's error; a few hundred bumps solved for together with all poses take that error out at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from scipy.spatial import cKDTree
from torch import Tensor

from selfrecon_warp.model.rotation import rotation_from_axis_angle

RIGID_SHARE = 0.2
"""A rigid part moves by this share of what a bump may."""
RIGID_LEVER_M = 0.1
"""A turn or a growth of a rigid part counts as the distance that it moves points so far from the middle."""


@dataclass(frozen=True)
class RigidPart:
    """A part of a mesh that moves by a similarity.

    Attributes:
        centre: What it turns and grows about [m], ``[3]``.
        column: Its first coefficient: a shift along x, y, z, a turn about them, a growth.
    """

    centre: Tensor
    column: int

    def move(self, coefficients: Tensor) -> Tensor:
        """The similarity ``[4, 4]`` that coefficients ``[K]`` of all bumps say."""
        own = RIGID_SHARE * coefficients[self.column : self.column + 7]
        move = torch.eye(4).to(own)
        turn = rotation_from_axis_angle(own[None, 3:6] / RIGID_LEVER_M)[0]
        move[:3, :3] = torch.exp(own[6] / RIGID_LEVER_M) * turn
        move[:3, 3] = self.centre + own[:3] - move[:3, :3] @ self.centre
        return move


@dataclass(frozen=True)
class Bumps:
    """``K`` bumps on a mesh of ``V`` vertices; a coefficient is a height along the normals [m].

    Attributes:
        values: Height of every bump at every vertex, ``[V, K]``; rows sum to one where the surface is free.
        slopes: Its gradient along the surface [1/m], ``[3 V, K]``, the three components of a vertex in a row.
        rigid: Parts that keep their shape; each has seven of the ``K``.
    """

    values: sparse.csr_array
    slopes: sparse.csr_array
    rigid: tuple[RigidPart, ...] = ()

    @property
    def count(self) -> int:
        """Bumps K."""
        return int(self.values.shape[1])

    def values_at(self, corners: Tensor, barycentrics: Tensor) -> sparse.csr_array:
        """Values ``[P, K]`` at points with ``barycentrics [P, 3]`` between the vertices ``corners [P, 3]``."""
        return _mixing(corners, barycentrics, self.values.shape[0]) @ self.values

    def slopes_at(self, corners: Tensor, barycentrics: Tensor) -> sparse.csr_array:
        """Slopes ``[3 P, K]`` at such points."""
        mixing = _mixing(corners, barycentrics, self.values.shape[0])
        return sparse.csr_array(sparse.kron(mixing, sparse.eye_array(3), format="csr") @ self.slopes)

    def heights(self, coefficients: Tensor) -> Tensor:
        """Height at every vertex [m], ``[V]``, given the bumps' coefficients ``[K]``."""
        return torch.from_numpy(self.values @ coefficients.cpu().numpy()).to(coefficients)


def make_bumps(vertices: Tensor, faces: Tensor, normals: Tensor, spacing: float, parts: Tensor | None = None) -> Bumps:
    """Bumps evenly spread over a mesh, each twice as wide as they lie apart.

    Distance counts the turn of the normal too (half a turn as two spacings), so that the two sides of a thin part
    have bumps of their own.

    Args:
        vertices: ``[V, 3]`` [m].
        faces: ``[F, 3]``.
        normals: Unit vertex normals, ``[V, 3]``.
        spacing: Distance between neighbouring bumps [m].
        parts: Rigid part of every vertex, ``[V]``, -1 for none; their vertices have no bumps.

    Source: compactly supported kernel of Wendland 1995, normalised to a partition of unity.
    """
    V = len(vertices)
    free = torch.arange(V, device=vertices.device) if parts is None else (parts < 0).nonzero()[:, 0]
    places = torch.cat([vertices, spacing * normals], -1)[free]
    centres = places[_spread(places, spacing)].cpu().numpy()
    tree = cKDTree(places.cpu().numpy())
    near = tree.sparse_distance_matrix(cKDTree(centres), 2.0 * spacing, output_type="coo_matrix")
    q = near.data / (2.0 * spacing)
    rows = free.cpu().numpy()[near.row]
    values = sparse.csr_array(((1.0 - q) ** 4 * (4.0 * q + 1.0), (rows, near.col)), shape=(V, len(centres)))
    total = np.asarray(values.sum(1)).ravel()
    values = sparse.csr_array(sparse.diags_array(1.0 / np.maximum(total, 1e-9)) @ values)
    blocks, rigid = [values], list[RigidPart]()
    for part in [] if parts is None else parts.unique().tolist():
        if part >= 0:
            index = (parts == part).nonzero()[:, 0]
            centre = vertices[index].mean(0)
            rigid.append(RigidPart(centre, len(centres) + 7 * len(rigid)))
            blocks.append(_similarity(vertices, normals, index, centre))
    values = sparse.csr_array(sparse.hstack(blocks, format="csr"))
    gradient = _surface_gradient(
        vertices.double().cpu().numpy(), normals.double().cpu().numpy(), faces.long().cpu().numpy()
    )
    slopes = sparse.csr_array(gradient @ values)
    return Bumps(values.astype(np.float32), slopes.astype(np.float32), tuple(rigid))


def _similarity(vertices: Tensor, normals: Tensor, index: Tensor, centre: Tensor) -> sparse.csr_array:
    """Heights ``[V, 7]`` that shifts, turns and a growth of some vertices come to, to first order."""
    arm, normal = (vertices[index] - centre) / RIGID_LEVER_M, normals[index]
    turned = torch.linalg.cross(arm, normal)  # (turn x arm) . normal = turn . (arm x normal)
    heights = RIGID_SHARE * torch.cat([normal, turned, (arm * normal).sum(-1, keepdim=True)], -1)
    rows, columns = index.cpu().numpy().repeat(7), np.tile(np.arange(7), len(index))
    entries = heights.double().cpu().numpy().ravel()
    return sparse.csr_array((entries, (rows, columns)), shape=(len(vertices), 7))


def _spread(places: Tensor, spacing: float) -> list[int]:
    """Indices of places such that every place lies within ``spacing`` of one: farthest point sampling."""
    chosen = [0]
    distance = (places - places[0]).norm(dim=-1)
    while float(distance.max()) > spacing:
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (places - places[chosen[-1]]).norm(dim=-1))
    return chosen


def _mixing(corners: Tensor, barycentrics: Tensor, vertex_count: int) -> sparse.csr_array:
    P = len(corners)
    entries, columns = barycentrics.cpu().numpy().ravel(), corners.cpu().numpy().ravel()
    return sparse.csr_array((entries, columns, np.arange(0, 3 * P + 1, 3)), shape=(P, vertex_count))


def _surface_gradient(vertices: np.ndarray, normals: np.ndarray, faces: np.ndarray) -> sparse.csr_array:
    """Takes values at vertices to their gradient along the surface at vertices, ``[3 V, V]``."""
    V = len(vertices)
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    doubled = np.cross(b - a, c - a)
    area = np.linalg.norm(doubled, axis=-1)
    unit = doubled / np.maximum(area, 1e-12)[:, None]
    around = np.zeros(V)
    for k in range(3):
        np.add.at(around, faces[:, k], area)
    opposite = (c - b, a - c, b - a)
    rows, columns, entries = [], [], []
    for corner in range(3):
        vertex = faces[:, corner]
        for k in range(3):
            gradient = np.cross(unit, opposite[k]) / np.maximum(around[vertex], 1e-12)[:, None]
            gradient -= (gradient * normals[vertex]).sum(-1, keepdims=True) * normals[vertex]
            rows.append((3 * vertex[:, None] + np.arange(3)).ravel())
            columns.append(np.repeat(faces[:, k], 3))
            entries.append(gradient.ravel())
    return sparse.csr_array(
        (np.concatenate(entries), (np.concatenate(rows), np.concatenate(columns))), shape=(3 * V, V)
    )
