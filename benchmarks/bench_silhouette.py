"""Soft masks: the antialiased one of a fit's step, and the blended and splatted ones that it stands in for.

Blending is timed with PyTorch3D's usual setting (sigma 1e-4 in NDC, cut where a face's probability is 1e-4: 7.8 pixels
of 512), splatting with the paper's first radius (0.006 in NDC). PyTorch3D is measured once, with 10 faces a pixel at
512 pixels; its splats are in ``bench_splat.py``.
"""

import math

import torch

from selfrecon_warp.benchmarks.harness import Benchmark, Bound, Case, Prepared, main, timed
from selfrecon_warp.benchmarks.scenes import figure, to_pytorch3d
from selfrecon_warp.kernels import silhouette as warp_op
from selfrecon_warp.kernels.contour import mesh_edges
from selfrecon_warp.kernels.rasterize import visible_faces
from selfrecon_warp.kernels.reference import silhouette as reference

SIGMA, CUT, SPLAT = 1e-4, math.log(1e4 - 1), 0.006


def blended(faces: int, size: int, count: int | None, frames: int = 1, quick: bool = False, **rest) -> Case:
    which = "all faces" if count is None else f"{count} of"
    name = f"blended, {which} {faces // 1000}k, {size} px" + (f", {frames} frames" if frames > 1 else "")
    sizes = {"op": "blended_silhouette", "B": frames, "F": faces, "size": size, "K": count}
    skip = ("torch",) if count == 10 else ("torch", "pytorch3d")
    return Case(name, sizes, quick=quick, **{"skip": skip, "once": ("pytorch3d",), **rest})


def other(
    op: str, faces: int, size: int, frames: int = 1, quick: bool = False, skip: tuple[str, ...] = ("torch",)
) -> Case:
    name = f"{op.split('_')[0]}, {faces} faces, {size} px" + (f", {frames} frames" if frames > 1 else "")
    sizes = {"op": op, "B": frames, "F": faces, "size": size, "K": 50}
    return Case(name, sizes, quick=quick, skip=("pytorch3d", *skip))


MEASURED = "blended, 10 of 20k, 512 px"
CASES = (
    Case(
        "blended, 10 of 200, 48 px",
        {"op": "blended_silhouette", "B": 1, "F": 200, "size": 48, "K": 10},
        quick=True,
        once=("pytorch3d",),
    ),
    blended(20_000, 512, 10),
    blended(20_000, 512, 50),
    blended(20_000, 512, None, quick=True),
    blended(100_000, 512, 10, extrapolate={"pytorch3d": (MEASURED, 5.0)}),
    blended(100_000, 1080, 10, extrapolate={"pytorch3d": (MEASURED, 5.0 * (1080 / 512) ** 2)}),
    blended(20_000, 512, 10, frames=3, extrapolate={"pytorch3d": (MEASURED, 3.0)}),
    other("antialiased_silhouette", 400, 96, quick=True, skip=()),
    other("antialiased_silhouette", 40_000, 540, quick=True),
    other("antialiased_silhouette", 40_000, 540, frames=8),
    other("antialiased_silhouette", 100_000, 1080),
    other("splatted_silhouette", 400, 48, skip=()),
    other("splatted_silhouette", 100_000, 540),
    other("splatted_silhouette", 100_000, 1080),
)


def build(module):
    """The ops of one module."""

    def prepare(case: Case, direction: str, device: torch.device) -> Prepared:
        size = case["size"]
        vertices, faces = figure(case["B"], case["F"], size, device)
        faces, op = faces.int(), getattr(module, case["op"])
        if case["op"] == "blended_silhouette":
            sigma = SIGMA * (size / 2) ** 2
            options = {"sigma": sigma, "blur_radius": math.sqrt(CUT * sigma), "faces_per_pixel": case["K"]}
        elif case["op"] == "splatted_silhouette":
            options = {"radius": SPLAT * size / 2, "points_per_pixel": case["K"]}
        else:
            options = {"face_index": visible_faces(vertices, faces, size, size), "edges": mesh_edges(faces)}
        return timed(lambda v: op(v, faces, size, size, **options), [vertices], direction)

    return prepare


def pytorch3d(case: Case, direction: str, device: torch.device) -> Prepared:
    from types import SimpleNamespace

    from pytorch3d.renderer.blending import BlendParams, sigmoid_alpha_blend
    from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
    from pytorch3d.structures import Meshes

    size = case["size"]
    vertices, faces = figure(case["B"], case["F"], size, device)
    options = {
        "blur_radius": CUT * SIGMA,
        "faces_per_pixel": case["K"],
        "perspective_correct": True,
        "clip_barycentric_coords": True,
    }
    options |= {"bin_size": 0} if device.type == "cpu" else {}

    def draw(ndc):
        found = rasterize_meshes(Meshes(ndc, faces.expand(case["B"], -1, -1)), size, **options)
        fragments = SimpleNamespace(**dict(zip(("pix_to_face", "zbuf", "bary_coords", "dists"), found, strict=True)))
        colours = ndc.new_ones(1).expand(*fragments.pix_to_face.shape, 3)
        return sigmoid_alpha_blend(colours, fragments, BlendParams(sigma=SIGMA))[..., 3]

    return timed(draw, [to_pytorch3d(vertices, size, size)], direction)


def bound(case: Case, direction: str, _device: torch.device) -> Bound:
    mesh, pixels = 18.0 * case["B"] * case["F"], 4.0 * case["B"] * case["size"] ** 2
    passes = 1 if direction == "forward" else 2
    return Bound("reads the mesh, writes the mask", bytes=passes * (mesh + pixels))


BENCHMARK = Benchmark(
    op="silhouette",
    cases=CASES,
    implementations={"ours": build(warp_op), "torch": build(reference), "pytorch3d": pytorch3d},
    items=lambda case: (case["B"] * case["size"] ** 2, "pixels"),
    bound=bound,
)

if __name__ == "__main__":
    main(BENCHMARK)
