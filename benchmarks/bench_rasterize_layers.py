"""The nearest faces of every pixel: sharp layers for translucency, and PyTorch3D's soft silhouette setting (7.8 px).

The reference and PyTorch3D test every face at every pixel: the first takes part at a small size, the second is measured
with 7k faces at 256 pixels and scaled by faces and pixels.
"""

import torch

from selfrecon_warp.benchmarks.harness import Benchmark, Bound, Case, Prepared, main, timed
from selfrecon_warp.benchmarks.scenes import figure, to_pytorch3d
from selfrecon_warp.kernels import rasterize_layers as warp_op
from selfrecon_warp.kernels.reference import rasterize_layers as reference

BRUTE = "7k faces, 256 px, 10 layers, 3.9 px"


def layers(faces: int, size: int, count: int, radius: float, frames: int = 1, quick: bool = False) -> Case:
    name = f"{faces // 1000}k faces, {size} px, {count} layers, {radius:.1f} px"
    name += f", {frames} frames" if frames > 1 else ""
    work = frames * faces / 7_000 * (size / 256) ** 2
    return Case(
        name,
        {"B": frames, "F": faces, "size": size, "K": count, "radius": radius},
        quick=quick,
        skip=("torch",),
        once=("pytorch3d",),
        extrapolate={} if name == BRUTE else {"pytorch3d": (BRUTE, work)},
    )


CASES = (
    Case("200 faces, 48 px, 4 layers", {"B": 1, "F": 200, "size": 48, "K": 4, "radius": 1.5}, quick=True),
    layers(7_000, 256, 10, 3.9),
    layers(20_000, 512, 10, 7.8, quick=True),
    layers(20_000, 512, 50, 7.8),
    layers(100_000, 512, 8, 0.0),
    layers(100_000, 1080, 8, 0.0),
    layers(100_000, 512, 8, 0.0, frames=3),
)


def build(module):
    """The op of one module."""

    def prepare(case: Case, direction: str, device: torch.device) -> Prepared:
        vertices, faces = figure(case["B"], case["F"], case["size"], device)
        size, count = (case["size"],) * 2, case["K"]
        options = {"blur_radius": case["radius"], "clip_barycentrics": case["radius"] > 0}
        faces = faces.int()
        return timed(lambda v: module.rasterize_layers(v, faces, *size, count, **options), [vertices], direction)

    return prepare


def pytorch3d(case: Case, direction: str, device: torch.device) -> Prepared:
    from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
    from pytorch3d.structures import Meshes

    size, radius = case["size"], case["radius"]
    vertices, faces = figure(case["B"], case["F"], size, device)
    options = {
        "blur_radius": (2 * radius / size) ** 2,
        "faces_per_pixel": case["K"],
        "perspective_correct": True,
        "clip_barycentric_coords": radius > 0,
    }
    options |= {"bin_size": 0} if device.type == "cpu" else {}

    def draw(ndc):
        return rasterize_meshes(Meshes(ndc, faces.expand(case["B"], -1, -1)), size, **options)

    return timed(draw, [to_pytorch3d(vertices, size, size)], direction)


def bound(case: Case, direction: str, _device: torch.device) -> Bound:
    entries = case["B"] * case["size"] ** 2 * case["K"]
    each = 24 if direction == "forward" else 48
    return Bound(f"moves {each} bytes a layer and pixel", bytes=18.0 * case["B"] * case["F"] + each * entries)


BENCHMARK = Benchmark(
    op="rasterize_layers",
    cases=CASES,
    implementations={"ours": build(warp_op), "torch": build(reference), "pytorch3d": pytorch3d},
    items=lambda case: (case["B"] * case["size"] ** 2 * case["K"], "layers"),
    bound=bound,
)

if __name__ == "__main__":
    main(BENCHMARK)
