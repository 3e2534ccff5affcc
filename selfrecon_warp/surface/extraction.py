"""Signed distance to canonical mesh: sparse evaluation, marching cubes, the pieces worth keeping."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.errors import RunError
from selfrecon_warp.kernels.marching_cubes import marching_cubes
from selfrecon_warp.kernels.sparse_grid import GridWorkspace, Mode, Sdf, evaluate_sparse
from selfrecon_warp.surface.mesh import connected_pieces


@dataclass(frozen=True)
class CanonicalMesh:
    """A closed surface in canonical space, outward faces, and what it cost."""

    vertices: Tensor
    """Positions [m], ``[V, 3]``, without gradient."""
    faces: Tensor
    """Vertex indices, ``[F, 3]`` int32, counter-clockwise seen from outside."""
    queries: int
    """Points the SDF was asked for."""
    calls: int
    """Batches it was asked in."""
    capped: bool
    """Whether the surface left the box and was cut at its border."""
    dropped: int
    """Faces of the small pieces left out."""


def lattice(lower: Tensor, upper: Tensor, spacing: float) -> tuple[Tensor, Tensor, tuple[int, int, int]]:
    """Grow a box about its centre until it holds whole cubic cells.

    Args:
        lower: Lowest corner [m], ``[3]``.
        upper: Highest corner [m], ``[3]``.
        spacing: Edge of a cell [m].

    Returns:
        Lower and upper corner [m], ``[3]``, and the nodes along x, y, z, two or more.

    Raises:
        ValueError: The box is empty or the spacing is not positive.
    """
    require_shapes(lower=(lower, "3"), upper=(upper, "3"))
    if not (spacing > 0 and bool((upper > lower).all())):
        box = f"{_numbers(lower)} to {_numbers(upper)}"
        raise ValueError(f"upper must exceed lower and spacing must be positive, got {box} and {spacing}")
    X, Y, Z = (max(1, math.ceil(size / spacing - 1e-4)) for size in (upper - lower).tolist())
    half = 0.5 * spacing * lower.new_tensor([X, Y, Z])
    centre = 0.5 * (lower + upper)
    return centre - half, centre + half, (X + 1, Y + 1, Z + 1)


def extract_mesh(
    sdf: Sdf,
    lower: Tensor,
    upper: Tensor,
    resolution: tuple[int, int, int],
    *,
    level: float = 0.0,
    warm: Tensor | None = None,
    mode: Mode = "lossless",
    min_fraction: float = 0.0,
    workspace: GridWorkspace | None = None,
    chunk: int = 1 << 16,
) -> CanonicalMesh:
    """Extract the surface of a signed distance.

    Args:
        sdf: Signed distance [m], negative inside, of points ``[P, 3]`` as ``[P]``; called without gradient.
        lower: Position of the first node [m], ``[3]``; its device and dtype are used throughout.
        upper: Position of the last node [m], ``[3]``.
        resolution: Nodes along x, y, z.
        level: Value of the surface [m]; below zero the body shrinks.
        warm: Vertices of an earlier extraction [m], ``[P, 3]``: the surface is followed from there, which asks less but
            does not see new separate pieces.
        mode: How the lattice is searched, see `evaluate_sparse`.
        min_fraction: Pieces with fewer vertices than this fraction of the largest one's are dropped; 0 keeps all.
        workspace: Reused buffers of this resolution, device and dtype; allocated when absent.
        chunk: Points handed to the SDF at once, at most.

    Returns:
        The mesh; its order depends on the surface alone, not on the device.

    Raises:
        RunError: There is no surface, or the SDF is no longer finite.
        ValueError: An argument does not fit.
    """
    values_seen = _Range(sdf)
    grid = evaluate_sparse(
        values_seen, lower, upper, resolution, level=level, mode=mode, seeds=warm, workspace=workspace, chunk=chunk
    )
    if len(grid.cells) == 0:
        box = f"the box {_numbers(lower)} to {_numbers(upper)}"
        if grid.capped:
            raise RunError(f"the signed distance has no surface: only the border of {box} is inside; enlarge the box")
        raise RunError(
            f"the signed distance has no surface: its smallest value in {box} is {values_seen.least:.4g} m, above the "
            f"level {level:.4g} m; the surface has vanished or the box misses it: check the box, lower the learning "
            "rate or start from an earlier checkpoint"
        )
    vertices, faces = marching_cubes(grid.values, lower, upper, level, grid.cells)
    total = len(faces)
    if min_fraction > 0:
        vertices, faces = largest_components(vertices, faces, min_fraction)
    return CanonicalMesh(vertices, faces, grid.queries, grid.calls, grid.capped > 0, total - len(faces))


def largest_components(vertices: Tensor, faces: Tensor, min_fraction: float) -> tuple[Tensor, Tensor]:
    """Drop the small connected pieces of a mesh and the vertices no face uses.

    Args:
        vertices: Positions, ``[V, 3]``.
        faces: Vertex indices, ``[F, 3]`` integers.
        min_fraction: Smallest piece kept, in vertices, as a fraction of the largest; 1 keeps the largest alone.

    Returns:
        Vertices, differentiable in the given ones, and faces; both keep their order.

    Raises:
        ValueError: A shape disagrees or the fraction lies outside 0 to 1.
    """
    sizes = require_shapes(vertices=(vertices, "V 3"), faces=(faces, "F 3"))
    if not 0 <= min_fraction <= 1:
        raise ValueError(f"min_fraction must lie between 0 and 1, got {min_fraction}")
    if sizes["F"] == 0:
        return vertices[:0], faces
    index = faces.detach().cpu().numpy()
    label = connected_pieces(index, sizes["V"])
    used = np.zeros(sizes["V"], bool)
    used[index.reshape(-1)] = True
    size = np.bincount(label[used], minlength=label.max() + 1)
    keep = used & (size >= min_fraction * size.max())[label]
    renumbered = torch.from_numpy(np.cumsum(keep) - 1).to(faces)
    kept_faces = torch.from_numpy(keep[index[:, 0]]).to(faces.device)
    return vertices[torch.from_numpy(keep).to(vertices.device)], renumbered[faces[kept_faces].long()]


class _Range:
    """An SDF that remembers its smallest value and refuses values that are not finite."""

    def __init__(self, sdf: Sdf) -> None:
        self.sdf = sdf
        self.least = math.inf

    def __call__(self, points: Tensor) -> Tensor:
        values = self.sdf(points)
        if not bool(torch.isfinite(values).all()):
            raise RunError(
                f"the signed distance is not finite at {int((~torch.isfinite(values)).sum())} of {len(points)} points: "
                "training has diverged; lower the learning rate or start from an earlier checkpoint"
            )
        self.least = min(self.least, float(values.min()))
        return values


def _numbers(point: Tensor) -> str:
    return "(" + ", ".join(f"{x:.3g}" for x in point.tolist()) + ")"
