"""Skinning in the fit: the template in 3 frames, a step's surface points, and an extracted mesh, 24 joints.

Points and weights are shared by the frames or, where a case says so, each frame's own. The plain reference is torch's
einsum. "jacobian" has weights that vary in space, as the deformation looks them up.
"""

import torch

from selfrecon_warp.benchmarks.harness import BACKWARD, FORWARD, Benchmark, Bound, Case, Prepared, main, timed
from selfrecon_warp.kernels import skinning as warp_op
from selfrecon_warp.kernels.reference import skinning as reference

TEMPLATE = {"B": 3, "P": 6_890, "J": 24, "own": False, "what": "points"}
STEP = TEMPLATE | {"B": 1, "P": 20_000, "own": True}
CASES = (
    Case("template, 3 frames of 6,890", TEMPLATE, quick=True),
    Case("template, weights per frame", TEMPLATE | {"own": True}),
    Case("step, 20k points", STEP),
    Case("extracted, 200k points", TEMPLATE | {"B": 1, "P": 200_000}, quick=True),
    Case("extracted, weights per frame", TEMPLATE | {"B": 1, "P": 200_000, "own": True}),
    Case("extracted, 3 frames of 200k", TEMPLATE | {"P": 200_000}),
    Case("expressive template, 55 joints", TEMPLATE | {"P": 10_475, "J": 55}),
    Case("jacobian, 20k points", STEP | {"what": "jacobian"}, quick=True),
)


def build(module):
    """Skinning, or its Jacobian, with one module's functions."""

    def prepare(case: Case, direction: str, device: torch.device) -> Prepared:
        B, P, J = case["B"], case["P"], case["J"]
        lead = (B,) if case["own"] else ()
        points = torch.rand(*lead, P, 3, device=device)
        weights = torch.rand(*lead, P, J, device=device).softmax(-1)
        bones = torch.rand(B, J, 4, 4, device=device)
        if case["what"] == "points":
            return timed(module.skin_points, [points, weights, bones], direction)
        slopes = torch.rand(*lead, P, 3, J, device=device).transpose(-1, -2)
        return timed(module.skin_points_jacobian, [points, weights, slopes, bones], direction)

    return prepare


def bound(case: Case, direction: str, _device: torch.device) -> Bound:
    B, P, J = case["B"], case["P"], case["J"]
    frames = B if case["own"] else 1
    weights = frames * P * J * (4 if case["what"] == "jacobian" else 1)
    inputs, outputs = weights + frames * P * 3, B * P * (12 if case["what"] == "jacobian" else 3)
    passes = 1 if direction == FORWARD else 3
    what = "reads points and weights, writes results" + "; the same again and gradients" * (direction == BACKWARD)
    return Bound(what, bytes=4.0 * (inputs * passes + outputs * min(passes, 2)))


BENCHMARK = Benchmark(
    op="skinning",
    cases=CASES,
    implementations={"ours": build(warp_op), "torch": build(reference)},
    items=lambda case: (case["B"] * case["P"], "points"),
    bound=bound,
)

if __name__ == "__main__":
    main(BENCHMARK)
