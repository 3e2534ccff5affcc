"""Sparse SDF evaluation against a dense one: time with a body of capsules, whose own cost is small but not nothing."""

import torch
from harness import Measurement, main, measure

from selfrecon_warp.kernels.reference import sparse_grid as reference
from selfrecon_warp.kernels.sparse_grid import GridWorkspace, evaluate_sparse

# nodes X, Y, Z: the lattice of a quick fit, and the coarse and fine ones of the paper's schedule
CASES = {"quick": (113, 161, 65), "paper coarse": (225, 321, 129), "paper fine": (321, 417, 225)}
BOX = (-0.8, -1.15, -0.4), (0.8, 0.85, 0.4)
LIMBS = [
    ((0, -0.3, 0), (0, 0.35, 0), 0.16),
    ((0, 0.5, 0), (0, 0.6, 0), 0.1),
    ((0.15, 0.3, 0), (0.6, -0.1, 0), 0.05),
    ((-0.15, 0.3, 0), (-0.6, -0.1, 0), 0.05),
    ((0.09, -0.35, 0), (0.17, -0.95, 0), 0.07),
    ((-0.09, -0.35, 0), (-0.17, -0.95, 0), 0.07),
]


def body(points):
    """Signed distance of the capsule body [m], ``[P, 3]`` to ``[P]``."""
    distance = None
    for start, end, radius in LIMBS:
        start, axis = points.new_tensor(start), points.new_tensor(end) - points.new_tensor(start)
        t = ((points - start) @ axis / (axis @ axis)).clamp(0, 1)
        limb = (points - start - t[:, None] * axis).norm(dim=1) - radius
        distance = limb if distance is None else torch.minimum(distance, limb)
    return distance


def box(device):
    return [torch.tensor(corner, device=device) for corner in BOX]


def run(operation: str, case: str, device: torch.device) -> Measurement | None:
    lower, upper = box(device)
    resolution = CASES[case]
    if operation == "reference":
        if case == "paper fine":
            return None
        return measure(lambda: reference.evaluate_sparse(body, lower, upper, resolution), device)
    workspace = GridWorkspace(resolution, device)
    options = {"mode": "fast"} if operation == "fast" else {}
    if operation == "warm":
        cells = evaluate_sparse(body, lower, upper, resolution, workspace=workspace).cells
        _, Y, Z = resolution
        low = torch.stack([cells // (Y * Z), cells // Z % Y, cells % Z], dim=1)
        options = {"seeds": lower + (low + 0.5) * (upper - lower) / (lower.new_tensor(resolution) - 1)}
    points, grid = _points(lower, upper, resolution, workspace, options)
    alone = measure(lambda: [body(part) for part in points], device)
    print(
        f"{case}, {operation}: {grid.queries} queries in {grid.calls} calls, {alone.median:.1f} ms of them in the SDF"
    )
    return measure(lambda: evaluate_sparse(body, lower, upper, resolution, workspace=workspace, **options), device)


def _points(lower, upper, resolution, workspace, options):
    """What the SDF is asked for, and the grid."""
    points = []

    def recorded(part):
        points.append(part)
        return body(part)

    return points, evaluate_sparse(recorded, lower, upper, resolution, workspace=workspace, **options)


if __name__ == "__main__":
    main("sparse_grid", CASES, {name: name for name in ("lossless", "fast", "warm", "reference")}, run)
