"""Small building blocks: frequency encoding with annealing, and perceptrons that carry a spatial Jacobian forward."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from selfrecon_warp.kernels.encode import GridLayout, grid_layout


def box_layout(
    lower: Tensor, upper: Tensor, levels: int, coarsest_cell: float, finest_cell: float, log2_size: int
) -> GridLayout:
    """Feature grid over a box with corners ``lower``, ``upper`` ``[3]`` [m]; cells shrink between two edges [m]."""
    aspect = [float(x) for x in upper - lower]
    base, finest = (max(1, round(max(aspect) / cell)) for cell in (coarsest_cell, finest_cell))
    return grid_layout(levels, base, max(base, finest), log2_size, aspect)


def frequency_encoding(points: Tensor, bands: int, progress: float = 1.0) -> Tensor:
    """Identity plus sine and cosine at ``2**k``, each band faded in as ``progress`` passes it.

    Args:
        points: Positions or directions, ``[..., 3]``.
        bands: Number of octaves.
        progress: Share of the bands that is switched on; zero or less leaves the identity alone.

    Returns:
        ``[..., 3 + 6 * bands]``: the input, then per band three sines and three cosines.

    Source: Nerfies (Park et al. 2021), windowed positional encoding; SelfRecon, section 3.
    """
    parts = [points]
    for band in range(bands):
        weight = (1.0 - math.cos(math.pi * min(max(bands * progress - band, 0.0), 1.0))) / 2.0
        scaled = points * 2.0**band
        parts += [weight * scaled.sin(), weight * scaled.cos()]
    return torch.cat(parts, -1)


def frequency_encoding_jacobian(points: Tensor, bands: int, progress: float = 1.0) -> Tensor:
    """Derivative of :func:`frequency_encoding` by position, ``[P, 3, 3 + 6 * bands]`` (row: input coordinate)."""
    eye = torch.eye(3, dtype=points.dtype, device=points.device).expand(*points.shape[:-1], 3, 3)
    parts = [eye]
    for band in range(bands):
        weight = (1.0 - math.cos(math.pi * min(max(bands * progress - band, 0.0), 1.0))) / 2.0
        scale = 2.0**band
        scaled = points * scale
        parts += [
            eye * (weight * scale * scaled.cos())[..., None, :],
            eye * (-weight * scale * scaled.sin())[..., None, :],
        ]
    return torch.cat(parts, -1)


class Perceptron(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        sizes: Units of every layer, inputs first.
        weight_norm: Split each weight into length and direction.
    """

    def __init__(self, sizes: list[int], weight_norm: bool = False) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes[:-1]))
        self.last = nn.Linear(sizes[-2], sizes[-1])
        if weight_norm:
            for layer in (*self.hidden, self.last):
                nn.utils.parametrizations.weight_norm(layer)

    def forward(self, inputs: Tensor) -> Tensor:
        """Output ``[..., D]`` of ``[..., C]``."""
        for layer in self.hidden:
            inputs = F.relu(layer(inputs))
        output: Tensor = self.last(inputs)
        return output

    def with_tangents(self, inputs: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """Run the layers and push tangents through them.

        Args:
            inputs: ``[P, C]``.
            tangents: Derivatives of ``inputs`` by K coordinates, ``[P, K, C]``.

        Returns:
            Output ``[P, D]`` and its derivatives ``[P, K, D]``; both differentiable once by plain backward.
        """
        for layer in self.hidden:
            inputs = layer(inputs)
            active = (inputs > 0).to(inputs.dtype)
            weight: Tensor = layer.weight  # type: ignore[assignment]
            tangents = (tangents @ weight.T) * active[:, None]
            inputs = inputs * active
        return self.last(inputs), tangents @ self.last.weight.T
