from typing import Any

import pytest
import torch
import warp as wp

from selfrecon_warp.kernels.interop import SPLIT_GRAIN, launch_split, scalars


@wp.kernel(enable_backward=False, module="unique")
def square_rows_kernel(
    first: wp.int32,
    values: wp.array2d[Any],  # [M, N]
    # outputs
    squares: wp.array2d[Any],  # [M, N]
):
    i, j = wp.tid()
    i += first
    squares[i, j] = values[i, j] * values[i, j]


@wp.kernel(enable_backward=False, module="unique")
def square_columns_kernel(
    first: wp.int32,
    values: wp.array2d[Any],  # [M, N]
    # outputs
    squares: wp.array2d[Any],  # [M, N]
):
    i, j = wp.tid()
    j += first
    squares[i, j] = values[i, j] * values[i, j]


@pytest.fixture
def threads():
    """Sets the number of threads and restores it."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(("axis", "kernel"), [(0, square_rows_kernel), (1, square_columns_kernel)])
def test_threads_do_not_change_the_result(device, threads, axis, kernel, count, dtype):
    threads(count)
    shape = (2 * SPLIT_GRAIN + 5, 3) if axis == 0 else (3, 2 * SPLIT_GRAIN + 5)
    values = torch.rand(shape, dtype=dtype, device=device)
    squares = torch.full_like(values, -1.0)
    launch_split(kernel, values, shape, [scalars(values)], [scalars(squares)], axis=axis)
    assert torch.equal(squares, values * values)


def test_nothing_to_do_is_no_launch(device):
    values = torch.zeros(0, 3, device=device)
    launch_split(square_rows_kernel, values, (0, 3), [scalars(values)], [scalars(values)])


def test_a_failure_in_any_thread_is_raised(threads):
    threads(2)
    values = torch.rand(2 * SPLIT_GRAIN, 3)
    with pytest.raises(Exception, match="squares"):
        launch_split(square_rows_kernel, values, tuple(values.shape), [scalars(values)], [3.0])
