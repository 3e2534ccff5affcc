"""Marching cubes on the crossed cells, on all nodes, and scikit-image's on all nodes; the same capsule body."""

import torch
from bench_sparse_grid import CASES, body, box
from harness import Measurement, main, measure

from selfrecon_warp.kernels.marching_cubes import marching_cubes
from selfrecon_warp.kernels.reference import marching_cubes as reference
from selfrecon_warp.kernels.sparse_grid import evaluate_sparse

OPERATIONS = ("cells", "cells with gradient", "all nodes", "reference", "scikit-image")


def run(operation: str, case: str, device: torch.device) -> Measurement | None:
    lower, upper = box(device)
    grid = evaluate_sparse(body, lower, upper, CASES[case])
    if operation == "cells":
        return measure(lambda: marching_cubes(grid.values, lower, upper, cells=grid.cells), device)
    if operation == "cells with gradient":
        values = grid.values.requires_grad_()
        return measure(
            lambda: torch.autograd.grad(marching_cubes(values, lower, upper, cells=grid.cells)[0].sum(), values), device
        )
    if operation == "reference":
        if case != "quick":
            return None
        return measure(lambda: reference.marching_cubes(grid.values, lower, upper, cells=grid.cells), device)
    values = grid.dense()
    if operation == "all nodes":
        return measure(lambda: marching_cubes(values, lower, upper), device)
    from skimage.measure import marching_cubes as scikit_marching_cubes

    array = values.cpu().numpy()
    return measure(lambda: scikit_marching_cubes(array, 0.0), "cpu")


if __name__ == "__main__":
    main("marching_cubes", CASES, {name: name for name in OPERATIONS}, run)
