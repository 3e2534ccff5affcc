"""What inverse skinning does at one posed point, from start to end in one thread."""

from __future__ import annotations

from typing import Any

import warp as wp

from selfrecon_warp.kernels.internal.skinning_kernels import carried, lifted_outer
from selfrecon_warp.kernels.internal.trilinear_cell import corner_rows, corner_slope, corner_weights, locate
from selfrecon_warp.kernels.interop import CPU_FLAGS
from selfrecon_warp.kernels.small_matrices import cofactor_inverse

wp.set_module_options({"enable_backward": False, "cpu_compiler_flags": CPU_FLAGS})


@wp.func
def linear_part(m: Any, like: Any):
    """The 3 x 3 part of a 3 x 4 matrix whose rows become vectors of the type of ``like``."""
    return wp.matrix_from_rows(
        type(like)(m[0, 0], m[0, 1], m[0, 2]),
        type(like)(m[1, 0], m[1, 1], m[1, 2]),
        type(like)(m[2, 0], m[2, 1], m[2, 2]),
    )


@wp.kernel
def unskin_points_kernel(
    first: wp.int32,
    posed: wp.array[Any],  # [B * P] vec3
    matrices: wp.array[Any],  # [B * P] mat34
    threshold: Any,
    # outputs
    points: wp.array[Any],  # [B * P] vec3
    inverse: wp.array[Any],  # [B * P] mat33
    converged: wp.array[wp.bool],  # [B * P]
    residual: wp.array[Any],  # [B * P]
):
    """Solve for the point that the blended matrix carries to the posed one."""
    i = first + wp.tid()
    m = matrices[i]
    y = posed[i]
    one = type(threshold)(1.0)
    inverted, determinant = cofactor_inverse(linear_part(m, y), threshold)
    point = inverted * (y - type(y)(m[0, 3], m[1, 3], m[2, 3]))
    regular = wp.abs(determinant) > threshold and wp.isfinite(point)
    if not regular:
        point = y
        inverted = inverse.dtype()
    points[i] = point
    inverse[i] = inverted
    converged[i] = regular
    residual[i] = wp.length(carried(m, point, one) - y)


@wp.kernel
def unskin_points_vjp_kernel(
    first: wp.int32,
    points: wp.array[Any],  # [B * P] vec3
    inverse: wp.array[Any],  # [B * P] mat33, zero where not converged
    converged: wp.array[wp.bool],  # [B * P]
    grad_points: wp.array[Any],  # [B * P] vec3
    # outputs
    grad_posed: wp.array[Any],  # [B * P] vec3, zero before
    grad_matrices: wp.array[Any],  # [B * P] mat34, zero before
):
    """Pull the gradient back through the inverse; a point that has none sends nothing."""
    i = first + wp.tid()
    if converged[i]:
        pulled = wp.transpose(inverse[i]) * grad_points[i]
        grad_posed[i] = pulled
        grad_matrices[i] = lifted_outer(-pulled, points[i], type(pulled[0])(1.0), grad_matrices.dtype())


@wp.func
def pose(
    point: Any,
    b: int,
    volume: wp.array2d[Any],  # [T, J / lane] lanes
    nodes: wp.array2d[int],
    origin: wp.array[Any],
    scale: wp.array[Any],
    rows: wp.array2d[Any],  # [B, J] mat34
):
    """Where a canonical point lands in frame ``b``, and the Jacobian."""
    cell, t, reach = locate(point, origin[0], scale[0], nodes, 0)
    corners = corner_rows(cell, nodes, 0)
    shares = corner_weights(t)
    one = type(point[0])(1.0)
    landed = type(point)()
    x = type(point)()
    y = type(point)()
    z = type(point)()
    for lane in range(volume.shape[1]):
        weight = volume.dtype()
        along_x = volume.dtype()
        along_y = volume.dtype()
        along_z = volume.dtype()
        for corner in range(8):
            row = volume[corners[corner], lane]
            slope = wp.cw_mul(reach, corner_slope(corner, t))
            weight += shares[corner] * row
            along_x += slope[0] * row
            along_y += slope[1] * row
            along_z += slope[2] * row
        for k in range(len(weight)):
            bone = rows[b, lane * len(weight) + k]
            there = carried(bone, point, one)
            landed += weight[k] * there
            x += weight[k] * type(point)(bone[0, 0], bone[1, 0], bone[2, 0]) + along_x[k] * there
            y += weight[k] * type(point)(bone[0, 1], bone[1, 1], bone[2, 1]) + along_y[k] * there
            z += weight[k] * type(point)(bone[0, 2], bone[1, 2], bone[2, 2]) + along_z[k] * there
    return landed, wp.matrix_from_cols(x, y, z)


@wp.func
def carried_back(bone: Any, y: Any, threshold: Any):
    """Where one bone alone would carry a posed point back to; the posed point itself where the bone is singular."""
    inverted, determinant = cofactor_inverse(linear_part(bone, y), threshold)
    point = y
    if wp.abs(determinant) > threshold:
        point = inverted * (y - type(y)(bone[0, 3], bone[1, 3], bone[2, 3]))
    return point


@wp.kernel
def rank_bones_kernel(
    first: wp.int32,
    posed: wp.array2d[Any],  # [B, P] vec3
    volume: wp.array2d[Any],  # [T, J]
    nodes: wp.array2d[int],  # [1, 5]
    origin: wp.array[Any],  # [1] vec3
    scale: wp.array[Any],  # [1] vec3
    rows: wp.array2d[Any],  # [B, J] mat34
    threshold: Any,
    # outputs
    weights: wp.array3d[Any],  # [B, P, J] scratch
    starts: wp.array3d[Any],  # [B, P, S] vec3
):
    """Start where single bones carry a point back to, in the order of the bones' weights there."""
    b, p = wp.tid()
    p += first
    y = posed[b, p]
    for j in range(rows.shape[1]):
        point = carried_back(rows[b, j], y, threshold)
        cell, t, _reach = locate(point, origin[0], scale[0], nodes, 0)
        corners = corner_rows(cell, nodes, 0)
        shares = corner_weights(t)
        weight = threshold - threshold
        for corner in range(8):
            weight += shares[corner] * volume[corners[corner], j]
        weights[b, p, j] = weight
    for s in range(starts.shape[2]):
        best = int(0)  # noqa: UP018, RUF046 (a Warp variable, not a constant)
        for j in range(1, rows.shape[1]):
            if weights[b, p, j] > weights[b, p, best]:
                best = j
        starts[b, p, s] = carried_back(rows[b, best], y, threshold)
        weights[b, p, best] = type(threshold)(-1.0e30)


@wp.kernel
def unskin_points_in_volume_kernel(
    first: wp.int32,
    posed: wp.array2d[Any],  # [B, P] vec3
    starts: wp.array3d[Any],  # [B, P, S] vec3
    volume: wp.array2d[Any],  # [T, J / lane] lanes
    nodes: wp.array2d[int],  # [1, 5]
    origin: wp.array[Any],  # [1] vec3
    scale: wp.array[Any],  # [1] vec3
    rows: wp.array2d[Any],  # [B, J] mat34
    steps: int,
    tolerance: Any,
    threshold: Any,
    # outputs
    points: wp.array2d[Any],  # [B, P] vec3
    inverse: wp.array2d[Any],  # [B, P] mat33
    converged: wp.array2d[wp.bool],  # [B, P]
    residual: wp.array2d[Any],  # [B, P]
):
    """Newton's method from one start after the other until one converges."""
    b, p = wp.tid()
    p += first
    y = posed[b, p]
    found = y
    found_inverse = inverse.dtype()
    done = bool(False)  # noqa: UP018 (a Warp variable, not a constant)
    least = type(tolerance)(wp.inf)
    half = type(tolerance)(0.5)
    s = int(0)  # noqa: UP018, RUF046 (a Warp variable, not a constant)
    while s < starts.shape[2] and not done:
        point = starts[b, p, s]
        landed, jacobian = pose(point, b, volume, nodes, origin, scale, rows)
        distance = wp.length(landed - y)
        inverted, determinant = cofactor_inverse(jacobian, threshold)
        step = inverted * (y - landed)
        length = type(tolerance)(1.0)
        taken = int(0)  # noqa: UP018, RUF046 (a Warp variable, not a constant)
        while taken < steps and distance > tolerance and wp.abs(determinant) > threshold:
            trial = point + length * step
            landed, jacobian = pose(trial, b, volume, nodes, origin, scale, rows)
            if wp.length(landed - y) < distance:
                point = trial
                distance = wp.length(landed - y)
                inverted, determinant = cofactor_inverse(jacobian, threshold)
                step = inverted * (y - landed)
                length = type(tolerance)(1.0)
            else:
                length *= half
            taken += 1
        if distance < least:
            found = point
            least = distance
        if distance <= tolerance and wp.abs(determinant) > threshold:
            found = point
            found_inverse = inverted
            least = distance
            done = True
        s += 1
    points[b, p] = found
    inverse[b, p] = found_inverse
    converged[b, p] = done
    residual[b, p] = wp.where(wp.isfinite(least), least, least - least)
