"""Stand-ins for a person, sized like one: six limbs as mesh, as picture, as points and as distance field."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LATTICES = {"quick": (113, 161, 65), "coarse": (225, 321, 129), "fine": (321, 417, 225)}
"""Nodes ``X, Y, Z`` of a fast fit, and of the paper's schedule at its beginning and end."""
BOX = (-0.8, -1.15, -0.4), (0.8, 0.85, 0.4)
"""Corners of the lattices [m]; the body stands inside, y up."""
LIMBS = (
    ((0, -0.3, 0), (0, 0.35, 0), 0.16),
    ((0, 0.5, 0), (0, 0.6, 0), 0.1),
    ((0.15, 0.3, 0), (0.6, -0.1, 0), 0.05),
    ((-0.15, 0.3, 0), (-0.6, -0.1, 0), 0.05),
    ((0.09, -0.35, 0), (0.17, -0.95, 0), 0.07),
    ((-0.09, -0.35, 0), (-0.17, -0.95, 0), 0.07),
)
"""Start, end and radius of each capsule [m]: trunk, head, arms, legs."""
GPU_POINTS = 2**22
"""Points evaluated at a time on a GPU; a CPU is quickest with a plane of a lattice, which its caches hold."""
DISTANCE = 3.0
"""From the camera to the body's centre [m]."""


def body_distance(points: Tensor) -> Tensor:
    """Signed distance of the capsule body [m], negative inside; ``[P, 3]`` to ``[P]``."""
    limbs = []
    for start, end, radius in LIMBS:
        origin, axis = points.new_tensor(start), points.new_tensor(end) - points.new_tensor(start)
        t = ((points - origin) @ axis / (axis @ axis)).clamp(0, 1)
        limbs.append((points - origin - t[:, None] * axis).norm(dim=1) - radius)
    return torch.stack(limbs).amin(0)


def box(device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Lower and upper corner of the lattices [m], ``[3]`` each."""
    return torch.tensor(BOX[0], device=device), torch.tensor(BOX[1], device=device)


def dense_field(resolution: tuple[int, int, int], device: torch.device | str) -> Tensor:
    """The body's signed distance at every node of a lattice in the box [m], ``[X, Y, Z]``."""
    lower, upper = BOX
    axes = [torch.linspace(a, b, n, device=device) for a, b, n in zip(lower, upper, resolution, strict=True)]
    room = GPU_POINTS if torch.device(device).type == "cuda" else 0
    parts = axes[0].split(max(1, room // (resolution[1] * resolution[2])))
    nodes = (torch.stack(torch.meshgrid(part, *axes[1:], indexing="ij"), -1) for part in parts)
    return torch.cat([body_distance(part.view(-1, 3)).view(part.shape[:3]) for part in nodes])


def body_mesh(face_count: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """The body as a mesh: a closed, outward-oriented, bumpy ellipsoid for each limb; they reach into each other.

    Args:
        face_count: Faces wanted; what comes is within a few per cent of it.
        device: Where the tensors live.

    Returns:
        Vertices [m] ``[V, 3]`` and faces ``[F, 3]`` int64.
    """
    around = max(3, round(math.sqrt(face_count / (4 * len(LIMBS)))))
    along = max(2, round(face_count / (2 * around * len(LIMBS))))
    sphere, faces = _sphere(around, along)
    bump = 1 + 0.03 * torch.sin(6 * torch.atan2(sphere[:, 2], sphere[:, 0])) * torch.sin(9 * sphere[:, 1])
    parts = []
    for start, end, radius in LIMBS:
        low, high = torch.tensor(start, dtype=sphere.dtype), torch.tensor(end, dtype=sphere.dtype)
        length = float((high - low).norm())
        y = (high - low) / length
        x = torch.linalg.cross(y, torch.tensor([0.0, 0.0, 1.0], dtype=sphere.dtype))
        x = x / x.norm()
        z = torch.linalg.cross(x, y)
        across = radius * bump[:, None] * (sphere[:, :1] * x + sphere[:, 2:] * z)
        parts.append((low + high) / 2 + (length / 2 + radius) * sphere[:, 1:2] * y + across)
    offsets = torch.arange(len(LIMBS)).view(-1, 1, 1) * len(sphere)
    return torch.cat(parts).float().to(device), (faces + offsets).view(-1, 3).to(device)


def figure(frames: int, face_count: int, size: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """The body mesh in a square picture, nine tenths as tall as it; each frame turned a little further.

    Args:
        frames: Frames ``B``.
        face_count: See :func:`body_mesh`.
        size: Side of the picture [pixel].
        device: Where the tensors live.

    Returns:
        Projected vertices ``(u, v, z)`` [pixel, pixel, m] ``[B, V, 3]`` and faces ``[F, 3]`` int64.
    """
    points, faces = body_mesh(face_count, device)
    turn = 0.3 + 0.4 * torch.arange(frames, device=device).view(-1, 1)
    x = points[:, 0] * turn.cos() + points[:, 2] * turn.sin()
    z = DISTANCE - points[:, 2] * turn.cos() + points[:, 0] * turn.sin()
    middle, focal = size / 2 - 0.5, 1.5 * size
    height = (points[:, 1] + 0.16).expand(frames, -1)
    return torch.stack([middle + focal * x / z, middle - focal * height / z, z], -1), faces


def cloud(count: int, device: torch.device | str, spread: float = 0.01, seed: int = 0) -> Tensor:
    """Points scattered about the body's surface in no order [m], ``[count, 3]``; ``spread`` is their deviation [m]."""
    generator = torch.Generator().manual_seed(seed)
    vertices, faces = body_mesh(20_000, "cpu")
    corners = vertices[faces]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1)
    weights = torch.rand(count, 3, generator=generator).log()
    weights = weights / weights.sum(1, keepdim=True)
    chosen = torch.multinomial(area, count, replacement=True, generator=generator)
    points = (weights[:, :, None] * corners[chosen]).sum(1)
    return (points + spread * torch.randn(count, 3, generator=generator)).to(device)


def to_pytorch3d(vertices: Tensor, height: int, width: int) -> Tensor:
    """Pixels to PyTorch3D's normalised coordinates, ``[B, V, 3]`` both: x left, y up, the shorter side from -1 to 1.

    A length in pixels is ``2 / min(height, width)`` times as much there.
    """
    u, v, z = vertices.unbind(-1)
    short = min(height, width)
    return torch.stack([(width - 1 - 2 * u) / short, (height - 1 - 2 * v) / short, z], -1)


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
    sphere, faces = _sphere(*resolution)
    x, y, z = sphere.float().unbind(-1)
    bump = 1 + 0.05 * torch.sin(6 * torch.atan2(z, x)) * torch.sin(9 * y.clamp(-1, 1).acos())
    centre = torch.arange(frames).view(-1, 1) * 0.37 + size / 2 - 0.5
    u, v = centre + 0.14 * size * bump * x, centre + 0.43 * size * y
    return torch.stack([u, v, (3 + 0.25 * bump * z).expand(frames, -1)], -1).to(device), faces.to(device)


def shaken_body(frames: int, face_count: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Frames of a body ``[B, V, 3]`` whose vertices are shaken by a tenth of an edge, and its faces."""
    vertices, faces = body_mesh(face_count, device)
    edge = float((vertices[faces[:, 0]] - vertices[faces[:, 1]]).norm(dim=1).mean())
    return vertices + 0.1 * edge * torch.randn(frames, *vertices.shape, device=device), faces


def _sphere(around: int, along: int) -> tuple[Tensor, Tensor]:
    """Unit sphere about the origin: rings of vertices about y and the two poles, faces outward; float64 and int64."""
    turn = torch.arange(around, dtype=torch.float64) * (2 * math.pi / around)
    fall = (torch.arange(along, dtype=torch.float64) + 1) * (math.pi / (along + 1))
    fall, turn = (t.flatten() for t in torch.meshgrid(fall, turn, indexing="ij"))
    ring = torch.stack([fall.sin() * turn.cos(), fall.cos(), fall.sin() * turn.sin()], -1)
    poles = torch.tensor([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]], dtype=torch.float64)
    here = torch.arange(around)
    there = (here + 1) % around
    rows = torch.arange(along - 1).view(-1, 1) * around
    top, bottom, last = torch.tensor(around * along), torch.tensor(around * along + 1), around * (along - 1)
    triangles = [
        (rows + here, rows + there, rows + around + here),
        (rows + there, rows + around + there, rows + around + here),
        (top, there, here),
        (bottom, last + here, last + there),
    ]
    faces = [torch.stack(torch.broadcast_tensors(*corners), -1).reshape(-1, 3) for corners in triangles]
    return torch.cat([ring, poles]), torch.cat(faces)
