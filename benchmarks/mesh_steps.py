"""Regularisers of a mesh that moves, as ``bench_laplacian`` and ``bench_mesh_losses`` time them.

A body whose vertices are shaken by a tenth of an edge, at the sizes of a template, an extracted mesh and a fine one.
Cases that say "kept" reuse what depends on the faces alone, as a fit does whose faces stay for many steps: ours the
topology, PyTorch3D its edges and Laplacian through ``Meshes.offset_verts``. The others start from vertices and faces in
each call, edges included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from selfrecon_warp.benchmarks.harness import BACKWARD, FORWARD, Benchmark, Bound, Build, Case, Only, timed
from selfrecon_warp.benchmarks.scenes import shaken_body
from selfrecon_warp.kernels.topology import mesh_topology

Quantities = Mapping[str, Callable[..., Tensor]]


def cases_of(what: str, slow: Sequence[str] = (), forward: bool = False) -> list[Case]:
    """A quantity at every size.

    Args:
        what: Its name.
        slow: Implementations that take part at the smallest size only.
        forward: Whether it is timed without its gradient as well, at one size.
    """
    both = (FORWARD, BACKWARD) if forward else (BACKWARD,)
    return [
        Case(f"{what}, {name}", {"what": what, "B": B, "F": F, "kept": kept}, F == 7_000, skip, directions=directions)
        for name, B, F, kept, skip, directions in (
            ("7k faces", 1, 7_000, False, (), (BACKWARD,)),
            ("100k faces", 1, 100_000, False, slow, both),
            ("100k faces, kept", 1, 100_000, True, ("torch", "libigl"), (BACKWARD,)),
            ("3 x 100k faces", 3, 100_000, False, ("torch", "libigl"), (BACKWARD,)),
            ("400k faces", 1, 400_000, False, ("torch", "libigl"), (BACKWARD,)),
        )
    ]


def on_vertices(quantities: Quantities) -> Build:
    """The call on vertices and faces, or on a topology made before."""

    def build(case: Case, direction: str, device: torch.device) -> Any:
        vertices, faces = shaken_body(case["B"], case["F"], device)
        given = mesh_topology(faces, vertices.shape[1]) if case["kept"] else faces
        function = quantities[case["what"]]
        return timed(lambda v: function(v, given), [vertices], direction)

    return build


def on_meshes(peer: Callable[[], tuple[Any, Quantities]]) -> Build:
    """The call on ``Meshes``, new ones or shifted ones.

    Args:
        peer: PyTorch3D's class and quantities, asked for where it is at hand.
    """

    def build(case: Case, direction: str, device: torch.device) -> Any:
        meshes, quantities = peer()
        vertices, faces = shaken_body(case["B"], case["F"], device)
        function = quantities[case["what"]]
        if case["kept"]:
            start = meshes(list(torch.zeros_like(vertices)), [faces] * case["B"])
            start.edges_packed(), start.laplacian_packed()
            return timed(lambda v: function(start.offset_verts(v.flatten(0, 1))), [vertices], direction)
        return timed(lambda v: function(meshes(list(v), [faces] * case["B"])), [vertices], direction)

    return build


def bound(case: Case, direction: str, device: torch.device) -> Bound:
    """Memory traffic of a call that knows its faces' neighbours."""
    vertices, faces = shaken_body(case["B"], case["F"], device)
    written = vertices.nbytes if direction == BACKWARD else 0
    return Bound("reads vertices and faces, writes the gradient", bytes=vertices.nbytes + faces.nbytes + written)


def benchmark(op: str, cases: Sequence[Case], implementations: Mapping[str, Build | Only]) -> Benchmark:
    """The benchmark of one op; cases leave out what it has no implementation of anyway."""
    return Benchmark(
        op=op,
        cases=[replace(case, skip=tuple(name for name in case.skip if name in implementations)) for case in cases],
        implementations=implementations,
        items=lambda case: (case["B"] * case["F"], "faces"),
        bound=bound,
    )
