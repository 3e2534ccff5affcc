"""Laplacian regularisers of a mesh that moves: uniform weights, cotangents and curvature.

A body whose vertices are shaken by a tenth of an edge, at the sizes of a template, an extracted mesh and a fine one.
Cases that say "kept" reuse what depends on the faces alone, as a fit does whose faces stay for many steps: ours the
topology, PyTorch3D its edges and Laplacian through ``Meshes.offset_verts``. The others start from vertices and faces in
each call, edges included. libigl has forward only, in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from selfrecon_warp.benchmarks.harness import BACKWARD, FORWARD, Benchmark, Bound, Case, Prepared, main, timed
from selfrecon_warp.benchmarks.scenes import shaken_body
from selfrecon_warp.kernels import laplacian as warp_op
from selfrecon_warp.kernels.reference import laplacian as reference
from selfrecon_warp.kernels.topology import mesh_topology


def cases() -> tuple[Case, ...]:
    """Uniform and cotangent weights at every size, and curvature."""
    result = []
    for what in ("laplacian", "cotangent laplacian"):
        both = (FORWARD, BACKWARD) if what == "cotangent laplacian" else (BACKWARD,)
        for name, B, F, kept, skip, directions in (
            ("7k faces", 1, 7_000, False, (), (BACKWARD,)),
            ("100k faces", 1, 100_000, False, (), both),
            ("100k faces, kept", 1, 100_000, True, ("torch", "libigl"), (BACKWARD,)),
            ("3 x 100k faces", 3, 100_000, False, ("torch", "libigl"), (BACKWARD,)),
            ("400k faces", 1, 400_000, False, ("torch", "libigl"), (BACKWARD,)),
        ):
            sizes = {"what": what, "B": B, "F": F, "kept": kept}
            result.append(Case(f"{what}, {name}", sizes, F == 7_000, skip, directions=directions))
    sizes = {"what": "curvature laplacian", "B": 1, "F": 100_000, "kept": False}
    return (*result, Case("curvature laplacian, 100k faces", sizes, directions=(BACKWARD,)))


def quantity(module: ModuleType, what: str) -> Callable[..., Tensor]:
    """The function of vertices and faces that a case times."""
    return {
        "laplacian": module.loss_laplacian,
        "cotangent laplacian": lambda v, f: module.loss_laplacian(v, f, "cot"),
        "curvature laplacian": lambda v, f: module.loss_laplacian(v, f, "cotcurv"),
    }[what]


def ours(case: Case, direction: str, device: torch.device) -> Prepared:
    vertices, faces = shaken_body(case["B"], case["F"], device)
    given = mesh_topology(faces, vertices.shape[1]) if case["kept"] else faces
    function = quantity(warp_op, case["what"])
    return timed(lambda v: function(v, given), [vertices], direction)


def plain(case: Case, direction: str, device: torch.device) -> Prepared:
    vertices, faces = shaken_body(case["B"], case["F"], device)
    function = quantity(reference, case["what"])
    return timed(lambda v: function(v, faces), [vertices], direction)


def pytorch3d(case: Case, direction: str, device: torch.device) -> Prepared:
    from pytorch3d.loss import mesh_laplacian_smoothing
    from pytorch3d.structures import Meshes

    functions: dict[str, Callable[[Any], Tensor]] = {
        "laplacian": mesh_laplacian_smoothing,
        "cotangent laplacian": lambda m: mesh_laplacian_smoothing(m, "cot"),
        "curvature laplacian": lambda m: mesh_laplacian_smoothing(m, "cotcurv"),
    }
    vertices, faces = shaken_body(case["B"], case["F"], device)
    function = functions[case["what"]]
    if case["kept"]:
        start = Meshes(list(torch.zeros_like(vertices)), [faces] * case["B"])
        start.edges_packed(), start.laplacian_packed()
        return timed(lambda v: function(start.offset_verts(v.flatten(0, 1))), [vertices], direction)
    return timed(lambda v: function(Meshes(list(v), [faces] * case["B"])), [vertices], direction)


def libigl(case: Case, direction: str, device: torch.device) -> Prepared | None:
    import igl
    import numpy as np

    if direction != FORWARD or case["what"] != "cotangent laplacian":
        return None
    vertices, faces = (x.numpy() for x in shaken_body(case["B"], case["F"], device))
    points = vertices[0].astype(np.float64)

    def cotangent_laplacian() -> float:
        weights = igl.cotmatrix(points, faces)
        return float(np.linalg.norm((weights @ points) / weights.diagonal()[:, None], axis=1).mean())

    return Prepared(cotangent_laplacian)


def bound(case: Case, direction: str, device: torch.device) -> Bound:
    vertices, faces = shaken_body(case["B"], case["F"], device)
    written = vertices.nbytes if direction == BACKWARD else 0
    return Bound("reads vertices and faces, writes the gradient", bytes=vertices.nbytes + faces.nbytes + written)


BENCHMARK = Benchmark(
    op="laplacian",
    cases=cases(),
    implementations={"ours": ours, "torch": plain, "pytorch3d": pytorch3d, "libigl": libigl},
    items=lambda case: (case["B"] * case["F"], "faces"),
    bound=bound,
)

if __name__ == "__main__":
    main(BENCHMARK)
