"""From canonical to posed space: a learned offset per frame, then skeletal skinning.

``D(p) = S(o(p, z))``: the offset moves a canonical point inside canonical space, skinning carries it into the world.
Jacobians are pushed forward next to the values, so a loss on them needs first-order backward only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from selfrecon_warp.kernels.grid_sample import grid_sample, grid_sample_jacobian
from selfrecon_warp.kernels.skinning import skin_points, skin_points_jacobian
from selfrecon_warp.model.networks import Perceptron, frequency_encoding, frequency_encoding_jacobian


def smooth_codes(frame_count: int, length: int, scale: float = 0.1) -> Tensor:
    """Per-frame codes that vary slowly in time, ``[N, length]``: noise in the first fifth of the DCT-II basis.

    Source: SelfRecon's reference implementation, initial deformation codes.
    """
    count = max(frame_count // 5, 1)
    return scale * (torch.randn(length, count) @ dct_basis(frame_count)[:count]).T.contiguous()


def dct_basis(size: int) -> Tensor:
    """Orthonormal DCT-II matrix, ``[size, size]``; row k is the k-th cosine."""
    n = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi / size * (n[None] + 0.5) * n[:, None]) * math.sqrt(2.0 / size)
    basis[0] /= math.sqrt(2.0)
    return basis.to(torch.float32)


class Offset(nn.Module, ABC):
    """The learned, per-frame displacement inside canonical space.

    Attributes:
        progress: Share of the position encoding's octaves that is switched on.
    """

    progress: float

    @abstractmethod
    def forward(self, points: Tensor, codes: Tensor) -> Tensor:
        """Displacement [m] ``[B, P, 3]`` of points ``[P, 3]`` or ``[B, P, 3]`` for codes ``[B, C]``."""

    @abstractmethod
    def with_jacobian(self, points: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Displacement ``[B, P, 3]`` and its derivative by position ``[B, P, 3, 3]``, at points ``[B, P, 3]``."""


class MlpOffset(Offset):
    """The paper's offset network: encoded position and code through four layers of 512."""

    def __init__(self, code_length: int = 128, width: int = 512, depth: int = 4, bands: int = 6):
        super().__init__()
        self.bands = bands
        self.progress = 0.5
        self.network = Perceptron([3 + 6 * bands + code_length] + [width] * depth + [3])
        nn.init.normal_(self.network.last.weight, 0.0, 1e-3)
        nn.init.zeros_(self.network.last.bias)

    def forward(self, points: Tensor, codes: Tensor) -> Tensor:
        """See the interface."""
        points = points.expand(len(codes), *points.shape[-2:])
        encoded = frequency_encoding(points, self.bands, self.progress)
        inputs = torch.cat([encoded, codes[:, None].expand(*points.shape[:2], -1)], -1)
        return self.network(inputs)

    def with_jacobian(self, points: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """See the interface."""
        B, P, _ = points.shape
        encoded = frequency_encoding(points, self.bands, self.progress)
        inputs = torch.cat([encoded, codes[:, None].expand(B, P, -1)], -1).flatten(0, 1)
        tangents = frequency_encoding_jacobian(points.flatten(0, 1), self.bands, self.progress)
        tangents = torch.cat([tangents, tangents.new_zeros(B * P, 3, codes.shape[1])], -1)
        values, tangents = self.network.with_tangents(inputs, tangents)
        return values.view(B, P, 3), tangents.transpose(1, 2).view(B, P, 3, 3)


class BasisOffset(Offset):
    """The compact offset network: learned spatial basis fields, mixed per frame by the code.

    ``o(p, z) = p + Σ_k z_k b_k(p)``: the perceptron that yields the ``b_k`` sees position alone, so one evaluation
    serves every frame of a batch.
    """

    def __init__(self, code_length: int, width: int, depth: int, bands: int):
        super().__init__()
        self.bands = bands
        self.progress = 0.5
        self.code_length = code_length
        self.network = Perceptron([3 + 6 * bands] + [width] * depth + [3 * code_length])
        nn.init.normal_(self.network.last.weight, 0.0, 1e-2)
        nn.init.zeros_(self.network.last.bias)

    def forward(self, points: Tensor, codes: Tensor) -> Tensor:
        """See the interface."""
        basis = self.network(frequency_encoding(points, self.bands, self.progress))
        basis = basis.view(*points.shape[:-1], self.code_length, 3)
        if points.ndim == 2:
            return torch.einsum("bk,pkc->bpc", codes, basis)
        return torch.einsum("bk,bpkc->bpc", codes, basis)

    def with_jacobian(self, points: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """See the interface."""
        B, P, _ = points.shape
        flat = points.flatten(0, 1)
        values, tangents = self.network.with_tangents(
            frequency_encoding(flat, self.bands, self.progress),
            frequency_encoding_jacobian(flat, self.bands, self.progress),
        )
        K = self.code_length
        displacement = torch.einsum("bk,bpkc->bpc", codes, values.view(B, P, K, 3))
        jacobian = torch.einsum("bk,bpxkc->bpcx", codes, tangents.view(B, P, 3, K, 3))
        return displacement, jacobian


HAND_M = 0.09
"""The middle of a hand lies so far beyond its origin,"""
HAND_REACH_M = (0.13, 0.16)
"""from which the hand reaches so far, and fades out up to there."""
HAND_BLEND_M = 0.03
"""A hand begins gradually over this length: the offset fades out, and its shape leaves the surface that it replaces."""


class Deformation(nn.Module):
    """Offset, then linear blend skinning with weights from a volume around the canonical body.

    Hands that the avatar wears keep their shape: towards them the offset fades out.

    Args:
        offset: The learned displacement.
        weights: Skinning-weight volume at voxel centres, ``[X, Y, Z, J]``.
        lower: Corner of the canonical box [m], ``[3]``.
        upper: Opposite corner [m], ``[3]``.
        weights_at_offset: Look weights up at the offset point, as the paper does; else at the canonical point, which
            lets a mesh keep its weights for as long as its vertices stand.
        hands: Where hands begin and, as unit vectors, where they point to, ``[H, 2, 3]``; none by default.

    Attributes:
        hands_worn: Which of them keep their shape, ``[H]`` bool; all at first.
    """

    weights: Tensor
    lower: Tensor
    upper: Tensor
    hands: Tensor
    hands_worn: Tensor

    def __init__(
        self,
        offset: Offset,
        weights: Tensor,
        lower: Tensor,
        upper: Tensor,
        weights_at_offset: bool,
        hands: Tensor | None = None,
    ):
        super().__init__()
        self.offset = offset
        self.weights_at_offset = weights_at_offset
        self.register_buffer("hands", lower.new_zeros(0, 2, 3) if hands is None else hands)
        self.register_buffer("hands_worn", torch.ones(len(self.hands), dtype=torch.bool, device=self.hands.device))
        self.register_buffer("weights", weights)
        self.register_buffer("lower", lower)
        self.register_buffer("upper", upper)

    def skinning_weights(self, points: Tensor) -> Tensor:
        """Skinning weights ``[..., J]`` at canonical points ``[..., 3]``."""
        sampled = grid_sample(self.weights, points.reshape(-1, 3), self.lower, self.upper)
        return sampled.view(*points.shape[:-1], -1)

    def _weights_and_gradient(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Weights ``[B, R, J]`` and their gradient ``[B, R, J, 3]`` at ``[B, R, 3]``; both move with the points."""
        B, R, _ = points.shape
        weights, gradient = grid_sample_jacobian(self.weights, points.reshape(-1, 3), self.lower, self.upper)
        J = weights.shape[1]
        return weights.view(B, R, J), gradient.transpose(1, 2).view(B, R, 3, J).transpose(2, 3)

    def displacement(self, points: Tensor, codes: Tensor) -> Tensor:
        """What the offset moves points ``[P, 3]`` or ``[B, P, 3]`` by [m], for codes ``[B, C]``: ``[B, P, 3]``."""
        moved: Tensor = self.offset(points, codes)
        return moved * self._freedom(points)[0][..., None] if len(self.hands) else moved

    def _freedom(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Share of the offset that moves points ``[..., 3]``, ``[...]``, and its gradient [1/m], ``[..., 3]``."""
        origin, axis = self.hands.unbind(1)
        along = ((points[..., None, :] - origin) * axis).sum(-1) / HAND_BLEND_M
        beyond, beyond_slope = _smooth_step(along)
        away = points[..., None, :] - (origin + HAND_M * axis)
        distance = away.norm(dim=-1).clamp_min(1e-9)
        near, far = HAND_REACH_M
        within, within_slope = _smooth_step((far - distance) / (far - near))
        gradient = (within * beyond_slope / HAND_BLEND_M)[..., None] * axis
        gradient = gradient - (beyond * within_slope / (far - near) / distance)[..., None] * away
        worn = self.hands_worn.to(points)
        return 1.0 - (worn * beyond * within).sum(-1), -(worn[:, None] * gradient).sum(-2)

    def forward(
        self, points: Tensor, codes: Tensor, bones: Tensor, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Carry canonical points into ``B`` frames.

        Args:
            points: Canonical positions [m], ``[P, 3]`` shared by all frames or ``[B, P, 3]``.
            codes: Per-frame offset codes, ``[B, C]``.
            bones: World-from-canonical bone transforms, ``[B, J, 4, 4]``.
            weights: Skinning weights of the points where they are known already, ``[P, J]``.

        Returns:
            Posed positions [m, world] and displacement inside canonical space [m], ``[B, P, 3]`` each.
        """
        displacement = self.displacement(points, codes)
        moved = points + displacement
        if weights is None or self.weights_at_offset:
            weights = self.skinning_weights(moved if self.weights_at_offset else points)
        return skin_points(moved, weights, bones), displacement

    def skinning_jacobian(self, points: Tensor, bones: Tensor) -> Tensor:
        """Derivative of skinning alone at canonical points ``[B, R, 3]``: ``[B, R, 3, 3]``."""
        weights, gradient = self._weights_and_gradient(points)
        return skin_points_jacobian(points, weights, gradient, bones)[1]

    def with_jacobian(self, points: Tensor, codes: Tensor, bones: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Posed positions ``[B, R, 3]``, their derivative by canonical position and the offset's, ``[B, R, 3, 3]``.

        Differentiable in the points ``[B, R, 3]``, codes, bones and the offset's parameters.
        """
        displacement, offset_jacobian = self.offset.with_jacobian(points, codes)
        if len(self.hands):
            freedom, slope = self._freedom(points)
            offset_jacobian = freedom[..., None, None] * offset_jacobian + displacement[..., None] * slope[..., None, :]
            displacement = freedom[..., None] * displacement
        moved = points + displacement
        offset_jacobian = offset_jacobian + torch.eye(3, dtype=points.dtype, device=points.device)
        weights, gradient = self._weights_and_gradient(moved if self.weights_at_offset else points)
        if self.weights_at_offset:
            posed, jacobian = skin_points_jacobian(moved, weights, gradient, bones)
            return posed, jacobian @ offset_jacobian, offset_jacobian
        posed, linear = skin_points_jacobian(moved, weights, None, bones)
        _, full = skin_points_jacobian(moved, weights, gradient, bones)
        return posed, linear @ offset_jacobian + (full - linear), offset_jacobian


def _smooth_step(x: Tensor) -> tuple[Tensor, Tensor]:
    """0 up to 0, 1 from 1 on, and smooth between; with its derivative."""
    x = x.clamp(0.0, 1.0)
    return x * x * (3.0 - 2.0 * x), 6.0 * x * (1.0 - x)
