import pytest
import torch

from selfrecon_warp.kernels.encode import encode_grid, encode_grid_jacobian, grid_layout
from selfrecon_warp.kernels.interop import SPLIT_GRAIN
from selfrecon_warp.kernels.reference import encode as reference

LAYOUT = grid_layout(levels=3, base=2, finest=7, log2_size=6, aspect=(1.8, 2.4, 0.9))


def make_inputs(device, dtype, channels=2, points=9, spread=1.3):
    """Points of which some lie beyond the unit box, and a random table."""
    generator = torch.Generator().manual_seed(0)
    places = 0.5 + spread * (torch.rand(points, 3, generator=generator, dtype=dtype) - 0.5)
    table = torch.randn(LAYOUT.rows, channels, generator=generator, dtype=dtype)
    return [x.to(device).requires_grad_() for x in (places, table)]


def test_layout_is_dense_while_the_nodes_fit_and_hashed_beyond():
    assert LAYOUT.resolutions == ((2, 2, 1), (3, 4, 1), (5, 7, 3))
    assert LAYOUT.hashed == (False, False, True)
    assert LAYOUT.offsets == (0, 18, 58)
    assert LAYOUT.rows == 58 + 64
    assert LAYOUT.levels == 3


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("level_weights", [None, (1.0, 0.5, 0.0)])
def test_matches_reference(device, channels, level_weights):
    points, table = make_inputs(device, torch.float64, channels)
    factors = None if level_weights is None else torch.tensor(level_weights)
    features = encode_grid(points, table, LAYOUT, factors)
    expected = reference.encode_grid(points, table, LAYOUT, factors)
    upstream = torch.randn_like(expected)
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(
        torch.autograd.grad(features, (points, table), upstream),
        torch.autograd.grad(expected, (points, table), upstream),
    )


def test_matches_reference_in_single_precision(device):
    points, table = make_inputs(device, torch.float32, points=200)
    torch.testing.assert_close(encode_grid(points, table, LAYOUT), reference.encode_grid(points, table, LAYOUT))


def test_jacobian_matches_reference(device):
    points, table = make_inputs(device, torch.float64)
    results = []
    for op in (encode_grid_jacobian, reference.encode_grid_jacobian):
        features, jacobian = op(points, table, LAYOUT)
        grads = torch.autograd.grad(features.square().sum() + jacobian.square().sum(), (points, table))
        results.append((features, jacobian, *grads))
    torch.testing.assert_close(*results)


def test_gradient_through_the_jacobian_equals_double_backward(device):
    points, table = make_inputs(device, torch.float64)
    mix = torch.randn(table.shape[1] * LAYOUT.levels, dtype=torch.float64, device=device)
    (slope,) = torch.autograd.grad((encode_grid(points, table, LAYOUT) @ mix).sum(), points, create_graph=True)
    fused = torch.einsum("pkn,k->pn", encode_grid_jacobian(points, table, LAYOUT)[1], mix)
    torch.testing.assert_close(fused, slope)
    torch.testing.assert_close(
        torch.autograd.grad(fused.square().sum(), (points, table)),
        torch.autograd.grad(slope.square().sum(), (points, table)),
    )


def test_threads_do_not_change_the_result():
    points, table = make_inputs(torch.device("cpu"), torch.float32, points=2 * SPLIT_GRAIN + 100)
    before = torch.get_num_threads()
    results = []
    for count in (1, 3):
        torch.set_num_threads(count)
        features = encode_grid(points, table, LAYOUT)
        both = encode_grid_jacobian(points, table, LAYOUT)
        grads = torch.autograd.grad(sum(x.square().sum() for x in both), (points, table))
        results.append((features, *both, *grads, *torch.autograd.grad(features.square().sum(), (points, table))))
    torch.set_num_threads(before)
    for alone, shared in zip(*results, strict=True):
        assert torch.equal(alone, shared)


def test_gradcheck(device):
    points, table = make_inputs(device, torch.float64, points=3)
    factors = torch.tensor([1.0, 0.5, 0.25])
    encode = lambda p, t: encode_grid(p, t, LAYOUT, factors)  # noqa: E731
    assert torch.autograd.gradcheck(encode, (points, table))
    assert torch.autograd.gradgradcheck(encode, (points, table))
    assert torch.autograd.gradcheck(lambda p, t: encode_grid_jacobian(p, t, LAYOUT, factors), (points, table))


def test_constant_table_gives_the_constant_everywhere(device):
    points, table = make_inputs(device, torch.float64, spread=3.0)
    features, jacobian = encode_grid_jacobian(points, torch.full_like(table, 0.25), LAYOUT)
    torch.testing.assert_close(features, torch.full_like(features, 0.25), rtol=0.0, atol=1e-15)
    torch.testing.assert_close(jacobian, torch.zeros_like(jacobian), rtol=0.0, atol=1e-14)


def test_linear_function_is_reproduced_by_a_dense_level(device):
    layout = grid_layout(levels=1, base=4, finest=4, log2_size=10, aspect=(1.0, 0.5, 0.75))
    axes = [torch.linspace(0.0, 1.0, cells + 1, dtype=torch.float64) for cells in layout.resolutions[0]]
    nodes = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)
    slope = torch.tensor([[2.0, -1.0, 0.5]], dtype=torch.float64)
    points = torch.rand(40, 3, dtype=torch.float64)
    features, jacobian = encode_grid_jacobian(points.to(device), (nodes @ slope.T).to(device), layout)
    torch.testing.assert_close(features, (points @ slope.T).to(device))
    torch.testing.assert_close(jacobian, slope.to(device).expand(40, 1, 3))


def test_level_of_weight_zero_gets_no_gradient(device):
    points, table = make_inputs(device, torch.float32)
    features = encode_grid(points, table, LAYOUT, torch.tensor([1.0, 1.0, 0.0]))
    (grad,) = torch.autograd.grad(features.sum(), table)
    assert not features[:, 4:].any()
    assert grad[: LAYOUT.offsets[2]].any()
    assert not grad[LAYOUT.offsets[2] :].any()


def test_empty_input(device):
    points, table = make_inputs(device, torch.float32, points=0)
    features, jacobian = encode_grid_jacobian(points, table, LAYOUT)
    assert encode_grid(points, table, LAYOUT).shape == features.shape == (0, 6)
    assert jacobian.shape == (0, 6, 3)
    (features.sum() + jacobian.sum() + encode_grid(points, table, LAYOUT).sum()).backward()
    assert not table.grad.any()


def test_strided_input(device):
    inputs = make_inputs(device, torch.float32)
    strided = [x.T.contiguous().T for x in inputs]
    assert not any(x.is_contiguous() for x in strided)
    torch.testing.assert_close(encode_grid(*strided, LAYOUT), encode_grid(*inputs, LAYOUT))


def test_two_backwards_through_one_graph(device):
    inputs = make_inputs(device, torch.float32)
    for features in (encode_grid(*inputs, LAYOUT), encode_grid_jacobian(*inputs, LAYOUT)[1]):
        first = torch.autograd.grad(features.sum(), inputs, retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(features.sum(), inputs), first)


def test_names_the_mismatched_argument(device):
    points, table = make_inputs(device, torch.float32)
    with pytest.raises(ValueError, match=r"points must have shape \[P, 3\], got \[9, 2\]"):
        encode_grid(points[:, :2], table, LAYOUT)
    with pytest.raises(ValueError, match=r"table must have the T=122 rows of the layout, got \[121, 2\]"):
        encode_grid(points, table[1:], LAYOUT)
    with pytest.raises(ValueError, match=r"table must be torch.float32 on .* like points, got torch.float64"):
        encode_grid(points, table.double(), LAYOUT)
    with pytest.raises(ValueError, match=r"level_weights must have shape \[L=3\], got \[2\]"):
        encode_grid(points, table, LAYOUT, torch.ones(2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 2, 7, 6), "levels must be at least 1"),
        ((3, 8, 7, 6), "1 <= base <= finest"),
        ((3, 2, 7, 40), "log2_size must lie in"),
        ((3, 2, 7, 6, (1.0, 0.0, 1.0)), "aspect must be three positive lengths"),
    ],
)
def test_layout_names_the_argument_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        grid_layout(*arguments)
