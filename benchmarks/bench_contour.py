"""Silhouette terms of the fit: contour edges of a step's 8 meshes, 1,500 mask pixels a frame matched to them.

The scene is an ellipsoid of 20k vertices and 40k faces that fills a frame as a standing person does.
"""

import math

import torch
from harness import Measurement, main, measure
from scenes import ellipsoid

from selfrecon_warp.kernels import contour as warp_op
from selfrecon_warp.kernels.rasterize import visible_faces
from selfrecon_warp.kernels.reference import contour as reference

CASES = {  # frames, image size, vertices around x along
    "step": (8, 540, (200, 100)),
    "frame": (1, 540, (200, 100)),
    "large frame": (1, 1080, (200, 100)),
    "small": (1, 96, (40, 20)),
}
QUERIES = 1500  # contour pixels of the mask, a frame


def edges(module, _vertices, faces, _size):
    return lambda: module.mesh_edges(faces)


def contour(module, vertices, faces, size):
    mesh, face_index = warp_op.mesh_edges(faces), visible_faces(vertices, faces, size, size)
    return lambda: module.contour_edges(vertices, faces, mesh, face_index)


def nearest(module, vertices, faces, size):
    mesh, face_index = warp_op.mesh_edges(faces), visible_faces(vertices, faces, size, size)
    found = warp_op.contour_edges(vertices, faces, mesh, face_index)
    middle, outward = warp_op.contour_points(vertices, found)
    chosen = torch.randint(len(middle), (QUERIES * len(vertices),), device=middle.device)
    angle = 0.5 * torch.randn(len(chosen), device=middle.device)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(-1, 2, 2)
    directions = (turn @ outward[chosen, :, None]).squeeze(-1)
    queries = middle[chosen] + 6 * torch.randn(len(chosen), 2, device=middle.device)
    frame = found.frame_index[chosen]
    inputs = queries, frame, directions, middle, found.frame_index, outward, 20.0, math.cos(math.radians(45))
    return lambda: module.nearest_contour(*inputs)


STEPS = {"mesh edges": edges, "contour edges": contour, "nearest contour": nearest}
OPERATIONS = {label: (warp_op, build) for label, build in STEPS.items()}
OPERATIONS |= {f"{label}, torch": (reference, build) for label, build in STEPS.items()}


def run(operation, case: str, device: torch.device) -> Measurement | None:
    module, build = operation
    frames, size, resolution = CASES[case]
    if module is reference and size > 96:
        return None
    vertices, faces = ellipsoid(frames, size, resolution, device)
    return measure(build(module, vertices, faces, size), device)


if __name__ == "__main__":
    main("contour", CASES, OPERATIONS, run)
