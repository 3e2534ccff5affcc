"""Silhouette terms of the fit: contour edges of a step's 8 meshes, 1,500 mask pixels a frame matched to them.

The scene is an ellipsoid of 20k vertices and 40k faces that fills a frame as a standing person does. The reference asks
every edge for every pixel, so it takes part at a small size only.
"""

import math

import torch

from selfrecon_warp.benchmarks.harness import FORWARD, Benchmark, Bound, Case, Prepared, main
from selfrecon_warp.benchmarks.scenes import ellipsoid
from selfrecon_warp.kernels import contour as warp_op
from selfrecon_warp.kernels.rasterize import visible_faces
from selfrecon_warp.kernels.reference import contour as reference

STEP = {"B": 8, "size": 540, "around": 200, "along": 100}
FRAME, LARGE = STEP | {"B": 1}, STEP | {"B": 1, "size": 1080}
SMALL = {"B": 1, "size": 96, "around": 40, "along": 20}
QUERIES = 1500  # contour pixels of the mask, a frame


def case(step: str, name: str, sizes: dict[str, int], quick: bool) -> Case:
    return Case(
        f"{step}, {name}",
        {**sizes, "step": step},
        quick=quick,
        skip=() if name == "small" else ("torch",),
        directions=(FORWARD,),
    )


def edges(module, _vertices, faces, _size):
    return lambda: module.mesh_edges(faces)


def contour(module, vertices, faces, size):
    mesh, face_index = warp_op.mesh_edges(faces), visible_faces(vertices, faces, size, size)
    return lambda: module.contour_edges(vertices, faces, mesh, face_index)


def nearest(module, vertices, faces, size):
    mesh, face_index = warp_op.mesh_edges(faces), visible_faces(vertices, faces, size, size)
    found = warp_op.contour_edges(vertices, faces, mesh, face_index)
    middle, outward = warp_op.contour_points(vertices, found)
    chosen = torch.randint(len(middle), (QUERIES * len(vertices),), device=middle.device)
    angle = 0.5 * torch.randn(len(chosen), device=middle.device)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(-1, 2, 2)
    directions = (turn @ outward[chosen, :, None]).squeeze(-1)
    queries = middle[chosen] + 6 * torch.randn(len(chosen), 2, device=middle.device)
    frame = found.frame_index[chosen]
    inputs = queries, frame, directions, middle, found.frame_index, outward, 20.0, math.cos(math.radians(45))
    return lambda: module.nearest_contour(*inputs)


STEPS = {"mesh edges": edges, "contour edges": contour, "nearest contour": nearest}


def build(module):
    """One step of the term with one module's functions."""

    def prepare(case: Case, _direction: str, device: torch.device) -> Prepared:
        vertices, faces = ellipsoid(case["B"], case["size"], (case["around"], case["along"]), device)
        return Prepared(STEPS[case["step"]](module, vertices, faces, case["size"]))

    return prepare


def items(case: Case) -> tuple[float, str]:
    if case["step"] == "nearest contour":
        return QUERIES * case["B"], "queries"
    frames = 1 if case["step"] == "mesh edges" else case["B"]
    return 3 * frames * case["around"] * case["along"], "edges"


def bound(case: Case, _direction: str, _device: torch.device) -> Bound | None:
    V, B = case["around"] * case["along"], case["B"]
    if case["step"] == "mesh edges":
        return Bound("reads faces, writes edges with their two faces", bytes=8.0 * (6 * V + 12 * V))
    if case["step"] == "contour edges":
        return Bound(
            "reads vertices, faces, edges and the face of each pixel",
            bytes=B * (12.0 * V + 4 * case["size"] ** 2) + 8 * (6 * V + 12 * V),
        )
    return None


CASES = [
    case(step, name, sizes, name in ("frame", "small"))
    for step in STEPS
    for name, sizes in {"step": STEP, "frame": FRAME, "large frame": LARGE, "small": SMALL}.items()
    if step != "mesh edges" or name in ("frame", "small")
]
BENCHMARK = Benchmark(
    op="contour",
    cases=CASES,
    implementations={"ours": build(warp_op), "torch": build(reference)},
    items=items,
    bound=bound,
)

if __name__ == "__main__":
    main(BENCHMARK)
