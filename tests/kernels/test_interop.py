from typing import Any

import pytest
import torch
import warp as wp

from selfrecon_warp.kernels.interop import SPLIT_GRAIN, cleared, launch, launch_split, scalars, scatter_split


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


@wp.kernel(enable_backward=False, module="unique")
def add_remainders_kernel(
    first: wp.int32,
    values: wp.array[Any],  # [M]
    # outputs
    doubles: wp.array[Any],  # [M]
    sums: wp.array[Any],  # [5]
):
    i = wp.tid() + first
    doubles[i] = values[i] + values[i]
    wp.atomic_add(sums, i % 5, values[i])


@wp.kernel(enable_backward=False, module="unique")
def double_kernel(
    values: wp.array2d[wp.float32],  # [M, N]
    # outputs
    doubles: wp.array2d[wp.float32],  # [M, N]
):
    i, j = wp.tid()
    doubles[i, j] = 2.0 * values[i, j]


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


@pytest.mark.parametrize("wrong", [torch.ones(4, 3, dtype=torch.float64), torch.ones(4)], ids=["dtype", "dimensions"])
def test_a_view_of_another_type_is_refused_whatever_was_launched_before(device, wrong):
    values, doubles = torch.ones(4, 3, device=device), torch.zeros(4, 3, device=device)
    launch(double_kernel, values, (4, 3), [scalars(values)], [scalars(doubles)])
    assert torch.equal(doubles, 2 * values)
    with pytest.raises(RuntimeError, match="values"):
        launch(double_kernel, values, (4, 3), [scalars(wrong.to(device))], [scalars(doubles)])


def test_a_view_keeps_strides(device):
    values, doubles = torch.rand(3, 4, device=device).T, torch.zeros(4, 3, device=device)
    launch(double_kernel, values, (4, 3), [scalars(values)], [scalars(doubles)])
    assert torch.equal(doubles, 2 * values)


@pytest.mark.parametrize("shape", [(), (0, 3), (5, 3)])
def test_cleared_memory_is_zero(device, shape):
    zeros = cleared(torch.ones(1, device=device), *shape, dtype=torch.int64)
    assert torch.equal(zeros, torch.zeros(shape, dtype=torch.int64, device=device))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [0, 7, 3 * SPLIT_GRAIN + 4])
def test_sums_of_threads_are_one_sum(device, threads, rows, dtype):
    values = torch.randint(9, (rows,), device=device).to(dtype)  # sums of these are exact in any order
    expected = torch.stack([values[k::5].sum() for k in range(5)])
    for count, parts in ((1, 0), (3, 0), (3, 1), (1, 2), (2, 3), (3, 2)):
        threads(count)
        doubles = torch.empty_like(values)
        options = {"view": scalars, "outputs": (scalars(doubles),), "parts": parts}
        sums = scatter_split(add_remainders_kernel, values, rows, [scalars(values)], (5,), **options)
        assert torch.equal(sums, expected)
        assert torch.equal(doubles, values + values)


def test_a_given_number_of_sums_rounds_alike_in_any_number_of_threads(device, threads):
    values = torch.rand(3 * SPLIT_GRAIN + 4, device=device)
    results = []
    for count in (1, 2, 3):
        threads(count)
        outputs = (scalars(torch.empty_like(values)),)
        options = {"view": scalars, "outputs": outputs, "parts": 2}
        results.append(scatter_split(add_remainders_kernel, values, len(values), [scalars(values)], (5,), **options))
    if device.type == "cpu":
        assert all(torch.equal(each, results[0]) for each in results)
