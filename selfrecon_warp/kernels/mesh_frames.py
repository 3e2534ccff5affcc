"""What the operations on a mesh's vertices share: their arguments, and sums that leave torch's threads asleep.

Torch's worker threads spin for a while after every operation that it shares out, on the cores that the next launch is
split over; so between the launches of one operation torch has nothing large to do.
"""

from __future__ import annotations

from typing import Any

import torch
import warp as wp
from torch import Tensor

from selfrecon_warp.checks import require_shapes
from selfrecon_warp.kernels.interop import VEC3, ints, launch_split, require_like, scalars, vec3is, vec3s
from selfrecon_warp.kernels.topology import MeshCorners

_BLOCK = wp.constant(256)
_GRAIN = 64
"""Fewest blocks of a sum that a thread is given."""

wp.set_module_options({"enable_backward": False})


@wp.kernel
def sum_blocks_kernel(
    first: wp.int32,
    terms: wp.array[Any],  # [N]
    # outputs
    sums: wp.array[Any],  # [N / _BLOCK], rounded up
):
    block = wp.tid() + first
    total = wp.float64(0.0)
    for n in range(block * _BLOCK, wp.min((block + 1) * _BLOCK, terms.shape[0])):
        total += wp.float64(terms[n])
    sums[block] = sums.dtype(total)


@wp.kernel
def scale_kernel(
    first: wp.int32,
    values: wp.array2d[Any],  # [B, V] vec3
    scale: wp.array[Any],  # [1]
    # outputs
    scaled: wp.array2d[Any],  # [B, V] vec3
):
    b, i = wp.tid()
    i += first
    scaled[b, i] = values[b, i] * scale[0]


def require_vertices(vertices: Tensor) -> None:
    """Check that ``vertices`` are ``[V, 3]`` or ``[B, V, 3]`` floats.

    Raises:
        ValueError: They are not.
    """
    require_shapes(vertices=(vertices, "V 3" if vertices.dim() == 2 else "B V 3"))
    require_like("vertices", vertices)


def as_frames(vertices: Tensor) -> Tensor:
    """``[V, 3]`` or ``[B, V, 3]`` as contiguous ``[B, V, 3]``."""
    vertices = vertices.contiguous()
    return vertices if vertices.dim() == 3 else vertices[None]


def recorded(vertices: Tensor) -> bool:
    """Whether a gradient may be asked for."""
    return torch.is_grad_enabled() and vertices.requires_grad


def corner_tables(corners: MeshCorners) -> list[Any]:
    """Faces, first corner of each vertex and corners, as kernels take them."""
    return [vec3is(corners.faces), ints(corners.start), ints(corners.corner)]


def total(terms: Tensor) -> Tensor:
    """Sum of all entries of ``[B, N]``, blocks of them first, in double precision."""
    blocks = terms.new_empty(-(-terms.numel() // _BLOCK))
    launch_split(
        sum_blocks_kernel, terms, tuple(blocks.shape), [scalars(terms.view(-1))], [scalars(blocks)], grain=_GRAIN
    )
    return blocks.sum()


def scaled(values: Tensor, scale: Tensor) -> Tensor:
    """``[B, V, 3]`` times one number."""
    result = torch.empty_like(values)
    inputs = [vec3s(values), scalars(scale.reshape(1))]
    launch_split(scale_kernel, values, values.shape[:2], inputs, [vec3s(result)], axis=1)
    return result


def optional_vec3s(tensor: Tensor | None, like: Tensor) -> Any:
    """View ``[B, N, 3]`` as Warp vectors; an array of no entries, but of a type, when absent or empty."""
    if tensor is None or tensor.numel() == 0:
        return wp.empty((0, 0), dtype=VEC3[like.dtype], device=wp.device_from_torch(like.device))
    return vec3s(tensor)
