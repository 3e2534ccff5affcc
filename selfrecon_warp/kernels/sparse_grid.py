"""Signed distances on a lattice, asked for only where the surface passes.

Nodes, cells and borders are as `selfrecon_warp.kernels.lattice` says. Bookkeeping never sweeps the lattice: nodes and
cells are claimed once each and kept in lists, so its cost follows the surface.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import warp as wp
from torch import Tensor

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.interop import ints, launch, scalars, vec3s
from selfrecon_warp.kernels.lattice import (
    CAP,
    CAPPED,
    CELLS,
    CROSSING,
    NEAR,
    NODES,
    claim_children_kernel,
    claim_conflicts_kernel,
    claim_crossing_children_kernel,
    claim_descent_kernel,
    claim_nodes_kernel,
    claim_seeds_kernel,
    classify_cells_kernel,
    fill_rows_kernel,
    interpolate_nodes_kernel,
    node_points_kernel,
    smallest_spacing,
    store_values_kernel,
)

Sdf = Callable[[Tensor], Tensor]
Mode = Literal["lossless", "fast", "dense"]

WALK = 4
"""Cells a warm start walks towards a surface that has left its seeds."""


class GridWorkspace:
    """Buffers of one lattice, reusable from one evaluation to the next so that nothing is allocated or cleared.

    A `SparseGrid` evaluated in a workspace holds the workspace's ``values``: it is overwritten by the next evaluation.

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
        X, Y, Z = resolution
        if min(resolution) < 2 or 3 * X * Y * Z >= 2**31:
            raise ValueError(
                f"resolution must have 2 or more nodes an axis and fewer than 715 million, got {resolution}"
            )
        self.resolution = (int(X), int(Y), int(Z))
        self.values = torch.zeros(self.resolution, device=device, dtype=dtype)
        self.node_stamps = torch.zeros(self.resolution, device=device, dtype=torch.int32)
        self.cell_stamps = torch.zeros_like(self.node_stamps)
        self.nodes = torch.empty(X * Y * Z, device=device, dtype=torch.int32)
        self.cells = torch.empty_like(self.nodes)
        self.kinds = torch.empty_like(self.nodes)
        self.epoch = 0
        """Last stamp given out; every evaluation and every level of one takes a fresh one."""

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

    @property
    def evaluated(self) -> Tensor:
        """Mask of the nodes that were evaluated, ``[X, Y, Z]``."""
        return self.stamps == self.epoch

    def dense(self) -> Tensor:
        """Values with every other node filled by the last evaluated one before it along z, which has its sign."""
        filled = torch.empty_like(self.values)
        outside = self.values.new_tensor([self.level + smallest_spacing(self.lower, self.upper, self.values.shape)])
        inputs = [scalars(self.values), ints(self.stamps), self.epoch, scalars(outside)]
        launch(fill_rows_kernel, self.values, tuple(self.values.shape[:2]), inputs, [scalars(filled)])
        return filled


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
    chunk: int = 1 << 17,
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

    With ``seeds`` only the finest stride is used: continuation starts from their cells and walks up to `WALK` cells
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
    require_shapes(lower=(lower, "3"), upper=(upper, "3"), **({} if seeds is None else {"seeds": (seeds, "P 3")}))
    if not bool((upper > lower).all()):
        raise ValueError(f"upper must exceed lower on every axis, got {upper.tolist()} and {lower.tolist()}")
    if coarsest_stride < 1 or coarsest_stride & (coarsest_stride - 1):
        raise ValueError(f"coarsest_stride must be a power of two, got {coarsest_stride}")
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
    search = _Search(sdf, lower.detach(), upper.detach(), level, workspace, chunk)
    if mode == "dense":
        coarsest_stride = 1
    while coarsest_stride > 1 and 3 * coarsest_stride > min(resolution) - 1:
        coarsest_stride //= 2
    cells = search.continue_from(seeds.detach()) if seeds is not None and mode != "dense" else None
    if cells is None or len(cells) == 0:
        cells = search.descend(coarsest_stride, mode == "fast", guard, guard_stride)
    return SparseGrid(
        values, workspace.node_stamps, search.epoch, cells.sort().values, search.lower, search.upper, level,
        search.queries, search.calls, search.count(CAPPED),
    )  # fmt: skip


class _Search:
    """One evaluation in progress: which nodes and cells are claimed, and what was asked."""

    def __init__(
        self, sdf: Sdf, lower: Tensor, upper: Tensor, level: float, workspace: GridWorkspace, chunk: int
    ) -> None:
        self.sdf, self.lower, self.upper, self.level = sdf, lower, upper, level
        self.workspace, self.chunk = workspace, chunk
        self.shape = wp.vec3i(*workspace.resolution)
        self.spacing = (upper - lower) / (torch.tensor(workspace.resolution, device=lower.device) - 1)
        self.frame = torch.stack([lower, self.spacing]).to(lower.dtype)
        self.cap = lower.new_tensor([level + CAP * smallest_spacing(lower, upper, workspace.resolution)])
        self.epoch = workspace.next_epoch()
        self.counters = torch.zeros(3, dtype=torch.int32, device=lower.device)
        self.queries = self.calls = 0
        self.values = scalars(workspace.values.view(-1))
        self.node_stamps = ints(workspace.node_stamps.view(-1))
        self.claims = [ints(workspace.cell_stamps.view(-1)), ints(workspace.cells), ints(self.counters)]

    def count(self, which: int) -> int:
        return int(self.counters[which])

    def begin_level(self) -> None:
        """Forget the cells claimed so far; nodes stay."""
        self.cell_epoch = self.workspace.next_epoch()
        self.counters[:CAPPED] = 0

    def descend(self, stride: int, fast: bool, guard: float, guard_stride: int) -> Tensor:
        """Crossed cells of stride 1, from every node of the given stride down."""
        half_diagonal = 0.5 * float(torch.linalg.vector_norm(self.spacing))

        def reach(stride: int) -> float:
            return guard * half_diagonal * stride if stride >= guard_stride else 0.0

        self.begin_level()
        axes = [torch.arange(0, n - 1, stride, device=self.lower.device) for n in self.workspace.resolution]
        ends = [torch.cat([a, a.new_tensor([n - 1])]) for a, n in zip(axes, self.workspace.resolution, strict=True)]
        self.query(self.flat_ids(ends))
        cells = self.flat_ids(axes)
        self.workspace.cells[: len(cells)] = cells
        self.counters[CELLS] = len(cells)
        self.classify(0, len(cells), stride, reach(stride), expand=False)
        while stride > 1:
            kinds = self.workspace.kinds[: self.count(CELLS)]
            cells = self.workspace.cells[: len(kinds)]
            crossing, near = cells[kinds == CROSSING], cells[kinds == NEAR]
            stride //= 2
            self.begin_level()
            if fast and stride == 1:
                self.claim(claim_children_kernel, len(crossing), ints(crossing), stride)
                self.interpolate()
            else:
                self.claim(claim_children_kernel, len(near), ints(near), stride)
                self.settle(stride, reach(stride), crossing)
        return self.crossing()

    def continue_from(self, seeds: Tensor) -> Tensor:
        """Crossed cells of stride 1 reached from the cells of some points."""
        self.begin_level()
        self.claim(claim_seeds_kernel, len(seeds), vec3s(seeds.to(self.frame).contiguous()), vec3s(self.frame))
        end = self.settle(1)
        for _ in range(WALK):
            self.claim(claim_descent_kernel, end, self.values, ints(self.workspace.kinds), wp.float64(self.level))
            end = self.settle(1, start=end)
        return self.crossing()

    def settle(self, stride: int, reach: float = 0.0, parents: Tensor | None = None, start: int = 0) -> int:
        """Evaluate the claimed cells from ``start`` on, and all that follow from them, until nothing new is claimed.

        Without ``parents`` only continuation claims cells; with them their predicted children are claimed too, and the
        cells around every node whose prediction was wrong. Returns the number of cells.
        """
        level = wp.float64(self.level)
        if parents is not None:
            self.claim(claim_crossing_children_kernel, len(parents), ints(parents), self.values, stride, level)
        while True:
            end = self.count(CELLS)
            if end == start:
                return end
            nodes = self.evaluate(start, end, stride)
            self.classify(start, end, stride, reach, expand=True)
            if parents is not None:
                inputs = [ints(nodes), self.values, self.node_stamps, self.epoch, stride, level]
                self.claim(claim_conflicts_kernel, len(nodes), *inputs)
            start = end

    def claim(self, kernel: Any, count: int, *inputs: Any) -> None:
        """Launch a kernel that claims cells of this level."""
        launch(kernel, self.lower, (count,), [*inputs, self.cell_epoch, self.shape], self.claims)

    def evaluate(self, start: int, end: int, stride: int) -> Tensor:
        """Ask for the corners of some claimed cells that are not known yet; returns them."""
        nodes = self.corners(start, end, stride)
        nodes = nodes.sort().values if nodes.is_cuda else nodes
        self.query(nodes)
        return nodes

    def interpolate(self) -> None:
        """Give the unknown corners of the claimed cells of stride 1 the mean of their neighbours of stride 2."""
        end = self.count(CELLS)
        nodes = self.corners(0, end, 1)
        launch(interpolate_nodes_kernel, nodes, (len(nodes),), [ints(nodes), self.shape], [self.values])
        self.classify(0, end, 1, 0.0, expand=False)

    def corners(self, start: int, end: int, stride: int) -> Tensor:
        """Claim the corners of some claimed cells that are not known yet."""
        inputs = [self.claims[1], start, stride, self.epoch, self.shape]
        outputs = [self.node_stamps, ints(self.workspace.nodes), self.claims[2]]
        launch(claim_nodes_kernel, self.lower, (end - start,), inputs, outputs)
        nodes = self.workspace.nodes[: self.count(NODES)]
        self.counters[NODES] = 0
        return nodes

    def query(self, nodes: Tensor) -> None:
        """Ask the SDF for the values of some nodes and store them."""
        if len(nodes) == 0:
            return
        points = self.lower.new_empty(len(nodes), 3)
        dim = (len(nodes),)
        launch(node_points_kernel, points, dim, [ints(nodes), vec3s(self.frame), self.shape], [vec3s(points)])
        with torch.no_grad():
            values = torch.cat([self.sdf(part).reshape(-1) for part in points.split(self.chunk)]).to(points.dtype)
        if len(values) != len(nodes):
            raise ValueError(f"sdf must return one value a point, got {len(values)} for {len(nodes)} points")
        if not bool(torch.isfinite(values).all()):
            broken = int((~torch.isfinite(values)).sum())
            raise ValueError(f"sdf must return finite values, got {broken} that are not among {len(nodes)}")
        inputs = [ints(nodes), scalars(values.contiguous()), scalars(self.cap), wp.float64(self.level), self.epoch]
        outputs = [self.values, self.node_stamps, self.claims[2]]
        launch(store_values_kernel, points, dim, [*inputs, self.shape], outputs)
        self.queries += len(nodes)
        self.calls += -(-len(nodes) // self.chunk)

    def classify(self, start: int, end: int, stride: int, reach: float, expand: bool) -> None:
        """Tell what some evaluated cells are; claim the neighbours behind their sign-changing faces."""
        inputs = [self.values, start, stride, self.cell_epoch, wp.float64(self.level), wp.float64(reach), int(expand)]
        stamps, cells, counters = self.claims
        outputs = [stamps, cells, ints(self.workspace.kinds), counters]
        launch(classify_cells_kernel, self.lower, (end - start,), [*inputs, self.shape], outputs)

    def crossing(self) -> Tensor:
        """Claimed cells the surface crosses."""
        count = self.count(CELLS)
        return self.workspace.cells[:count][self.workspace.kinds[:count] == CROSSING]

    def flat_ids(self, axes: list[Tensor]) -> Tensor:
        """Ids of all nodes with the given coordinates along each axis."""
        _, Y, Z = self.workspace.resolution
        x, y, z = axes
        return ((x[:, None, None] * Y + y[:, None]) * Z + z).reshape(-1).int()
