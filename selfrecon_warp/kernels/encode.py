"""Multiresolution feature grids with dense coarse levels and hashed fine ones.

After the multiresolution hash encoding of Mueller, Evans, Schied and Keller, "Instant Neural Graphics Primitives with a
Multiresolution Hash Encoding" (2022); written independently, for boxes whose sides differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.arguments import require_like
from selfrecon_warp.kernels.internal.trilinear import Levels, interpolate, interpolate_jacobian


@dataclass(frozen=True)
class GridLayout:
    """Where every level of a feature grid keeps its nodes in one shared table."""

    resolutions: tuple[tuple[int, int, int], ...]
    """Cells of each level along x, y, z; a level has one node more along each axis."""
    offsets: tuple[int, ...]
    """First table row of each level."""
    hashed: tuple[bool, ...]
    """Whether a level shares its rows through the spatial hash."""
    rows: int
    """Table rows of all levels, ``T``."""
    log2_size: int
    """A hashed level owns ``2 ** log2_size`` rows."""

    @property
    def levels(self) -> int:
        """How many levels there are, ``L``."""
        return len(self.resolutions)


def grid_layout(
    levels: int, base: int, finest: int, log2_size: int, aspect: Sequence[float] = (1.0, 1.0, 1.0)
) -> GridLayout:
    """Lay out levels whose resolution grows geometrically from ``base`` to ``finest``.

    Args:
        levels: How many levels, at least one.
        base: Cells of the coarsest level along the longest side.
        finest: Cells of the finest level along the longest side.
        log2_size: Each level owns at most ``2 ** log2_size`` table rows: levels with no more nodes are stored densely,
            the others are hashed.
        aspect: Sides of the box along x, y, z in any one unit; shorter sides get proportionally fewer cells, so that
            cells are close to cubes.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """
    if levels < 1:
        raise ValueError(f"levels must be at least 1, got {levels}")
    if not 1 <= base <= finest:
        raise ValueError(f"base and finest must satisfy 1 <= base <= finest, got base={base}, finest={finest}")
    if not 1 <= log2_size <= 28:
        raise ValueError(f"log2_size must lie in 1 .. 28, got {log2_size}")
    if len(aspect) != 3 or min(aspect) <= 0.0:
        raise ValueError(f"aspect must be three positive lengths, got {tuple(aspect)}")
    growth = (finest / base) ** (1.0 / max(levels - 1, 1))
    resolutions, offsets, hashed, rows = [], [], [], 0
    for level in range(levels):
        longest = base * growth**level
        x, y, z = (max(1, round(longest * side / max(aspect))) for side in aspect)
        nodes = (x + 1) * (y + 1) * (z + 1)
        resolutions.append((x, y, z))
        offsets.append(rows)
        hashed.append(nodes > 2**log2_size)
        rows += min(nodes, 2**log2_size)
    return GridLayout(tuple(resolutions), tuple(offsets), tuple(hashed), rows, log2_size)


@lru_cache(maxsize=64)
def _places(layout: GridLayout, dtype: torch.dtype, device: torch.device) -> Levels:
    """The layout on a device, every level at full weight."""
    mask = 2**layout.log2_size - 1
    nodes = [
        (x + 1, y + 1, z + 1, offset, mask if hashed else 0)
        for (x, y, z), offset, hashed in zip(layout.resolutions, layout.offsets, layout.hashed, strict=True)
    ]
    scale = torch.tensor(layout.resolutions, dtype=dtype, device=device)
    return Levels(
        nodes=torch.tensor(nodes, dtype=torch.int32, device=device),
        origin=torch.zeros_like(scale),
        scale=scale,
        weights=torch.ones_like(scale[:, 0]),
    )


def _prepare(points: Tensor, table: Tensor, layout: GridLayout, level_weights: Tensor | None) -> Levels:
    """Check the arguments and place the levels."""
    require_shapes(points=(points, "P 3"), table=(table, "T C"))
    if len(table) != layout.rows:
        raise ValueError(f"table must have the T={layout.rows} rows of the layout, got {list(table.shape)}")
    if table.numel() == 0:
        raise ValueError(f"table must hold at least one channel, got {list(table.shape)}")
    require_like("points", points, table=table)
    places = _places(layout, points.dtype, points.device)
    if level_weights is None:
        return places
    if tuple(level_weights.shape) != (layout.levels,):
        raise ValueError(f"level_weights must have shape [L={layout.levels}], got {list(level_weights.shape)}")
    weights = level_weights.detach().to(points).contiguous()
    return Levels(places.nodes, places.origin, places.scale, weights)


def encode_grid(points: Tensor, table: Tensor, layout: GridLayout, level_weights: Tensor | None = None) -> Tensor:
    """Interpolate the features of every level at every point.

    Args:
        points: Positions in the unit box [0, 1]^3, ``[P, 3]``; beyond it they are clamped and have no gradient along
            the clamped axis.
        table: Features of all nodes, ``[T, C]`` with ``T = layout.rows``.
        layout: Where the levels keep their nodes.
        level_weights: Factor on each level's features, ``[L]``; taken as constant; a level of weight zero costs
            nothing.

    Returns:
        Features, ``[P, L * C]``, level-major; differentiable twice in points and table.

    Raises:
        ValueError: A shape, dtype or device disagrees; the message names the argument.
    """
    return interpolate(points, table, _prepare(points, table, layout, level_weights))


def encode_grid_jacobian(
    points: Tensor, table: Tensor, layout: GridLayout, level_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Interpolate features and their spatial derivatives in one pass.

    Chained through the layers of a small network by hand, the Jacobian gives a field's gradient with first-order
    autograd alone, which costs less than differentiating ``encode_grid`` twice.

    Args:
        points: Positions in the unit box [0, 1]^3, ``[P, 3]``; clamped beyond it.
        table: Features of all nodes, ``[T, C]`` with ``T = layout.rows``.
        layout: Where the levels keep their nodes.
        level_weights: Factor on each level's features, ``[L]``; taken as constant; a level of weight zero costs
            nothing.

    Returns:
        Features, ``[P, L * C]``, and their derivatives along the points, ``[P, L * C, 3]`` (a transposed view whose
        memory runs ``[P, 3, L * C]``); both differentiable once in points and table. Features agree with
        ``encode_grid``.

    Raises:
        ValueError: A shape, dtype or device disagrees; the message names the argument.
    """
    return interpolate_jacobian(points, table, _prepare(points, table, layout, level_weights))
