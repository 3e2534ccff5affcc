"""Scoring a fit: 100k points sampled on the ground truth against the reconstruction, once a frame and direction.

Points lie within a centimetre or so of the surface; "far" ones anywhere in the body's box, as those do from which a
distance field is learned. libigl builds its tree in each call, as ours does, and counts in float64, as it always does.
"""

import torch

from selfrecon_warp.benchmarks.harness import FORWARD, Benchmark, Bound, Case, Only, Prepared, main, timed
from selfrecon_warp.benchmarks.scenes import BOX, body_mesh, cloud
from selfrecon_warp.kernels import closest_point as warp_op
from selfrecon_warp.kernels.reference import closest_point as reference

SCORING = {"P": 100_000, "F": 20_000, "far": False, "dtype": "float32"}
CASES = (
    Case("500 points, 2k faces", SCORING | {"P": 500, "F": 2_000}, quick=True, directions=(FORWARD,)),
    Case("10k points, 20k faces", SCORING | {"P": 10_000}, quick=True, skip=("torch",), directions=(FORWARD,)),
    Case("100k points, 20k faces", SCORING, skip=("torch",), directions=(FORWARD,)),
    Case("100k points, 100k faces", SCORING | {"F": 100_000}, quick=True, skip=("torch",), directions=(FORWARD,)),
    Case("the same in float64", SCORING | {"F": 100_000, "dtype": "float64"}, skip=("torch",), directions=(FORWARD,)),
    Case("100k far points, 100k faces", SCORING | {"F": 100_000, "far": True}, skip=("torch",), directions=(FORWARD,)),
    Case("200k points, 400k faces", SCORING | {"P": 200_000, "F": 400_000}, skip=("torch",), directions=(FORWARD,)),
)


def inputs(case: Case, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Points ``[P, 3]``, vertices ``[V, 3]`` [m] and faces."""
    vertices, faces = body_mesh(case["F"], "cpu")
    points = cloud(case["P"], "cpu")
    if case["far"]:
        low, high = torch.tensor(BOX)
        points = low + (high - low) * torch.rand(case["P"], 3)
    dtype = getattr(torch, case["dtype"])
    return points.to(device, dtype), vertices.to(device, dtype), faces.to(device)


def build(module):
    def prepare(case: Case, direction: str, device: torch.device) -> Prepared:
        points, vertices, faces = inputs(case, device)
        return timed(lambda p, v: module.closest_point(p, v, faces), [points, vertices], direction)

    return prepare


def libigl(case: Case, _direction: str, device: torch.device) -> Prepared:
    import igl

    points, vertices, faces = (x.double().numpy() for x in inputs(case, device))
    faces = faces.astype("int64")
    return Prepared(lambda: igl.point_mesh_squared_distance(points, vertices, faces))


def bound(case: Case, _direction: str, _device: torch.device) -> Bound:
    width = 4 if case["dtype"] == "float32" else 8
    points, mesh = case["P"] * (7 * width + 8), case["F"] * (1.5 * width + 24)
    return Bound("reads points and mesh, writes distance, face and place", bytes=points + mesh)


BENCHMARK = Benchmark(
    op="closest_point",
    cases=CASES,
    implementations={"ours": build(warp_op), "torch": build(reference), "libigl": Only("cpu", libigl)},
    items=lambda case: (case["P"], "points"),
    bound=bound,
)

if __name__ == "__main__":
    main(BENCHMARK)
