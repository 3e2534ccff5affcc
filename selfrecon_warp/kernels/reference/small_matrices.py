"""Plain-torch twin of the algebra of 3 x 3 matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from selfrecon_warp.kernels.small_matrices import THRESHOLD


def inverse_3x3(matrices: Tensor, threshold: float = THRESHOLD) -> tuple[Tensor, Tensor]:
    """Invert small matrices by cofactors."""
    a, b, c = matrices.unbind(-1)
    rows = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], -2)
    determinant = (a * rows[..., 0, :]).sum(-1)
    regular = determinant.abs() > threshold
    safe = torch.where(regular, determinant, torch.ones_like(determinant))
    return torch.where(regular[..., None, None], rows / safe[..., None, None], torch.zeros_like(rows)), regular


def singular_values_3x3(matrices: Tensor) -> Tensor:
    """Singular values of small matrices."""
    return torch.linalg.svdvals(matrices)
