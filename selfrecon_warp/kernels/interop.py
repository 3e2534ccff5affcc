"""The only file that maps torch types to Warp types."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
import warp as wp
from torch import Tensor

SCALAR = {torch.float32: wp.float32, torch.float64: wp.float64}
VEC2 = {torch.float32: wp.vec2f, torch.float64: wp.vec2d}
VEC3 = {torch.float32: wp.vec3f, torch.float64: wp.vec3d}
VEC4 = {torch.float32: wp.vec4f, torch.float64: wp.vec4d}
MAT33 = {torch.float32: wp.mat33f, torch.float64: wp.mat33d}
LANE = {
    width: {
        torch.float32: wp.types.vector(width, wp.float32),
        torch.float64: wp.types.vector(width, wp.float64),
    }
    for width in (1, 2, 4, 8)
}
MAT34 = {
    torch.float32: wp.types.matrix((3, 4), wp.float32),
    torch.float64: wp.types.matrix((3, 4), wp.float64),
}
MAT44 = {torch.float32: wp.mat44f, torch.float64: wp.mat44d}


CPU_FLAGS = "-march=native -ffp-contract=fast"
"""Module option of arithmetic-bound kernels: the default, and a product and a sum may become one instruction."""
SPLIT_GRAIN = 4096
"""Fewest rows a thread is given: below it, handing work over costs more than it saves."""

_SETTLED: dict[tuple[Any, ...], Any] = {}
_VIEW = type(wp.from_torch(torch.empty(1), return_ctype=True))
"""What a tensor is to a kernel: a pointer, a shape and strides, here with the ``dtype`` as well."""


def launch(
    kernel: Any, like: Tensor, dim: tuple[int, ...], inputs: list[Any], outputs: list[Any], **adjoint: Any
) -> None:
    """Launch on the device and stream that own ``like``; nothing to do when ``dim`` holds a zero."""
    if 0 in dim:
        return
    device = wp.device_from_torch(like.device)
    stream = wp.stream_from_torch(like.device) if like.is_cuda else None
    kernel = _settled(kernel, [*inputs, *outputs], dim, device, **adjoint)
    wp.launch(kernel, dim, inputs, outputs, device=device, stream=stream, record_tape=False, **adjoint)


def launch_split(
    kernel: Any,
    like: Tensor,
    dim: tuple[int, ...],
    inputs: list[Any],
    outputs: list[Any],
    *,
    axis: int = 0,
    grain: int = SPLIT_GRAIN,
) -> None:
    """Launch a kernel that writes each output entry from one thread only; on the CPU several threads share the rows.

    Warp's CPU backend runs a launch in one thread; a launch releases the interpreter's lock, so launches over disjoint
    rows run side by side, as many as ``torch.get_num_threads()``. The kernel's first argument is the row that index 0
    of ``axis`` stands for: it must add it to ``wp.tid()``, and it must not add to memory that another row writes,
    because atomics on the CPU are plain reads and writes. On a GPU this is one launch from row 0.

    Args:
        kernel: Its first parameter is ``first: wp.int32``; ``inputs`` holds the others.
        like: Tensor whose device and stream are used.
        dim: Threads of the whole launch.
        inputs: All inputs but the first.
        outputs: Outputs.
        axis: Dimension whose rows are shared out.
        grain: Fewest rows a thread is given.
    """
    _launch_parts(kernel, like, dim, inputs, [outputs] * split_parts(like, dim[axis], grain), axis)


def scatter_split(
    kernel: Any,
    like: Tensor,
    rows: int,
    inputs: list[Any],
    shape: tuple[int, ...],
    *,
    view: Callable[[Tensor], Any] | None = None,
    outputs: tuple[Any, ...] = (),
    in_order: bool = False,
    grain: int = SPLIT_GRAIN,
) -> Tensor:
    """What the rows of a kernel add up to; on the CPU several threads share the rows, each with a sum of its own.

    The kernel is one of :func:`launch_split`'s but for its last output, which its rows may add to wherever they like.

    Args:
        kernel: Its first parameter is ``first: wp.int32``, its last the array that is added to.
        like: Tensor whose device, stream and dtype are used.
        rows: Threads of the whole launch; with none the sum is zero.
        inputs: All inputs but the first.
        shape: Of the sum.
        view: How the kernel sees the sum; as a row of 3-vectors where absent.
        outputs: Outputs before the last, each entry of which is written by one row only.
        in_order: Leave the CPU's rows to one thread, for sums that are the same whatever the number of threads, and
            where the sum is larger than what is added to it.
        grain: Fewest rows a thread is given.
    """
    sums = [cleared(like, *shape) for _ in range(1 if in_order else split_parts(like, rows, grain))]
    view = view or (lambda part: vec3s(part.view(-1, 3)))
    _launch_parts(kernel, like, (rows,), inputs, [[*outputs, view(part)] for part in sums], 0)
    total = sums[0]
    for part in sums[1:]:  # there is but one on a GPU; NumPy's sum leaves no threads of torch's spinning
        np.add(total.numpy(), part.numpy(), out=total.numpy())
    return total


def _launch_parts(
    kernel: Any, like: Tensor, dim: tuple[int, ...], inputs: list[Any], outputs: list[list[Any]], axis: int
) -> None:
    """Launch as many parts of the rows as there are outputs, side by side."""
    threads = len(outputs)
    if threads == 1:
        launch(kernel, like, dim, [0, *inputs], outputs[0])
        return
    device = wp.device_from_torch(like.device)
    kernel = _settled(kernel, [0, *inputs, *outputs[0]], dim, device)
    bounds = [dim[axis] * k // threads for k in range(threads + 1)]

    def part(k: int) -> Any:
        share = (*dim[:axis], bounds[k + 1] - bounds[k], *dim[axis + 1 :])
        return wp.launch(
            kernel, share, [bounds[k], *inputs], outputs[k], device=device, record_tape=False, record_cmd=True
        )

    parts = [part(k) for k in range(threads)]  # recorded by one thread: two must not resolve types or compile at once
    others = [_threads(threads - 1).submit(each.launch) for each in parts[1:]]
    parts[0].launch()
    for other in others:
        other.result()


def split_parts(like: Tensor, rows: int, grain: int = SPLIT_GRAIN) -> int:
    """Number of threads that :func:`launch_split` shares ``rows`` among: at least 1, and 1 on a GPU."""
    return 1 if like.is_cuda else max(1, min(torch.get_num_threads(), -(-rows // grain)))


def cleared(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """Zeros on the device of ``like``, and of its dtype unless another is given.

    On a CPU, memory is set by one thread: a fill that torch shares out leaves its workers spinning on the cores that
    the next :func:`launch_split` needs.
    """
    if like.is_cuda:
        return torch.zeros(shape, dtype=dtype or like.dtype, device=like.device)
    return clear(torch.empty(shape, dtype=dtype or like.dtype))


def clear(tensor: Tensor) -> Tensor:
    """Set a contiguous tensor to zero, on a CPU by one thread as :func:`cleared` does; returns it."""
    if tensor.is_cuda:
        return tensor.zero_()
    ctypes.memset(tensor.data_ptr(), 0, tensor.nbytes)
    return tensor


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="selfrecon-warp")


def _settled(kernel: Any, arguments: list[Any], dim: tuple[int, ...], device: Any, **adjoint: Any) -> Any:
    """The kernel to launch with arguments of these types, which Warp has checked when they were met first.

    Views are passed to Warp as they are, and it takes them at their word.
    """
    given = [*arguments, *adjoint.get("adj_inputs", ()), *adjoint.get("adj_outputs", ())]
    types = tuple([(each.dtype, each.ndim) if isinstance(each, _VIEW) else type(each) for each in given])
    settled = _SETTLED.get((kernel, types))
    if settled is None:
        arguments = [_stand_in(each) for each in arguments]
        settled = _specialised(kernel, arguments) if kernel.is_generic else kernel
        adjoint |= {key: [_stand_in(each) for each in group] for key, group in adjoint.items() if key != "adjoint"}
        wp.launch(settled, dim, arguments, device=device, record_tape=False, record_cmd=True, **adjoint)
        _SETTLED[kernel, types] = settled
    return settled


def _specialised(kernel: Any, arguments: list[Any]) -> Any:
    """The overload of a generic kernel for arguments of these types, in a Warp module of its own.

    In one shared module, every kernel met with new types would have all kernels compiled again, in an order that the
    cache on disk would never see twice.
    """
    types = [getattr(argument, "dtype", type(argument)) for argument in arguments]
    names = "_".join(dict.fromkeys(_type_name(each) for each in types))
    module = wp.get_module(f"{kernel.module.name}.{kernel.key}.{names}")
    wp.set_module_options(dict(kernel.module.options), module)
    generic = module.kernels.get(kernel.key) or wp.kernel(kernel.func, module=module, **kernel.options)
    return generic.add_overload(generic.infer_argument_types(arguments))


def _stand_in(argument: Any) -> Any:
    """An empty Warp array of the type that a view has; anything else as it is."""
    if isinstance(argument, _VIEW):
        return wp.empty((0,) * argument.ndim, dtype=argument.dtype, device="cpu")
    return argument


def _type_name(dtype: Any) -> str:
    """Short name of a Warp or Python type, such as ``float32x3``."""
    scalar = getattr(dtype, "_wp_scalar_type_", dtype)
    return "x".join([scalar.__name__, *map(str, getattr(dtype, "_shape_", ()))])


def _view(tensor: Tensor | None, dtypes: dict[torch.dtype, Any]) -> Any:
    """View a tensor as a kernel's argument without copying; ``None`` when absent or empty."""
    if tensor is None or tensor.numel() == 0:
        return None
    dtype = dtypes[tensor.dtype]
    view = wp.from_torch(tensor, dtype=dtype, requires_grad=False, return_ctype=True)
    view.dtype = dtype
    return view


@cache
def absent(dtype: Any, dimensions: int = 1) -> Any:
    """What a kernel is given for an array it may do without: one of no entries, but of a type."""
    view = wp.empty((0,) * dimensions, dtype=dtype, device="cpu").__ctype__()
    view.dtype = dtype
    return view


def scalars(tensor: Tensor | None) -> Any:
    """View ``[...]`` floats as Warp scalars."""
    return _view(tensor, SCALAR)


def ints(tensor: Tensor | None) -> Any:
    """View ``[...]`` int32 or int64 values as Warp integers."""
    return _view(tensor, {torch.int32: wp.int32, torch.int64: wp.int64})


def bools(tensor: Tensor | None) -> Any:
    """View ``[...]`` booleans as Warp booleans."""
    return _view(tensor, {torch.bool: wp.bool})


def vec2s(tensor: Tensor | None) -> Any:
    """View ``[..., 2]`` as Warp vectors."""
    return _view(tensor, VEC2)


def vec3s(tensor: Tensor | None) -> Any:
    """View ``[..., 3]`` as Warp vectors."""
    return _view(tensor, VEC3)


def vec3is(tensor: Tensor | None) -> Any:
    """View ``[..., 3]`` int32 as Warp vectors."""
    return _view(tensor, {torch.int32: wp.vec3i})


def vec4s(tensor: Tensor | None) -> Any:
    """View ``[..., 4]`` as Warp vectors."""
    return _view(tensor, VEC4)


def mat33s(tensor: Tensor | None) -> Any:
    """View ``[..., 3, 3]`` as Warp matrices."""
    return _view(tensor, MAT33)


def mat34s(tensor: Tensor | None) -> Any:
    """View ``[..., 3, 4]`` as Warp matrices."""
    return _view(tensor, MAT34)


def mat44s(tensor: Tensor | None) -> Any:
    """View ``[..., 4, 4]`` as Warp matrices."""
    return _view(tensor, MAT44)


def lanes(tensor: Tensor, channels: int) -> Any:
    """View contiguous ``[..., n * channels]`` as Warp vectors as wide as divides ``channels``: 8, 4, 2 or 1."""
    width = next(width for width in (8, 4, 2, 1) if channels % width == 0)
    if tensor.numel() == 0:
        return None
    return _view(tensor.view(-1).view(*tensor.shape[:-1], -1, width), LANE[width])
