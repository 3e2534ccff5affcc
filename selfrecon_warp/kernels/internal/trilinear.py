"""Trilinear interpolation on stacked grids: the machinery below ``grid_sample`` and ``encode_grid``.

A level is a node lattice whose rows live in one shared ``table [T, C]``, addressed densely or through a spatial hash.
Node ``(0, 0, 0)`` of a level sits at ``origin`` and ``scale`` nodes fit in one unit of length; points beyond the outer
nodes are clamped to them and get no gradient along the clamped axis. A point with a NaN coordinate gives NaN and adds
nothing to the table's gradient.

Interpolation is linear in the table, so three differentiable operations suffice and differentiate into each other:
``interpolate`` (gather), its transpose ``scatter``, and ``slope``, the gradient of interpolated values along the
points. Rows are read as vectors of up to eight channels ("lanes").

No operation of its own: reference, tests and benchmarks are those of ``grid_sample`` and ``encode``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.kernels.internal.trilinear_kernels import (
    interpolate_jacobian_kernel,
    interpolate_kernel,
    jacobian_scatter_kernel,
    jacobian_slope_kernel,
    scale_slopes_kernel,
    scatter_kernel,
    slope_kernel,
    slope_vjp_kernel,
)
from selfrecon_warp.kernels.interop import (
    SPLIT_GRAIN,
    VEC3,
    absent,
    cleared,
    ints,
    lanes,
    launch_split,
    scalars,
    split_parts,
    vec3s,
)

RUN = 64
"""Points that one thread of Warp's sees to on a CPU, where starting a thread costs as much as half a point."""
SAMPLE = 512
"""Points looked at to give each share of a scatter about as many."""


@dataclass(frozen=True)
class Levels:
    """Where each level keeps its nodes, on the device and in the dtype of the points."""

    nodes: Tensor  # [L, 5] int32: node counts along x, y, z; first table row; hash mask, zero where dense
    origin: Tensor  # [L, 3]
    scale: Tensor  # [L, 3]
    weights: Tensor  # [L] factor on the level's values; zero skips the level

    @cached_property
    def places(self) -> list[Any]:
        """What the kernels are told about the levels."""
        return [ints(self.nodes), vec3s(self.origin), vec3s(self.scale), scalars(self.weights)]


def _gather(kernel: Any, points: Tensor, inputs: list[Any], levels: Levels, outputs: list[Any]) -> None:
    """Run one thread per level and run of points."""
    run = 1 if points.is_cuda else RUN
    dim = len(levels.nodes), -(-len(points) // run)
    inputs = [run, vec3s(points), *inputs, *levels.places]
    launch_split(kernel, points, dim, inputs, outputs, axis=1, grain=SPLIT_GRAIN // run)


def _scatter(kernel: Any, points: Tensor, inputs: list[Any], levels: Levels, table: Tensor) -> None:
    """Run one thread per share and run of points."""
    if len(points) == 0:
        return
    shares = _shares(points, levels, len(table))
    run = 1 if points.is_cuda else RUN
    inputs = [run, vec3s(points), *inputs, ints(shares), *levels.places]
    dim = len(shares), -(-len(points) // run)
    grain = max(1, SPLIT_GRAIN // len(points))
    launch_split(kernel, points, dim, inputs, [lanes(table, table.shape[1])], grain=grain)


def _shares(points: Tensor, levels: Levels, rows: int) -> Tensor:
    """Split a table: each level a share; a single level into ranges of rows that about as many points fall into."""
    count = len(levels.nodes)
    parts = split_parts(points, len(points)) if count == 1 else 1
    shares = _whole(max(count, parts), rows, points.device)
    if parts == 1:
        return shares
    shares = shares.clone()
    shares[:, 0] = 0
    some, origin, scale = (
        x.detach().numpy() for x in (points[:: max(1, len(points) // SAMPLE)], levels.origin, levels.scale)
    )
    counts = levels.nodes.numpy()[0, :3]
    cell = np.fmin(np.fmax((some - origin) * scale, 0.0), counts).astype(np.int64)
    order = np.sort((cell[:, 0] * counts[1] + cell[:, 1]) * counts[2] + cell[:, 2])
    cuts = torch.from_numpy(order[[len(order) * part // parts for part in range(1, parts)]])
    shares[1:, 1] = cuts
    shares[:-1, 2] = cuts
    return shares


@lru_cache(maxsize=64)
def _whole(count: int, rows: int, device: torch.device) -> Tensor:
    """Shares of one level each that own the whole table: kept, for the device is far."""
    return torch.tensor([[level, 0, rows] for level in range(count)], dtype=torch.int32, device=device)


class _Interpolate(torch.autograd.Function):
    """One number a point comes with its slope, which costs less than to gather the corners again."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, levels: Levels) -> Tensor:
        ctx.save_for_backward(points, table)
        ctx.levels = levels
        channels = table.shape[1]
        ctx.slopes = None
        if points.requires_grad and len(levels.nodes) * channels == 1:
            values, slopes = _jacobian(points, table, levels)
            ctx.slopes = slopes.view(-1, 3)
            return values
        values = cleared(points, len(points), len(levels.nodes) * channels)
        _gather(interpolate_kernel, points, [lanes(table, channels)], levels, [lanes(values, channels)])
        return values

    @staticmethod
    def backward(ctx: Any, grad_values: Tensor) -> tuple[Tensor | None, ...]:
        points, table = ctx.saved_tensors
        grad_points = None
        if ctx.needs_input_grad[0] and ctx.slopes is not None and not torch.is_grad_enabled():
            grad_points = torch.empty_like(points)
            inputs = [vec3s(ctx.slopes), scalars(grad_values.contiguous().view(-1))]
            launch_split(scale_slopes_kernel, points, (len(points),), inputs, [vec3s(grad_points)])
        elif ctx.needs_input_grad[0]:
            grad_points = _Slope.apply(points, table, grad_values, ctx.levels)
        grad_table = _Scatter.apply(points, grad_values, table.shape, ctx.levels) if ctx.needs_input_grad[1] else None
        return grad_points, grad_table, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, grad_values: Tensor, shape: torch.Size, levels: Levels) -> Tensor:
        grad_values = grad_values.contiguous()
        ctx.save_for_backward(points, grad_values)
        ctx.levels = levels
        grad_table = cleared(points, *shape)
        _scatter(scatter_kernel, points, [lanes(grad_values, shape[1]), absent(VEC3[points.dtype])], levels, grad_table)
        return grad_table

    @staticmethod
    def backward(ctx: Any, grad_table: Tensor) -> tuple[Tensor | None, ...]:
        points, grad_values = ctx.saved_tensors
        table = grad_table.contiguous()
        to_points = _Slope.apply(points, table, grad_values, ctx.levels) if ctx.needs_input_grad[0] else None
        to_values = _Interpolate.apply(points, table, ctx.levels) if ctx.needs_input_grad[1] else None
        return to_points, to_values, None, None


class _Slope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, grad_values: Tensor, levels: Levels) -> Tensor:
        grad_values = grad_values.contiguous()
        ctx.save_for_backward(points, table, grad_values)
        ctx.levels = levels
        channels = table.shape[1]
        grad_points = cleared(points, *points.shape)
        inputs = [lanes(table, channels), lanes(grad_values, channels)]
        _gather(slope_kernel, points, inputs, levels, [vec3s(grad_points)])
        return grad_points

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_slope: Tensor) -> tuple[Tensor | None, ...]:
        points, table, grad_values = ctx.saved_tensors
        grad_slope = grad_slope.contiguous()
        channels = table.shape[1]
        to_points = cleared(points, *points.shape)
        to_values = cleared(points, *grad_values.shape) if ctx.needs_input_grad[2] else None
        to_table = cleared(table, *table.shape) if ctx.needs_input_grad[1] else None
        along = [lanes(grad_values, channels), vec3s(grad_slope)]
        if ctx.needs_input_grad[0] or to_values is not None:
            outputs = [vec3s(to_points), absent(along[0].dtype, 2) if to_values is None else lanes(to_values, channels)]
            _gather(slope_vjp_kernel, points, [lanes(table, channels), *along], ctx.levels, outputs)
        if to_table is not None:
            _scatter(scatter_kernel, points, along, ctx.levels, to_table)
        return to_points, to_table, to_values, None


class _InterpolateJacobian(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(points, table)
        ctx.levels = levels
        return _jacobian(points, table, levels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_values: Tensor, grad_jacobian: Tensor) -> tuple[Tensor | None, ...]:
        points, table = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:2]
        return *_jacobian_vjp(points, table, grad_values, grad_jacobian, ctx.levels, wanted), None


def _jacobian(points: Tensor, table: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
    """Values ``[P, L * C]`` and their derivatives ``[P, 3, L * C]``."""
    channels = table.shape[1]
    values = cleared(points, len(points), len(levels.nodes) * channels)
    jacobian = cleared(points, len(points), 3, len(levels.nodes) * channels)
    outputs = [lanes(values, channels), lanes(jacobian, channels)]
    _gather(interpolate_jacobian_kernel, points, [lanes(table, channels)], levels, outputs)
    return values, jacobian


def _jacobian_vjp(
    points: Tensor, table: Tensor, grad_values: Tensor, grad_jacobian: Tensor, levels: Levels, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of ``_jacobian`` to the points and to the table, where wanted."""
    channels = table.shape[1]
    grads = [lanes(grad_values.contiguous(), channels), lanes(grad_jacobian.contiguous(), channels)]
    grad_points = cleared(points, *points.shape) if wanted[0] else None
    grad_table = cleared(table, *table.shape) if wanted[1] else None
    if grad_points is not None:
        _gather(jacobian_slope_kernel, points, [lanes(table, channels), *grads], levels, [vec3s(grad_points)])
    if grad_table is not None:
        _scatter(jacobian_scatter_kernel, points, grads, levels, grad_table)
    return grad_points, grad_table


def interpolate(points: Tensor, table: Tensor, levels: Levels) -> Tensor:
    """Interpolate every level at every point.

    Args:
        points: ``[P, 3]``, in the units of the levels' ``origin`` and ``scale``.
        table: Node values of all levels, ``[T, C]``.
        levels: Where the nodes lie.

    Returns:
        ``[P, L * C]``, level-major; differentiable twice in points and table.
    """
    return _Interpolate.apply(points.contiguous(), table.contiguous(), levels)


def interpolate_jacobian(points: Tensor, table: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
    """Interpolate as ``interpolate`` does, with the derivatives along the points in the same pass.

    Returns:
        Values ``[P, L * C]`` and their Jacobian ``[P, L * C, 3]``, a transposed view whose memory runs ``[P, 3, L *
        C]``; both differentiable once in points and table.
    """
    values, jacobian = _InterpolateJacobian.apply(points.contiguous(), table.contiguous(), levels)
    return values, jacobian.transpose(1, 2)
