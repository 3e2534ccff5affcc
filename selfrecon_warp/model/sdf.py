"""Canonical signed-distance field: the paper's perceptron and a compact feature grid, behind one interface.

Points are canonical positions [m]; values are metres, negative inside.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from selfrecon_warp.kernels.encode import encode_grid, encode_grid_jacobian
from selfrecon_warp.kernels.grid_sample import grid_sample
from selfrecon_warp.model.networks import box_layout, frequency_encoding


class SdfSample(NamedTuple):
    """The field at ``P`` points."""

    value: Tensor
    """Signed distance [m], ``[P]``."""
    gradient: Tensor
    """Spatial gradient, ``[P, 3]``; points outward."""
    feature: Tensor
    """Descriptor handed to the appearance network, ``[P, C]``."""


class CanonicalSdf(nn.Module, ABC):
    """What the rest of the pipeline knows of the field."""

    feature_size: int

    @abstractmethod
    def forward(self, points: Tensor) -> Tensor:
        """Signed distance [m] ``[P]`` at canonical points ``[P, 3]``; differentiable in parameters and points."""

    @abstractmethod
    def sample(self, points: Tensor) -> SdfSample:
        """Value, gradient and feature at canonical points ``[P, 3]``, each differentiable in the parameters.

        The points themselves are treated as constants: the intersection's own derivative carries their motion. A
        perceptron's sample is differentiable in points that require it.
        """


class MlpSdf(CanonicalSdf):
    """The paper's field: eight layers of 512, softplus, a skip at the middle, a sphere at the start.

    Attributes:
        progress: Share of the position encoding's octaves that is switched on; none while it is below zero.

    Source: IDR (Yariv et al. 2020), geometric initialisation (Atzmon and Lipman 2020); SelfRecon, section 3.1.
    """

    def __init__(self, width: int = 512, depth: int = 8, bands: int = 6, feature_size: int = 256, radius: float = 0.6):
        super().__init__()
        self.bands = bands
        self.progress = 1.0
        self.skip = depth // 2
        self.feature_size = feature_size
        encoded = 3 + 6 * bands
        sizes = [encoded] + [width] * depth + [1 + feature_size]
        layers = []
        for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            out = fan_out - encoded if i + 1 == self.skip else fan_out
            layer = nn.Linear(fan_in, out)
            if i == depth:
                nn.init.normal_(layer.weight, math.sqrt(math.pi / fan_in), 1e-4)
                nn.init.constant_(layer.bias, -radius)
            else:
                nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / out))
                nn.init.zeros_(layer.bias)
                with torch.no_grad():
                    if i == 0:
                        layer.weight[:, 3:] = 0.0
                    elif i == self.skip:
                        layer.weight[:, -(encoded - 3) :] = 0.0
            layers.append(nn.utils.parametrizations.weight_norm(layer))
        self.layers = nn.ModuleList(layers)

    def _evaluate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        encoded = frequency_encoding(points, self.bands, self.progress)
        hidden = encoded
        for i, layer in enumerate(self.layers):
            if i == self.skip:
                hidden = torch.cat([hidden, encoded], -1) / math.sqrt(2.0)
            hidden = layer(hidden)
            if i + 1 < len(self.layers):
                hidden = F.softplus(hidden, beta=100.0)
        return hidden[..., 0], hidden[..., 1:]

    def forward(self, points: Tensor) -> Tensor:
        """See the interface."""
        return self._evaluate(points)[0]

    def sample(self, points: Tensor) -> SdfSample:
        """See the interface."""
        learning = torch.is_grad_enabled()
        with torch.enable_grad():
            followed = points if learning and points.requires_grad else points.detach().requires_grad_()
            value, feature = self._evaluate(followed)
            (gradient,) = torch.autograd.grad(value.sum(), followed, create_graph=learning)
        if not learning:
            value, feature = value.detach(), feature.detach()
        return SdfSample(value, gradient, feature)


class GridSdf(CanonicalSdf):
    """A fixed coarse lattice plus a learned residual: multiresolution feature grid and a one-hidden-layer decoder.

    ``f(p) = base(p) + scale * (w · softplus(W e(p) + b) + c)``: the lattice holds the initial shape, so training starts
    at it exactly; the residual's spatial gradient is written out in closed form over the encoding's Jacobian, so
    normals and eikonal terms need first-order backward only.

    Args:
        lower: Corner of the canonical box [m], ``[3]``.
        upper: Opposite corner [m], ``[3]``.
        levels: Levels of the feature grid.
        features: Features per level.
        coarsest_cell: Cell edge of the first level [m].
        finest_cell: Cell edge of the last level [m].
        log2_size: Table rows per level, as a power of two.
        width: Hidden units of the decoder.
    """

    lower: Tensor
    upper: Tensor
    base: Tensor

    def __init__(
        self,
        lower: Tensor,
        upper: Tensor,
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
        self.register_buffer("base", torch.ones(1, 1, 1, 1))
        self.layout = box_layout(lower, upper, levels, coarsest_cell, finest_cell, log2_size)
        self.table = nn.Parameter(torch.empty(self.layout.rows, features).uniform_(-1e-4, 1e-4))
        self.hidden = nn.Linear(levels * features, width)
        self.output = nn.Linear(width, 1)
        self.scale = 0.1
        self.beta = 10.0
        nn.init.normal_(self.output.weight, 0.0, 0.1 / math.sqrt(width))
        nn.init.zeros_(self.output.bias)
        self.feature_size = width

    def _unit(self, points: Tensor) -> Tensor:
        return (points - self.lower) / (self.upper - self.lower)

    def set_base(self, values: Tensor) -> None:
        """Replace the initial shape: signed distances [m] at voxel centres of the box, ``[X, Y, Z]``."""
        self.base = values[..., None].to(self.lower)

    def raise_base(self, heights: Tensor) -> None:
        """Move the surface outward by heights [m] at voxel centres of the box, ``[X, Y, Z]``."""
        self.base = self.base - heights[..., None].to(self.base)

    def forward(self, points: Tensor) -> Tensor:
        """See the interface."""
        features = encode_grid(self._unit(points), self.table, self.layout)
        hidden = F.softplus(self.hidden(features), beta=self.beta)
        base = grid_sample(self.base, points, self.lower, self.upper)[:, 0]
        value: Tensor = base + self.scale * (self.output(hidden)[:, 0])
        return value

    def sample(self, points: Tensor) -> SdfSample:
        """See the interface."""
        points = points.detach()
        with torch.enable_grad():
            leaf = points.clone().requires_grad_()
            base = grid_sample(self.base, leaf, self.lower, self.upper)[:, 0]
            (base_gradient,) = torch.autograd.grad(base.sum(), leaf)
        features, jacobian = encode_grid_jacobian(self._unit(points), self.table, self.layout)
        before = self.hidden(features)
        hidden = F.softplus(before, beta=self.beta)
        value = base.detach() + self.scale * self.output(hidden)[:, 0]
        slope = (torch.sigmoid(self.beta * before) * self.output.weight[0]) @ self.hidden.weight
        residual = torch.einsum("pc,pck->pk", slope, jacobian) / (self.upper - self.lower)
        return SdfSample(value, base_gradient + self.scale * residual, hidden)
