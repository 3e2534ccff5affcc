"""Rotations: axis-angle vectors and unit quaternions to matrices, safe and differentiable everywhere."""

from __future__ import annotations

import torch
from torch import Tensor


def rotation_from_axis_angle(vectors: Tensor) -> Tensor:
    """Rodrigues' formula without a singularity at zero, differentiable twice.

    Args:
        vectors: Rotation axis times angle [rad], ``[..., 3]``.

    Returns:
        Rotation matrices, ``[..., 3, 3]``.
    """
    squared = (vectors * vectors).sum(-1)
    small = squared < _SERIES_BELOW[vectors.dtype]
    safe = torch.where(small, torch.ones_like(squared), squared)
    angle = safe.sqrt()
    # R = I + sinc [v]x + cosc [v]x^2; below the threshold the series are exact to rounding.
    sinc = torch.where(small, 1 - squared / 6 + squared * squared / 120, angle.sin() / angle)
    cosc = torch.where(small, 0.5 - squared / 24 + squared * squared / 720, 2 * ((0.5 * angle).sin() / angle) ** 2)
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).reshape(*vectors.shape[:-1], 3, 3)
    outer = vectors[..., :, None] * vectors[..., None, :]
    eye = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
    square = outer - squared[..., None, None] * eye
    return eye + sinc[..., None, None] * cross + cosc[..., None, None] * square


_SERIES_BELOW = {torch.float32: 1e-2, torch.float64: 1e-4}  # squared angle [rad^2]


def rotation_from_quaternion(quat: Tensor) -> Tensor:
    """Rotation matrices of quaternions of any non-zero length.

    Args:
        quat: (w, x, y, z), ``[..., 4]``.

    Returns:
        Rotation matrices, ``[..., 3, 3]``.
    """
    w, x, y, z = (quat / quat.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = (
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack(rows, -1).reshape(*quat.shape[:-1], 3, 3)
