"""Bad input to every public operation: a ``ValueError`` that names the argument, or the documented result.

Everything runs over the table of ``tests/kernel_calls.py``; hypothesis draws shapes and numbers, the same in every run.
"""

import faulthandler
import itertools
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_calls import CALLS, differentiable, gradients, tensors

from selfrecon_warp.kernels import OPERATIONS

TENSORS = [(name, argument) for name, call in CALLS.items() for argument in call.shapes]
NUMBERS = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -2.5, 3.0, 1e-42, 1e-4, 1e20, -1e20, 3e38)
"""No numbers, both infinities, zeros, pixel centres, a denormal, the near plane, and what overflows when squared."""
FUZZ = settings(derandomize=True, deadline=None, database=None, max_examples=12)


@pytest.fixture(autouse=True, scope="module")
def _ends():
    """A hang shows where it hangs and ends the run."""
    faulthandler.dump_traceback_later(300, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def has_rows(call, argument):
    """Whether an argument has, or may have, the axis along which entries do not see each other."""
    return call.rows is not None and call.rows in call.shapes[argument].replace("|", " ").split()


def runs(call, arguments):
    """Forward, then backward to every input that takes a gradient."""
    leaves = differentiable(call, arguments)
    outputs = tensors(call.op(**arguments))
    return outputs, gradients(outputs, leaves)


def names(call, message):
    """Whether an error's message names an argument of the call."""
    every = [*call.shapes, *call.blamed, *(name for name, _ in call.refused)]
    return re.search(rf"\b({'|'.join(every)})\b", message)


def refuses(call, arguments, argument=None):
    """Expect an error that names the argument, or any argument where which one is to blame is open."""
    with pytest.raises(ValueError) as raised:  # noqa: PT011 the message is looked at below
        runs(call, arguments)
    message = str(raised.value)
    assert re.search(rf"\b{argument}\b", message) if argument else names(call, message), message


def returns_or_refuses(call, arguments):
    """Expect a result with gradients of the inputs' shapes, or an error that names an argument."""
    found, message = {}, None
    try:
        _, found = runs(call, arguments)
    except ValueError as error:
        message = str(error)
    assert message is None or names(call, message), message
    for name, gradient in found.items():
        assert gradient is None or gradient.shape == arguments[name].shape


def test_the_table_holds_every_operation():
    public = {name for names in OPERATIONS.values() for name in names}
    assert {name.partition("/")[0] for name in CALLS} == public


@pytest.mark.parametrize("name", CALLS)
def test_a_valid_call_leaves_no_gradient_zero(name, device):
    call = CALLS[name]
    arguments = on(device, call.make(torch.float32))
    _, found = runs(call, arguments)
    assert set(found) == set(differentiable(call, arguments))
    for argument, gradient in found.items():
        assert gradient is not None, argument
        assert gradient.isfinite().all(), argument
        assert gradient.any(), argument


def on(device, arguments):
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in arguments.items()}


@pytest.mark.parametrize("name", CALLS)
def test_strided_input_gives_the_same(name, device):
    call = CALLS[name]
    arguments = on(device, call.make(torch.float32))
    strided = dict(arguments)
    for argument in call.shapes:
        doubled = torch.stack([arguments[argument]] * 2, -1)[..., 0]
        assert doubled.numel() < 2 or not doubled.is_contiguous()
        strided[argument] = doubled
    torch.testing.assert_close(runs(call, strided), runs(call, arguments))


@pytest.mark.parametrize(("name", "argument"), TENSORS)
def test_a_wrong_dtype_is_named(name, argument):
    call = CALLS[name]
    floats = [each for each in call.shapes if call.make(torch.float32)[each].is_floating_point()]
    if argument in call.converted:
        return
    if argument not in floats:
        wrong = [torch.float32]
    elif set(floats) - {argument, *call.converted}:
        wrong = [torch.float16, torch.int64, torch.float64]
    else:
        wrong = [torch.float16, torch.int64]
    for dtype in wrong:
        arguments = call.make(torch.float32)
        arguments[argument] = arguments[argument].to(dtype)
        refuses(call, arguments, None if dtype == torch.float64 else argument)


@pytest.mark.parametrize(("name", "argument"), TENSORS)
def test_another_device_is_named(name, argument):
    call = CALLS[name]
    if argument in call.converted or set(call.shapes) <= {argument, *call.converted}:
        return
    arguments = call.make(torch.float32)
    arguments[argument] = arguments[argument].to("meta")
    refuses(call, arguments)


@pytest.mark.parametrize(
    ("name", "argument", "excess"),
    [(name, argument, excess) for name, call in CALLS.items() for argument in call.indices for excess in (False, True)],
)
def test_an_index_out_of_range_is_named(name, argument, excess):
    call = CALLS[name]
    least, end = call.indices[argument]
    if excess and end == "inf":
        return
    arguments = call.make(torch.float32)
    value = (int(end) if end.isdigit() else letters(call, arguments)[end]) if excess else least - 1
    index = arguments[argument].clone()
    index.view(-1)[-1] = value
    arguments[argument] = index
    refuses(call, arguments, argument)


@pytest.mark.parametrize(
    ("name", "argument", "value"), [(name, *each) for name, call in CALLS.items() for each in call.refused]
)
def test_a_value_out_of_range_is_named(name, argument, value):
    call = CALLS[name]
    refuses(call, {**call.make(torch.float32), argument: value}, argument)


def bind(patterns, shapes):
    """Sizes of the letters under which the shapes fit their patterns, or None."""
    sizes = {}
    for pattern, shape in zip(patterns, shapes, strict=True):
        tokens = pattern.split()
        if len(tokens) != len(shape):
            return None
        for token, size in zip(tokens, shape, strict=True):
            if (int(token) if token.isdigit() else sizes.setdefault(token, size)) != size:
                return None
    return sizes


def letters(call, arguments):
    """Sizes of the letters of a call, or None where its shapes do not agree."""
    shapes = [tuple(arguments[name].shape) for name in call.shapes]
    every = itertools.product(*(each.split("|") for each in call.shapes.values()))
    return next((sizes for each in every if (sizes := bind(each, shapes)) is not None), None)


@pytest.mark.parametrize("name", CALLS)
def test_nothing_along_an_axis_is_defined(name):
    call = CALLS[name]
    sizes = letters(call, call.make(torch.float32))
    for letter in sizes:
        arguments = call.make(torch.float32)
        for argument, patterns in call.shapes.items():
            pattern = next(each for each in patterns.split("|") if len(each.split()) == arguments[argument].dim())
            for axis, token in enumerate(pattern.split()):
                if token == letter:
                    arguments[argument] = arguments[argument].narrow(axis, 0, 0)
        returns_or_refuses(call, arguments)


@pytest.mark.parametrize("name", CALLS)
@FUZZ
@given(data=st.data())
def test_shapes_that_disagree_are_named(name, data):
    call = CALLS[name]
    arguments = call.make(torch.float32)
    for _ in range(data.draw(st.integers(1, 2))):
        argument = data.draw(st.sampled_from(sorted(call.shapes)))
        shape = list(arguments[argument].shape)
        edit = data.draw(st.sampled_from(("drop", "add", "resize")))
        axis = data.draw(st.integers(0, max(len(shape) - 1, 0)))
        if edit == "add":
            shape.insert(axis, data.draw(st.integers(0, 3)))
        elif shape and edit == "drop":
            del shape[axis]
        elif shape:
            shape[axis] = data.draw(st.integers(0, 5))
        arguments[argument] = torch.rand(shape).to(arguments[argument].dtype)
    if letters(call, arguments) is None:
        refuses(call, arguments)
    else:
        returns_or_refuses(call, arguments)


@pytest.mark.parametrize("name", CALLS)
@FUZZ
@given(data=st.data())
def test_any_numbers_are_defined(name, data):
    call = CALLS[name]
    arguments = call.make(torch.float32)
    floats = [each for each in call.shapes if arguments[each].is_floating_point()]
    for argument in floats:
        tensor = arguments[argument].clone()
        for place in data.draw(st.lists(st.integers(0, tensor.numel() - 1), max_size=6)):
            tensor.view(-1)[place] = data.draw(st.sampled_from(NUMBERS))
        arguments[argument] = tensor
    returns_or_refuses(call, arguments)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("name", "argument"),
    [(name, argument) for name, argument in TENSORS if has_rows(CALLS[name], argument)],
)
def test_a_number_that_is_none_stays_in_its_row(name, argument, bad):
    """Other rows of the results and of the gradients are as without it, and other inputs' gradients are numbers."""
    call = CALLS[name]
    clean, spoilt = call.make(torch.float32), call.make(torch.float32)
    rows = letters(call, clean)[call.rows]
    if not clean[argument].is_floating_point() or len(clean[argument]) != rows:
        return
    spoilt[argument] = clean[argument].clone()
    spoilt[argument].view(rows, -1)[0, 0] = bad
    (outputs, found), (expected, wanted) = runs(call, spoilt), runs(call, clean)
    for output, right in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output[1:], right[1:])
    for each, right in wanted.items():
        if has_rows(call, each) and len(right) == rows:
            torch.testing.assert_close(found[each][1:], right[1:])
        if each != argument:
            assert found[each].isfinite().all(), each
