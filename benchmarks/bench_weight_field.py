"""The skinning volume built once a fit: a body model's vertices, 24 joints, 30 neighbours, 30 smoothing passes.

Vertices lie on an ellipsoid as tall as a person, in a box 15 to 20 cm wider. The peer finds neighbours with scipy's
k-d tree on two threads and blends and smooths with NumPy; the plain reference measures every voxel against every
vertex.
"""

import torch

from selfrecon_warp.benchmarks.harness import FORWARD, Benchmark, Bound, Case, Prepared, main
from selfrecon_warp.kernels import weight_field as warp_op
from selfrecon_warp.kernels.reference import weight_field as reference

SMALL = {"XYZ": (17, 29, 9), "V": 6_890, "J": 24, "K": 30, "passes": 30}
FIT = SMALL | {"XYZ": (65, 113, 33)}
CASES = (
    Case("17 x 29 x 9 voxels", SMALL, quick=True, directions=(FORWARD,)),
    Case("65 x 113 x 33 voxels", FIT, quick=True, once=("cKDTree",), skip=("torch",), directions=(FORWARD,)),
    Case(
        "129 x 225 x 65 voxels",
        FIT | {"XYZ": (129, 225, 65)},
        once=("cKDTree",),
        skip=("torch",),
        directions=(FORWARD,),
    ),
)


def body(case: Case, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Vertices, their weights and the corners of the box."""
    radii = torch.tensor([0.6, 0.85, 0.15])
    vertices = radii * torch.nn.functional.normalize(torch.randn(case["V"], 3), dim=-1)
    weights = torch.randn(case["V"], case["J"]).mul(4.0).softmax(-1)
    reach = radii + torch.tensor([0.15, 0.15, 0.2])
    return tuple(each.to(device) for each in (vertices, weights, -reach, reach))


def build(module):
    """The volume with one module's function."""

    def prepare(case: Case, _direction: str, device: torch.device) -> Prepared:
        inputs = body(case, device)
        return Prepared(lambda: module.build_weight_field(*inputs, case["XYZ"], case["K"], case["passes"]))

    return prepare


def tree(case: Case, _direction: str, device: torch.device) -> Prepared:
    import numpy as np
    from scipy.spatial import cKDTree

    vertices, weights, lower, upper = (each.cpu().numpy() for each in body(case, device))

    def call():
        sizes = case["XYZ"]
        axes = [low + (np.arange(n) + 0.5) / n * (high - low) for low, high, n in zip(lower, upper, sizes, strict=True)]
        centres = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        field = np.empty((len(centres), weights.shape[1]), np.float32)
        search = cKDTree(vertices)
        for start in range(0, len(centres), 1 << 16):
            distances, indices = search.query(centres[start : start + (1 << 16)], k=case["K"], workers=2)
            shares = (1.0 / distances.clip(1e-4, 1.0)).astype(np.float32)
            shares /= shares.sum(-1, keepdims=True)
            field[start : start + (1 << 16)] = np.einsum("pk,pkj->pj", shares, weights[indices])
        field = field.reshape(*sizes, -1)
        for _ in range(case["passes"]):
            mean = field[:-2, 1:-1, 1:-1] + field[2:, 1:-1, 1:-1]
            mean += field[1:-1, :-2, 1:-1]
            mean += field[1:-1, 2:, 1:-1]
            mean += field[1:-1, 1:-1, :-2]
            mean += field[1:-1, 1:-1, 2:]
            mean *= 0.3 / 6.0
            mean += 0.7 * field[1:-1, 1:-1, 1:-1]
            field[1:-1, 1:-1, 1:-1] = mean
        return field / field.sum(-1, keepdims=True)

    return Prepared(call)


def bound(case: Case, _direction: str, _device: torch.device) -> Bound:
    x, y, z = case["XYZ"]
    return Bound("smoothing reads and writes the volume", bytes=8.0 * x * y * z * case["J"] * (case["passes"] + 1))


BENCHMARK = Benchmark(
    op="weight_field",
    cases=CASES,
    implementations={"ours": build(warp_op), "torch": build(reference), "cKDTree": tree},
    items=lambda case: (case["XYZ"][0] * case["XYZ"][1] * case["XYZ"][2], "voxels"),
    bound=bound,
)

if __name__ == "__main__":
    main(BENCHMARK)
