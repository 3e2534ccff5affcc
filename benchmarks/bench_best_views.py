"""Baking a texture: which photographs show each texel best.

A texture of 2048 texels a side shows surface in about two million, 1024 in half a million; captures give up to 120
pictures of 540x540 pixels, and eleven views are kept.
"""

import torch

from selfrecon_warp.benchmarks.harness import FORWARD, Benchmark, Bound, Case, Prepared, main, timed
from selfrecon_warp.benchmarks.scenes import figure
from selfrecon_warp.kernels import best_views as warp_op
from selfrecon_warp.kernels.rasterize import rasterize
from selfrecon_warp.kernels.reference import best_views as reference

BAKING = {"T": 500_000, "N": 120, "F": 30_000, "S": 540, "K": 11}
CASES = (
    Case("5k texels, 8 pictures", BAKING | {"T": 5_000, "N": 8}, quick=True, directions=(FORWARD,)),
    Case("50k texels, 24 pictures", BAKING | {"T": 50_000, "N": 24}, quick=True, directions=(FORWARD,)),
    Case("500k texels, 120 pictures", BAKING, skip=("torch",), directions=(FORWARD,)),
    Case("2M texels, 120 pictures", BAKING | {"T": 2_000_000}, skip=("torch",), directions=(FORWARD,)),
)


def build(module):
    def prepare(case: Case, direction: str, device: torch.device) -> Prepared:
        vertices, faces = figure(case["N"], case["F"], case["S"], device)
        generator = torch.Generator().manual_seed(0)
        share = -(-case["T"] // len(faces))  # texels of one face lie together, as along a texture's rows
        face_index = torch.arange(case["T"], device=device) // share
        barycentrics = torch.rand(case["T"], 3, generator=generator).to(device)
        barycentrics = barycentrics / barycentrics.sum(1, keepdim=True)
        cosines = torch.rand(case["N"], vertices.shape[1], generator=generator).to(device) * 2 - 1
        depth = torch.cat([rasterize(each[None], faces, case["S"], case["S"]).depth for each in vertices])
        trust = torch.ones_like(depth)
        return timed(
            lambda v, c: module.best_views(v, c, faces, face_index, barycentrics, depth, trust, case["K"]),
            [vertices, cosines],
            direction,
        )

    return prepare


def bound(case: Case, _direction: str, _device: torch.device) -> Bound:
    pictures = case["N"] * (8 * case["S"] ** 2 + 8 * case["F"])
    texels = case["T"] * (16 + 16 * case["K"])
    return Bound("reads pictures, vertices and texels, writes the views", bytes=float(pictures + texels))


BENCHMARK = Benchmark(
    op="best_views",
    cases=CASES,
    implementations={"ours": build(warp_op), "torch": build(reference)},
    items=lambda case: (case["T"] * case["N"], "texels x pictures"),
    bound=bound,
)

if __name__ == "__main__":
    main(BENCHMARK)
