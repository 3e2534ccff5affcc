"""Uniform weights, cotangents and curvature; sizes and what is kept between calls are told in ``mesh_steps``.

libigl has forward only, in float64.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch

from selfrecon_warp.benchmarks.harness import BACKWARD, FORWARD, Case, Prepared, main
from selfrecon_warp.benchmarks.mesh_steps import Quantities, benchmark, cases_of, on_meshes, on_vertices
from selfrecon_warp.benchmarks.scenes import shaken_body
from selfrecon_warp.kernels import laplacian as warp_op
from selfrecon_warp.kernels.reference import laplacian as reference

CURVATURE = {"what": "curvature laplacian", "B": 1, "F": 100_000, "kept": False}


def quantities(module: ModuleType) -> Quantities:
    return {
        "laplacian": module.loss_laplacian,
        "cotangent laplacian": lambda v, f: module.loss_laplacian(v, f, "cot"),
        "curvature laplacian": lambda v, f: module.loss_laplacian(v, f, "cotcurv"),
    }


def pytorch3d() -> tuple[Any, Quantities]:
    from pytorch3d.loss import mesh_laplacian_smoothing
    from pytorch3d.structures import Meshes

    return Meshes, {
        "laplacian": mesh_laplacian_smoothing,
        "cotangent laplacian": lambda m: mesh_laplacian_smoothing(m, "cot"),
        "curvature laplacian": lambda m: mesh_laplacian_smoothing(m, "cotcurv"),
    }


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


BENCHMARK = benchmark(
    "laplacian",
    (
        *cases_of("laplacian"),
        *cases_of("cotangent laplacian", forward=True),
        Case("curvature laplacian, 100k faces", CURVATURE, directions=(BACKWARD,)),
    ),
    {
        "ours": on_vertices(quantities(warp_op)),
        "torch": on_vertices(quantities(reference)),
        "pytorch3d": on_meshes(pytorch3d),
        "libigl": libigl,
    },
)

if __name__ == "__main__":
    main(BENCHMARK)
