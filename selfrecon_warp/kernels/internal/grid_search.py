"""One sparse evaluation in progress: which nodes are asked for, and which cells follow from their values.

Names are those of ``lattice``, the steps those of ``refinement``.

No operation of its own: reference, tests and benchmarks are those of ``sparse_grid``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import warp as wp
from torch import Tensor

from selfrecon_warp.kernels.internal.lattice import (
    CAP,
    interpolate_nodes_kernel,
    lattice_frame,
    node_points_kernel,
    smallest_spacing,
    store_values_kernel,
)
from selfrecon_warp.kernels.internal.lattice_sweep import crossed_cells
from selfrecon_warp.kernels.internal.refinement import (
    CELLS,
    CROSSING,
    NEAR,
    NODES,
    UNKNOWN,
    claim_children_kernel,
    claim_nodes_kernel,
    claim_seeds_kernel,
    claim_wanted_kernel,
    classify_cells_kernel,
    descend_kernel,
    predict_children_kernel,
)
from selfrecon_warp.kernels.interop import bools, ints, launch, launch_split, scalars, vec3s

if TYPE_CHECKING:
    from selfrecon_warp.kernels.sparse_grid import GridWorkspace, Sdf

WALK = 4
"""Cells a warm start walks towards a surface that has left its seeds."""


class Search:
    """One evaluation in progress: which nodes and cells are claimed, and what was asked."""

    def __init__(
        self, sdf: Sdf, lower: Tensor, upper: Tensor, level: float, workspace: GridWorkspace, chunk: int
    ) -> None:
        self.sdf, self.lower, self.upper, self.level = sdf, lower, upper, level
        self.workspace, self.chunk = workspace, chunk
        self.shape = wp.vec3i(*workspace.resolution)
        self.frame = lattice_frame(lower, upper, workspace.resolution)
        self.cap = level + CAP * smallest_spacing(lower, upper, workspace.resolution)
        self.epoch = workspace.evaluation = workspace.next_epoch()
        self.counters = torch.zeros(2, dtype=torch.int32, device=lower.device)
        self.capped = torch.zeros((), dtype=torch.int64, device=lower.device)
        self.queries = self.calls = 0
        self.values = scalars(workspace.values.view(-1))
        self.node_stamps = ints(workspace.node_stamps.view(-1))
        self.cell_stamps = ints(workspace.cell_stamps.view(-1))
        self.nodes, self.cells, self.kinds = (
            ints(each) for each in (workspace.nodes, workspace.cells, workspace.kinds)
        )
        self.claims = [self.cell_stamps, self.cells, self.kinds, ints(self.counters)]

    def count(self, which: int) -> int:
        """Cells or nodes listed."""
        return int(self.counters[which])

    def begin_level(self) -> None:
        """Forget the cells claimed so far; nodes stay."""
        self.cell_epoch = self.workspace.next_epoch()
        self.counters.zero_()

    def ask_everywhere(self) -> Tensor:
        """Crossed cells of stride 1, from every node."""
        count = self.workspace.values.numel()
        for start in range(0, count, self.chunk):
            self.query(torch.arange(start, min(start + self.chunk, count), dtype=torch.int32, device=self.lower.device))
        return crossed_cells(self.workspace.values, self.level)

    def descend(self, stride: int, fast: bool, guard: float, guard_stride: int) -> Tensor:
        """Crossed cells of stride 1, from every node of the given stride down."""
        half_diagonal = 0.5 * float(torch.linalg.vector_norm(self.frame[1]))

        def reach(stride: int) -> float:
            return guard * half_diagonal * stride if stride >= guard_stride else 0.0

        self.begin_level()
        axes = [torch.arange(0, n - 1, stride, device=self.lower.device) for n in self.workspace.resolution]
        ends = [torch.cat([a, a.new_tensor([n - 1])]) for a, n in zip(axes, self.workspace.resolution, strict=True)]
        self.query(self.flat_ids(ends))
        cells = self.flat_ids(axes)
        self.workspace.cells[: len(cells)] = cells
        self.workspace.kinds[: len(cells)] = UNKNOWN
        self.classify(0, len(cells), stride, reach(stride), refined=False)
        end = len(cells)
        while stride > 1:
            stride //= 2
            interpolated = fast and stride == 1
            self.claim_children(end, stride, whole=CROSSING if interpolated else NEAR)
            end = self.interpolate() if interpolated else self.settle(stride, reach(stride), refined=True)
        return self.crossing(end)

    def continue_from(self, seeds: Tensor) -> Tensor:
        """Crossed cells of stride 1 reached from the cells of some points."""
        self.begin_level()
        inputs = [vec3s(seeds.contiguous()), vec3s(self.frame), self.cell_epoch, self.shape]
        launch(claim_seeds_kernel, self.lower, (len(seeds),), inputs, self.claims)
        start, end = 0, self.settle(1)
        for _ in range(WALK):
            wanted = self.workspace.cells.new_empty(end - start)
            inputs = [self.cells, self.kinds, self.values, start, wp.float64(self.level), self.shape]
            launch_split(descend_kernel, self.lower, (end - start,), inputs, [ints(wanted)])
            self.claim_wanted(wanted, start, 1)
            start, end = end, self.settle(1, start=end)
        return self.crossing(end)

    def settle(self, stride: int, reach: float = 0.0, refined: bool = False, start: int = 0) -> int:
        """Evaluate the claimed cells from ``start`` on, and all that follow from them, until nothing new is claimed.

        Continuation claims the cells behind faces on which the sign changes; in a ``refined`` lattice the cells around
        every node whose sign was predicted wrong are claimed too. Returns the number of cells.
        """
        while (end := self.count(CELLS)) > start:
            nodes = self.claim_corners(start, end, stride)
            self.query(nodes.sort().values if nodes.is_cuda else nodes)
            self.claim_wanted(self.classify(start, end, stride, reach, refined), start, stride)
            start = end
        return start

    def claim_children(self, count: int, stride: int, whole: int) -> None:
        """Begin the level of a stride with children of the first ``count`` cells of twice the stride."""
        parents, kinds = self.workspace.cells[:count].clone(), self.workspace.kinds[:count].clone()
        signs = torch.empty_like(parents)
        inputs = [ints(parents), ints(kinds)]
        predicted = [*inputs, self.values, stride, wp.float64(self.level), self.shape]
        launch_split(predict_children_kernel, self.lower, (count,), predicted, [ints(signs)])
        self.begin_level()
        inputs += [ints(signs), whole, stride, self.cell_epoch, self.shape]
        launch(claim_children_kernel, self.lower, (count,), inputs, self.claims)

    def claim_wanted(self, wanted: Tensor, start: int, stride: int) -> None:
        """Claim what the cells from ``start`` on want."""
        inputs = [ints(wanted), start, stride, self.cell_epoch, self.shape]
        launch(claim_wanted_kernel, self.lower, (len(wanted),), inputs, self.claims)

    def claim_corners(self, start: int, end: int, stride: int) -> Tensor:
        """Claim the corners of some claimed cells that are not known yet."""
        inputs = [self.cells, start, stride, self.epoch, self.shape]
        outputs = [self.node_stamps, self.nodes, self.claims[-1]]
        launch(claim_nodes_kernel, self.lower, (end - start,), inputs, outputs)
        nodes = self.workspace.nodes[: self.count(NODES)]
        self.counters[NODES] = 0
        return nodes

    def interpolate(self) -> int:
        """Give the unknown corners of the claimed cells of stride 1 the mean of their neighbours of stride 2."""
        end = self.count(CELLS)
        nodes = self.claim_corners(0, end, 1)
        launch(interpolate_nodes_kernel, nodes, (len(nodes),), [ints(nodes), self.shape], [self.values])
        self.classify(0, end, 1, 0.0, refined=False)
        return end

    def query(self, nodes: Tensor) -> None:
        """Ask the SDF for the values of some nodes and store them."""
        for part in nodes.split(self.chunk):
            if len(part) == 0:
                continue
            dim = (len(part),)
            points = self.lower.new_empty(len(part), 3)
            launch_split(node_points_kernel, points, dim, [ints(part), vec3s(self.frame), self.shape], [vec3s(points)])
            with torch.no_grad():
                values = self.sdf(points).reshape(-1).to(points)
            if len(values) != len(part):
                raise ValueError(f"sdf must return one value a point, got {len(values)} for {len(part)} points")
            if not bool(torch.stack(torch.aminmax(values)).isfinite().all()):  # a NaN is the least and the greatest
                broken = int((~torch.isfinite(values)).sum())
                raise ValueError(f"sdf must return finite values, got {broken} that are not among {len(part)}")
            capped = torch.empty(len(part), dtype=torch.bool, device=points.device)
            inputs = [ints(part), scalars(values.contiguous()), wp.float64(self.level), wp.float64(self.cap)]
            outputs = [self.values, self.node_stamps, bools(capped)]
            launch_split(store_values_kernel, points, dim, [*inputs, self.epoch, self.shape], outputs)
            self.capped += capped.count_nonzero()
            self.queries += len(part)
            self.calls += 1

    def classify(self, start: int, end: int, stride: int, reach: float, refined: bool) -> Tensor:
        """Tell what some evaluated cells are; returns what they want claimed."""
        wanted = self.workspace.cells.new_empty(end - start)
        inputs = [self.cells, self.values, self.node_stamps, self.epoch, self.cell_stamps, self.cell_epoch]
        inputs += [start, stride, wp.float64(self.level), wp.float64(reach), refined, self.shape]
        launch_split(classify_cells_kernel, self.lower, (end - start,), inputs, [self.kinds, ints(wanted)])
        return wanted

    def crossing(self, count: int) -> Tensor:
        """Those of the first ``count`` cells that the surface crosses, ascending."""
        cells = self.workspace.cells[:count]
        return cells[self.workspace.kinds[:count] == CROSSING].sort().values

    def flat_ids(self, axes: list[Tensor]) -> Tensor:
        """Ids of all nodes with the given coordinates along each axis."""
        _, Y, Z = self.workspace.resolution
        x, y, z = axes
        return ((x[:, None, None] * Y + y[:, None]) * Z + z).reshape(-1).int()
