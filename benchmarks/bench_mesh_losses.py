"""Regularisers of a mesh that moves: normal consistency and edge length.

A body whose vertices are shaken by a tenth of an edge, at the sizes of a template, an extracted mesh and a fine one.
Cases that say "kept" reuse what depends on the faces alone, as a fit does whose faces stay for many steps: ours the
topology, PyTorch3D its edges and Laplacian through ``Meshes.offset_verts``. The others start from vertices and faces in
each call, edges included.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from selfrecon_warp.benchmarks.harness import BACKWARD, Benchmark, Bound, Case, Prepared, main, timed
from selfrecon_warp.benchmarks.scenes import shaken_body
from selfrecon_warp.kernels import mesh_losses as warp_op
from selfrecon_warp.kernels.reference import mesh_losses as reference
from selfrecon_warp.kernels.topology import mesh_topology

TARGET = 0.005
"""Edge length at rest [m]."""


def cases() -> tuple[Case, ...]:
    """Both losses at every size."""
    result = []
    for what in ("normal consistency", "edge length"):
        slow = ("torch",) if what == "normal consistency" else ()  # its reference is a loop in Python
        for name, B, F, kept, skip in (
            ("7k faces", 1, 7_000, False, ()),
            ("100k faces", 1, 100_000, False, slow),
            ("100k faces, kept", 1, 100_000, True, ("torch",)),
            ("3 x 100k faces", 3, 100_000, False, ("torch",)),
            ("400k faces", 1, 400_000, False, ("torch",)),
        ):
            sizes = {"what": what, "B": B, "F": F, "kept": kept}
            result.append(Case(f"{what}, {name}", sizes, F == 7_000, skip, directions=(BACKWARD,)))
    return tuple(result)


def quantity(module: ModuleType, what: str) -> Callable[..., Tensor]:
    """The function of vertices and faces that a case times."""
    return {
        "normal consistency": module.loss_normal_consistency,
        "edge length": lambda v, f: module.loss_edge_length(v, f, TARGET),
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
    from pytorch3d.loss import mesh_edge_loss, mesh_normal_consistency
    from pytorch3d.structures import Meshes

    functions: dict[str, Callable[[Any], Tensor]] = {
        "normal consistency": mesh_normal_consistency,
        "edge length": lambda m: mesh_edge_loss(m, TARGET),
    }
    vertices, faces = shaken_body(case["B"], case["F"], device)
    function = functions[case["what"]]
    if case["kept"]:
        start = Meshes(list(torch.zeros_like(vertices)), [faces] * case["B"])
        start.edges_packed(), start.laplacian_packed()
        return timed(lambda v: function(start.offset_verts(v.flatten(0, 1))), [vertices], direction)
    return timed(lambda v: function(Meshes(list(v), [faces] * case["B"])), [vertices], direction)


def bound(case: Case, direction: str, device: torch.device) -> Bound:
    vertices, faces = shaken_body(case["B"], case["F"], device)
    written = vertices.nbytes if direction == BACKWARD else 0
    return Bound("reads vertices and faces, writes the gradient", bytes=vertices.nbytes + faces.nbytes + written)


BENCHMARK = Benchmark(
    op="mesh_losses",
    cases=cases(),
    implementations={"ours": ours, "torch": plain, "pytorch3d": pytorch3d},
    items=lambda case: (case["B"] * case["F"], "faces"),
    bound=bound,
)

if __name__ == "__main__":
    main(BENCHMARK)
