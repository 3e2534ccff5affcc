"""Posed points carried back: 20k and 200k points under 24 bones that turn by up to half a radian.

"closed form" keeps the weights of the points, "Newton" looks them up in a volume at every step and starts from up to
four bones. The plain reference moves all points together; its Jacobian takes a backward pass a joint.
"""

import torch

from selfrecon_warp.benchmarks.harness import FORWARD, Benchmark, Bound, Case, Prepared, main, timed
from selfrecon_warp.kernels import inverse_skinning as warp_op
from selfrecon_warp.kernels.grid_sample import grid_sample
from selfrecon_warp.kernels.reference import inverse_skinning as reference
from selfrecon_warp.kernels.skinning import skin_points

CASES = (
    Case("closed form, 20k points", {"P": 20_000, "newton": False}, quick=True),
    Case("closed form, 200k points", {"P": 200_000, "newton": False}),
    Case("Newton, 2k points", {"P": 2_000, "newton": True}, quick=True, once=("torch",)),
    Case("Newton, 20k points", {"P": 20_000, "newton": True}, extrapolate={"torch": ("Newton, 2k points", 10.0)}),
    Case("Newton, 200k points", {"P": 200_000, "newton": True}, extrapolate={"torch": ("Newton, 2k points", 100.0)}),
)


def body(count: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Canonical points in a box, a smooth weight volume and the bones of one frame."""
    lower, upper = torch.tensor([-0.9, -1.2, -0.4]), torch.tensor([0.9, 1.2, 0.4])
    sizes = 65, 113, 33
    axes = [low + (torch.arange(n) + 0.5) / n * (high - low) for low, high, n in zip(lower, upper, sizes, strict=True)]
    nodes = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    centres = lower + torch.rand(24, 3) * (upper - lower)
    volume = (-20.0 * (nodes[..., None, :] - centres).square().sum(-1)).softmax(-1)
    x, y, z = (torch.rand(3, 24) - 0.5) * 0.6
    zero = torch.zeros(24)
    bones = torch.eye(4).repeat(1, 24, 1, 1)
    bones[..., :3, :3] = torch.matrix_exp(torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).view(24, 3, 3))
    points = 0.9 * (lower + torch.rand(count, 3) * (upper - lower))
    return tuple(each.to(device) for each in (points, volume, lower, upper, bones))


def build(module):
    """The inverse with one module's functions."""

    def prepare(case: Case, direction: str, device: torch.device) -> Prepared:
        points, volume, lower, upper, bones = body(case["P"], device)
        weights = grid_sample(volume, points, lower, upper)
        posed = skin_points(points, weights, bones)
        if not case["newton"]:
            return timed(lambda y, w, b: module.unskin_points(y, w, b).points, [posed, weights, bones], direction)

        def newton(y, b):
            return module.unskin_points_in_volume(y, volume, lower, upper, b).points

        converged = warp_op.unskin_points_in_volume(posed, volume, lower, upper, bones).converged
        prepared = timed(newton, [posed, bones], direction)
        return Prepared(prepared.call, f"{100 * converged.float().mean():.1f} % converge")

    return prepare


def bound(case: Case, direction: str, _device: torch.device) -> Bound:
    values = 3 + 3 + 9 + (0 if case["newton"] else 24 + 12)
    return Bound("reads points and weights, writes points and Jacobians", bytes=4.0 * case["P"] * values
                 * (1 if direction == FORWARD else 3))  # fmt: skip


BENCHMARK = Benchmark(
    op="inverse_skinning",
    cases=CASES,
    implementations={"ours": build(warp_op), "torch": build(reference)},
    items=lambda case: (case["P"], "points"),
    bound=bound,
)

if __name__ == "__main__":
    main(BENCHMARK)
