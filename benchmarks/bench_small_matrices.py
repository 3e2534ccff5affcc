"""Algebra of 3 x 3 matrices: Jacobians of 6,144 rays a step, 20k points of the rigidity term, 200k as in rendering.

``torch eigvalsh`` takes the singular values from the eigenvalues of the squared matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from selfrecon_warp.benchmarks.harness import BACKWARD, Benchmark, Bound, Case, Prepared, main, timed
from selfrecon_warp.kernels import small_matrices as warp_op
from selfrecon_warp.kernels.reference import small_matrices as reference

COUNTS = {"6k": 6_144, "20k": 20_000, "200k": 200_000}
MOVED = {"inverse": (73, 109), "singular values": (120, 120)}
"""Bytes a matrix, forward and backward, each array once."""


def jacobians(case: Case, device: torch.device) -> torch.Tensor:
    """Matrices near the identity."""
    return (torch.eye(3) + 0.1 * torch.randn(1, case["N"], 3, 3)).to(device)


def build(module: Any) -> Callable[[Case, str, torch.device], Prepared]:
    """One operation of one module."""

    def prepare(case: Case, direction: str, device: torch.device) -> Prepared:
        matrices = jacobians(case, device)
        if case["what"] == "inverse":
            return timed(lambda x: module.inverse_3x3(x)[0], [matrices], direction)
        return timed(module.singular_values_3x3, [matrices], direction)

    return prepare


def eigenvalues(case: Case, direction: str, device: torch.device) -> Prepared | None:
    if case["what"] != "singular values":
        return None
    return timed(lambda x: torch.linalg.eigvalsh(x.mT @ x).sqrt(), [jacobians(case, device)], direction)


def bound(case: Case, direction: str, _device: torch.device) -> Bound:
    forward, backward = MOVED[case["what"]]
    moved = case["N"] * (forward + backward * (direction == BACKWARD))
    return Bound("reads and writes each matrix's arrays", bytes=moved)


BENCHMARK = Benchmark(
    op="small_matrices",
    cases=[
        Case(f"{what}, {name}", {"what": what, "N": count}, quick=name == "20k")
        for what in MOVED
        for name, count in COUNTS.items()
    ],
    implementations={"ours": build(warp_op), "torch": build(reference), "torch eigvalsh": eigenvalues},
    items=lambda case: (case["N"], "matrices"),
    bound=bound,
)

if __name__ == "__main__":
    main(BENCHMARK)
