"""A textured mesh over a picture of 540 pixels with two by two samples: what a frame of a rendered avatar costs."""

import torch

from selfrecon_warp.benchmarks.harness import FORWARD, Benchmark, Bound, Case, Prepared, main
from selfrecon_warp.benchmarks.scenes import figure
from selfrecon_warp.kernels import paint as warp_op
from selfrecon_warp.kernels.rasterize import visible_faces
from selfrecon_warp.kernels.reference import paint as reference

SAMPLES = 2
CASES = (
    Case("texture 2048, 30k faces, 540 px", {"F": 30_000, "size": 540, "texture": 2048}, quick=True),
    Case("vertices, 100k faces, 540 px", {"F": 100_000, "size": 540, "texture": 0}),
)


def build(module):
    """Painting with one module's functions, on visible faces."""

    def prepare(case: Case, direction: str, device: torch.device) -> Prepared | None:
        if direction != FORWARD:
            return None
        size = SAMPLES * case["size"]
        vertices, faces = figure(1, case["F"], size, device)
        faces = faces.int()
        index = visible_faces(vertices, faces, size, size)
        if not case["texture"]:
            colours = torch.rand(vertices.shape[1], 3, device=device)
            return Prepared(lambda: module.paint_vertices(index, vertices, faces, colours, SAMPLES))
        texcoords = vertices[0, :, :2].div(size).clamp(0, 1).contiguous()
        texture = torch.randint(0, 256, (case["texture"],) * 2 + (3,), device=device).to(torch.uint8)
        return Prepared(lambda: module.paint_texture(index, vertices, faces, texcoords, faces, texture, SAMPLES))

    return prepare


def items(case: Case) -> tuple[float, str]:
    return case["size"] ** 2, "pixels"


def bound(case: Case, _direction: str, _device: torch.device) -> Bound | None:
    moved = 4 * (SAMPLES * case["size"]) ** 2 + 16 * case["size"] ** 2
    return Bound("reads the samples' faces, writes the picture", bytes=moved)


BENCHMARK = Benchmark(
    op="paint",
    cases=CASES,
    implementations={"ours": build(warp_op), "torch": build(reference)},
    items=items,
    bound=bound,
)

if __name__ == "__main__":
    main(BENCHMARK)
