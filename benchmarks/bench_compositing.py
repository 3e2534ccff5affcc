"""Blending the points that a picture shows: the colour of eight layers a pixel, and the mask of the published term.

The layers are a splatted body: 540 pixels is a frame of a fit at half size. ``ours`` reads each pixel's points from
lists, ``ours padded`` from the same ``[B, H, W, K]`` tensors as PyTorch3D, most of whose places are empty.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from selfrecon_warp.benchmarks.harness import BACKWARD, Benchmark, Bound, Case, Prepared, main, timed
from selfrecon_warp.benchmarks.scenes import figure
from selfrecon_warp.kernels import compositing as warp_op
from selfrecon_warp.kernels.reference import compositing as reference
from selfrecon_warp.kernels.splat import SplatLists, Splats, splat_lists, splat_points

CASES = (
    Case("7k points, 256 px, 8 of 3", {"P": 7_000, "size": 256, "K": 8, "C": 3}, quick=True),
    Case("50k points, 540 px, 8 of 3", {"P": 50_000, "size": 540, "K": 8, "C": 3}),
    Case("50k points, 540 px, 50 of 1", {"P": 50_000, "size": 540, "K": 50, "C": 1}, skip=("torch",)),
)


def layers(case: Case, device: torch.device, draw: Callable[..., Any]) -> tuple[Any, Tensor, Tensor]:
    """What the pixels show, the share of the light that it takes and the points' features."""
    size, radius = case["size"], 0.006 * case["size"] / 2
    drawn = draw(figure(1, 2 * case["P"], size, device)[0], radius, size, size, case["K"])
    count = int(drawn.point_index.max()) + 1
    return drawn, 1.0 - drawn.distance / radius**2, torch.rand(count, case["C"], device=device)


def lists(case: Case, direction: str, device: torch.device) -> Prepared:
    drawn: SplatLists
    drawn, alphas, features = layers(case, device, splat_lists)
    index, ends = drawn.point_index, drawn.ends
    return timed(lambda a, f: warp_op.composite_alpha(a, index, f, ends), [alphas, features], direction)


def padded(module: Any) -> Callable[[Case, str, torch.device], Prepared]:
    """The padded form of one module."""

    def build(case: Case, direction: str, device: torch.device) -> Prepared:
        drawn: Splats
        drawn, alphas, features = layers(case, device, splat_points)
        return timed(lambda a, f: module.composite_alpha(a, drawn.point_index, f), [alphas, features], direction)

    return build


def pytorch3d(case: Case, direction: str, device: torch.device) -> Prepared:
    from pytorch3d.renderer.compositing import alpha_composite

    drawn, alphas, features = layers(case, device, splat_points)
    index = drawn.point_index.permute(0, 3, 1, 2).long().contiguous()
    inputs = [alphas.permute(0, 3, 1, 2).contiguous(), features.T.contiguous()]
    return timed(lambda a, f: alpha_composite(index, a, f), inputs, direction)


def bound(case: Case, direction: str, device: torch.device) -> Bound:
    drawn, alphas, features = layers(case, device, splat_lists)
    moved = alphas.nbytes + drawn.point_index.nbytes + drawn.ends.nbytes + 4 * case["C"] * case["size"] ** 2
    return Bound(
        "reads the lists and features, writes the blend; reads them and the blend again, writes their gradients",
        bytes=(moved + features.nbytes) * (1 + (direction == BACKWARD))
        + (alphas.nbytes + features.nbytes) * (direction == BACKWARD),
    )


BENCHMARK = Benchmark(
    op="compositing",
    cases=CASES,
    implementations={
        "ours": lists,
        "ours padded": padded(warp_op),
        "torch": padded(reference),
        "pytorch3d": pytorch3d,
    },
    items=lambda case: (case["size"] ** 2, "pixels"),
    bound=bound,
)

if __name__ == "__main__":
    main(BENCHMARK)
