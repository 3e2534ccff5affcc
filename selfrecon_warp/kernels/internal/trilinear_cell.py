"""One cell of a node lattice: where a point lies in it, its corners' rows and shares, and what is interpolated between.

Device functions of ``trilinear_kernels``. No operation of its own: reference, tests and benchmarks are those of
``grid_sample`` and ``encode``.
"""

from __future__ import annotations

from typing import Any

import warp as wp

HASH_Y = wp.constant(wp.uint32(2654435761))
HASH_Z = wp.constant(wp.uint32(805459861))
Rows = wp.types.vector(8, wp.int32)


@wp.func
def corner_weights(t: Any):
    """Share of each of the eight cell corners at cell position ``t`` in [0, 1]^3; the corners' bits are x y z."""
    one = type(t[0])(1.0)
    x = one - t[0]
    y = one - t[1]
    z = one - t[2]
    return wp.vector(
        x * y * z,
        x * y * t[2],
        x * t[1] * z,
        x * t[1] * t[2],
        t[0] * y * z,
        t[0] * y * t[2],
        t[0] * t[1] * z,
        t[0] * t[1] * t[2],
    )


@wp.func
def corner_slope(corner: int, t: Any):
    """Gradient along ``t`` of one corner's share."""
    one = type(t[0])(1.0)
    x = wp.where((corner & 4) != 0, t[0], one - t[0])
    y = wp.where((corner & 2) != 0, t[1], one - t[1])
    z = wp.where((corner & 1) != 0, t[2], one - t[2])
    dx = wp.where((corner & 4) != 0, one, -one)
    dy = wp.where((corner & 2) != 0, one, -one)
    dz = wp.where((corner & 1) != 0, one, -one)
    return type(t)(dx * y * z, x * dy * z, x * y * dz)


@wp.func
def corner_slopes(t: Any, along: Any):
    """Derivative of each of the eight corners' shares at ``t`` along a direction."""
    one = type(t[0])(1.0)
    x = one - t[0]
    y = one - t[1]
    z = one - t[2]
    return wp.vector(
        -along[0] * y * z - x * (along[1] * z + along[2] * y),
        -along[0] * y * t[2] - x * (along[1] * t[2] - along[2] * y),
        -along[0] * t[1] * z + x * (along[1] * z - along[2] * t[1]),
        -along[0] * t[1] * t[2] + x * (along[1] * t[2] + along[2] * t[1]),
        along[0] * y * z - t[0] * (along[1] * z + along[2] * y),
        along[0] * y * t[2] - t[0] * (along[1] * t[2] - along[2] * y),
        along[0] * t[1] * z + t[0] * (along[1] * z - along[2] * t[1]),
        along[0] * t[1] * t[2] + t[0] * (along[1] * t[2] + along[2] * t[1]),
    )


@wp.func
def held(x: Any, count: int):
    """Node coordinate ``x`` moved to the nearest of ``count`` nodes where it lies beyond them; NaN stays NaN."""
    last = type(x)(count - 1)
    low = wp.where(x < type(x)(0.0), type(x)(0.0), x)
    return wp.where(low > last, last, low)


@wp.func
def cell_of(x: Any, count: int):
    """First node of the cell that holds a coordinate within the nodes of one axis; NaN gives a cell as well."""
    return wp.clamp(int(x), 0, wp.max(count - 2, 0))


@wp.func
def locate(point: Any, origin: Any, scale: Any, nodes: wp.array2d[int], level: int):
    """Cell, position within it, and ``scale`` with zeros along clamped axes."""
    raw = wp.cw_mul(point - origin, scale)
    zero = type(point[0])(0.0)
    x = held(raw[0], nodes[level, 0])
    y = held(raw[1], nodes[level, 1])
    z = held(raw[2], nodes[level, 2])
    cell = wp.vec3i(cell_of(x, nodes[level, 0]), cell_of(y, nodes[level, 1]), cell_of(z, nodes[level, 2]))
    t = type(point)(x - type(zero)(cell[0]), y - type(zero)(cell[1]), z - type(zero)(cell[2]))
    reach = type(point)(
        wp.where(x == raw[0], scale[0], zero),
        wp.where(y == raw[1], scale[1], zero),
        wp.where(z == raw[2], scale[2], zero),
    )
    return cell, t, reach


@wp.func
def row_at(x: wp.uint32, y: wp.uint32, z: wp.uint32, offset: int, mask: int):
    """Table row of a node from its coordinates times their factors: their sum, or hashed where levels share rows."""
    return offset + int(wp.where(mask == 0, x + y + z, (x ^ y ^ z) & wp.uint32(mask)))


@wp.func
def corner_rows(cell: wp.vec3i, nodes: wp.array2d[int], level: int):
    """Table rows of the eight corners of a cell. Without a branch: vectors that come out of one are slow to read."""
    offset = nodes[level, 3]
    mask = nodes[level, 4]
    along_x = wp.where(mask == 0, wp.uint32(nodes[level, 1] * nodes[level, 2]), wp.uint32(1))
    along_y = wp.where(mask == 0, wp.uint32(nodes[level, 2]), HASH_Y)
    along_z = wp.where(mask == 0, wp.uint32(1), HASH_Z)
    x0 = along_x * wp.uint32(cell[0])
    y0 = along_y * wp.uint32(cell[1])
    z0 = along_z * wp.uint32(cell[2])
    x1 = along_x * wp.uint32(wp.min(cell[0] + 1, nodes[level, 0] - 1))
    y1 = along_y * wp.uint32(wp.min(cell[1] + 1, nodes[level, 1] - 1))
    z1 = along_z * wp.uint32(wp.min(cell[2] + 1, nodes[level, 2] - 1))
    return Rows(
        row_at(x0, y0, z0, offset, mask),
        row_at(x0, y0, z1, offset, mask),
        row_at(x0, y1, z0, offset, mask),
        row_at(x0, y1, z1, offset, mask),
        row_at(x1, y0, z0, offset, mask),
        row_at(x1, y0, z1, offset, mask),
        row_at(x1, y1, z0, offset, mask),
        row_at(x1, y1, z1, offset, mask),
    )


@wp.func
def cell_rates(table: wp.array2d[Any], rows: Rows, c: int, t: Any):
    """Value at cell position ``t``, its derivatives along x, y, z, and the mixed ones xy, xz, yz; pure ones vanish.

    Edges along z first, then faces across y, then x: each of the derivatives is a difference on the way to the value.
    """
    low = table[rows[0], c]
    z00 = table[rows[1], c] - low
    low += t[2] * z00
    high = table[rows[2], c]
    z01 = table[rows[3], c] - high
    high += t[2] * z01
    y0 = high - low
    z0 = z00 + t[1] * (z01 - z00)
    value0 = low + t[1] * y0
    low = table[rows[4], c]
    z10 = table[rows[5], c] - low
    low += t[2] * z10
    high = table[rows[6], c]
    z11 = table[rows[7], c] - high
    high += t[2] * z11
    y1 = high - low
    z1 = z10 + t[1] * (z11 - z10)
    x = low + t[1] * y1 - value0
    xy = y1 - y0
    xz = z1 - z0
    yz = z01 - z00
    yz += t[0] * (z11 - z10 - yz)
    return value0 + t[0] * x, x, y0 + t[0] * xy, z0 + t[0] * xz, xy, xz, yz


@wp.func
def lane_sum(lane: Any):
    """Sum of the entries of a lane; lanes are added up first because this runs one entry after the other."""
    return wp.dot(lane, type(lane)(type(lane[0])(1.0)))
