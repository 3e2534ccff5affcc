"""Which faces come near each square tile of the picture, and what a pixel must know of a face.

The shared first half of the ops in which a pixel meets many faces (``rasterize_layers``, ``blended_silhouette``). No
result may depend on the order in which a tile lists its faces; where lists are long it is front to back, roughly so on
a GPU, because what comes later is then passed over at a glance.

Picture conventions and the rule which faces are drawn at all are those of ``kernels/rasterize.py``. The file is long
because the record that a list's face has, the kernels that write it and the functions that read it belong together.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import warp as wp
from torch import Tensor

from selfrecon_warp.kernels.arguments import require_range
from selfrecon_warp.kernels.internal.triangle import face_corners, greatest, least, names_missing, signed_area
from selfrecon_warp.kernels.interop import (
    absent,
    cleared,
    ints,
    lanes,
    launch_split,
    scalars,
    split_parts,
    vec3is,
    vec3s,
    vec4is,
)

RUN = 4
"""Pixels side by side that one thread looks after, as the lanes of a vector."""

_LARGEST_TILE = 32
_MOST_PARTS = 8
_WIDE = 4
"""Mean side of the faces' boxes [pixel] from which putting them in order pays."""

vec4i = wp.types.vector(4, wp.int32)


@wp.struct
class TileGrid:
    """How pictures are cut into tiles, and what the lists of faces are like, as the kernels are told."""

    height: wp.int32
    width: wp.int32
    bits: wp.int32  # a tile's side is this power of two
    rows: wp.int32  # of tiles
    columns: wp.int32
    face_count: wp.int32
    parts: wp.int32  # pieces that each list was written in


@wp.func
def place_of_run(i: wp.int32, grid: TileGrid):
    """Tile, frame, row and first column of the run of ``RUN`` pixels that thread ``i`` looks after."""
    across = grid.bits - 2
    tile = i >> (grid.bits + across)
    inner = i - (tile << (grid.bits + across))
    down = inner >> across
    tile_row = tile / grid.columns
    b = tile_row / grid.rows
    row = ((tile_row - b * grid.rows) << grid.bits) + down
    column = ((tile - tile_row * grid.columns) << grid.bits) + ((inner - (down << across)) << 2)
    return tile, b, row, column


@wp.func
def run_of(value: Any):
    """The same number for all pixels of a run."""
    return wp.vector(value, value, value, value)


@wp.func
def lower_of_runs(a: Any, b: Any):
    """Smaller number of each pair, neither of which is NaN (``wp.min`` looks out for those at some cost)."""
    return wp.vector(
        wp.where(a[0] < b[0], a[0], b[0]),
        wp.where(a[1] < b[1], a[1], b[1]),
        wp.where(a[2] < b[2], a[2], b[2]),
        wp.where(a[3] < b[3], a[3], b[3]),
    )


@wp.func
def higher_of_runs(a: Any, b: Any):
    """Larger number of each pair, neither of which is NaN."""
    return wp.vector(
        wp.where(a[0] > b[0], a[0], b[0]),
        wp.where(a[1] > b[1], a[1], b[1]),
        wp.where(a[2] > b[2], a[2], b[2]),
        wp.where(a[3] > b[3], a[3], b[3]),
    )


@wp.func
def lowest_of_run(a: Any):
    """Smallest number of a run, none of which is NaN."""
    return least(wp.where(a[0] < a[1], a[0], a[1]), a[2], a[3])


@wp.func
def columns_of_run(u: Any):
    """Columns of the pixels of a run that begins at ``u``."""
    return wp.vector(u, u + type(u)(1.0), u + type(u)(2.0), u + type(u)(3.0))


@wp.func
def corners_from_run(r0: Any, r1: Any, columns: Any, v: Any):
    """Corners of a face relative to the pixels of a run in row ``v``; ``r0`` and ``r1`` begin its record."""
    x0 = run_of(r0[0]) - columns
    x1 = run_of(r0[2]) - columns
    x2 = run_of(r1[0]) - columns
    return x0, r0[1] - v, x1, r0[3] - v, x2, r1[1] - v


@wp.func
def weights_of_run(x0: Any, y0: Any, x1: Any, y1: Any, x2: Any, y2: Any, r2: Any):
    """``edge_weights`` of the pixels of a run, from the corners relative to them, and the largest distance outward."""
    w0 = x1 * y2 - x2 * y1
    w1 = x2 * y0 - x0 * y2
    w2 = x0 * y1 - x1 * y0
    return w0, w1, w2, higher_of_runs(w0 * r2[1], higher_of_runs(w1 * r2[2], w2 * r2[3]))


@wp.func
def segment_places(ax: Any, ay: Any, bx: Any, by: Any, scale: Any):
    """Fraction of the way from ``a`` to ``b``, relative to a run's pixels, at which the segment is nearest to each.

    ``scale`` is the inverse of its length, of either sign.
    """
    dx = bx[0] - ax[0]
    dy = by - ay
    t = (ax * dx + run_of(ay * dy)) * (-scale * scale)
    return lower_of_runs(higher_of_runs(t, run_of(type(ay)(0.0))), run_of(type(ay)(1.0)))


@wp.func
def segment_distances(ax: Any, ay: Any, bx: Any, by: Any, scale: Any):
    """Squared distance of a segment from the pixels of a run."""
    t = segment_places(ax, ay, bx, by, scale)
    x = ax + t * (bx[0] - ax[0])
    y = run_of(ay) + t * (by - ay)
    return wp.cw_mul(x, x) + wp.cw_mul(y, y)


@wp.func
def border_distance_of_run(x0: Any, y0: Any, x1: Any, y1: Any, x2: Any, y2: Any, r2: Any):
    """Squared distance of a face's border, corners relative to a run's pixels, from each; ``r2`` ends its record."""
    e0 = segment_distances(x1, y1, x2, y2, r2[1])
    e1 = segment_distances(x2, y2, x0, y0, r2[2])
    e2 = segment_distances(x0, y0, x1, y1, r2[3])
    return lower_of_runs(e0, lower_of_runs(e1, e2))


@wp.func
def segment_offset(ax: Any, ay: Any, bx: Any, by: Any, scale: Any):
    """Nearest point of a segment to the origin and its place on the way from ``a`` to ``b``."""
    dx = bx - ax
    dy = by - ay
    t = -(ax * dx + ay * dy) * scale * scale
    t = wp.where(t > type(t)(0.0), t, type(t)(0.0))
    t = wp.where(t < type(t)(1.0), t, type(t)(1.0))
    return wp.vector(ax + t * dx, ay + t * dy, t)


@wp.func
def nearest_border(r0: Any, r1: Any, r2: Any, u: Any, v: Any):
    """Point of the border nearest to ``(u, v)`` relative to it, the place on its edge, and the signed square distance.

    Also the corner opposite the edge.
    """
    x0 = r0[0] - u
    y0 = r0[1] - v
    x1 = r0[2] - u
    y1 = r0[3] - v
    x2 = r1[0] - u
    y2 = r1[1] - v
    outside = greatest((x1 * y2 - x2 * y1) * r2[1], (x2 * y0 - x0 * y2) * r2[2], (x0 * y1 - x1 * y0) * r2[3])
    at = segment_offset(x1, y1, x2, y2, r2[1])
    at1 = segment_offset(x2, y2, x0, y0, r2[2])
    at2 = segment_offset(x0, y0, x1, y1, r2[3])
    squared = at[0] * at[0] + at[1] * at[1]
    squared1 = at1[0] * at1[0] + at1[1] * at1[1]
    squared2 = at2[0] * at2[0] + at2[1] * at2[1]
    opposite = wp.int32(0)
    if squared1 < squared:
        opposite = 1
        at = at1
        squared = squared1
    if squared2 < squared:
        opposite = 2
        at = at2
        squared = squared2
    return at, wp.where(outside <= type(u)(0.0), -squared, squared), opposite


class FaceTiles(NamedTuple):
    """Faces by tile; tiles run through frames, rows and columns."""

    records: Tensor
    """``[B, F, 12]``: projected corners ``u0 v0 u1 v1 u2 v2``; at each corner the number that is linear in the picture
    (``1 / z``, or ``z`` without perspective); factors that turn an edge weight into its distance outward [1/pixel]."""
    start: Tensor
    """``[tiles * parts]`` int32: where the list of a tile begins, in steps of ``parts``; the next begins at its end."""
    entries: Tensor
    """Face indices of all lists, int32."""
    size: int
    """Side of a tile [pixel], a power of two and a multiple of ``RUN``."""
    parts: int
    """Pieces that each list was written in."""

    def runs(self, height: int, width: int) -> int:
        """Threads that look after all pictures of this size, ``RUN`` pixels each, border tiles in full."""
        tiles = len(self.records) * math.ceil(height / self.size) * math.ceil(width / self.size)
        return tiles * self.size * (self.size // RUN)

    def grid(self, height: int, width: int) -> Any:
        """The tiles of pictures of this size."""
        return tile_grid(height, width, self.size, self.records.shape[1], self.parts)


def tile_grid(height: int, width: int, size: int, face_count: int, parts: int) -> Any:
    """Tiles of side ``size`` [pixel]."""
    grid = TileGrid()
    grid.height, grid.width, grid.bits = height, width, size.bit_length() - 1
    grid.rows, grid.columns = math.ceil(height / size), math.ceil(width / size)
    grid.face_count, grid.parts = face_count, parts
    return grid


@wp.kernel(enable_backward=False, module="unique", module_options={"fuse_fp": False})
def prepare_faces_kernel(
    first: wp.int32,
    vertices: wp.array[Any],  # [B V] vec3
    faces: wp.array[wp.vec3i],  # [F]
    frames: wp.int32,
    vertex_count: wp.int32,
    height: wp.int32,
    width: wp.int32,
    radius: Any,
    perspective: wp.bool,
    cull_backfaces: wp.bool,
    share: wp.int32,
    # outputs
    records: wp.array2d[Any],  # [B F, 3] lanes of 4
    nearest: wp.array[wp.float32],  # [B F] least depth of the corners
    boxes: wp.array[Any],  # [B F] left, right, top, bottom; left > right where the face is not drawn
    extent: wp.array2d[wp.int64],  # [parts, 2] boxes drawn, sum of their half perimeters
    faulty: wp.array[wp.int32],  # [1] set where a face names a vertex that does not exist
):
    """Look at every face once."""
    part, f = wp.tid()
    part += first
    f += part * share
    if f >= faces.shape[0]:
        return
    corner = faces[f]
    if names_missing(corner, vertex_count):
        faulty[0] = 1
        return
    for b in range(frames):
        p0, p1, p2 = face_corners(vertices, b * vertex_count, corner)
        zero = p0.dtype(0.0)
        one = p0.dtype(1.0)
        i = b * faces.shape[0] + f
        boxes[i] = boxes.dtype(0, -1, 0, -1)
        nearest[i] = wp.float32(least(p0[2], p1[2], p2[2]))
        left = wp.max(wp.ceil(least(p0[0], p1[0], p2[0]) - radius), zero)
        right = wp.min(wp.floor(greatest(p0[0], p1[0], p2[0]) + radius), p0.dtype(width - 1))
        top = wp.max(wp.ceil(least(p0[1], p1[1], p2[1]) - radius), zero)
        bottom = wp.min(wp.floor(greatest(p0[1], p1[1], p2[1]) + radius), p0.dtype(height - 1))
        area = signed_area(p0, p1, p2)
        drawn = area < zero or (area > zero and not cull_backfaces)
        if drawn and left <= right and top <= bottom:
            boxes[i] = boxes.dtype(int(left), int(right), int(top), int(bottom))
            wp.atomic_add(extent, part, 0, wp.int64(1))
            wp.atomic_add(extent, part, 1, wp.int64(right - left + bottom - top))
            outward = wp.where(area < zero, one, -one)
            a = wp.vector(p0[2], p1[2], p2[2])
            if perspective:
                a = wp.vector(one / p0[2], one / p1[2], one / p2[2])
            length0 = wp.length(wp.vector(p2[0] - p1[0], p2[1] - p1[1]))
            length1 = wp.length(wp.vector(p0[0] - p2[0], p0[1] - p2[1]))
            length2 = wp.length(wp.vector(p1[0] - p0[0], p1[1] - p0[1]))
            records[i, 0] = wp.vector(p0[0], p0[1], p1[0], p1[1])
            records[i, 1] = wp.vector(p2[0], p2[1], a[0], a[1])
            records[i, 2] = wp.vector(a[2], outward / length0, outward / length1, outward / length2)


@wp.func
def comes_near(r0: Any, r1: Any, r2: Any, u: Any, v: Any, half: Any, radius: Any):
    """Whether the face may come within ``radius`` of the square of half side ``half`` around ``(u, v)``."""
    x0 = r0[0] - u
    y0 = r0[1] - v
    x1 = r0[2] - u
    y1 = r0[3] - v
    x2 = r1[0] - u
    y2 = r1[1] - v
    d0 = (x1 * y2 - y1 * x2) * r2[1] - half * (wp.abs(x2 - x1) + wp.abs(y2 - y1)) * wp.abs(r2[1])
    d1 = (x2 * y0 - y2 * x0) * r2[2] - half * (wp.abs(x0 - x2) + wp.abs(y0 - y2)) * wp.abs(r2[2])
    d2 = (x0 * y1 - y0 * x1) * r2[3] - half * (wp.abs(x1 - x0) + wp.abs(y1 - y0)) * wp.abs(r2[3])
    return not (greatest(d0, d1, d2) > radius)


@wp.kernel(enable_backward=False, module="unique")
def list_faces_kernel(
    first: wp.int32,
    records: wp.array2d[Any],  # [B F, 3] lanes of 4
    boxes: wp.array[Any],  # [B F]
    order: wp.array2d[wp.int64],  # [B, F] or none: the order in which faces are listed
    frames: wp.int32,
    grid: TileGrid,
    radius: Any,
    share: wp.int32,
    # outputs
    cursor: wp.array2d[wp.int32],  # [tiles, parts] entries so far, or where the next one goes
    entries: wp.array[wp.int32],  # none while counting
):
    """Count each part's entries of every tile, or write them."""
    part, place = wp.tid()
    part += first
    place += part * share
    if place >= grid.face_count:
        return
    for b in range(frames):
        f = place
        if order.shape[0] > 0:
            f = wp.int32(order[b, place])
        i = b * grid.face_count + f
        box = boxes[i]
        if box[0] <= box[1]:
            r0 = records[i, 0]
            r1 = records[i, 1]
            r2 = records[i, 2]
            half = r0.dtype(0.5) * r0.dtype((1 << grid.bits) - 1)
            for y in range(box[2] >> grid.bits, (box[3] >> grid.bits) + 1):
                v = r0.dtype(y << grid.bits) + half
                for x in range(box[0] >> grid.bits, (box[1] >> grid.bits) + 1):
                    u = r0.dtype(x << grid.bits) + half
                    if comes_near(r0, r1, r2, u, v, half, radius):
                        tile = (b * grid.rows + y) * grid.columns + x
                        slot = wp.atomic_add(cursor, tile, part, 1)
                        if entries.shape[0] > 0:
                            entries[slot] = f


def tile_faces(
    vertices: Tensor,
    faces: Tensor,
    height: int,
    width: int,
    radius: float,
    *,
    perspective_correct: bool,
    cull_backfaces: bool,
) -> FaceTiles:
    """List the faces that may come within ``radius`` [pixel] of each tile.

    Tiles measure a quarter of the mean box's side, which weighs long lists against pixels that meet a face in vain.

    Args:
        vertices: Contiguous projected vertices, ``[B, V, 3]``, at least one.
        faces: Contiguous int32 vertex indices, ``[F, 3]``, at least one.
        height: Rows of the image.
        width: Columns of the image.
        radius: How far from a face a pixel still sees it [pixel].
        perspective_correct: Whether ``1 / z`` rather than ``z`` is linear in the picture.
        cull_backfaces: Leave out faces whose vertices run clockwise in the picture.

    Raises:
        ValueError: ``faces`` names a vertex that does not exist.
    """
    (B, V), F = vertices.shape[:2], len(faces)
    parts = min(split_parts(vertices, B * F, 1024), _MOST_PARTS)
    share = -(-F // parts)
    records = vertices.new_empty(B, F, 12)
    nearest = torch.empty(B, F, dtype=torch.float32, device=vertices.device)
    boxes = torch.empty(B * F, 4, dtype=torch.int32, device=vertices.device)
    extent = cleared(vertices, parts, 2, dtype=torch.int64)
    faulty = cleared(vertices, 1, dtype=torch.int32)
    views = [lanes(records.view(-1, 12), 12), vec4is(boxes)]
    distance = views[0].dtype._wp_scalar_type_(radius)
    inputs = [vec3s(vertices.view(-1, 3)), vec3is(faces), B, V, height, width, distance]
    inputs += [perspective_correct, cull_backfaces, share]
    outputs = [views[0], scalars(nearest.view(-1)), views[1], ints(extent), ints(faulty)]
    launch_split(prepare_faces_kernel, vertices, (parts, share), inputs, outputs, grain=1)
    if faulty.item():
        require_range("faces", faces, 0, V)
    boxes_drawn, half_perimeters = extent.sum(0).tolist()
    side = half_perimeters / max(boxes_drawn, 1) / 2
    size = min(max(RUN, 1 << round(math.log2(max(side / 4, 1)))), _LARGEST_TILE)
    order = ints(nearest.argsort(1)) if side >= _WIDE else absent(wp.int64, 2)
    grid = tile_grid(height, width, size, F, parts)
    cursor = cleared(vertices, B * grid.rows * grid.columns * parts, dtype=torch.int32)
    inputs = [*views, order, B, grid, distance, share]
    outputs = [ints(cursor.view(-1, parts)), absent(wp.int32)]
    launch_split(list_faces_kernel, vertices, (parts, share), inputs, outputs, grain=1)
    ends = cursor.cumsum(0, dtype=torch.int32)
    start = torch.cat([ends.new_zeros(1), ends])
    entries = torch.empty(max(1, int(ends[-1])), dtype=torch.int32, device=vertices.device)
    outputs = [ints(start[:-1].clone().view(-1, parts)), ints(entries)]
    launch_split(list_faces_kernel, vertices, (parts, share), inputs, outputs, grain=1)
    return FaceTiles(records, start, entries, size, parts)
