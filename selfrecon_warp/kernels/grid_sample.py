"""Trilinear lookup in a voxel volume, differentiable twice."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.arguments import require_like
from selfrecon_warp.kernels.internal.trilinear import Levels, interpolate, interpolate_jacobian


def prepare_volume(volume: Tensor, points: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Levels]:
    """Points, the volume as a table, and the one dense level that it is."""
    sizes = require_shapes(volume=(volume, "X Y Z C"), points=(points, "P 3"), lower=(lower, "3"), upper=(upper, "3"))
    require_like("points", points, volume=volume)
    if volume.numel() == 0:
        raise ValueError(f"volume must hold at least one voxel and one channel, got {list(volume.shape)}")
    resolution = [sizes[axis] for axis in "XYZ"]
    nodes, counts, weights = _constants(tuple(resolution), points.dtype, points.device)
    lower, upper = (corner.detach().to(points) for corner in (lower, upper))
    voxel = (upper - lower) / counts
    level = Levels(nodes, origin=(lower + 0.5 * voxel)[None], scale=voxel.reciprocal()[None], weights=weights)
    return points, volume.reshape(-1, sizes["C"]), level


@lru_cache(maxsize=64)
def _constants(
    resolution: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes of the one level, voxels along each axis, and the level's weight: kept, for the device is far."""
    nodes = torch.tensor([[*resolution, 0, 0]], dtype=torch.int32, device=device)
    counts = torch.tensor(resolution, dtype=dtype, device=device)
    return nodes, counts, torch.ones(1, dtype=dtype, device=device)


def grid_sample(volume: Tensor, points: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Look up a volume by trilinear interpolation.

    The centre of voxel ``i`` lies at ``lower + (i + 0.5) / resolution * (upper - lower)``. Points beyond the outermost
    voxel centres, infinite ones too, take the border value and have no gradient along the clamped axis; a NaN
    coordinate gives NaN and adds nothing to the volume's gradient.

    Args:
        volume: Voxel values, ``[X, Y, Z, C]``.
        points: Positions in the frame and unit of the box, ``[P, 3]``.
        lower: Box corner of least coordinates, ``[3]``; taken as constant.
        upper: Box corner of greatest coordinates, ``[3]``; taken as constant.

    Returns:
        Interpolated values, ``[P, C]``; differentiable twice in volume and points.

    Raises:
        ValueError: A shape, dtype or device disagrees; the message names the argument.
    """
    points, table, level = prepare_volume(volume, points, lower, upper)
    return interpolate(points, table, level)


def grid_sample_jacobian(volume: Tensor, points: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Look up a volume and its spatial derivatives in one pass.

    Args:
        volume: Voxel values, ``[X, Y, Z, C]``.
        points: Positions in the frame and unit of the box, ``[P, 3]``.
        lower: Box corner of least coordinates, ``[3]``; taken as constant.
        upper: Box corner of greatest coordinates, ``[3]``; taken as constant.

    Returns:
        Interpolated values, ``[P, C]``, and their derivatives along the points, ``[P, C, 3]`` (a transposed view whose
        memory runs ``[P, 3, C]``); both differentiable once in volume and points. Values agree with ``grid_sample``.

    Raises:
        ValueError: A shape, dtype or device disagrees; the message names the argument.
    """
    points, table, level = prepare_volume(volume, points, lower, upper)
    return interpolate_jacobian(points, table, level)
