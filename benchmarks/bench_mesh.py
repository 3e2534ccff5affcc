"""Regularisers of a mesh that moves: Laplacian, normal consistency, edge length; its normals; and its connections.

A body whose vertices are shaken by a tenth of an edge, at the sizes of a template, an extracted mesh and a fine one.
Cases that say "kept" reuse what depends on the faces alone, as a fit does whose faces stay for many steps: ours the
topology, PyTorch3D its edges and Laplacian through ``Meshes.offset_verts``. The others start from vertices and faces in
each call, edges included. libigl has forward only, in float64. PyTorch3D's gradient of face normals takes seconds on a
CPU and has no part here.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from selfrecon_warp.benchmarks.harness import BACKWARD, FORWARD, Benchmark, Bound, Case, Prepared, main, timed
from selfrecon_warp.benchmarks.scenes import body_mesh
from selfrecon_warp.kernels import laplacian, mesh, mesh_losses, topology
from selfrecon_warp.kernels.reference import mesh as reference

TARGET = 0.005
"""Edge length at rest [m]."""
LOSSES = ("laplacian", "cotangent laplacian", "normal consistency", "edge length")


def cases() -> tuple[Case, ...]:
    """Every loss at every size, then normals and connections."""
    result = []
    for what in LOSSES:
        slow = ("torch",) if what == "normal consistency" else ()  # its reference is a loop in Python
        both = (FORWARD, BACKWARD) if what == "cotangent laplacian" else (BACKWARD,)
        for name, B, F, kept, skip, directions in (
            ("7k faces", 1, 7_000, False, (), (BACKWARD,)),
            ("100k faces", 1, 100_000, False, slow, both),
            ("100k faces, kept", 1, 100_000, True, ("torch", "libigl"), (BACKWARD,)),
            ("3 x 100k faces", 3, 100_000, False, ("torch", "libigl"), (BACKWARD,)),
            ("400k faces", 1, 400_000, False, ("torch", "libigl"), (BACKWARD,)),
        ):
            sizes = {"what": what, "B": B, "F": F, "kept": kept}
            result.append(Case(f"{what}, {name}", sizes, F == 7_000, skip, directions=directions))
    sizes = {"what": "curvature laplacian", "B": 1, "F": 100_000, "kept": False}
    result.append(Case("curvature laplacian, 100k faces", sizes, directions=(BACKWARD,)))
    for name, F, skip in (("7k faces", 7_000, ()), ("100k faces", 100_000, ()), ("400k faces", 400_000, ("torch",))):
        sizes = {"what": "vertex normals", "B": 1, "F": F, "kept": False}
        result.append(Case(f"vertex normals, {name}", sizes, F == 7_000, skip))
    for name, F in (("100k faces", 100_000), ("400k faces", 400_000)):
        sizes = {"what": "connections", "B": 1, "F": F, "kept": False}
        result.append(Case(f"connections, {name}", sizes, skip=("torch",), directions=(FORWARD,)))
    return tuple(result)


def shaken(case: Case, device: torch.device) -> tuple[Tensor, Tensor]:
    """Vertices ``[B, V, 3]`` and faces."""
    vertices, faces = body_mesh(case["F"], device)
    edge = float((vertices[faces[:, 0]] - vertices[faces[:, 1]]).norm(dim=1).mean())
    return vertices + 0.1 * edge * torch.randn(case["B"], *vertices.shape, device=device), faces


def quantity(losses: ModuleType, laplacians: ModuleType, normals: ModuleType, what: str) -> Callable[..., Tensor]:
    """The function of vertices and faces that a case times."""
    return {
        "laplacian": laplacians.loss_laplacian,
        "cotangent laplacian": lambda v, f: laplacians.loss_laplacian(v, f, "cot"),
        "curvature laplacian": lambda v, f: laplacians.loss_laplacian(v, f, "cotcurv"),
        "normal consistency": losses.loss_normal_consistency,
        "edge length": lambda v, f: losses.loss_edge_length(v, f, TARGET),
        "vertex normals": normals.vertex_normals,
    }[what]


def ours(case: Case, direction: str, device: torch.device) -> Prepared:
    vertices, faces = shaken(case, device)
    if case["what"] == "connections":
        return Prepared(lambda: topology.mesh_topology(faces, vertices.shape[1]))
    given = topology.mesh_topology(faces, vertices.shape[1]) if case["kept"] else faces
    function = quantity(mesh_losses, laplacian, mesh, case["what"])
    return timed(lambda v: function(v, given), [vertices], direction)


def plain(case: Case, direction: str, device: torch.device) -> Prepared:
    vertices, faces = shaken(case, device)
    function = quantity(reference, reference, reference, case["what"])
    return timed(lambda v: function(v, faces), [vertices], direction)


def pytorch3d(case: Case, direction: str, device: torch.device) -> Prepared:
    from pytorch3d.loss import mesh_edge_loss, mesh_laplacian_smoothing, mesh_normal_consistency
    from pytorch3d.structures import Meshes

    functions: dict[str, Callable[[Any], Tensor]] = {
        "laplacian": mesh_laplacian_smoothing,
        "cotangent laplacian": lambda m: mesh_laplacian_smoothing(m, "cot"),
        "curvature laplacian": lambda m: mesh_laplacian_smoothing(m, "cotcurv"),
        "normal consistency": mesh_normal_consistency,
        "edge length": lambda m: mesh_edge_loss(m, TARGET),
        "vertex normals": lambda m: m.verts_normals_packed(),
        "connections": lambda m: m.faces_packed_to_edges_packed(),
    }
    vertices, faces = shaken(case, device)
    function = functions[case["what"]]
    if case["kept"]:
        start = Meshes(list(torch.zeros_like(vertices)), [faces] * case["B"])
        start.edges_packed(), start.laplacian_packed()
        return timed(lambda v: function(start.offset_verts(v.flatten(0, 1))), [vertices], direction)
    return timed(lambda v: function(Meshes(list(v), [faces] * case["B"])), [vertices], direction)


def libigl(case: Case, direction: str, device: torch.device) -> Prepared | None:
    import igl
    import numpy as np

    if direction != FORWARD:
        return None
    vertices, faces = (x.numpy() for x in shaken(case, device))
    points = vertices[0].astype(np.float64)

    def cotangent_laplacian() -> float:
        weights = igl.cotmatrix(points, faces)
        return float(np.linalg.norm((weights @ points) / weights.diagonal()[:, None], axis=1).mean())

    functions: dict[str, Callable[[], Any]] = {
        "cotangent laplacian": cotangent_laplacian,
        "vertex normals": lambda: igl.per_vertex_normals(points, faces, igl.PER_VERTEX_NORMALS_WEIGHTING_TYPE_AREA),
        "connections": lambda: igl.unique_edge_map(faces),
    }
    return Prepared(functions[case["what"]]) if case["what"] in functions else None


def bound(case: Case, direction: str, device: torch.device) -> Bound:
    vertices, faces = shaken(case, device)
    written = vertices.nbytes if direction == BACKWARD or case["what"] == "vertex normals" else 0
    if case["what"] == "connections":
        return Bound(
            "reads faces, writes the tables", bytes=faces.nbytes + 4 * (3 + 3 + 3 + 3 + 1.5 + 1.5) * len(faces)
        )
    return Bound("reads vertices and faces, writes the gradient", bytes=vertices.nbytes + faces.nbytes + written)


BENCHMARK = Benchmark(
    op="mesh",
    cases=cases(),
    implementations={"ours": ours, "torch": plain, "pytorch3d": pytorch3d, "libigl": libigl},
    items=lambda case: (case["B"] * case["F"], "faces"),
    bound=bound,
)

if __name__ == "__main__":
    main(BENCHMARK)
