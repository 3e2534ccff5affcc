"""Drawing the posed mesh: the explicit branch does it for 8 frames a step, rendering for one large frame at a time.

The scene is an ellipsoid of 20k vertices and 40k faces that fills a frame as a standing person does (19 % of it).
"""

import torch
from harness import Measurement, main, measure
from scenes import ellipsoid

from selfrecon_warp.kernels import rasterize as warp_op
from selfrecon_warp.kernels.reference import rasterize as reference

CASES = {  # frames, image size, vertices around x along
    "step": (8, 540, (200, 100)),
    "frame": (1, 540, (200, 100)),
    "large frame": (1, 1080, (200, 100)),
    "small enough for the reference": (1, 96, (40, 20)),
}
PIXELS = 3000  # chosen pixels a frame, as the normal term samples


def faces_only(module, vertices, faces, size):
    return lambda: module.visible_faces(vertices.detach(), faces, size, size)


def forward(module, vertices, faces, size):
    return lambda: module.rasterize(vertices.detach(), faces, size, size)


def gradient(module, vertices, faces, size):
    def step():
        fragments = module.rasterize(vertices, faces, size, size)
        torch.autograd.grad(fragments.depth.sum() + fragments.barycentrics[..., 0].sum(), vertices)

    return step


def chosen_pixels(module, vertices, faces, size):
    face_index = warp_op.visible_faces(vertices, faces, size, size)
    b, row, column = (face_index >= 0).nonzero(as_tuple=True)
    chosen = torch.randperm(len(b), device=b.device)[: PIXELS * len(vertices)]
    b, row, column = b[chosen], row[chosen], column[chosen]
    pixels, seen = torch.stack([column, row], -1), face_index[b, row, column]

    def step():
        barycentrics, depth = module.pixel_barycentrics(vertices, faces, b, pixels, seen)
        torch.autograd.grad(depth.sum() + barycentrics[:, 0].sum(), vertices)

    return step


def interpolation(module, vertices, faces, size):
    fragments = warp_op.rasterize(vertices.detach(), faces, size, size)
    attributes = torch.rand(vertices.shape[1], 3, device=vertices.device, requires_grad=True)
    return lambda: torch.autograd.grad(module.interpolate(attributes, faces, fragments).sum(), attributes)


STEPS = {
    "faces only": faces_only,
    "forward": forward,
    "with gradient": gradient,
    "chosen pixels": chosen_pixels,
    "interpolate, grad": interpolation,
}
OPERATIONS = {f"{label}": (warp_op, build) for label, build in STEPS.items()}
OPERATIONS |= {f"{label}, torch": (reference, build) for label, build in STEPS.items()}


def run(operation, case: str, device: torch.device) -> Measurement | None:
    module, build = operation
    frames, size, resolution = CASES[case]
    brute_force = module is reference and build in (faces_only, forward, gradient)
    if brute_force and size > 96:
        return None
    vertices, faces = ellipsoid(frames, size, resolution, device)
    return measure(build(module, vertices.requires_grad_(), faces, size), device)


if __name__ == "__main__":
    main("rasterize", CASES, OPERATIONS, run)
