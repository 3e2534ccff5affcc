"""Algebra of the rays: 6,144 a step of the published schedule, 20k, and 200k as in rendering.

The networks that give value, gradient and Jacobian are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from selfrecon_warp.benchmarks.harness import BACKWARD, FORWARD, Benchmark, Bound, Case, Prepared, main, timed
from selfrecon_warp.kernels import intersection as ours
from selfrecon_warp.kernels.reference import intersection as reference
from selfrecon_warp.kernels.small_matrices import inverse_3x3

LIMITS = {"distance_tolerance": 1e-3, "angle_tolerance": 1e-3, "max_step": 0.05}
RAYS = {"6k": 6_144, "20k": 20_000, "200k": 200_000}
DIRECTIONS = {
    "step": (FORWARD,),
    "implicit gradient, 3x3": (FORWARD, BACKWARD),
    "implicit gradient, 4x3": (FORWARD, BACKWARD),
}
MOVED = {  # bytes a ray, forward and backward, each array once
    "step": (149, 0),
    "implicit gradient, 3x3": (85, 101),
    "implicit gradient, 4x3": (85, 101),
}


def rays(count: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Rays a few millimetres off a surface under a map near the identity."""
    centre = torch.zeros(3)
    directions = F.normalize(torch.randn(1, count, 3), dim=-1)
    found = {
        "points": 0.5 * torch.randn(1, count, 3),
        "value": 3e-3 * torch.randn(1, count),
        "gradient": F.normalize(directions + 0.5 * torch.randn(1, count, 3), dim=-1),
        "posed": 2.0 * directions + 3e-3 * torch.randn(1, count, 3),
        "jacobian": torch.eye(3) + 0.1 * torch.randn(1, count, 3, 3),
        "directions": directions,
        "centre": centre,
    }
    return {name: x.to(device) for name, x in found.items()}


def build(module: Any) -> Callable[[Case, str, torch.device], Prepared]:
    """One step of the algebra by one module."""

    def prepare(case: Case, direction: str, device: torch.device) -> Prepared:
        data, step = rays(case["R"], device), case["step"]
        jacobian = data.pop("jacobian")
        points, value, gradient, posed, directions, centre = data.values()
        if step == "step":
            inverse, regular = inverse_3x3(jacobian)
            inputs = points, value, gradient, posed, directions, centre, inverse, regular
            return Prepared(lambda: module.ray_step(*inputs, **LIMITS))
        form = "inverse" if step.endswith("3x3") else "least_squares"

        def solved(value, posed, directions, centre):
            return module.implicit_gradient(points, value, gradient, posed, jacobian, directions, centre, form)[0]

        return timed(solved, [value, posed, directions, centre], direction)

    return prepare


def bound(case: Case, direction: str, _device: torch.device) -> Bound:
    forward, backward = MOVED[case["step"]]
    return Bound("reads and writes each ray's arrays", bytes=case["R"] * (forward + backward * (direction == BACKWARD)))


BENCHMARK = Benchmark(
    op="intersection",
    cases=[
        Case(f"{step}, {name}", {"step": step, "R": count}, quick=name == "20k", directions=directions)
        for step, directions in DIRECTIONS.items()
        for name, count in RAYS.items()
    ],
    implementations={"ours": build(ours), "torch": build(reference)},
    items=lambda case: (case["R"], "rays"),
    bound=bound,
)

if __name__ == "__main__":
    main(BENCHMARK)
