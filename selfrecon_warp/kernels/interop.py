"""The only file that maps torch types to Warp types.

It is long because launches are kept by the types of the views that are made here, and both change together.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
import warp as wp
from torch import Tensor

SCALAR = {torch.float32: wp.float32, torch.float64: wp.float64}
VEC2 = {torch.float32: wp.vec2f, torch.float64: wp.vec2d}
VEC3 = {torch.float32: wp.vec3f, torch.float64: wp.vec3d}
VEC4 = {torch.float32: wp.vec4f, torch.float64: wp.vec4d}
VEC4I = wp.types.vector(4, wp.int32)
MAT33 = {torch.float32: wp.mat33f, torch.float64: wp.mat33d}
LANE = {
    width: {
        torch.float32: wp.types.vector(width, wp.float32),
        torch.float64: wp.types.vector(width, wp.float64),
    }
    for width in (1, 2, 4, 8, 16)
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
_NOTHING = _VIEW()


def launch(
    kernel: Any, like: Tensor, dim: tuple[int, ...], inputs: list[Any], outputs: list[Any], **adjoint: Any
) -> None:
    """Launch on the device and stream that own ``like``; nothing to do when ``dim`` holds a zero."""
    if 0 in dim:
        return
    if not (like.is_cuda or adjoint):
        _recorded(kernel, dim, [*inputs, *outputs]).launch()
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
    launch_parts(kernel, like, dim, inputs, [outputs] * split_parts(like, dim[axis], grain), axis)


def scatter_split(
    kernel: Any,
    like: Tensor,
    rows: int,
    inputs: list[Any],
    shape: tuple[int, ...],
    *,
    view: Callable[[Tensor], Any] | None = None,
    outputs: tuple[Any, ...] = (),
    parts: int = 0,
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
        parts: Sums that a CPU makes, if there are rows enough, whatever the number of threads: then the result does not
            depend on it. As many as there are threads where 0.
        grain: Fewest rows a thread is given.
    """
    count = split_parts(like, rows, grain) if parts == 0 or like.is_cuda else max(1, min(parts, -(-rows // grain)))
    sums = [cleared(like, *shape) for _ in range(count)]
    view = view or (lambda part: vec3s(part.view(-1, 3)))
    launch_parts(kernel, like, (rows,), inputs, [[*outputs, view(part)] for part in sums])
    total = sums[0]
    for part in sums[1:]:  # there is but one on a GPU; NumPy's sum leaves no threads of torch's spinning
        np.add(total.numpy(), part.numpy(), out=total.numpy())
    return total


def launch_parts(
    kernel: Any, like: Tensor, dim: tuple[int, ...], inputs: list[Any], outputs: list[list[Any]], axis: int = 0
) -> None:
    """Launch as many parts of the rows as there are outputs, one after the other or, on a CPU, in threads side by side.

    The kernel is one of :func:`launch_split`'s but for outputs of the part's own, to which its rows may add.

    Args:
        kernel: Its first parameter is ``first: wp.int32``; ``inputs`` holds the others.
        like: Tensor whose device and stream are used.
        dim: Threads of the whole launch.
        inputs: All inputs but the first.
        outputs: Outputs of each part.
        axis: Dimension whose rows are shared out.
    """
    parts = len(outputs)
    if parts == 1:
        launch(kernel, like, dim, [0, *inputs], outputs[0])
        return
    bounds = [dim[axis] * k // parts for k in range(parts + 1)]
    shares = [(*dim[:axis], bounds[k + 1] - bounds[k], *dim[axis + 1 :]) for k in range(parts)]
    arguments = [[bounds[k], *inputs, *outputs[k]] for k in range(parts)]
    threads = split_parts(like, parts, 1)
    if threads == 1:
        for share, given in zip(shares, arguments, strict=True):
            launch(kernel, like, share, given, [])
        return
    # recorded by one thread: two must not resolve types or compile at once
    commands = [_recorded(kernel, shares[k], arguments[k], k) for k in range(parts)]
    others = [_threads(threads - 1).submit(each.launch) for each in commands[1:]]
    commands[0].launch()
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


class _Command:
    """A launch on a CPU that is recorded once and given other arguments each time, in half the time of a new one.

    What it was given is let go of after each launch, for tensors live as long as views of them.
    """

    def __init__(self, kernel: Any, dim: tuple[int, ...], arguments: list[Any]) -> None:
        device = wp.get_device("cpu")
        settled = _settled(kernel, arguments, dim, device)
        arguments = [_stand_in(each) for each in arguments]
        self._launch = wp.launch(settled, dim, arguments, device=device, record_tape=False, record_cmd=True)
        self._dim = dim
        self._arrays = [n for n, each in enumerate(arguments) if isinstance(each, wp.array)]

    def prepare(self, dim: tuple[int, ...], arguments: list[Any]) -> _Command:
        """Take arguments of the types that it was recorded with."""
        if dim != self._dim:
            self._launch.set_dim(dim)
            self._dim = dim
        for n, each in enumerate(arguments):
            if type(each) is _VIEW or type(each) is int:
                self._launch.set_param_at_index_from_ctype(n, each)
            elif each is not None:
                self._launch.set_param_at_index(n, each)
        return self

    def launch(self) -> None:
        self._launch.launch()
        for n in self._arrays:
            self._launch.set_param_at_index_from_ctype(n, _NOTHING)


class _Commands(threading.local):
    """The commands of one thread, by kernel, types of the arguments and part of the rows."""

    def __init__(self) -> None:
        self.recorded: dict[tuple[Any, ...], _Command] = {}


_COMMANDS = _Commands()


def _recorded(kernel: Any, dim: tuple[int, ...], arguments: list[Any], part: int = 0) -> _Command:
    """The calling thread's command for arguments of these types, ready to launch."""
    key = kernel, part, _types(arguments)
    command = _COMMANDS.recorded.get(key)
    if command is None:
        command = _COMMANDS.recorded[key] = _Command(kernel, dim, arguments)
    return command.prepare(dim, arguments)


def _types(arguments: list[Any]) -> tuple[Any, ...]:
    return tuple([(each.dtype, each.ndim) if type(each) is _VIEW else type(each) for each in arguments])


def _settled(kernel: Any, arguments: list[Any], dim: tuple[int, ...], device: Any, **adjoint: Any) -> Any:
    """The kernel to launch with arguments of these types, which Warp has checked when they were met first.

    Views are passed to Warp as they are, and it takes them at their word.
    """
    given = [*arguments, *adjoint.get("adj_inputs", ()), *adjoint.get("adj_outputs", ())]
    types = _types(given)
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
    layout = _layout(dtype, tensor.element_size(), tensor.shape, tensor.stride())
    if layout is None:
        return wp.from_torch(tensor, dtype=dtype, requires_grad=False, return_ctype=True)  # says what is wrong
    view = _VIEW.from_buffer_copy(layout)
    view.data, view.dtype, view.owner = tensor.data_ptr(), dtype, tensor
    return view


@lru_cache(maxsize=1024)
def _layout(dtype: Any, size: int, shape: tuple[int, ...], steps: tuple[int, ...]) -> bytes | None:
    """All of a view but where its data begin, kept for it takes longest to make; ``None`` if there is no such view.

    Args:
        dtype: What the kernel takes an entry for.
        size: Bytes of a number.
        shape: Of the tensor.
        steps: Numbers from one entry of each axis to the next.
    """
    inner = getattr(dtype, "_shape_", ())
    outer = len(shape) - len(inner)
    strides = tuple(size * step for step in steps)
    if inner:
        packed = steps[-1] == 1 and (len(inner) == 1 or steps[-2] == inner[1])
        if not packed or shape[outer:] != inner:
            return None
        shape, strides = shape[:outer] or (1,), strides[:outer] or (size,)
    return bytes(_VIEW(0, 0, len(shape), shape, strides))


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


def bits(tensor: Tensor | None) -> Any:
    """View ``[...]`` int64 values as Warp integers without a sign."""
    return _view(tensor, {torch.int64: wp.uint64})


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


def vec2is(tensor: Tensor | None) -> Any:
    """View ``[..., 2]`` int32 as Warp vectors."""
    return _view(tensor, {torch.int32: wp.vec2i})


def vec4s(tensor: Tensor | None) -> Any:
    """View ``[..., 4]`` as Warp vectors."""
    return _view(tensor, VEC4)


def vec4is(tensor: Tensor | None) -> Any:
    """View ``[..., 4]`` int32 as Warp vectors."""
    return _view(tensor, {torch.int32: VEC4I})


def mat33s(tensor: Tensor | None) -> Any:
    """View ``[..., 3, 3]`` as Warp matrices."""
    return _view(tensor, MAT33)


def mat34s(tensor: Tensor | None) -> Any:
    """View ``[..., 3, 4]`` as Warp matrices."""
    return _view(tensor, MAT34)


def mat44s(tensor: Tensor | None) -> Any:
    """View ``[..., 4, 4]`` as Warp matrices."""
    return _view(tensor, MAT44)


def lanes_of(tensor: Tensor) -> Any:
    """View ``[..., width]`` as Warp vectors of that width: 1, 2, 4, 8 or 16."""
    return _view(tensor, LANE[tensor.shape[-1]])


def lanes(tensor: Tensor, channels: int) -> Any:
    """View contiguous ``[..., n * channels]`` as Warp vectors as wide as divides ``channels``: 8, 4, 2 or 1."""
    width = next(width for width in (8, 4, 2, 1) if channels % width == 0)
    if tensor.numel() == 0:
        return None
    return _view(tensor.view(-1).view(*tensor.shape[:-1], -1, width), LANE[width])
