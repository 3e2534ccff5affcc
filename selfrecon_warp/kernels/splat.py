"""Points to discs in the picture: which points each pixel shows, how far away, and their blend.

Points are projected already: ``(u, v, z)`` with ``u`` right and ``v`` down in pixels and ``z`` the depth along the
camera's axis in metres. Integer coordinates are pixel centres, so pixel ``[row, column]`` samples ``(u, v) = (column,
row)``.

Rules, the same on every device:

* A pixel shows a point when the squared distance between the two is less than the squared radius.
* A pixel keeps the ``points_per_pixel`` nearest by depth, nearest first; equal depths go to the lower index.
* Points at ``z <= NEAR``, with a coordinate that is not finite or with a radius that is not above zero are skipped.

One thread draws one tile's row of pixels: it walks the tile's points front to back until each of its pixels is full.
What the pixels show is stored as one list after the other; the padded form is the case where all are equally long.
Drawing and blending share this file because they share that layout. PyTorch3D counts in NDC: for a square
image of S pixels its radius is ours times ``2 / S``, its squared distance ours times ``(2 / S)^2``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.interop import (
    ints,
    launch,
    launch_split,
    require_indices,
    require_like,
    scalars,
    vec3s,
    vec4s,
)
from selfrecon_warp.kernels.point_tiles import TileLists, require_addressable, tile_lists, tile_range
from selfrecon_warp.kernels.rasterize import require_range


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
    across = tile_ends.shape[2]
    row = (i // across) % height
    b = i // (across * height)
    left = (i % across) * tile_width
    right = wp.min(left + tile_width, width) - 1
    line = (b * height + row) * width
    unfilled = right - left + 1
    lists = tile_range(tile_ends, b, row // tile_height, i % across)
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
    across = tile_ends.shape[2]
    row = (i // across) % height
    b = i // (across * height)
    left = (i % across) * tile_width
    right = wp.min(left + tile_width, width) - 1
    line = (b * height + row) * width
    unfilled = wp.int32(0)
    for column in range(left, right + 1):
        if cursors[line + column] < ends[line + column]:
            unfilled += 1
    if unfilled == 0:
        return
    lists = tile_range(tile_ends, b, row // tile_height, i % across)
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


@wp.kernel(enable_backward=False, module="unique")
def composite_kernel(
    first: wp.int32,
    alphas: wp.array[Any],  # [N]
    ends: wp.array[wp.int32],  # [B H W]
    point_index: wp.array[wp.int32],  # [N]
    features: wp.array3d[Any],  # [1 or B, P, C]
    pixels: wp.int32,
    occlude: wp.bool,
    # outputs
    blend: wp.array2d[Any],  # [B H W, C]
):
    """Sum of the features of a pixel's points, each weighted by its alpha and by what those before it let through."""
    i = first + wp.tid()
    f = wp.min(i // pixels, features.shape[0] - 1)
    through = alphas.dtype(1.0)
    for slot in range(list_begin(ends, i), ends[i]):
        p = point_index[slot]
        if p >= 0:
            alpha = alphas[slot]
            weight = alpha * through
            for c in range(features.shape[2]):
                blend[i, c] = blend[i, c] + weight * features[f, p, c]
            if occlude:
                through *= alphas.dtype(1.0) - alpha


@wp.kernel(enable_backward=False, module="unique")
def composite_to_alphas_kernel(
    first: wp.int32,
    alphas: wp.array[Any],  # [N]
    ends: wp.array[wp.int32],  # [B H W]
    point_index: wp.array[wp.int32],  # [N]
    features: wp.array3d[Any],  # [1 or B, P, C]
    pixels: wp.int32,
    occlude: wp.bool,
    grad_blend: wp.array2d[Any],  # [B H W, C]
    # outputs
    grad_alphas: wp.array[Any],  # [N]
):
    """Gradient of the blend along the alphas: back to front, a point hides what lies behind it."""
    i = first + wp.tid()
    f = wp.min(i // pixels, features.shape[0] - 1)
    one = alphas.dtype(1.0)
    begin = list_begin(ends, i)
    end = ends[i]
    through = alphas.dtype(1.0)
    filled = begin
    for slot in range(begin, end):  # leaves behind what reaches each point
        if point_index[slot] >= 0:
            filled = slot + 1
            grad_alphas[slot] = through
            if occlude:
                through *= one - alphas[slot]
    behind = alphas.dtype(0.0)
    for back in range(filled - begin):
        slot = filled - 1 - back
        p = point_index[slot]
        if p >= 0:
            own = alphas.dtype(0.0)
            for c in range(features.shape[2]):
                own += grad_blend[i, c] * features[f, p, c]
            grad_alphas[slot] = grad_alphas[slot] * (own - behind)
            if occlude:
                behind = alphas[slot] * own + (one - alphas[slot]) * behind


@wp.kernel(enable_backward=False, module="unique")
def composite_to_features_kernel(
    alphas: wp.array[Any],  # [N]
    ends: wp.array[wp.int32],  # [B H W]
    point_index: wp.array[wp.int32],  # [N]
    pixels: wp.int32,
    occlude: wp.bool,
    grad_blend: wp.array2d[Any],  # [B H W, C]
    # outputs
    grad_features: wp.array3d[Any],  # [1 or B, P, C]
):
    """Gradient of the blend carried back to the features."""
    i = wp.tid()
    f = wp.min(i // pixels, grad_features.shape[0] - 1)
    through = alphas.dtype(1.0)
    for slot in range(list_begin(ends, i), ends[i]):
        p = point_index[slot]
        if p >= 0:
            weight = alphas[slot] * through
            for c in range(grad_blend.shape[1]):
                wp.atomic_add(grad_features, f, p, c, weight * grad_blend[i, c])
            if occlude:
                through *= alphas.dtype(1.0) - alphas[slot]


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


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, alphas: Tensor, ends: Tensor, point_index: Tensor, features: Tensor, pixels: int, occlude: bool
    ) -> Tensor:
        blend = alphas.new_zeros(ends.numel(), features.shape[2])
        ctx.save_for_backward(alphas, ends, point_index, features)
        ctx.options = pixels, occlude
        inputs = [scalars(alphas), ints(ends), ints(point_index), scalars(features), pixels, occlude]
        launch_split(composite_kernel, alphas, _extent(ends, alphas, features), inputs, [scalars(blend)])
        return blend

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_blend: Tensor) -> tuple[Tensor | None, ...]:
        alphas, ends, point_index, features = ctx.saved_tensors
        grad_blend = grad_blend.contiguous()
        to_alphas, to_features = None, None
        extent = _extent(ends, alphas, features)
        if ctx.needs_input_grad[0]:
            to_alphas = torch.zeros_like(alphas)
            inputs = [scalars(alphas), ints(ends), ints(point_index), scalars(features), *ctx.options]
            inputs.append(scalars(grad_blend))
            launch_split(composite_to_alphas_kernel, alphas, extent, inputs, [scalars(to_alphas)])
        if ctx.needs_input_grad[3]:
            to_features = torch.zeros_like(features)
            inputs = [scalars(alphas), ints(ends), ints(point_index), *ctx.options, scalars(grad_blend)]
            launch(composite_to_features_kernel, alphas, extent, inputs, [scalars(to_features)])
        return to_alphas, None, None, to_features, None, None


def _extent(ends: Tensor, *inputs: Tensor) -> tuple[int]:
    """Threads of a launch over pixels: none where there is nothing to blend."""
    return (ends.numel() if all(x.numel() for x in inputs) else 0,)


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
    ends = _padded_ends(B * height * width, K, points.device)
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


def _padded_ends(pixels: int, each: int, device: torch.device) -> Tensor:
    """Ends of lists that are all equally long."""
    return torch.arange(1, pixels + 1, dtype=torch.int32, device=device) * each


def _composite(alphas: Tensor, point_index: Tensor, features: Tensor, ends: Tensor | None, occlude: bool) -> Tensor:
    pattern = "B H W K" if ends is None else "N"
    sizes = require_shapes(alphas=(alphas, pattern), point_index=(point_index, pattern))
    require_like("alphas", alphas, features=features)
    require_indices("alphas", alphas, point_index=point_index)
    if ends is None:
        B, H, W = alphas.shape[:3]
        last = _padded_ends(B * H * W, sizes["K"], alphas.device)
    else:
        B, H, W = (require_shapes(ends=(ends, "B H W"))[letter] for letter in "BHW")
        require_indices("alphas", alphas, ends=ends)
        last = _list_ends(ends, len(alphas))
    require_shapes(features=(features, "P C" if features.dim() == 2 else "B P C"))
    shaped = (features if features.dim() == 3 else features[None]).contiguous()
    if features.dim() == 3 and len(shaped) != B:
        raise ValueError(f"features must have shape [P, C] or [B={B}, P, C], got {list(features.shape)}")
    require_range("point_index", point_index, -1, shaped.shape[1])
    index = point_index.to(torch.int32).reshape(-1).contiguous()
    blend: Tensor = _Composite.apply(alphas.reshape(-1).contiguous(), last, index, shaped, H * W, occlude)
    return blend.view(B, H, W, shaped.shape[2])


def _list_ends(ends: Tensor, total: int) -> Tensor:
    """Flat int32 ends, checked to rise to ``total``."""
    flat = ends.reshape(-1).contiguous()
    require_range("ends", flat, 0, total + 1)
    if bool((flat.diff() < 0).any()) or (int(flat[-1]) if len(flat) else 0) != total:
        raise ValueError(f"ends must not fall and must end at the {total} entries of alphas; pass SplatLists.ends")
    return flat.int()


def composite_alpha(alphas: Tensor, point_index: Tensor, features: Tensor, ends: Tensor | None = None) -> Tensor:
    """Blend features front to back: ``sum_k alpha_k f_k prod_{j<k} (1 - alpha_j)``.

    Args:
        alphas: Share of the light that each point takes, ``[B, H, W, K]``, or ``[N]`` with ``ends``.
        point_index: Row of ``features`` of each entry, nearest first, shaped as ``alphas``; -1 for none.
        features: Values at the points, ``[P, C]`` for every frame or ``[B, P, C]``.
        ends: Where each pixel's list ends, ``SplatLists.ends`` ``[B, H, W]``; absent for padded splats.

    Returns:
        Blended features, ``[B, H, W, C]``; differentiable once in ``alphas`` and ``features``, alphas of one included.

    Raises:
        ValueError: A shape, dtype, device or index disagrees; the message names the argument.

    Source: Porter and Duff 1984; PyTorch3D's ``alpha_composite``.
    """
    return _composite(alphas, point_index, features, ends, True)


def composite_weighted(alphas: Tensor, point_index: Tensor, features: Tensor, ends: Tensor | None = None) -> Tensor:
    """Blend features as if nothing hid anything: ``sum_k alpha_k f_k``.

    Args:
        alphas: Weight of each point, ``[B, H, W, K]``, or ``[N]`` with ``ends``.
        point_index: Row of ``features`` of each entry, shaped as ``alphas``; -1 for none.
        features: Values at the points, ``[P, C]`` for every frame or ``[B, P, C]``.
        ends: Where each pixel's list ends, ``SplatLists.ends`` ``[B, H, W]``; absent for padded splats.

    Returns:
        Blended features, ``[B, H, W, C]``; differentiable once in ``alphas`` and ``features``.

    Raises:
        ValueError: A shape, dtype, device or index disagrees; the message names the argument.

    Source: PyTorch3D's ``weighted_sum``.
    """
    return _composite(alphas, point_index, features, ends, False)
