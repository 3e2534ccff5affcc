"""The feature grid of the canonical surface at a step's points, and at the nodes of an extraction.

A box of 1.8 x 2.4 x 0.9 m, cells from 15 cm to 9 mm; "jacobian" is what a step runs, "twice" what it replaces.
"""

import torch
from harness import Measurement, main, measure

from selfrecon_warp.kernels.encode import encode_grid, encode_grid_jacobian, grid_layout
from selfrecon_warp.kernels.reference import encode as reference

CASES = {  # levels, channels, log2 of a level's rows, points
    "step": (8, 2, 16, 20_000),
    "step, small table": (8, 2, 14, 20_000),
    "step, wide": (6, 4, 15, 20_000),
    "extraction": (8, 2, 16, 100_000),
}


def forward(op):
    """Features alone."""
    return lambda points, table, layout: op(points.detach(), table.detach(), layout)


def gradient(op):
    """Features and the gradient of the table."""
    return lambda points, table, layout: torch.autograd.grad(op(points.detach(), table, layout).sum(), table)


def twice(op):
    """Features, their gradient along the points, and the gradient of that to the table."""

    def step(points, table, layout):
        (slope,) = torch.autograd.grad(op(points, table, layout).sum(), points, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), table)

    return step


def jacobian(points, table, layout):
    """Features with their Jacobian, and the gradient of both to the table."""
    outputs = encode_grid_jacobian(points.detach(), table, layout)
    return torch.autograd.grad(outputs, table, [torch.ones_like(x) for x in outputs])


OPERATIONS = {
    "warp, forward": forward(encode_grid),
    "torch, forward": forward(reference.encode_grid),
    "warp, gradient": gradient(encode_grid),
    "torch, gradient": gradient(reference.encode_grid),
    "warp, twice": twice(encode_grid),
    "torch, twice": twice(reference.encode_grid),
    "warp, jacobian": jacobian,
}


def run(operation, case: str, device: torch.device) -> Measurement:
    levels, channels, log2_size, count = CASES[case]
    layout = grid_layout(levels, 16, 256, log2_size, aspect=(1.8, 2.4, 0.9))
    points = torch.rand(count, 3, device=device, requires_grad=True)
    table = (1e-2 * torch.randn(layout.rows, channels, device=device)).requires_grad_()
    return measure(lambda: operation(points, table, layout), device)


if __name__ == "__main__":
    main("encode", CASES, OPERATIONS, run)
