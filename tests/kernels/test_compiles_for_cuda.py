"""Every kernel of the suite becomes machine code for a GPU, without one at hand."""

from collections import defaultdict
from pathlib import Path

import pytest
import torch
import warp as wp
from kernel_calls import CALLS, differentiable, gradients, modules, tensors

from selfrecon_warp.kernels import interop

ARCHITECTURE = 80
"""Oldest GPU generation of the machines the suite is meant for; code for it runs on later ones."""


@pytest.fixture(scope="module")
def launched() -> list[wp.Kernel]:
    """Every kernel that some operation launches, forward or backward, for each set of types it meets."""
    kernels = {}

    def record(launch):
        def recorded(kernel, *args, **kwargs):
            kernels[id(kernel)] = kernel
            return launch(kernel, *args, **kwargs)

        return recorded

    with pytest.MonkeyPatch.context() as patch:
        for name in ("launch", "launch_tiled"):
            patch.setattr(wp, name, record(getattr(wp, name)))
        patch.setattr(interop, "_COMMANDS", interop._Commands())  # what other tests launched is launched anew
        for call in CALLS.values():
            for dtype in (torch.float32, torch.float64):
                arguments = call.make(dtype)
                leaves = differentiable(call, arguments)
                gradients(tensors(call.op(**arguments)), leaves, call.order)
    return [
        each for kernel in kernels.values() for each in (kernel.overloads.values() if kernel.is_generic else [kernel])
    ]


def defined() -> dict[str, wp.Kernel]:
    """Every kernel written in the suite, by module and name."""
    return {
        f"{module.__name__}.{name}": kernel
        for module in modules()
        for name, kernel in vars(module).items()
        if isinstance(kernel, wp.Kernel) and kernel.func.__module__ == module.__name__
    }


def float_types(kernel: wp.Kernel) -> set[type]:
    """The floating-point types that a kernel's arguments hold."""
    dtypes = (getattr(argument.type, "dtype", argument.type) for argument in kernel.adj.args)
    return {getattr(dtype, "_wp_scalar_type_", dtype) for dtype in dtypes} & {wp.float32, wp.float64}


def test_every_kernel_is_launched_in_either_precision(launched):
    seen = defaultdict(set)
    for kernel in launched:
        seen[kernel.func] |= float_types(kernel)
    kernels = defined()
    assert len(kernels) > 30
    missing = [name for name, kernel in kernels.items() if kernel.func not in seen]
    assert not missing, f"no call in tests/kernel_calls.py reaches {missing}"
    for name, kernel in kernels.items():
        found = seen[kernel.func]
        assert not kernel.is_generic or len(found) != 1, f"{name} takes any type but was launched with {found} alone"


@pytest.mark.slow
def test_every_kernel_compiles_for_cuda(launched, tmp_path: Path):
    binaries = {}
    for module in {kernel.module.name: kernel.module for kernel in launched}.values():
        (path,) = wp.compile_aot_module(module, arch=ARCHITECTURE, module_dir=tmp_path / module.name, use_ptx=False)
        binaries[module.name] = path.read_bytes()
    for kernel in launched:
        backward = kernel.options.get("enable_backward", kernel.module.options["enable_backward"])
        for direction in ["forward", "backward"] if backward else ["forward"]:
            symbol = f"{kernel.get_mangled_name()}_cuda_kernel_{direction}"
            assert symbol.encode() in binaries[kernel.module.name], symbol
