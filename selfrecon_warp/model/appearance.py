"""Colour of the surface: a network of canonical position, view direction, normal and field feature."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from selfrecon_warp.kernels.encode import encode_grid
from selfrecon_warp.model.networks import Perceptron, box_layout, frequency_encoding


class Appearance(nn.Module, ABC):
    """What the rest of the pipeline knows of the colours."""

    @abstractmethod
    def forward(self, points: Tensor, directions: Tensor, normals: Tensor, feature: Tensor) -> Tensor:
        """Colour in [0, 1], ``[P, 3]``.

        Args:
            points: Canonical positions [m], ``[P, 3]``.
            directions: Unit viewing directions carried back to canonical space, ``[P, 3]``.
            normals: Canonical unit normals, ``[P, 3]``.
            feature: The field's descriptor, ``[P, C]``.
        """


class MlpAppearance(Appearance):
    """The paper's renderer: position, encoded view direction, normal and field feature through four layers of 512.

    Source: IDR (Yariv et al. 2020), rendering network; SelfRecon, section 3.3.
    """

    def __init__(self, feature_size: int, width: int = 512, depth: int = 4, bands: int = 4):
        super().__init__()
        self.bands = bands
        self.network = Perceptron([3 + 3 + 6 * bands + 3 + feature_size] + [width] * depth + [3], weight_norm=True)

    def forward(self, points: Tensor, directions: Tensor, normals: Tensor, feature: Tensor) -> Tensor:
        """See the interface."""
        inputs = torch.cat([points, frequency_encoding(directions, self.bands), normals, feature], -1)
        return (torch.tanh(self.network(inputs)) + 1.0) / 2.0


class GridAppearance(Appearance):
    """The compact renderer: its own feature grid holds the texture, a small network adds view and normal."""

    lower: Tensor
    upper: Tensor

    def __init__(
        self,
        lower: Tensor,
        upper: Tensor,
        feature_size: int,
        *,
        levels: int,
        features: int,
        coarsest_cell: float,
        finest_cell: float,
        log2_size: int,
        width: int,
    ):
        super().__init__()
        self.register_buffer("lower", lower)
        self.register_buffer("upper", upper)
        self.layout = box_layout(lower, upper, levels, coarsest_cell, finest_cell, log2_size)
        self.table = nn.Parameter(torch.empty(self.layout.rows, features).uniform_(-1e-2, 1e-2))
        self.network = Perceptron([levels * features + 6 + feature_size, width, width, 3])

    def forward(self, points: Tensor, directions: Tensor, normals: Tensor, feature: Tensor) -> Tensor:
        """See the interface."""
        unit = (points - self.lower) / (self.upper - self.lower)
        encoded = encode_grid(unit, self.table, self.layout)
        return torch.sigmoid(self.network(torch.cat([encoded, directions, normals, feature], -1)))
