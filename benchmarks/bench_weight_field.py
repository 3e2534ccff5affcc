"""The skinning volume built once a fit: a body model's vertices, 24 joints, 30 neighbours, 30 smoothing passes.

Vertices lie on an ellipsoid as tall as a person, in a box 15 to 20 cm wider.
"""

import torch
from harness import Measurement, main, measure

from selfrecon_warp.kernels.reference import weight_field as reference
from selfrecon_warp.kernels.weight_field import build_weight_field

CASES = {  # resolution, vertices
    "fit": ((65, 113, 33), 6_890),
    "paper": ((129, 225, 65), 6_890),
    "small": ((17, 29, 9), 6_890),
}
OPERATIONS = {"warp": build_weight_field, "torch": reference.build_weight_field}


def run(operation, case: str, device: torch.device) -> Measurement | None:
    resolution, count = CASES[case]
    if operation is reference.build_weight_field and case != "small":
        return None
    generator = torch.Generator().manual_seed(0)
    radii = torch.tensor([0.6, 0.85, 0.15])
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    vertices = (radii * directions).to(device)
    weights = torch.randn(count, 24, generator=generator).mul(4.0).softmax(-1).to(device)
    reach = (radii + torch.tensor([0.15, 0.15, 0.2])).to(device)
    return measure(lambda: operation(vertices, weights, -reach, reach, resolution), device, warmup=1, repeats=5)


if __name__ == "__main__":
    main("weight_field", CASES, OPERATIONS, run)
