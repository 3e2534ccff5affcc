"""The feature grid of the canonical surface at a step's points, and at the nodes of an extraction.

A box of 1.8 x 2.4 x 0.9 m, cells from 15 cm to 9 mm. "slope" is the gradient along the points and the gradient of that
to the table, which a step needs; "jacobian" is how the pipeline computes it, features and Jacobian in one pass.
"""

import torch

from selfrecon_warp.benchmarks.harness import BACKWARD, FORWARD, Benchmark, Bound, Case, Prepared, main, timed
from selfrecon_warp.kernels import encode as warp_op
from selfrecon_warp.kernels.reference import encode as reference

STEP = {"levels": 8, "C": 2, "log2_rows": 16, "P": 20_000, "what": "features"}
CASES = (
    Case("step, 20k points", STEP, quick=True),
    Case("step, small table", STEP | {"log2_rows": 14}),
    Case("step, wide", STEP | {"levels": 6, "C": 4, "log2_rows": 15}),
    Case("extraction, 100k points", STEP | {"P": 100_000}),
    Case("slope, 20k points", STEP | {"what": "slope"}, quick=True, directions=(BACKWARD,)),
    Case("jacobian, 20k points", STEP | {"what": "jacobian"}, quick=True, directions=(BACKWARD,)),
)


def build(module):
    """Features or their slope with one module's functions."""

    def prepare(case: Case, direction: str, device: torch.device) -> Prepared:
        layout = warp_op.grid_layout(case["levels"], 16, 256, case["log2_rows"], aspect=(1.8, 2.4, 0.9))
        points = torch.rand(case["P"], 3, device=device)
        table = 1e-2 * torch.randn(layout.rows, case["C"], device=device)
        if case["what"] == "features":
            return timed(lambda t: module.encode_grid(points, t, layout), [table], direction)
        if case["what"] == "jacobian" and module is warp_op:
            return timed(lambda t: module.encode_grid_jacobian(points, t, layout), [table], direction)
        return Prepared(lambda: _slope(module, points, table, layout))

    return prepare


def _slope(module, points, table, layout):
    points, table = points.requires_grad_(), table.requires_grad_()
    (slope,) = torch.autograd.grad(module.encode_grid(points, table, layout).sum(), points, create_graph=True)
    return torch.autograd.grad(slope.square().sum(), table)


def bound(case: Case, direction: str, _device: torch.device) -> Bound:
    points, features = case["P"] * 3, case["P"] * case["levels"] * case["C"]
    table = case["levels"] * case["C"] * 2 ** case["log2_rows"]
    passes = 1 if direction == FORWARD else 3
    return Bound("reads points and table, writes features; both again and the table's gradient for backward",
                 bytes=4.0 * (points + features + table) * passes)  # fmt: skip


BENCHMARK = Benchmark(
    op="encode",
    cases=CASES,
    implementations={"ours": build(warp_op), "torch": build(reference)},
    items=lambda case: (case["P"], "points"),
    bound=bound,
)

if __name__ == "__main__":
    main(BENCHMARK)
