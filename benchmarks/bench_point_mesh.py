"""A point cloud pulled onto a mesh and the mesh onto it: both terms of the loss, with gradients.

The cloud is sampled around the body's surface, a centimetre or so away. PyTorch3D tries every pair; at the larger sizes
its time follows their number. libigl has the first term only.
"""

import torch

from selfrecon_warp.benchmarks.harness import FORWARD, Benchmark, Bound, Case, Only, Prepared, main, timed
from selfrecon_warp.benchmarks.scenes import body_mesh, cloud
from selfrecon_warp.kernels import point_mesh as warp_op
from selfrecon_warp.kernels.reference import point_mesh as reference

LOSS = {"P": 10_000, "F": 20_000, "what": "loss"}
SMALL = "1k points, 2k faces"
CASES = (
    Case(SMALL, LOSS | {"P": 1_000, "F": 2_000}, quick=True, once=("torch",)),
    Case("10k points, 20k faces", LOSS, quick=True, skip=("torch",), extrapolate={"pytorch3d": (SMALL, 100.0)}),
    Case("100k points, 100k faces", LOSS | {"P": 100_000, "F": 100_000}, skip=("torch", "pytorch3d")),
    Case("10k points to 20k faces", LOSS | {"what": "points"}, skip=("torch", "pytorch3d")),
    Case("100k points to 20k faces", LOSS | {"P": 100_000, "what": "points"}, skip=("torch", "pytorch3d")),
    Case(
        "100k points to 100k faces",
        LOSS | {"P": 100_000, "F": 100_000, "what": "points"},
        quick=True,
        skip=("torch", "pytorch3d"),
    ),
)


def inputs(case: Case, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Points ``[P, 3]``, vertices ``[V, 3]`` [m] and faces."""
    vertices, faces = body_mesh(case["F"], "cpu")
    points = cloud(case["P"], "cpu")
    return points.to(device), vertices.to(device), faces.to(device)


def build(module):
    def prepare(case: Case, direction: str, device: torch.device) -> Prepared:
        points, vertices, faces = inputs(case, device)
        if case["what"] == "loss":
            return timed(lambda p, v: module.loss_point_mesh(p, v, faces), [points, vertices], direction)
        return timed(lambda p, v: module.point_mesh_distance(p, v, faces)[0], [points, vertices], direction)

    return prepare


def pytorch3d(case: Case, direction: str, device: torch.device) -> Prepared | None:
    from pytorch3d.loss import point_mesh_face_distance
    from pytorch3d.structures import Meshes, Pointclouds

    if case["what"] != "loss":
        return None
    points, vertices, faces = inputs(case, device)

    def loss(p, v):
        return point_mesh_face_distance(Meshes(v[None], faces[None]), Pointclouds(p[None]), min_triangle_area=1e-12)

    return timed(loss, [points, vertices], direction)


def libigl(case: Case, direction: str, device: torch.device) -> Prepared | None:
    import igl

    if direction != FORWARD or case["what"] == "loss":
        return None
    points, vertices, faces = (x.double().numpy() for x in inputs(case, device))
    faces = faces.astype("int64")
    return Prepared(lambda: igl.point_mesh_squared_distance(points, vertices, faces))


def bound(case: Case, direction: str, _device: torch.device) -> Bound:
    mesh, points = 30.0 * case["F"], 12.0 * case["P"]
    found = 24.0 * (case["P"] + (case["F"] if case["what"] == "loss" else 0))
    passes = 1 if direction == FORWARD else 3
    return Bound("reads points and mesh, writes distances, pairs and places", bytes=(mesh + points + found) * passes)


BENCHMARK = Benchmark(
    op="point_mesh",
    cases=CASES,
    implementations={
        "ours": build(warp_op),
        "torch": build(reference),
        "pytorch3d": pytorch3d,
        "libigl": Only("cpu", libigl),
    },
    items=lambda case: (case["P"], "points"),
    bound=bound,
)

if __name__ == "__main__":
    main(BENCHMARK)
