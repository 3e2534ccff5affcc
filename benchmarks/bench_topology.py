"""The connections of a mesh: edges and the faces beside them, as all regularisers but the cotangent Laplacian need."""

from __future__ import annotations

import torch

from selfrecon_warp.benchmarks.harness import FORWARD, Benchmark, Bound, Case, Prepared, main
from selfrecon_warp.benchmarks.scenes import body_mesh
from selfrecon_warp.kernels import topology as warp_op
from selfrecon_warp.kernels.reference import topology as reference

CASES = (
    Case("400 faces", {"F": 400}, quick=True, directions=(FORWARD,)),
    Case("7k faces", {"F": 7_000}, quick=True, skip=("torch",), directions=(FORWARD,)),
    Case("100k faces", {"F": 100_000}, skip=("torch",), directions=(FORWARD,)),
    Case("400k faces", {"F": 400_000}, skip=("torch",), directions=(FORWARD,)),
)


def ours(case: Case, _direction: str, device: torch.device) -> Prepared:
    vertices, faces = body_mesh(case["F"], device)
    return Prepared(lambda: warp_op.mesh_topology(faces, len(vertices)))


def plain(case: Case, _direction: str, device: torch.device) -> Prepared:
    vertices, faces = body_mesh(case["F"], device)
    return Prepared(lambda: reference.mesh_topology(faces, len(vertices)))


def pytorch3d(case: Case, _direction: str, device: torch.device) -> Prepared:
    from pytorch3d.structures import Meshes

    vertices, faces = body_mesh(case["F"], device)
    return Prepared(lambda: Meshes([vertices], [faces]).faces_packed_to_edges_packed())


def libigl(case: Case, _direction: str, device: torch.device) -> Prepared:
    import igl

    faces = body_mesh(case["F"], device)[1].numpy()
    return Prepared(lambda: igl.unique_edge_map(faces))


def bound(case: Case, _direction: str, device: torch.device) -> Bound:
    vertices, faces = body_mesh(case["F"], device)
    tables = 4 * (3 * len(faces) + len(vertices) + 3 * len(faces) + 1.5 * len(faces) + 3 * len(faces))
    return Bound("reads faces, writes the tables", bytes=faces.nbytes + tables)


BENCHMARK = Benchmark(
    op="topology",
    cases=CASES,
    implementations={"ours": ours, "torch": plain, "pytorch3d": pytorch3d, "libigl": libigl},
    items=lambda case: (case["F"], "faces"),
    bound=bound,
)

if __name__ == "__main__":
    main(BENCHMARK)
