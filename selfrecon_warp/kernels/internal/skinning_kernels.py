"""The kernels of ``skinning``, whose docstring has the mathematics.

No operation of its own: reference, tests and benchmarks are those of ``skinning``.
"""

from __future__ import annotations

from typing import Any

import warp as wp

from selfrecon_warp.kernels.internal.blending import (
    BLOCK,
    add_four_to_bones,
    blended_at_four,
    contracted_at_four,
    four_points,
)
from selfrecon_warp.kernels.interop import CPU_FLAGS

wp.set_module_options({"enable_backward": False, "cpu_compiler_flags": CPU_FLAGS})


@wp.func
def carried(m: Any, v: Any, h: Any):
    """``m [v; h]``."""
    return type(v)(
        m[0, 0] * v[0] + m[0, 1] * v[1] + m[0, 2] * v[2] + m[0, 3] * h,
        m[1, 0] * v[0] + m[1, 1] * v[1] + m[1, 2] * v[2] + m[1, 3] * h,
        m[2, 0] * v[0] + m[2, 1] * v[1] + m[2, 2] * v[2] + m[2, 3] * h,
    )


@wp.func
def turned_back(m: Any, g: Any):
    """``g`` under the transposed 3 x 3 part of ``m``."""
    return type(g)(
        m[0, 0] * g[0] + m[1, 0] * g[1] + m[2, 0] * g[2],
        m[0, 1] * g[0] + m[1, 1] * g[1] + m[2, 1] * g[2],
        m[0, 2] * g[0] + m[1, 2] * g[1] + m[2, 2] * g[2],
    )


@wp.func
def lifted_outer(g: Any, v: Any, h: Any, like: Any):
    """``g [v; h]^T`` as a matrix of the type of ``like``."""
    return type(like)(
        g[0] * v[0], g[0] * v[1], g[0] * v[2], g[0] * h,
        g[1] * v[0], g[1] * v[1], g[1] * v[2], g[1] * h,
        g[2] * v[0], g[2] * v[1], g[2] * v[2], g[2] * h,
    )  # fmt: skip


@wp.func
def where_finite(v: Any, there: Any):
    """``there``, or zeros where a coordinate of ``v`` is NaN or infinite: one comparison, no branch."""
    total = v[0] + v[1] + v[2]
    return wp.where(total - total == type(total)(0.0), there, type(there)())


@wp.kernel
def skin_points_kernel(
    first: wp.int32,
    points: wp.array2d[Any],  # [1 or B, P] vec3
    weights: wp.array3d[Any],  # [1 or B, P, J / lane] lanes
    rows: wp.array2d[Any],  # [B, J] mat34
    h: Any,
    # outputs
    matrices: wp.array2d[Any],  # [B, P] mat34
    posed: wp.array2d[Any],  # [B, P] vec3
):
    """Blend the bones at four points as ``blend_bones_kernel`` does, then carry these: phi along ``g``."""
    p0, p1, p2, p3 = four_points(first + wp.tid(), matrices.shape[1])
    for b in range(matrices.shape[0]):
        q = wp.min(b, points.shape[0] - 1)
        m0, m1, m2, m3 = blended_at_four(weights, rows, b, p0, p1, p2, p3)
        matrices[b, p0] = m0
        matrices[b, p1] = m1
        matrices[b, p2] = m2
        matrices[b, p3] = m3
        for k in range(4):
            p = wp.min(p0 + k, p3)
            posed[b, p] = carried(matrices[b, p], points[q, p], h)


@wp.func
def to_point_and_matrix(g: Any, point: Any, matrix: Any, h: Any):
    """Gradients of a point and of its matrix: phi along both; none where the point is not finite."""
    g = where_finite(point, g)
    return turned_back(matrix, g), lifted_outer(g, where_finite(point, point), h, matrix)


@wp.kernel
def skin_points_vjp_kernel(
    first: wp.int32,
    grad_posed: wp.array2d[Any],  # [B, P] vec3
    points: wp.array2d[Any],  # [1 or B, P] vec3
    matrices: wp.array2d[Any],  # [B, P] mat34
    weights: wp.array3d[Any],  # [1 or B, P, J]
    across: wp.array3d[Any],  # [B, 12, J / lane] lanes
    h: Any,
    strip: wp.int32,
    # outputs; absent where not wanted
    grad_points: wp.array2d[Any],  # [1 or B, P] vec3
    grad_weights: wp.array3d[Any],  # [1 or B, P, J / lane] lanes
    grad_rows: wp.array3d[Any],  # [strips, B, J] mat34, zero before
):
    """Gradients at one strip of points: of points and weights, summed over frames that share them, and of the bones.

    Four points at a time, whose matrices' gradients are never written. A point past the last one repeats it: it reads
    what it writes before any of the four does.
    """
    s = first + wp.tid()
    count = grad_posed.shape[1]
    for b in range(grad_posed.shape[0]):
        q = wp.min(b, points.shape[0] - 1)
        w = wp.min(b, weights.shape[0] - 1)
        for block in range(s * strip / BLOCK, wp.min((s + 1) * strip, count + 3) / BLOCK):
            p0, p1, p2, p3 = four_points(block, count)
            t0, g0 = to_point_and_matrix(grad_posed[b, p0], points[q, p0], matrices[b, p0], h)
            t1, g1 = to_point_and_matrix(grad_posed[b, p1], points[q, p1], matrices[b, p1], h)
            t2, g2 = to_point_and_matrix(grad_posed[b, p2], points[q, p2], matrices[b, p2], h)
            t3, g3 = to_point_and_matrix(grad_posed[b, p3], points[q, p3], matrices[b, p3], h)
            if grad_points.shape[0] > 0:
                if b > q:
                    t0 += grad_points[q, p0]
                    t1 += grad_points[q, p1]
                    t2 += grad_points[q, p2]
                    t3 += grad_points[q, p3]
                grad_points[q, p0] = t0
                grad_points[q, p1] = t1
                grad_points[q, p2] = t2
                grad_points[q, p3] = t3
            for lane in range(grad_weights.shape[2]):
                to_0, to_1, to_2, to_3 = contracted_at_four(g0, g1, g2, g3, across, b, lane)
                if b > w:
                    to_0 += grad_weights[w, p0, lane]
                    to_1 += grad_weights[w, p1, lane]
                    to_2 += grad_weights[w, p2, lane]
                    to_3 += grad_weights[w, p3, lane]
                grad_weights[w, p0, lane] = to_0
                grad_weights[w, p1, lane] = to_1
                grad_weights[w, p2, lane] = to_2
                grad_weights[w, p3, lane] = to_3
            if grad_rows.shape[0] > 0:
                add_four_to_bones(g0, g1, g2, g3, weights, w, p0, s, b, grad_rows)


@wp.kernel
def skin_points_jacobian_kernel(
    first: wp.int32,
    matrices: wp.array2d[Any],  # [B, P] mat34
    slopes: wp.array3d[Any],  # [B, P, 3] mat34: derivatives of the blended matrix along x, y, z
    points: wp.array2d[Any],  # [1 or B, P] vec3
    # outputs
    posed: wp.array2d[Any],  # [B, P] vec3
    jacobian: wp.array2d[Any],  # [B, P] mat33
):
    """Carry each point and differentiate where it lands."""
    p = first + wp.tid()
    for b in range(posed.shape[0]):
        point = points[wp.min(b, points.shape[0] - 1), p]
        one = type(point[0])(1.0)
        m = matrices[b, p]
        along_x = carried(slopes[b, p, 0], point, one)
        along_y = carried(slopes[b, p, 1], point, one)
        along_z = carried(slopes[b, p, 2], point, one)
        posed[b, p] = carried(m, point, one)
        jacobian[b, p] = jacobian.dtype(
            m[0, 0] + along_x[0], m[0, 1] + along_y[0], m[0, 2] + along_z[0],
            m[1, 0] + along_x[1], m[1, 1] + along_y[1], m[1, 2] + along_z[1],
            m[2, 0] + along_x[2], m[2, 1] + along_y[2], m[2, 2] + along_z[2],
        )  # fmt: skip


@wp.kernel
def skin_points_jacobian_vjp_kernel(
    first: wp.int32,
    matrices: wp.array2d[Any],  # [B, P] mat34
    slopes: wp.array3d[Any],  # [B, P, 3] mat34
    points: wp.array2d[Any],  # [1 or B, P] vec3
    grad_posed: wp.array2d[Any],  # [B, P] vec3
    grad_jacobian: wp.array2d[Any],  # [B, P] mat33
    # outputs
    grad_matrices: wp.array2d[Any],  # [B, P] mat34
    grad_slopes: wp.array3d[Any],  # [B, P, 3] mat34
    grad_points: wp.array2d[Any],  # [1 or B, P] vec3
):
    """Gradients of ``skin_points_jacobian_kernel`` to all its inputs."""
    p = first + wp.tid()
    shared = grad_posed.shape[0] // grad_points.shape[0]
    for q in range(grad_points.shape[0]):
        point = points[q, p]
        lifted = where_finite(point, point)
        one = type(point[0])(1.0)
        to_point = grad_points.dtype()
        for b in range(q * shared, (q + 1) * shared):
            g = where_finite(point, grad_posed[b, p])
            d = where_finite(point, grad_jacobian[b, p])
            x = type(g)(d[0, 0], d[1, 0], d[2, 0])
            y = type(g)(d[0, 1], d[1, 1], d[2, 1])
            z = type(g)(d[0, 2], d[1, 2], d[2, 2])
            to_point += turned_back(matrices[b, p], g) + turned_back(slopes[b, p, 0], x)
            to_point += turned_back(slopes[b, p, 1], y) + turned_back(slopes[b, p, 2], z)
            grad_matrices[b, p] = grad_matrices.dtype(
                g[0] * lifted[0] + x[0], g[0] * lifted[1] + y[0], g[0] * lifted[2] + z[0], g[0],
                g[1] * lifted[0] + x[1], g[1] * lifted[1] + y[1], g[1] * lifted[2] + z[1], g[1],
                g[2] * lifted[0] + x[2], g[2] * lifted[1] + y[2], g[2] * lifted[2] + z[2], g[2],
            )  # fmt: skip
            grad_slopes[b, p, 0] = lifted_outer(x, lifted, one, grad_matrices.dtype())
            grad_slopes[b, p, 1] = lifted_outer(y, lifted, one, grad_matrices.dtype())
            grad_slopes[b, p, 2] = lifted_outer(z, lifted, one, grad_matrices.dtype())
        grad_points[q, p] = to_point
