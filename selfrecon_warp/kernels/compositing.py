"""The blend of what lies at each pixel, front to back or all alike, over padded or list-shaped layers.

What a pixel shows is one list after the other, as :class:`~selfrecon_warp.kernels.splat.SplatLists` stores it; the
padded form is the case where all lists are equally long.
"""

from __future__ import annotations

from typing import Any

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.arguments import require_indices, require_like, require_range
from selfrecon_warp.kernels.interop import ints, launch_split, scalars, scatter_split
from selfrecon_warp.kernels.splat import list_begin, padded_ends


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
    first: wp.int32,
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
    i = wp.tid() + first
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
            inputs = [scalars(alphas), ints(ends), ints(point_index), *ctx.options, scalars(grad_blend)]
            shape = features.shape
            to_features = scatter_split(composite_to_features_kernel, alphas, *extent, inputs, shape, view=scalars)
        return to_alphas, None, None, to_features, None, None


def _extent(ends: Tensor, *inputs: Tensor) -> tuple[int]:
    """Threads of a launch over pixels: none where there is nothing to blend."""
    return (ends.numel() if all(x.numel() for x in inputs) else 0,)


def _composite(alphas: Tensor, point_index: Tensor, features: Tensor, ends: Tensor | None, occlude: bool) -> Tensor:
    pattern = "B H W K" if ends is None else "N"
    sizes = require_shapes(alphas=(alphas, pattern), point_index=(point_index, pattern))
    require_like("alphas", alphas, features=features)
    require_indices("alphas", alphas, point_index=point_index)
    if ends is None:
        B, H, W = alphas.shape[:3]
        last = padded_ends(B * H * W, sizes["K"], alphas.device)
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
