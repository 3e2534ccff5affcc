"""Triangle-mesh quantities that the fit and the pictures share; plain torch."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Area-weighted unit normals, ``[..., V, 3]``, of vertices ``[..., V, 3]`` and faces ``[F, 3]``.

    Differentiable any number of times and in forward mode, as derivatives along a body's shape need;
    ``kernels/mesh.py`` has them once differentiable, and faster where the topology is kept.
    """
    corners = vertices[..., faces.long(), :]
    a, b, c = corners.unbind(-2)
    area = torch.linalg.cross(b - a, c - a)
    summed = torch.zeros_like(vertices)
    for k in range(3):
        summed = summed.index_add(-2, faces[:, k].long(), area)
    return torch.nn.functional.normalize(summed, dim=-1)


def connected_pieces(faces: np.ndarray, vertex_count: int) -> np.ndarray:
    """Number of the connected piece that each vertex belongs to, ``[V]``; one without a face is a piece of its own."""
    start, end = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    graph = coo_matrix((np.ones(len(start), np.int8), (start, end)), shape=(vertex_count, vertex_count))
    piece: np.ndarray = connected_components(graph, directed=False)[1]
    return piece


def has_border(faces: np.ndarray) -> bool:
    """Whether a mesh of ``faces [F, 3]`` is open: has a side that belongs to one face alone."""
    sides = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    return bool((np.unique(sides, axis=0, return_counts=True)[1] == 1).any())


class Smoothing:
    """Half-lazy random walk over mesh edges: averages a vertex with the mean of its neighbours, pass after pass.

    Args:
        edges: Vertex pairs, each edge once, ``[E, 2]`` integers; every vertex belongs to one.
        vertex_count: Vertices V.
    """

    def __init__(self, edges: Tensor, vertex_count: int) -> None:
        pairs = torch.cat([edges, edges.flip(1)]).long()
        rows, order = pairs[:, 0].sort()
        columns = pairs[order, 1]
        degree = torch.zeros(vertex_count, device=edges.device).index_add_(
            0, rows, torch.ones(len(rows), device=rows.device)
        )
        start = torch.cat([degree.new_zeros(1), degree.cumsum(0, dtype=torch.float64)]).long()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch announces CSR as beta, once a process
            self.neighbours = torch.sparse_csr_tensor(start, columns, 1.0 / degree[rows], (vertex_count, vertex_count))

    def __call__(self, values: Tensor, passes: int) -> Tensor:
        """``[V, C]`` values after ``passes`` steps of the walk; constants stay as they are."""
        for _ in range(passes):
            values = 0.5 * values + 0.5 * (self.neighbours @ values)
        return values
