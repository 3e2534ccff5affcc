"""Normals at the vertices of a body, at the sizes of a template, an extracted mesh and a fine one.

libigl has forward only, in float64. PyTorch3D's gradient of face normals takes seconds on a CPU and has no part here.
"""

from __future__ import annotations

import torch

from selfrecon_warp.benchmarks.harness import BACKWARD, FORWARD, Benchmark, Bound, Case, Prepared, main, timed
from selfrecon_warp.benchmarks.scenes import shaken_body
from selfrecon_warp.kernels import mesh as warp_op
from selfrecon_warp.kernels.reference import mesh as reference

CASES = (
    Case("vertex normals, 7k faces", {"B": 1, "F": 7_000}, quick=True),
    Case("vertex normals, 100k faces", {"B": 1, "F": 100_000}),
    Case("vertex normals, 400k faces", {"B": 1, "F": 400_000}, skip=("torch",)),
)


def ours(case: Case, direction: str, device: torch.device) -> Prepared:
    vertices, faces = shaken_body(case["B"], case["F"], device)
    return timed(lambda v: warp_op.vertex_normals(v, faces), [vertices], direction)


def plain(case: Case, direction: str, device: torch.device) -> Prepared:
    vertices, faces = shaken_body(case["B"], case["F"], device)
    return timed(lambda v: reference.vertex_normals(v, faces), [vertices], direction)


def pytorch3d(case: Case, direction: str, device: torch.device) -> Prepared:
    from pytorch3d.structures import Meshes

    vertices, faces = shaken_body(case["B"], case["F"], device)
    return timed(lambda v: Meshes(list(v), [faces] * case["B"]).verts_normals_packed(), [vertices], direction)


def libigl(case: Case, direction: str, device: torch.device) -> Prepared | None:
    import igl
    import numpy as np

    if direction != FORWARD:
        return None
    vertices, faces = (x.numpy() for x in shaken_body(case["B"], case["F"], device))
    points = vertices[0].astype(np.float64)
    return Prepared(lambda: igl.per_vertex_normals(points, faces, igl.PER_VERTEX_NORMALS_WEIGHTING_TYPE_AREA))


def bound(case: Case, direction: str, device: torch.device) -> Bound:
    vertices, faces = shaken_body(case["B"], case["F"], device)
    once = 2 * vertices.nbytes + faces.nbytes
    return Bound(
        "reads vertices and faces, writes the normals; backward once more", bytes=once * (1 + (direction == BACKWARD))
    )


BENCHMARK = Benchmark(
    op="mesh",
    cases=CASES,
    implementations={"ours": ours, "torch": plain, "pytorch3d": pytorch3d, "libigl": libigl},
    items=lambda case: (case["B"] * case["F"], "faces"),
    bound=bound,
)

if __name__ == "__main__":
    main(BENCHMARK)
