"""Trilinear interpolation on stacked grids: the machinery below ``grid_sample`` and ``encode_grid``.

A level is a node lattice whose rows live in one shared ``table [T, C]``, addressed densely or through a spatial hash.
Node ``(0, 0, 0)`` of a level sits at ``origin`` and ``scale`` nodes fit in one unit of length; points beyond the outer
nodes are clamped to them and get no gradient along the clamped axis.

Interpolation is linear in the table, so three differentiable operations suffice and differentiate into each other:
``interpolate`` (gather), its transpose ``scatter``, and ``slope``, the gradient of interpolated values along the
points. Rows are read as vectors of up to eight channels ("lanes").

No operation of its own: reference, tests and benchmarks are those of ``grid_sample`` and ``encode``. Every gradient is
written out to second order, each a kernel beside the one it differentiates, which is why the file is long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.kernels.interop import ints, lanes, launch, scalars, vec3s

wp.set_module_options({"enable_backward": False})

HASH_Y = wp.constant(wp.uint32(2654435761))
HASH_Z = wp.constant(wp.uint32(805459861))


@dataclass(frozen=True)
class Levels:
    """Where each level keeps its nodes, on the device and in the dtype of the points."""

    nodes: Tensor  # [L, 5] int32: node counts along x, y, z; first table row; hash mask, zero where dense
    origin: Tensor  # [L, 3]
    scale: Tensor  # [L, 3]
    weights: Tensor  # [L] factor on the level's values; zero skips the level


@wp.func
def corner_weight(corner: int, t: Any):
    """Share of one of the eight cell corners at cell position ``t`` in [0, 1]^3; corner bits are x y z."""
    one = type(t[0])(1.0)
    x = wp.where((corner & 4) != 0, t[0], one - t[0])
    y = wp.where((corner & 2) != 0, t[1], one - t[1])
    z = wp.where((corner & 1) != 0, t[2], one - t[2])
    return x * y * z


@wp.func
def corner_slope(corner: int, t: Any):
    """Gradient of ``corner_weight`` along ``t``."""
    one = type(t[0])(1.0)
    x = wp.where((corner & 4) != 0, t[0], one - t[0])
    y = wp.where((corner & 2) != 0, t[1], one - t[1])
    z = wp.where((corner & 1) != 0, t[2], one - t[2])
    dx = wp.where((corner & 4) != 0, one, -one)
    dy = wp.where((corner & 2) != 0, one, -one)
    dz = wp.where((corner & 1) != 0, one, -one)
    return type(t)(dx * y * z, x * dy * z, x * y * dz)


@wp.func
def corner_twist(corner: int, t: Any):
    """Mixed second derivatives of ``corner_weight``: xy, xz, yz; the pure ones vanish."""
    one = type(t[0])(1.0)
    x = wp.where((corner & 4) != 0, t[0], one - t[0])
    y = wp.where((corner & 2) != 0, t[1], one - t[1])
    z = wp.where((corner & 1) != 0, t[2], one - t[2])
    dx = wp.where((corner & 4) != 0, one, -one)
    dy = wp.where((corner & 2) != 0, one, -one)
    dz = wp.where((corner & 1) != 0, one, -one)
    return type(t)(dx * dy * z, dx * y * dz, x * dy * dz)


@wp.func
def cell_of(x: Any, count: int):
    """First node of the cell that holds node coordinate ``x`` along one axis of ``count`` nodes."""
    return wp.clamp(int(wp.floor(x)), 0, wp.max(count - 2, 0))


@wp.func
def locate(point: Any, origin: Any, scale: Any, nodes: wp.array2d[int], level: int):
    """Cell, position within it, and ``scale`` with zeros along clamped axes."""
    raw = wp.cw_mul(point - origin, scale)
    zero = type(point[0])(0.0)
    last = type(point)(
        type(point[0])(nodes[level, 0] - 1), type(point[0])(nodes[level, 1] - 1), type(point[0])(nodes[level, 2] - 1)
    )
    inner = wp.min(wp.max(raw, type(point)()), last)
    cell = wp.vec3i(
        cell_of(inner[0], nodes[level, 0]), cell_of(inner[1], nodes[level, 1]), cell_of(inner[2], nodes[level, 2])
    )
    t = inner - type(point)(type(point[0])(cell[0]), type(point[0])(cell[1]), type(point[0])(cell[2]))
    reach = type(point)(
        wp.where(inner[0] == raw[0], scale[0], zero),
        wp.where(inner[1] == raw[1], scale[1], zero),
        wp.where(inner[2] == raw[2], scale[2], zero),
    )
    return cell, t, reach


@wp.func
def row_of(corner: int, cell: wp.vec3i, nodes: wp.array2d[int], level: int):
    """Table row of one corner of a cell."""
    x = wp.min(cell[0] + ((corner >> 2) & 1), nodes[level, 0] - 1)
    y = wp.min(cell[1] + ((corner >> 1) & 1), nodes[level, 1] - 1)
    z = wp.min(cell[2] + (corner & 1), nodes[level, 2] - 1)
    mask = nodes[level, 4]
    row = (x * nodes[level, 1] + y) * nodes[level, 2] + z
    if mask != 0:
        row = int((wp.uint32(x) ^ (wp.uint32(y) * HASH_Y) ^ (wp.uint32(z) * HASH_Z)) & wp.uint32(mask))
    return nodes[level, 3] + row


@wp.func
def lane_sum(lane: Any):
    """Sum of the entries of a lane; lanes are added up first because this runs one entry after the other."""
    return wp.dot(lane, type(lane)(type(lane[0])(1.0)))


@wp.kernel
def interpolate_kernel(
    points: wp.array[Any],  # [P] vec3
    table: wp.array2d[Any],  # [T, C / lane] lanes
    nodes: wp.array2d[int],  # [L, 5]
    origin: wp.array[Any],  # [L] vec3
    scale: wp.array[Any],  # [L] vec3
    weights: wp.array[Any],  # [L]
    # outputs
    values: wp.array2d[Any],  # [P, L * C / lane] lanes
):
    """Gather the eight corners of the point's cell."""
    level, p = wp.tid()
    weight = weights[level]
    if weight != type(weight)(0.0):
        cell, t, _reach = locate(points[p], origin[level], scale[level], nodes, level)
        count = table.shape[1]
        for c in range(count):
            total = table.dtype()
            for corner in range(8):
                total += corner_weight(corner, t) * table[row_of(corner, cell, nodes, level), c]
            values[p, level * count + c] = weight * total


@wp.kernel
def interpolate_jacobian_kernel(
    points: wp.array[Any],  # [P] vec3
    table: wp.array2d[Any],  # [T, C / lane] lanes
    nodes: wp.array2d[int],  # [L, 5]
    origin: wp.array[Any],  # [L] vec3
    scale: wp.array[Any],  # [L] vec3
    weights: wp.array[Any],  # [L]
    # outputs
    values: wp.array2d[Any],  # [P, L * C / lane] lanes
    jacobian: wp.array3d[Any],  # [P, 3, L * C / lane] lanes
):
    """Gather the eight corners with their weights and the slopes of these."""
    level, p = wp.tid()
    weight = weights[level]
    if weight != type(weight)(0.0):
        cell, t, reach = locate(points[p], origin[level], scale[level], nodes, level)
        count = table.shape[1]
        for c in range(count):
            total = table.dtype()
            along_x = table.dtype()
            along_y = table.dtype()
            along_z = table.dtype()
            for corner in range(8):
                row = table[row_of(corner, cell, nodes, level), c]
                slope = corner_slope(corner, t)
                total += corner_weight(corner, t) * row
                along_x += slope[0] * row
                along_y += slope[1] * row
                along_z += slope[2] * row
            values[p, level * count + c] = weight * total
            jacobian[p, 0, level * count + c] = (weight * reach[0]) * along_x
            jacobian[p, 1, level * count + c] = (weight * reach[1]) * along_y
            jacobian[p, 2, level * count + c] = (weight * reach[2]) * along_z


@wp.kernel
def scatter_kernel(
    points: wp.array[Any],  # [P] vec3
    grad_values: wp.array2d[Any],  # [P, L * C / lane] lanes
    nodes: wp.array2d[int],  # [L, 5]
    origin: wp.array[Any],  # [L] vec3
    scale: wp.array[Any],  # [L] vec3
    weights: wp.array[Any],  # [L]
    # outputs
    grad_table: wp.array2d[Any],  # [T, C / lane] lanes
):
    """Spread the values' gradient over the eight corners."""
    level, p = wp.tid()
    weight = weights[level]
    if weight != type(weight)(0.0):
        cell, t, _reach = locate(points[p], origin[level], scale[level], nodes, level)
        count = grad_table.shape[1]
        for c in range(count):
            grad = weight * grad_values[p, level * count + c]
            for corner in range(8):
                wp.atomic_add(grad_table, row_of(corner, cell, nodes, level), c, corner_weight(corner, t) * grad)


@wp.kernel
def slope_kernel(
    points: wp.array[Any],  # [P] vec3
    table: wp.array2d[Any],  # [T, C / lane] lanes
    grad_values: wp.array2d[Any],  # [P, L * C / lane] lanes
    nodes: wp.array2d[int],  # [L, 5]
    origin: wp.array[Any],  # [L] vec3
    scale: wp.array[Any],  # [L] vec3
    weights: wp.array[Any],  # [L]
    # outputs
    grad_points: wp.array[Any],  # [P] vec3
):
    """Contract the values' gradient with the slopes of the interpolation."""
    level, p = wp.tid()
    weight = weights[level]
    if weight != type(weight)(0.0):
        cell, t, reach = locate(points[p], origin[level], scale[level], nodes, level)
        count = table.shape[1]
        total_x = table.dtype()
        total_y = table.dtype()
        total_z = table.dtype()
        for c in range(count):
            along_x = table.dtype()
            along_y = table.dtype()
            along_z = table.dtype()
            for corner in range(8):
                row = table[row_of(corner, cell, nodes, level), c]
                slope = corner_slope(corner, t)
                along_x += slope[0] * row
                along_y += slope[1] * row
                along_z += slope[2] * row
            grad = grad_values[p, level * count + c]
            total_x += wp.cw_mul(grad, along_x)
            total_y += wp.cw_mul(grad, along_y)
            total_z += wp.cw_mul(grad, along_z)
        total = type(reach)(lane_sum(total_x), lane_sum(total_y), lane_sum(total_z))
        wp.atomic_add(grad_points, p, weight * wp.cw_mul(total, reach))


@wp.kernel
def jacobian_scatter_kernel(
    points: wp.array[Any],  # [P] vec3
    grad_values: wp.array2d[Any],  # [P, L * C / lane] lanes
    grad_jacobian: wp.array3d[Any],  # [P, 3, L * C / lane] lanes
    nodes: wp.array2d[int],  # [L, 5]
    origin: wp.array[Any],  # [L] vec3
    scale: wp.array[Any],  # [L] vec3
    weights: wp.array[Any],  # [L]
    # outputs
    grad_table: wp.array2d[Any],  # [T, C / lane] lanes
):
    """Spread the gradients of values and Jacobian over the eight corners."""
    level, p = wp.tid()
    weight = weights[level]
    if weight != type(weight)(0.0):
        cell, t, reach = locate(points[p], origin[level], scale[level], nodes, level)
        count = grad_table.shape[1]
        for c in range(count):
            k = level * count + c
            grad = weight * grad_values[p, k]
            grad_x = (weight * reach[0]) * grad_jacobian[p, 0, k]
            grad_y = (weight * reach[1]) * grad_jacobian[p, 1, k]
            grad_z = (weight * reach[2]) * grad_jacobian[p, 2, k]
            for corner in range(8):
                slope = corner_slope(corner, t)
                share = corner_weight(corner, t) * grad + slope[0] * grad_x + slope[1] * grad_y + slope[2] * grad_z
                wp.atomic_add(grad_table, row_of(corner, cell, nodes, level), c, share)


@wp.kernel
def jacobian_slope_kernel(
    points: wp.array[Any],  # [P] vec3
    table: wp.array2d[Any],  # [T, C / lane] lanes
    grad_values: wp.array2d[Any],  # [P, L * C / lane] lanes
    grad_jacobian: wp.array3d[Any],  # [P, 3, L * C / lane] lanes
    nodes: wp.array2d[int],  # [L, 5]
    origin: wp.array[Any],  # [L] vec3
    scale: wp.array[Any],  # [L] vec3
    weights: wp.array[Any],  # [L]
    # outputs
    grad_points: wp.array[Any],  # [P] vec3
):
    """Contract the gradients of values and Jacobian with slopes and mixed second derivatives."""
    level, p = wp.tid()
    weight = weights[level]
    if weight != type(weight)(0.0):
        cell, t, reach = locate(points[p], origin[level], scale[level], nodes, level)
        count = table.shape[1]
        total_x = table.dtype()
        total_y = table.dtype()
        total_z = table.dtype()
        for c in range(count):
            along_x = table.dtype()
            along_y = table.dtype()
            along_z = table.dtype()
            along_xy = table.dtype()
            along_xz = table.dtype()
            along_yz = table.dtype()
            for corner in range(8):
                row = table[row_of(corner, cell, nodes, level), c]
                slope = corner_slope(corner, t)
                twist = corner_twist(corner, t)
                along_x += slope[0] * row
                along_y += slope[1] * row
                along_z += slope[2] * row
                along_xy += twist[0] * row
                along_xz += twist[1] * row
                along_yz += twist[2] * row
            k = level * count + c
            grad = grad_values[p, k]
            grad_x = reach[0] * grad_jacobian[p, 0, k]
            grad_y = reach[1] * grad_jacobian[p, 1, k]
            grad_z = reach[2] * grad_jacobian[p, 2, k]
            total_x += wp.cw_mul(grad, along_x) + wp.cw_mul(grad_y, along_xy) + wp.cw_mul(grad_z, along_xz)
            total_y += wp.cw_mul(grad, along_y) + wp.cw_mul(grad_x, along_xy) + wp.cw_mul(grad_z, along_yz)
            total_z += wp.cw_mul(grad, along_z) + wp.cw_mul(grad_x, along_xz) + wp.cw_mul(grad_y, along_yz)
        total = type(reach)(lane_sum(total_x), lane_sum(total_y), lane_sum(total_z))
        wp.atomic_add(grad_points, p, weight * wp.cw_mul(total, reach))


def _launch(kernel: Any, points: Tensor, inputs: list[Any], levels: Levels, outputs: list[Any]) -> None:
    """Run one thread per level and point; levels outermost, so that a level's rows stay in cache."""
    places = [ints(levels.nodes), vec3s(levels.origin), vec3s(levels.scale), scalars(levels.weights)]
    launch(kernel, points, (len(levels.nodes), len(points)), [vec3s(points), *inputs, *places], outputs)


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, levels: Levels) -> Tensor:
        ctx.save_for_backward(points, table)
        ctx.levels = levels
        channels = table.shape[1]
        values = points.new_zeros(len(points), len(levels.nodes) * channels)
        _launch(interpolate_kernel, points, [lanes(table, channels)], levels, [lanes(values, channels)])
        return values

    @staticmethod
    def backward(ctx: Any, grad_values: Tensor) -> tuple[Tensor | None, ...]:
        points, table = ctx.saved_tensors
        grad_points = _Slope.apply(points, table, grad_values, ctx.levels) if ctx.needs_input_grad[0] else None
        grad_table = _Scatter.apply(points, grad_values, table.shape, ctx.levels) if ctx.needs_input_grad[1] else None
        return grad_points, grad_table, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, grad_values: Tensor, shape: torch.Size, levels: Levels) -> Tensor:
        grad_values = grad_values.contiguous()
        ctx.save_for_backward(points, grad_values)
        ctx.levels = levels
        grad_table = points.new_zeros(shape)
        _launch(scatter_kernel, points, [lanes(grad_values, shape[1])], levels, [lanes(grad_table, shape[1])])
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
        grad_points = torch.zeros_like(points)
        inputs = [lanes(table, channels), lanes(grad_values, channels)]
        _launch(slope_kernel, points, inputs, levels, [vec3s(grad_points)])
        return grad_points

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_slope: Tensor) -> tuple[Tensor | None, ...]:
        points, table, grad_values = ctx.saved_tensors
        to_points, to_table = _jacobian_vjp(
            points,
            table,
            torch.zeros_like(grad_values),
            grad_slope[:, :, None] * grad_values[:, None, :],
            ctx.levels,
            ctx.needs_input_grad[:2],
        )
        to_values = None
        if ctx.needs_input_grad[2]:
            _, jacobian = _jacobian(points, table, ctx.levels)
            to_values = torch.einsum("pi,pik->pk", grad_slope, jacobian)
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
    values = points.new_zeros(len(points), len(levels.nodes) * channels)
    jacobian = points.new_zeros(len(points), 3, len(levels.nodes) * channels)
    outputs = [lanes(values, channels), lanes(jacobian, channels)]
    _launch(interpolate_jacobian_kernel, points, [lanes(table, channels)], levels, outputs)
    return values, jacobian


def _jacobian_vjp(
    points: Tensor, table: Tensor, grad_values: Tensor, grad_jacobian: Tensor, levels: Levels, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of ``_jacobian`` to the points and to the table, where wanted."""
    channels = table.shape[1]
    grads = [lanes(grad_values.contiguous(), channels), lanes(grad_jacobian.contiguous(), channels)]
    grad_points = torch.zeros_like(points) if wanted[0] else None
    grad_table = torch.zeros_like(table) if wanted[1] else None
    if grad_points is not None:
        _launch(jacobian_slope_kernel, points, [lanes(table, channels), *grads], levels, [vec3s(grad_points)])
    if grad_table is not None:
        _launch(jacobian_scatter_kernel, points, grads, levels, [lanes(grad_table, channels)])
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
