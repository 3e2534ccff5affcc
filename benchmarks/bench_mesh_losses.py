"""Normal consistency and edge length; sizes and what is kept between calls are told in ``mesh_steps``."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from selfrecon_warp.benchmarks.harness import main
from selfrecon_warp.benchmarks.mesh_steps import Quantities, benchmark, cases_of, on_meshes, on_vertices
from selfrecon_warp.kernels import mesh_losses as warp_op
from selfrecon_warp.kernels.reference import mesh_losses as reference

TARGET = 0.005
"""Edge length at rest [m]."""


def quantities(module: ModuleType) -> Quantities:
    return {
        "normal consistency": module.loss_normal_consistency,
        "edge length": lambda v, f: module.loss_edge_length(v, f, TARGET),
    }


def pytorch3d() -> tuple[Any, Quantities]:
    from pytorch3d.loss import mesh_edge_loss, mesh_normal_consistency
    from pytorch3d.structures import Meshes

    return Meshes, {"normal consistency": mesh_normal_consistency, "edge length": lambda m: mesh_edge_loss(m, TARGET)}


BENCHMARK = benchmark(
    "mesh_losses",
    (*cases_of("normal consistency", slow=("torch",)), *cases_of("edge length")),  # one reference loops in Python
    {
        "ours": on_vertices(quantities(warp_op)),
        "torch": on_vertices(quantities(reference)),
        "pytorch3d": on_meshes(pytorch3d),
    },
)

if __name__ == "__main__":
    main(BENCHMARK)
