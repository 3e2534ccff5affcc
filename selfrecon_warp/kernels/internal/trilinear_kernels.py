"""The kernels that gather from the corners of a node lattice's cells or scatter to them.

All of them run one thread per level and point, levels outermost, so that a level's rows stay in cache. Those that
gather may be shared among CPU threads by points. The two that scatter run over "shares": a share adds to the rows of
one level that lie in a range of its own, and no two shares own a row, so that shares may run side by side and every
row is added up in the same order however many there are. The loop over corners is the innermost one: it keeps eight
rows in flight at a time.
"""

from __future__ import annotations

from typing import Any

import warp as wp

from selfrecon_warp.kernels.internal.trilinear_cell import (
    cell_rates,
    corner_rows,
    corner_slope,
    corner_slopes,
    corner_weights,
    lane_sum,
    locate,
)
from selfrecon_warp.kernels.interop import CPU_FLAGS

wp.set_module_options({"enable_backward": False, "cpu_compiler_flags": CPU_FLAGS})


@wp.kernel
def interpolate_kernel(
    first: wp.int32,
    run: wp.int32,
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
    level, r = wp.tid()
    r += first
    weight = weights[level]
    if weight != type(weight)(0.0):
        for p in range(r * run, wp.min((r + 1) * run, points.shape[0])):
            cell, t, _reach = locate(points[p], origin[level], scale[level], nodes, level)
            rows = corner_rows(cell, nodes, level)
            count = table.shape[1]
            for c in range(count):
                value, _x, _y, _z, _xy, _xz, _yz = cell_rates(table, rows, c, t)
                values[p, level * count + c] = weight * value


@wp.kernel
def interpolate_jacobian_kernel(
    first: wp.int32,
    run: wp.int32,
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
    """Gather the eight corners with their shares and the slopes of these."""
    level, r = wp.tid()
    r += first
    weight = weights[level]
    if weight != type(weight)(0.0):
        for p in range(r * run, wp.min((r + 1) * run, points.shape[0])):
            cell, t, reach = locate(points[p], origin[level], scale[level], nodes, level)
            rows = corner_rows(cell, nodes, level)
            reach *= weight
            count = table.shape[1]
            for c in range(count):
                value, along_x, along_y, along_z, _xy, _xz, _yz = cell_rates(table, rows, c, t)
                values[p, level * count + c] = weight * value
                jacobian[p, 0, level * count + c] = reach[0] * along_x
                jacobian[p, 1, level * count + c] = reach[1] * along_y
                jacobian[p, 2, level * count + c] = reach[2] * along_z


@wp.kernel
def slope_kernel(
    first: wp.int32,
    run: wp.int32,
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
    level, r = wp.tid()
    r += first
    weight = weights[level]
    if weight != type(weight)(0.0):
        for p in range(r * run, wp.min((r + 1) * run, points.shape[0])):
            cell, t, reach = locate(points[p], origin[level], scale[level], nodes, level)
            rows = corner_rows(cell, nodes, level)
            count = table.shape[1]
            total_x = table.dtype()
            total_y = table.dtype()
            total_z = table.dtype()
            for c in range(count):
                _value, along_x, along_y, along_z, _xy, _xz, _yz = cell_rates(table, rows, c, t)
                grad = grad_values[p, level * count + c]
                total_x += wp.cw_mul(grad, along_x)
                total_y += wp.cw_mul(grad, along_y)
                total_z += wp.cw_mul(grad, along_z)
            total = type(reach)(lane_sum(total_x), lane_sum(total_y), lane_sum(total_z))
            wp.atomic_add(grad_points, p, weight * wp.cw_mul(total, reach))


@wp.kernel
def scale_slopes_kernel(
    first: wp.int32,
    slopes: wp.array[Any],  # [P] vec3
    grad_values: wp.array[Any],  # [P]
    # outputs
    grad_points: wp.array[Any],  # [P] vec3
):
    """What ``slope_kernel`` gives, from the slopes of the one value of each point."""
    p = wp.tid() + first
    grad_points[p] = grad_values[p] * slopes[p]


@wp.kernel
def slope_vjp_kernel(
    first: wp.int32,
    run: wp.int32,
    points: wp.array[Any],  # [P] vec3
    table: wp.array2d[Any],  # [T, C / lane] lanes
    grad_values: wp.array2d[Any],  # [P, L * C / lane] lanes
    directions: wp.array[Any],  # [P] vec3 gradient of what ``slope_kernel`` returned
    nodes: wp.array2d[int],  # [L, 5]
    origin: wp.array[Any],  # [L] vec3
    scale: wp.array[Any],  # [L] vec3
    weights: wp.array[Any],  # [L]
    # outputs
    to_points: wp.array[Any],  # [P] vec3
    to_values: wp.array2d[Any],  # [P, L * C / lane] lanes; absent where not wanted
):
    """Derivatives along the direction: of the slope, by mixed second derivatives, and of the values."""
    level, r = wp.tid()
    r += first
    weight = weights[level]
    if weight != type(weight)(0.0):
        for p in range(r * run, wp.min((r + 1) * run, points.shape[0])):
            cell, t, reach = locate(points[p], origin[level], scale[level], nodes, level)
            rows = corner_rows(cell, nodes, level)
            along = weight * wp.cw_mul(reach, directions[p])
            count = table.shape[1]
            total_x = table.dtype()
            total_y = table.dtype()
            total_z = table.dtype()
            for c in range(count):
                _value, x, y, z, xy, xz, yz = cell_rates(table, rows, c, t)
                k = level * count + c
                grad = grad_values[p, k]
                if to_values.shape[0] > 0:
                    to_values[p, k] = along[0] * x + along[1] * y + along[2] * z
                total_x += wp.cw_mul(grad, along[1] * xy + along[2] * xz)
                total_y += wp.cw_mul(grad, along[0] * xy + along[2] * yz)
                total_z += wp.cw_mul(grad, along[0] * xz + along[1] * yz)
            total = type(reach)(lane_sum(total_x), lane_sum(total_y), lane_sum(total_z))
            wp.atomic_add(to_points, p, wp.cw_mul(total, reach))


@wp.kernel
def jacobian_slope_kernel(
    first: wp.int32,
    run: wp.int32,
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
    level, r = wp.tid()
    r += first
    weight = weights[level]
    if weight != type(weight)(0.0):
        for p in range(r * run, wp.min((r + 1) * run, points.shape[0])):
            cell, t, reach = locate(points[p], origin[level], scale[level], nodes, level)
            rows = corner_rows(cell, nodes, level)
            count = table.shape[1]
            total_x = table.dtype()
            total_y = table.dtype()
            total_z = table.dtype()
            for c in range(count):
                _value, along_x, along_y, along_z, along_xy, along_xz, along_yz = cell_rates(table, rows, c, t)
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


@wp.kernel
def scatter_kernel(
    first: wp.int32,
    run: wp.int32,
    points: wp.array[Any],  # [P] vec3
    grad_values: wp.array2d[Any],  # [P, L * C / lane] lanes
    directions: wp.array[Any],  # [P] vec3, or absent
    shares: wp.array2d[int],  # [S, 3]: level, first row and end of the rows it adds to
    nodes: wp.array2d[int],  # [L, 5]
    origin: wp.array[Any],  # [L] vec3
    scale: wp.array[Any],  # [L] vec3
    weights: wp.array[Any],  # [L]
    # outputs
    grad_table: wp.array2d[Any],  # [T, C / lane] lanes
):
    """Spread the values' gradient over the corners by their shares, or by the shares' derivatives along a direction.

    A point that is NaN has none.
    """
    share, r = wp.tid()
    share += first
    level = shares[share, 0]
    weight = weights[level]
    if weight != type(weight)(0.0):
        for p in range(r * run, wp.min((r + 1) * run, points.shape[0])):
            cell, t, reach = locate(points[p], origin[level], scale[level], nodes, level)
            rows = corner_rows(cell, nodes, level)
            if t == t and wp.max(rows) >= shares[share, 1] and wp.min(rows) < shares[share, 2]:
                parts = corner_weights(t)
                if directions.shape[0] > 0:
                    parts = corner_slopes(t, wp.cw_mul(reach, directions[p]))
                parts *= weight
                count = grad_table.shape[1]
                for c in range(count):
                    grad = grad_values[p, level * count + c]
                    for corner in range(8):
                        if rows[corner] >= shares[share, 1] and rows[corner] < shares[share, 2]:
                            wp.atomic_add(grad_table, rows[corner], c, parts[corner] * grad)


@wp.kernel
def jacobian_scatter_kernel(
    first: wp.int32,
    run: wp.int32,
    points: wp.array[Any],  # [P] vec3
    grad_values: wp.array2d[Any],  # [P, L * C / lane] lanes
    grad_jacobian: wp.array3d[Any],  # [P, 3, L * C / lane] lanes
    shares: wp.array2d[int],  # [S, 3]: level, first row and end of the rows it adds to
    nodes: wp.array2d[int],  # [L, 5]
    origin: wp.array[Any],  # [L] vec3
    scale: wp.array[Any],  # [L] vec3
    weights: wp.array[Any],  # [L]
    # outputs
    grad_table: wp.array2d[Any],  # [T, C / lane] lanes
):
    """Spread the gradients of values and Jacobian over the eight corners; a point that is NaN has none."""
    share, r = wp.tid()
    share += first
    level = shares[share, 0]
    weight = weights[level]
    if weight != type(weight)(0.0):
        for p in range(r * run, wp.min((r + 1) * run, points.shape[0])):
            cell, t, reach = locate(points[p], origin[level], scale[level], nodes, level)
            rows = corner_rows(cell, nodes, level)
            if t == t and wp.max(rows) >= shares[share, 1] and wp.min(rows) < shares[share, 2]:
                parts = weight * corner_weights(t)
                reach *= weight
                count = grad_table.shape[1]
                for c in range(count):
                    k = level * count + c
                    grad = grad_values[p, k]
                    grad_x = reach[0] * grad_jacobian[p, 0, k]
                    grad_y = reach[1] * grad_jacobian[p, 1, k]
                    grad_z = reach[2] * grad_jacobian[p, 2, k]
                    for corner in range(8):
                        if rows[corner] >= shares[share, 1] and rows[corner] < shares[share, 2]:
                            slope = corner_slope(corner, t)
                            total = parts[corner] * grad + slope[0] * grad_x + slope[1] * grad_y + slope[2] * grad_z
                            wp.atomic_add(grad_table, rows[corner], c, total)
