"""Points to discs in the picture: which points each pixel shows, and how far away.

Points are projected already: ``(u, v, z)`` with ``u`` right and ``v`` down in pixels and ``z`` the depth along the
camera's axis in metres. Integer coordinates are pixel centres, so pixel ``[row, column]`` samples ``(u, v) = (column,
row)``.

Rules, the same on every device:

* A pixel shows a point when the squared distance between the two is less than the squared radius.
* A pixel keeps the ``points_per_pixel`` nearest by depth, nearest first; equal depths go to the lower index.
* Points at ``z <= NEAR``, with a coordinate that is not finite or with a radius that is not above zero are skipped.

One thread draws one tile's row of pixels: it walks the tile's points front to back until each of its pixels is full.
What the pixels show is stored as one list after the other; the padded form is the case where all are equally long.
``kernels/compositing.py`` blends either. PyTorch3D counts in NDC: for a square image of S pixels its radius is ours
times ``2 / S``, its squared distance ours times ``(2 / S)^2``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.arguments import require_like
from selfrecon_warp.kernels.internal.point_tiles import TileLists, require_addressable, tile_lists, tile_range
from selfrecon_warp.kernels.interop import ints, launch, launch_split, scalars, vec3s, vec4s


class Splats(NamedTuple):
    """The points every pixel shows, nearest first, padded to ``K``."""

    point_index: Tensor
    """``[B, H, W, K]`` int32; -1 past a pixel's last point."""
    depth: Tensor
    """``[B, H, W, K]`` depth along the camera axis [m]; 0 past a pixel's last point."""
    distance: Tensor
    """``[B, H, W, K]`` squared distance to the pixel's centre [pixel^2]; 0 past a pixel's last point."""


class SplatLists(NamedTuple):
    """The points every pixel shows, nearest first, one list after the other in row-major order of the pixels."""

    ends: Tensor
    """``[B, H, W]`` int32: one past the pixel's last entry; it begins where the pixel before it ends."""
    point_index: Tensor
    """``[N]`` int32."""
    depth: Tensor
    """``[N]`` depth along the camera axis [m]."""
    distance: Tensor
    """``[N]`` squared distance to the pixel's centre [pixel^2]."""


@wp.func
def list_begin(ends: wp.array[wp.int32], i: int):
    """First entry of list ``i``."""
    if i == 0:
        return wp.int32(0)
    return ends[i - 1]


@wp.func
def place_of_segment(i: int, across: int, height: int, width: int, tile_width: int):
    """Frame, row, tile across, first and last column of a tile's row of pixels."""
    tile = i % across
    left = tile * tile_width
    return i // (across * height), (i // across) % height, tile, left, wp.min(left + tile_width, width) - 1


@wp.func
def columns_touched(disc: Any, row: int, left: int, right: int):
    """First and last column of a row's part that a disc may touch; last before first when none."""
    dv = disc[1] - disc.dtype(row)
    square = disc[3] * disc[3] - dv * dv
    if square > disc.dtype(0.0):
        half = wp.sqrt(square) + disc.dtype(1e-3) * disc[3]  # beyond rounding
        first = wp.max(disc[0] - half, disc.dtype(left))
        last = wp.min(disc[0] + half, disc.dtype(right))
        if first <= last:
            return wp.vec2i(int(first), int(last))
    return wp.vec2i(0, -1)


@wp.func
def squared_distance(disc: Any, row: int, column: int):
    """Squared distance between a disc's centre and a pixel's centre in the picture."""
    du = disc[0] - disc.dtype(column)
    dv = disc[1] - disc.dtype(row)
    return du * du + dv * dv


@wp.kernel(enable_backward=False, module="unique")
def count_splats_kernel(
    first: wp.int32,
    tile_ends: wp.array3d[wp.int32],  # [B, tiles down, tiles across]
    tile_discs: wp.array[Any],  # [M] vec4
    height: wp.int32,
    width: wp.int32,
    tile_height: wp.int32,
    tile_width: wp.int32,
    limit: wp.int32,
    # outputs
    counts: wp.array[wp.int32],  # [B H W]
):
    """Count the points shown by each pixel of one tile's row, up to a limit."""
    i = first + wp.tid()
    b, row, tile, left, right = place_of_segment(i, tile_ends.shape[2], height, width, tile_width)
    line = (b * height + row) * width
    unfilled = right - left + 1
    lists = tile_range(tile_ends, b, row // tile_height, tile)
    for entry in range(lists[0], lists[1]):
        disc = tile_discs[entry]
        columns = columns_touched(disc, row, left, right)
        for column in range(columns[0], columns[1] + 1):
            count = counts[line + column]
            if count < limit and squared_distance(disc, row, column) < disc[3] * disc[3]:
                counts[line + column] = count + 1
                if count + 1 == limit:
                    unfilled -= 1
        if unfilled == 0:
            break


@wp.kernel(enable_backward=False, module="unique")
def list_splats_kernel(
    first: wp.int32,
    tile_ends: wp.array3d[wp.int32],  # [B, tiles down, tiles across]
    tile_discs: wp.array[Any],  # [M] vec4
    height: wp.int32,
    width: wp.int32,
    tile_height: wp.int32,
    tile_width: wp.int32,
    tile_points: wp.array[wp.int32],  # [M]
    ends: wp.array[wp.int32],  # [B H W]
    # outputs
    cursors: wp.array[wp.int32],  # [B H W]
    point_index: wp.array[wp.int32],  # [N]
    depth: wp.array[Any],  # [N]
    distance: wp.array[Any],  # [N]
):
    """Write the points shown by each pixel of one tile's row into the pixel's list, from its cursor to its end."""
    i = first + wp.tid()
    b, row, tile, left, right = place_of_segment(i, tile_ends.shape[2], height, width, tile_width)
    line = (b * height + row) * width
    unfilled = wp.int32(0)
    for column in range(left, right + 1):
        if cursors[line + column] < ends[line + column]:
            unfilled += 1
    if unfilled == 0:
        return
    lists = tile_range(tile_ends, b, row // tile_height, tile)
    for entry in range(lists[0], lists[1]):
        disc = tile_discs[entry]
        columns = columns_touched(disc, row, left, right)
        for column in range(columns[0], columns[1] + 1):
            square = squared_distance(disc, row, column)
            slot = cursors[line + column]
            end = ends[line + column]
            if slot < end and square < disc[3] * disc[3]:
                point_index[slot] = tile_points[entry]
                depth[slot] = disc[2]
                distance[slot] = square
                cursors[line + column] = slot + 1
                if slot + 1 == end:
                    unfilled -= 1
        if unfilled == 0:
            break


@wp.kernel(enable_backward=False, module="unique")
def list_splats_vjp_kernel(
    points: wp.array2d[Any],  # [B, P] vec3
    height: wp.int32,
    width: wp.int32,
    ends: wp.array[wp.int32],  # [B H W]
    point_index: wp.array[wp.int32],  # [N]
    to_depth: wp.bool,
    grad_depth: wp.array[Any],  # [N]
    to_distance: wp.bool,
    grad_distance: wp.array[Any],  # [N]
    # outputs
    grad_points: wp.array3d[Any],  # [B, P, 3]
):
    """Gradient of the lists carried back to the points."""
    i = wp.tid()
    column = i % width
    row = (i // width) % height
    b = i // (width * height)
    for slot in range(list_begin(ends, i), ends[i]):
        p = point_index[slot]
        if p < 0:
            break
        if to_distance:
            twice = grad_distance[slot] + grad_distance[slot]
            point = points[b, p]
            wp.atomic_add(grad_points, b, p, 0, twice * (point[0] - point.dtype(column)))
            wp.atomic_add(grad_points, b, p, 1, twice * (point[1] - point.dtype(row)))
        if to_depth:
            wp.atomic_add(grad_points, b, p, 2, grad_depth[slot])


class _ListSplats(torch.autograd.Function):
    """Depth and distance of lists that are known to be as long as ``ends`` says."""

    @staticmethod
    def forward(
        ctx: Any,
        points: Tensor,
        tiles: TileLists,
        height: int,
        width: int,
        begins: Tensor,
        ends: Tensor,
        total: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        point_index = torch.full((total,), -1, dtype=torch.int32, device=points.device)
        depth, distance = points.new_zeros(total), points.new_zeros(total)
        if len(tiles.point_index):
            cursors = begins.clone()
            launch_split(
                list_splats_kernel,
                points,
                _segments(tiles, height) if total else (0,),
                [*_walk(tiles, height, width), ints(tiles.point_index), ints(ends)],
                [ints(cursors), ints(point_index), scalars(depth), scalars(distance)],
            )
        ctx.save_for_backward(points, ends, point_index)
        ctx.size = height, width
        ctx.mark_non_differentiable(point_index)
        ctx.set_materialize_grads(False)
        return point_index, depth, distance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: None, grad_depth: Tensor | None, grad_distance: Tensor | None) -> tuple[Any, ...]:
        points, ends, point_index = ctx.saved_tensors
        grad_points = torch.zeros_like(points)
        given = [None if x is None else x.contiguous() for x in (grad_depth, grad_distance)]
        either = next((x for x in given if x is not None), None)
        if either is not None:
            to_depth, to_distance = (scalars(either if x is None else x) for x in given)
            upstream = [given[0] is not None, to_depth, given[1] is not None, to_distance]
            launch(
                list_splats_vjp_kernel,
                points,
                (ends.numel() if points.numel() and len(point_index) else 0,),
                [vec3s(points), *ctx.size, ints(ends), ints(point_index), *upstream],
                [scalars(grad_points)],
            )
        return grad_points, None, None, None, None, None, None


def _walk(tiles: TileLists, height: int, width: int) -> list[Any]:
    """What a kernel needs to walk the list of a pixel's tile."""
    return [ints(tiles.ends), vec4s(tiles.discs), height, width, *tiles.tile]


def _segments(tiles: TileLists, height: int) -> tuple[int]:
    """Threads of a launch over the tiles' rows of pixels."""
    B, _, across = tiles.ends.shape
    return (B * height * across,)


def _prepare(
    points_pixel: Tensor, radius: float | Tensor, height: int, width: int, points_per_pixel: int, padded: bool
) -> tuple[Tensor, TileLists]:
    """Checked points and their tiles."""
    require_shapes(points_pixel=(points_pixel, "B P 3"))
    require_like("points_pixel", points_pixel)
    for name, size in (("height", height), ("width", width), ("points_per_pixel", points_per_pixel)):
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if padded:
        require_addressable("points_per_pixel", len(points_pixel) * height * width * points_per_pixel)
    if isinstance(radius, Tensor):
        pattern = "P" if radius.dim() == 1 else "B P"
        require_shapes(points_pixel=(points_pixel, "B P 3"), radius=(radius, pattern))
        require_like("points_pixel", points_pixel, radius=radius)
        radii = (radius if radius.dim() == 2 else radius[None]).detach()
    else:
        if not 0.0 < radius < float("inf"):
            raise ValueError(f"radius must be a finite number of pixels above 0, got {radius}")
        radii = points_pixel.new_full((1, 1), radius)
    points = points_pixel.contiguous()
    return points, tile_lists(points, radii, height, width)


def splat_points(
    points_pixel: Tensor, radius: float | Tensor, height: int, width: int, points_per_pixel: int = 8
) -> Splats:
    """Draw points as discs: the nearest points at every pixel centre, padded to the same number.

    Where few of the ``B H W K`` places are filled, :func:`splat_lists` holds the same in a fraction of memory and time.

    Args:
        points_pixel: Projected points ``(u, v, z)`` [pixel, pixel, m], ``[B, P, 3]``.
        radius: Radius of the discs [pixel]: one for all, one a point ``[P]``, or one a point and frame ``[B, P]``;
            constant to the gradient.
        height: Rows of the image.
        width: Columns of the image.
        points_per_pixel: How many points a pixel keeps, ``K``.

    Returns:
        The splats. Depth and distance are differentiable once in ``points_pixel`` with the points of each pixel held
        fixed.

    Raises:
        ValueError: A shape, dtype, device or size disagrees; the message names the argument.

    Source: PyTorch3D (Ravi et al. 2020) and SynSin (Wiles et al. 2020), point rasterization.
    """
    points, tiles = _prepare(points_pixel, radius, height, width, points_per_pixel, True)
    B, K = len(points), points_per_pixel
    ends = padded_ends(B * height * width, K, points.device)
    found = _ListSplats.apply(points, tiles, height, width, ends - K, ends, B * height * width * K)
    return Splats(*(x.view(B, height, width, K) for x in found))


def splat_lists(
    points_pixel: Tensor, radius: float | Tensor, height: int, width: int, points_per_pixel: int = 8
) -> SplatLists:
    """Draw points as discs: the nearest points at every pixel centre, without padding.

    Args:
        points_pixel: Projected points ``(u, v, z)`` [pixel, pixel, m], ``[B, P, 3]``.
        radius: Radius of the discs [pixel]: one for all, one a point ``[P]``, or one a point and frame ``[B, P]``;
            constant to the gradient.
        height: Rows of the image.
        width: Columns of the image.
        points_per_pixel: How many points a pixel keeps at most.

    Returns:
        The lists. Depth and distance are differentiable once in ``points_pixel`` with the points of each pixel held
        fixed.

    Raises:
        ValueError: A shape, dtype, device or size disagrees; the message names the argument.
    """
    points, tiles = _prepare(points_pixel, radius, height, width, points_per_pixel, False)
    counts = torch.zeros(len(points), height, width, dtype=torch.int32, device=points.device)
    if len(tiles.point_index):
        inputs = [*_walk(tiles, height, width), points_per_pixel]
        launch_split(count_splats_kernel, points, _segments(tiles, height), inputs, [ints(counts.view(-1))])
    ends = counts.view(-1).cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    require_addressable("points_per_pixel", total)
    ends = ends.int()
    found = _ListSplats.apply(points, tiles, height, width, ends - counts.view(-1), ends, total)
    return SplatLists(ends.view_as(counts), *found)


def padded_ends(pixels: int, each: int, device: torch.device) -> Tensor:
    """Ends of lists that are all equally long."""
    return torch.arange(1, pixels + 1, dtype=torch.int32, device=device) * each
