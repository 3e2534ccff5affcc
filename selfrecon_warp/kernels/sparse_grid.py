"""Signed distances on a lattice, asked for only where the surface passes.

Nodes, cells and borders are as ``internal.lattice`` says. Bookkeeping never sweeps the lattice: nodes and
cells are claimed once each and kept in lists, so its cost follows the surface. An evaluation is of one lattice; where
the surfaces of a batch are wanted, each asks for other nodes, so a loop over them loses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
import warp as wp
from torch import Tensor

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.arguments import require_like
from selfrecon_warp.kernels.internal.grid_search import Search
from selfrecon_warp.kernels.internal.lattice import fill_rows_kernel, lazy_zeros, rounded, smallest_spacing
from selfrecon_warp.kernels.interop import ints, launch_split, scalars

Sdf = Callable[[Tensor], Tensor]
Mode = Literal["lossless", "fast", "dense"]


class GridWorkspace:
    """Buffers of one lattice, reusable from one evaluation to the next so that nothing is allocated or cleared.

    A `SparseGrid` evaluated in a workspace holds the workspace's ``values``: the next evaluation overwrites them. On
    the CPU, memory is taken up where the surface passes and not elsewhere.

    Args:
        resolution: Nodes along x, y, z; at least two each.
        device: Where the buffers live.
        dtype: Of the values, float32 or float64.
    """

    def __init__(
        self,
        resolution: tuple[int, int, int],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if len(resolution) != 3 or min(resolution) < 2 or 3 * math.prod(resolution) >= 2**31:
            raise ValueError(
                f"resolution must have 2 or more nodes an axis and fewer than 715 million, got {tuple(resolution)}"
            )
        X, Y, Z = self.resolution = tuple(int(n) for n in resolution)
        self.values = lazy_zeros(self.resolution, device, dtype)
        self.node_stamps = lazy_zeros(self.resolution, device, torch.int32)
        self.cell_stamps = lazy_zeros(self.resolution, device, torch.int32)
        self.nodes = torch.empty(X * Y * Z, device=device, dtype=torch.int32)
        self.cells = torch.empty_like(self.nodes)
        self.kinds = torch.empty_like(self.nodes)
        self.epoch = self.evaluation = 0
        """Last stamp given out, every evaluation and every level of one taking a fresh one; that of the evaluation."""

    def next_epoch(self) -> int:
        """A stamp no earlier evaluation or level has used."""
        if self.epoch == 2**31 - 1:
            self.node_stamps.zero_()
            self.cell_stamps.zero_()
            self.epoch = 0
        self.epoch += 1
        return self.epoch


@dataclass(frozen=True)
class SparseGrid:
    """Values of an SDF near its surface, and the cells the surface crosses."""

    values: Tensor
    """Signed distances [m], ``[X, Y, Z]``; only evaluated nodes mean anything, `dense` fills the others; in
    mode ``"fast"`` those of the last level are interpolated."""
    stamps: Tensor
    """``[X, Y, Z]`` int32, equal to ``epoch`` where a node was evaluated."""
    epoch: int
    """Stamp of this evaluation."""
    cells: Tensor
    """Crossed cells as ids of their lowest nodes, ``[K]`` int32, ascending; all their corners are evaluated."""
    lower: Tensor
    """Position of the first node [m], ``[3]``."""
    upper: Tensor
    """Position of the last node [m], ``[3]``."""
    level: float
    """Value of the surface [m]."""
    queries: int
    """Points the SDF was asked for."""
    calls: int
    """Batches it was asked in."""
    capped: int
    """Border nodes forced outside; above zero the surface left the box and is cut there."""
    workspace: GridWorkspace | None = field(default=None, repr=False)
    """Where ``values`` and ``stamps`` live; ``None`` where they are the grid's own."""

    @property
    def evaluated(self) -> Tensor:
        """Mask of the nodes that were evaluated, ``[X, Y, Z]``.

        Raises:
            RuntimeError: The workspace has been used for another evaluation since.
        """
        self._require_current()
        return self.stamps == self.epoch

    def dense(self) -> Tensor:
        """Values with every other node filled by the last evaluated one before it along z, which has its sign.

        Raises:
            RuntimeError: The workspace has been used for another evaluation since.
        """
        self._require_current()
        filled = torch.empty_like(self.values)
        outside = self.level + smallest_spacing(self.lower, self.upper, self.values.shape)
        rows = self.values.flatten(0, 1)
        inputs = [scalars(rows), ints(self.stamps.flatten(0, 1)), self.epoch, wp.float64(outside)]
        launch_split(fill_rows_kernel, rows, (len(rows),), inputs, [scalars(filled.flatten(0, 1))])
        return filled

    def _require_current(self) -> None:
        if self.workspace is not None and self.workspace.evaluation != self.epoch:
            raise RuntimeError(
                "the grid's workspace has been used for another evaluation since: read the grid before that, or "
                "evaluate in a workspace of its own"
            )


def evaluate_sparse(
    sdf: Sdf,
    lower: Tensor,
    upper: Tensor,
    resolution: tuple[int, int, int],
    *,
    level: float = 0.0,
    mode: Mode = "lossless",
    coarsest_stride: int = 16,
    guard: float = 1.0,
    guard_stride: int = 8,
    seeds: Tensor | None = None,
    chunk: int = 1 << 16,
    workspace: GridWorkspace | None = None,
) -> SparseGrid:
    """Evaluate a signed distance on a lattice, coarse to fine, only where its surface passes.

    ``"lossless"`` finds, at every stride, the whole of each piece of surface of which a coarser stride saw a change of
    sign: children are predicted by interpolation, asked for, corrected where the prediction was wrong, and continued
    across every face on which the sign changes until nothing new appears. A piece that no coarse node separates from
    its surroundings can still be found through values: uniform cells of at least ``guard_stride`` are refined too while
    their smallest distance is below ``guard`` times their half diagonal. With ``guard_stride=2`` that makes the search
    exact for every function of slope up to ``guard``, for a fifth more queries.
    ``"fast"`` does the same down to stride 2 and interpolates the last level: a third of the queries, half the detail,
    as many triangles. ``"dense"`` asks for every node.

    With ``seeds`` only the finest stride is used: continuation starts from their cells and walks up to four cells
    towards a surface that has moved on. A new separate piece is not found: evaluate without seeds now and then. When no
    seed leads to a surface the evaluation starts over without them.

    Args:
        sdf: Signed distance [m], negative inside, of points ``[P, 3]`` as ``[P]`` (or ``[P, 1]``); called without
            gradient, at most ``chunk`` points at once.
        lower: Position of the first node [m], ``[3]``; its device and dtype are used throughout.
        upper: Position of the last node [m], ``[3]``.
        resolution: Nodes along x, y, z.
        level: Value of the surface [m].
        mode: How to search, see above.
        coarsest_stride: Power of two; every node of that stride is evaluated. Halved while it exceeds a third of the
            smallest axis.
        guard: Largest slope assumed where no sign changes; 0 looks at signs alone.
        guard_stride: Smallest stride of the cells so examined.
        seeds: Points near the surface, e.g. the vertices of the last extraction [m], ``[P, 3]``.
        chunk: Points handed to the SDF at once, at most.
        workspace: Reused buffers of this resolution, device and dtype; allocated when absent.

    Returns:
        The grid; its crossed cells do not depend on the device. ``cells`` is empty where nothing is inside.

    Raises:
        ValueError: An argument does not fit, or the SDF returned another count of values or values that are not finite;
            the message names which.

    Source: coarse-to-fine evaluation as in SelfRecon (Jiang et al. 2022) and MonoPort (Li et al. 2020); continuation
    after Wyvill et al. 1986.
    """
    require_shapes(lower=(lower, "3"), upper=(upper, "3"))
    require_like("lower", lower, upper=upper)
    lower, upper = lower.detach(), upper.detach()
    if seeds is not None:
        require_shapes(seeds=(seeds, "P 3"))
        require_like("lower", lower, seeds=seeds)
    if not bool((upper > lower).all() and (upper - lower).isfinite().all()):
        raise ValueError(f"upper must exceed lower on every axis, got {upper.tolist()} and {lower.tolist()}")
    if not math.isfinite(level):
        raise ValueError(f"level must be finite, got {level}")
    if coarsest_stride < 1 or coarsest_stride & (coarsest_stride - 1):
        raise ValueError(f"coarsest_stride must be a power of two, got {coarsest_stride}")
    if not guard >= 0:
        raise ValueError(f"guard must be 0 or more, got {guard}")
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 point, got {chunk}")
    if mode not in ("lossless", "fast", "dense"):
        raise ValueError(f"mode must be 'lossless', 'fast' or 'dense', got {mode!r}")
    if workspace is None:
        workspace = GridWorkspace(resolution, lower.device, lower.dtype)
    values = workspace.values
    if (workspace.resolution, values.device, values.dtype) != (tuple(resolution), lower.device, lower.dtype):
        raise ValueError(
            f"workspace must be of resolution {tuple(resolution)}, {lower.device} and {lower.dtype}, "
            f"got {workspace.resolution}, {values.device} and {values.dtype}"
        )
    level = rounded(level, lower.dtype)
    search = Search(sdf, lower, upper, level, workspace, chunk)
    while coarsest_stride > 1 and 3 * coarsest_stride > min(resolution) - 1:
        coarsest_stride //= 2
    if mode == "dense":
        cells = search.ask_everywhere()
    else:
        cells = search.continue_from(seeds.detach()) if seeds is not None else lower.new_empty(0)
        if len(cells) == 0:
            cells = search.descend(coarsest_stride, mode == "fast", guard, guard_stride)
    return SparseGrid(
        values, workspace.node_stamps, search.epoch, cells, lower, upper, level,
        search.queries, search.calls, int(search.capped), workspace,
    )  # fmt: skip
