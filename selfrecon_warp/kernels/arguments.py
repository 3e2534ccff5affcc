"""What operations check of their arguments beyond shapes: dtypes, devices, sizes and indices."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from selfrecon_warp.kernels.interop import SCALAR


def require_like(name: str, tensor: Tensor, **others: Tensor) -> None:
    """Check that ``tensor`` is float32 or float64 and that the others share its dtype and device.

    Raises:
        ValueError: They do not; the message names the argument.
    """
    if tensor.dtype not in SCALAR:
        raise ValueError(f"{name} must be float32 or float64, got {tensor.dtype}; convert it with .to()")
    for other_name, other in others.items():
        if (other.dtype, other.device) != (tensor.dtype, tensor.device):
            expected, found = f"{tensor.dtype} on {tensor.device}", f"{other.dtype} on {other.device}"
            raise ValueError(f"{other_name} must be {expected} like {name}, got {found}; convert it with .to({name})")


def require_indices(like_name: str, like: Tensor, **indices: Tensor) -> None:
    """Check that index tensors hold int32 or int64 and lie on the device of ``like``.

    Raises:
        ValueError: One does not; the message names the argument.
    """
    for name, index in indices.items():
        if index.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"{name} must be int32 or int64, got {index.dtype}; convert it with .int()")
        if index.device != like.device:
            raise ValueError(
                f"{name} must be on {like.device} like {like_name}, got {index.device}; move it with .to()"
            )


def require_sizes(**sizes: int) -> None:
    """Check that counts of pixels, or of layers, are positive.

    Raises:
        ValueError: One is not; the message names it.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def require_range(name: str, index: Tensor, low: int, end: int) -> None:
    """Check that every index lies in ``low <= index < end``.

    Raises:
        ValueError: One does not; the message names the argument and what it holds.
    """
    if index.numel():
        # NumPy finds both ends ten times as fast as torch, which shares a reduction of integers out badly on the CPU.
        on_cpu = index.device.type == "cpu"
        array = index.detach().numpy() if on_cpu else torch.stack(torch.aminmax(index)).cpu().numpy()
        least, greatest = int(array.min()), int(array.max())
        if least < low or greatest >= end:
            raise ValueError(f"{name} must hold indices from {low} to {end - 1}, got {least} to {greatest}")


def triangles(faces: Tensor, vertex_count: int, device: torch.device | None = None) -> Tensor:
    """Faces as contiguous int32, checked to stay inside the vertex array.

    Raises:
        ValueError: ``faces`` holds something other than int32 or int64, an index out of range, or lies elsewhere than
            on ``device``.
    """
    if faces.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"faces must be int32 or int64, got {faces.dtype}; convert them with .int()")
    if device is not None and faces.device != device:
        raise ValueError(f"faces must be on {device} like the vertices, got {faces.device}; move them with .to()")
    require_range("faces", faces, 0, vertex_count)
    return faces.to(torch.int32).contiguous()


def require_radius(name: str, radius: float) -> None:
    """Check a radius in pixels.

    Raises:
        ValueError: It is negative or not finite; the message names it.
    """
    if not 0 <= radius < math.inf:
        raise ValueError(f"{name} must be a finite number of pixels, 0 or more, got {radius}")
