"""Colour of the surface: a network of canonical position, view direction, normal and field feature."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from selfrecon_warp.kernels.encode import encode_grid
from selfrecon_warp.model.networks import Perceptron, box_layout, frequency_encoding

Inputs = Literal["full", "no_view", "no_normal"]


class Appearance(nn.Module, ABC):
    """What the rest of the pipeline knows of the colours.

    Args:
        inputs: ``full``, or which of view direction and normal the colours may not depend on.
    """

    def __init__(self, inputs: Inputs = "full") -> None:
        super().__init__()
        self.inputs = inputs

    @abstractmethod
    def forward(
        self, points: Tensor, directions: Tensor, normals: Tensor, feature: Tensor, codes: Tensor | None = None
    ) -> Tensor:
        """Colour in [0, 1], ``[P, 3]``.

        Args:
            points: Canonical positions [m], ``[P, 3]``.
            directions: Unit viewing directions carried back to canonical space, ``[P, 3]``.
            normals: Canonical unit normals, ``[P, 3]``.
            feature: The field's descriptor, ``[P, C]``.
            codes: Per-frame code of each point where the network was built for one, ``[P, K]``.
        """

    def _joined(self, position: Tensor, view: Tensor, normals: Tensor, *rest: Tensor | None) -> Tensor:
        """The network's inputs side by side, those left out and those absent missing."""
        parts = [position]
        if self.inputs != "no_view":
            parts.append(view)
        if self.inputs != "no_normal":
            parts.append(normals)
        return torch.cat([*parts, *(part for part in rest if part is not None)], -1)


class MlpAppearance(Appearance):
    """The paper's renderer: position, encoded view direction, normal and field feature through four layers of 512.

    Source: IDR (Yariv et al. 2020), rendering network; SelfRecon, section 3.3.
    """

    def __init__(
        self,
        feature_size: int,
        width: int = 512,
        depth: int = 4,
        bands: int = 4,
        inputs: Inputs = "full",
        code_length: int = 0,
    ):
        super().__init__(inputs)
        self.bands = bands
        view, normal = (3 + 6 * bands) * (inputs != "no_view"), 3 * (inputs != "no_normal")
        self.network = Perceptron(
            [3 + view + normal + feature_size + code_length] + [width] * depth + [3], weight_norm=True
        )

    def forward(
        self, points: Tensor, directions: Tensor, normals: Tensor, feature: Tensor, codes: Tensor | None = None
    ) -> Tensor:
        """See the interface."""
        view = frequency_encoding(directions, self.bands)
        return (torch.tanh(self.network(self._joined(points, view, normals, feature, codes))) + 1.0) / 2.0


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
        inputs: Inputs = "full",
        code_length: int = 0,
    ):
        super().__init__(inputs)
        self.register_buffer("lower", lower)
        self.register_buffer("upper", upper)
        self.layout = box_layout(lower, upper, levels, coarsest_cell, finest_cell, log2_size)
        self.table = nn.Parameter(torch.empty(self.layout.rows, features).uniform_(-1e-2, 1e-2))
        directed = 3 * (inputs != "no_view") + 3 * (inputs != "no_normal")
        self.network = Perceptron([levels * features + directed + feature_size + code_length, width, width, 3])

    def forward(
        self, points: Tensor, directions: Tensor, normals: Tensor, feature: Tensor, codes: Tensor | None = None
    ) -> Tensor:
        """See the interface."""
        unit = (points - self.lower) / (self.upper - self.lower)
        encoded = encode_grid(unit, self.table, self.layout)
        return torch.sigmoid(self.network(self._joined(encoded, directions, normals, feature, codes)))
