"""The antialiased mask with its gradient, for the 8 frames of a step and for one large frame.

The scene is an ellipsoid of 20k vertices and 40k faces that fills a frame as a standing person does; drawing it is left
out (see ``bench_rasterize.py``).
"""

import torch
from harness import Measurement, main, measure
from scenes import ellipsoid

from selfrecon_warp.kernels import silhouette as warp_op
from selfrecon_warp.kernels.contour import mesh_edges
from selfrecon_warp.kernels.rasterize import visible_faces
from selfrecon_warp.kernels.reference import silhouette as reference

CASES = {  # frames, image size, vertices around x along
    "step": (8, 540, (200, 100)),
    "frame": (1, 540, (200, 100)),
    "large frame": (1, 1080, (200, 100)),
    "small": (1, 96, (40, 20)),
}


def forward(op, inputs):
    return lambda: op(inputs[0].detach(), *inputs[1:])


def gradient(op, inputs):
    return lambda: torch.autograd.grad(op(*inputs).sum(), inputs[0])


OPERATIONS = {
    "forward": (warp_op.soft_silhouette, forward),
    "with gradient": (warp_op.soft_silhouette, gradient),
    "forward, torch": (reference.soft_silhouette, forward),
    "with gradient, torch": (reference.soft_silhouette, gradient),
}


def run(operation, case: str, device: torch.device) -> Measurement | None:
    op, build = operation
    frames, size, resolution = CASES[case]
    if op is reference.soft_silhouette and size > 96:
        return None
    vertices, faces = ellipsoid(frames, size, resolution, device)
    inputs = vertices.requires_grad_(), faces, visible_faces(vertices, faces, size, size), mesh_edges(faces)
    return measure(build(op, inputs), device)


if __name__ == "__main__":
    main("silhouette", CASES, OPERATIONS, run)
