"""Trilinear lookup of a volume of 24 skinning weights and of a field of one channel, at points all over the box.

The plain reference is torch's ``grid_sample`` in five dimensions. Points carry gradients, and so does the volume where
a case says "learned". "twice" differentiates the gradient along the points again; "jacobian" gives values and spatial
derivatives in one pass, which the reference does with a backward pass a channel.
"""

import torch

from selfrecon_warp.benchmarks.harness import BACKWARD, Benchmark, Bound, Case, Prepared, main, timed
from selfrecon_warp.kernels import grid_sample as warp_op
from selfrecon_warp.kernels.reference import grid_sample as reference

WEIGHTS = {"XYZ": (65, 113, 33), "C": 24, "P": 20_000, "learned": True, "what": "values"}
FIELD = WEIGHTS | {"C": 1}
FINE = WEIGHTS | {"XYZ": (129, 225, 65)}
CASES = (
    Case("24 channels, learned, 20k points", WEIGHTS, quick=True),
    Case("24 channels, learned, 200k points", WEIGHTS | {"P": 200_000}),
    Case("24 channels, constant, 20k points", WEIGHTS | {"learned": False}),
    Case("24 channels, constant, fine volume", FINE | {"learned": False}),
    Case("1 channel, learned, 20k points", FIELD, quick=True),
    Case("1 channel, learned, 200k points", FIELD | {"P": 200_000}),
    Case("24 channels, twice", WEIGHTS | {"what": "twice"}, directions=(BACKWARD,)),
    Case("1 channel, twice", FIELD | {"what": "twice"}, directions=(BACKWARD,)),
    Case(
        "24 channels, jacobian",
        WEIGHTS | {"learned": False, "what": "jacobian"},
        once=("torch",),
        directions=(BACKWARD,),
    ),
)


def build(module):
    """A lookup with one module's functions."""

    def prepare(case: Case, direction: str, device: torch.device) -> Prepared:
        volume = torch.rand(*case["XYZ"], case["C"], device=device)
        points = torch.rand(case["P"], 3, device=device)
        box = torch.zeros(3, device=device), torch.ones(3, device=device)
        op = module.grid_sample_jacobian if case["what"] == "jacobian" else module.grid_sample
        if case["what"] == "twice":
            return Prepared(lambda: _twice(op, volume, points, box))
        if case["learned"]:
            return timed(lambda v, p: op(v, p, *box), [volume, points], direction)
        return timed(lambda p: op(volume, p, *box), [points], direction)

    return prepare


def _twice(op, volume, points, box):
    volume, points = volume.requires_grad_(), points.requires_grad_()
    (slope,) = torch.autograd.grad(op(volume, points, *box).square().sum(), points, create_graph=True)
    return torch.autograd.grad(slope.square().sum(), (volume, points))


def bound(case: Case, direction: str, _device: torch.device) -> Bound:
    x, y, z = case["XYZ"]
    channels, points = case["C"], case["P"]
    volume = min(8 * points, x * y * z) * channels
    values = points * (3 + channels * (4 if case["what"] == "jacobian" else 1))
    moved = volume + values
    if direction == BACKWARD:
        moved += volume + values + points * 3 + x * y * z * channels * case["learned"]
    return Bound("reads the voxels once, reads points, writes values; both again and gradients for backward",
                 bytes=4.0 * moved)  # fmt: skip


BENCHMARK = Benchmark(
    op="grid_sample",
    cases=CASES,
    implementations={"ours": build(warp_op), "torch": build(reference)},
    items=lambda case: (case["P"], "points"),
    bound=bound,
)

if __name__ == "__main__":
    main(BENCHMARK)
