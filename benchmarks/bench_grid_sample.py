"""Skinning weights looked up at a step's surface points: 20k points in a volume of 24 weights.

The volume is constant during a fit; the points carry gradients. "field" has one channel and is learned.
"""

import torch
from harness import Measurement, main, measure

from selfrecon_warp.kernels.grid_sample import grid_sample, grid_sample_jacobian
from selfrecon_warp.kernels.reference import grid_sample as reference

CASES = {  # volume X Y Z C, points, volume carries gradients
    "weights": ((65, 113, 33, 24), 20_000, False),
    "weights, fine volume": ((129, 225, 65, 24), 20_000, False),
    "field": ((65, 113, 33, 1), 20_000, True),
}


def lookup(op):
    """Forward alone."""
    return lambda volume, points, box: op(volume.detach(), points.detach(), *box)


def gradient(op):
    """Forward and backward."""

    def step(volume, points, box):
        inputs = [x for x in (volume, points) if x.requires_grad]
        return torch.autograd.grad(op(volume, points, *box).sum(), inputs)

    return step


def twice(op):
    """Forward, backward and backward through the points' gradient."""

    def step(volume, points, box):
        inputs = [x for x in (volume, points) if x.requires_grad]
        (slope,) = torch.autograd.grad(op(volume, points, *box).square().sum(), points, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), inputs)

    return step


def jacobian(volume, points, box):
    """Values with their Jacobian, forward and backward."""
    inputs = [x for x in (volume, points) if x.requires_grad]
    values, slopes = grid_sample_jacobian(volume, points, *box)
    return torch.autograd.grad((values, slopes), inputs, (torch.ones_like(values), torch.ones_like(slopes)))


OPERATIONS = {
    "warp, forward": lookup(grid_sample),
    "torch, forward": lookup(reference.grid_sample),
    "warp, gradient": gradient(grid_sample),
    "torch, gradient": gradient(reference.grid_sample),
    "warp, twice": twice(grid_sample),
    "torch, twice": twice(reference.grid_sample),
    "warp, jacobian": jacobian,
}


def run(operation, case: str, device: torch.device) -> Measurement:
    shape, count, learned = CASES[case]
    volume = torch.rand(*shape, device=device, requires_grad=learned)
    points = torch.rand(count, 3, device=device, requires_grad=True)
    box = torch.zeros(3, device=device), torch.ones(3, device=device)
    return measure(lambda: operation(volume, points, box), device)


if __name__ == "__main__":
    main("grid_sample", CASES, OPERATIONS, run)
