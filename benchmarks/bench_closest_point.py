"""Scoring a fit: 100k points sampled on the ground truth against the reconstruction, once a frame and direction.

The mesh is an ellipsoid of metre size; queries are scattered around its surface in no order.
"""

import torch
from harness import Measurement, main, measure
from scenes import ellipsoid

from selfrecon_warp.kernels.closest_point import closest_point
from selfrecon_warp.kernels.reference import closest_point as reference

CASES = {  # queries, vertices around x along
    "evaluation": (100_000, (200, 100)),
    "evaluation, fine mesh": (100_000, (320, 160)),
    "small": (500, (40, 20)),
}
OPERATIONS = {"warp": closest_point, "torch": reference.closest_point}


def run(operation, case: str, device: torch.device) -> Measurement | None:
    queries, resolution = CASES[case]
    if operation is reference.closest_point and queries > 1000:
        return None
    vertices, faces = ellipsoid(1, 2, resolution, device)
    chosen = torch.randint(vertices.shape[1], (queries,), device=device)
    points = vertices[0, chosen] + 0.01 * torch.randn(queries, 3, device=device)
    return measure(lambda: operation(points, vertices[0], faces), device)


if __name__ == "__main__":
    main("closest_point", CASES, OPERATIONS, run)
