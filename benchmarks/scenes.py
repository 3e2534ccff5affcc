"""Stand-ins for a posed person, sized like one in the picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def ellipsoid(frames: int, size: int, resolution: tuple[int, int], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """A closed, outward-oriented, bumpy ellipsoid, upright in a square picture and covering about a fifth of it.

    Args:
        frames: Frames ``B``; each shifts the shape by a fraction of a pixel.
        size: Side of the picture [pixel].
        resolution: Vertices around and along the axis; ``V`` is their product plus two, ``F`` twice their product.
        device: Where the tensors live.

    Returns:
        Projected vertices ``(u, v, z)`` [pixel, pixel, m] ``[B, V, 3]`` and faces ``[F, 3]`` int64.
    """
    around, along = resolution
    turn = torch.arange(around) * (2 * math.pi / around)
    fall = (torch.arange(along) + 1) * (math.pi / (along + 1))
    fall, turn = (t.flatten() for t in torch.meshgrid(fall, turn, indexing="ij"))
    bump = 1 + 0.05 * torch.sin(6 * turn) * torch.sin(9 * fall)
    ring = torch.stack([bump * fall.sin() * turn.cos(), -fall.cos(), bump * fall.sin() * turn.sin()], -1)
    shape = torch.cat([ring, torch.tensor([[0.0, -1.0, 0.0], [0.0, 1.0, 0.0]])])
    centre = torch.arange(frames).view(-1, 1) * 0.37 + size / 2 - 0.5
    vertices = torch.stack(
        [
            centre + 0.14 * size * shape[:, 0],
            centre + 0.43 * size * shape[:, 1],
            (3 + 0.25 * shape[:, 2]).expand(frames, -1),
        ],
        -1,
    )
    here = torch.arange(around)
    there = (here + 1) % around
    rows = torch.arange(along - 1).view(-1, 1) * around
    sides = [
        torch.stack(torch.broadcast_tensors(rows + here, rows + around + here, rows + there), -1),
        torch.stack(torch.broadcast_tensors(rows + there, rows + around + here, rows + around + there), -1),
    ]
    top, bottom = around * along, around * along + 1
    last = around * (along - 1)
    caps = [
        torch.stack(torch.broadcast_tensors(torch.tensor(top), here, there), -1),
        torch.stack(torch.broadcast_tensors(torch.tensor(bottom), last + there, last + here), -1),
    ]
    faces = torch.cat([part.reshape(-1, 3) for part in sides + caps])
    return vertices.to(device), faces.to(device)
