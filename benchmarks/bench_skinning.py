"""Skinning in the fit: the template in 3 frames, a step's surface points, and a large extracted mesh."""

import torch
from harness import Measurement, main, measure

from selfrecon_warp.kernels.reference import skinning as reference
from selfrecon_warp.kernels.skinning import skin_points, skin_points_jacobian

CASES = {  # frames, points, joints, points and weights differ between frames
    "template": (3, 6_890, 24, False),
    "surface points": (1, 20_000, 24, True),
    "extracted": (1, 150_000, 24, False),
}


def forward(op):
    """Posed points alone."""
    return lambda points, weights, _slopes, bones: op(points.detach(), weights.detach(), bones.detach())


def gradient(op):
    """Posed points and the gradients of every input."""
    return lambda points, weights, _slopes, bones: torch.autograd.grad(
        op(points, weights, bones).sum(), (points, weights, bones)
    )


def jacobian(op):
    """Posed points with their Jacobian, and the gradients of every input."""

    def step(*inputs):
        outputs = op(*inputs)
        return torch.autograd.grad(outputs, inputs, [torch.ones_like(x) for x in outputs])

    return step


OPERATIONS = {
    "warp, forward": forward(skin_points),
    "torch, forward": forward(reference.skin_points),
    "warp, gradient": gradient(skin_points),
    "torch, gradient": gradient(reference.skin_points),
    "warp, jacobian": jacobian(skin_points_jacobian),
    "torch, jacobian": jacobian(reference.skin_points_jacobian),
}


def run(operation, case: str, device: torch.device) -> Measurement:
    B, P, J, own = CASES[case]
    lead = (B,) if own else ()
    points = torch.rand(*lead, P, 3, device=device, requires_grad=True)
    weights = torch.rand(*lead, P, J, device=device).softmax(-1).requires_grad_()
    slopes = torch.rand(*lead, P, 3, J, device=device).transpose(-1, -2).requires_grad_()
    bones = torch.rand(B, J, 4, 4, device=device, requires_grad=True)
    return measure(lambda: operation(points, weights, slopes, bones), device)


if __name__ == "__main__":
    main("skinning", CASES, OPERATIONS, run)
