"""Splatting a body's vertices and blending them into a soft mask, as the published silhouette term does.

50 points a pixel and the radius of its first stage, 0.006 of half a picture's side; 540 pixels is a frame of a fit at
half size. ``ours`` keeps each pixel's points in lists, ``ours padded`` in the same ``[B, H, W, 50]`` tensors as
PyTorch3D, most of whose places are empty. PyTorch3D asks every point for every pixel on a CPU, so its time follows
points times pixels and its larger case is computed from the smaller. The blend alone is in ``bench_compositing.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from selfrecon_warp.benchmarks.harness import BACKWARD, Benchmark, Bound, Case, Prepared, main, timed
from selfrecon_warp.benchmarks.scenes import figure, to_pytorch3d
from selfrecon_warp.kernels import compositing, splat
from selfrecon_warp.kernels.reference import compositing as reference_compositing
from selfrecon_warp.kernels.reference import splat as reference

KEPT = 50
CASES = (
    Case("500 points, 64 px", {"P": 500, "size": 64}, quick=True),
    Case("7k points, 256 px", {"P": 7_000, "size": 256}, quick=True, skip=("torch",), once=("pytorch3d",)),
    Case("50k points, 540 px", {"P": 50_000, "size": 540}, skip=("torch",), once=("pytorch3d",)),
    Case(
        "200k points, 540 px",
        {"P": 200_000, "size": 540},
        skip=("torch",),
        extrapolate={"pytorch3d": ("50k points, 540 px", 4.0)},
    ),
    Case("200k points, 1080 px", {"P": 200_000, "size": 1080}, skip=("torch", "pytorch3d")),
)


def radius(case: Case) -> float:
    """Radius of the discs [pixel]."""
    return 0.006 * case["size"] / 2


def points(case: Case, device: torch.device) -> Tensor:
    """Vertices of the body in the picture."""
    return figure(1, 2 * case["P"], case["size"], device)[0]


def lists(case: Case, direction: str, device: torch.device) -> Prepared:
    size, r = case["size"], radius(case)
    inputs = points(case, device)
    ones = inputs.new_ones(inputs.shape[1], 1)

    def mask(inputs: Tensor) -> Tensor:
        drawn = splat.splat_lists(inputs, r, size, size, KEPT)
        return compositing.composite_alpha(1.0 - drawn.distance / r**2, drawn.point_index, ones, drawn.ends)

    return timed(mask, [inputs], direction)


def padded(draw: ModuleType, blend: ModuleType) -> Callable[[Case, str, torch.device], Prepared]:
    """The padded form of one pair of modules."""

    def build(case: Case, direction: str, device: torch.device) -> Prepared:
        size, r = case["size"], radius(case)
        inputs = points(case, device)
        ones = inputs.new_ones(inputs.shape[1], 1)

        def mask(inputs: Tensor) -> Tensor:
            drawn = draw.splat_points(inputs, r, size, size, KEPT)
            return blend.composite_alpha(1.0 - drawn.distance / r**2, drawn.point_index, ones)

        return timed(mask, [inputs], direction)

    return build


def pytorch3d(case: Case, direction: str, device: torch.device) -> Prepared:
    from pytorch3d.renderer.compositing import alpha_composite
    from pytorch3d.renderer.points.rasterize_points import rasterize_points
    from pytorch3d.structures import Pointclouds

    size, r = case["size"], 0.006
    inputs = to_pytorch3d(points(case, device), size, size)
    ones = inputs.new_ones(1, inputs.shape[1])
    bins = 0 if device.type == "cpu" else None

    def mask(inputs: Tensor) -> Tensor:
        index, _, square = rasterize_points(Pointclouds(inputs), size, r, points_per_pixel=KEPT, bin_size=bins)
        alphas = (1.0 - square / r**2).permute(0, 3, 1, 2)
        return alpha_composite(index.permute(0, 3, 1, 2).long(), alphas, ones)

    return timed(mask, [inputs], direction)


def bound(case: Case, direction: str, device: torch.device) -> Bound:
    entries = len(splat.splat_lists(points(case, device), radius(case), case["size"], case["size"], KEPT).depth)
    pixels, again = case["size"] ** 2, direction == BACKWARD
    return Bound(
        "reads points, writes and reads lists of entries and the mask",
        bytes=12 * case["P"] * (1 + again) + 8 * pixels * (1 + again) + entries * (28 + 28 * again),
    )


BENCHMARK = Benchmark(
    op="splat",
    cases=CASES,
    implementations={
        "ours": lists,
        "ours padded": padded(splat, compositing),
        "torch": padded(reference, reference_compositing),
        "pytorch3d": pytorch3d,
    },
    items=lambda case: (case["P"], "points"),
    bound=bound,
)

if __name__ == "__main__":
    main(BENCHMARK)
