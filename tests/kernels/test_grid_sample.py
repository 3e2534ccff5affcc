import pytest
import torch

from selfrecon_warp.kernels.grid_sample import grid_sample, grid_sample_jacobian
from selfrecon_warp.kernels.interop import SPLIT_GRAIN
from selfrecon_warp.kernels.reference import grid_sample as reference

LOWER, UPPER = torch.tensor([-0.9, -1.2, -0.5]), torch.tensor([0.9, 1.0, 0.4])


def make_inputs(device, dtype, channels=3, points=7, spread=1.3):
    """A random volume and points of which some lie beyond the box."""
    generator = torch.Generator().manual_seed(0)
    volume = torch.rand(4, 5, 3, channels, generator=generator, dtype=dtype)
    unit = 0.5 + spread * (torch.rand(points, 3, generator=generator, dtype=dtype) - 0.5)
    places = LOWER.to(dtype) + unit * (UPPER - LOWER).to(dtype)
    return [x.to(device).requires_grad_() for x in (volume, places)]


def box(like):
    return LOWER.to(like), UPPER.to(like)


@pytest.mark.parametrize("channels", [1, 3, 24])
def test_matches_reference(device, channels):
    volume, points = make_inputs(device, torch.float32, channels)
    values = grid_sample(volume, points, *box(points))
    expected = reference.grid_sample(volume, points, *box(points))
    upstream = torch.randn_like(expected)
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(
        torch.autograd.grad(values, (volume, points), upstream),
        torch.autograd.grad(expected, (volume, points), upstream),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_second_derivatives_match_reference(device, channels):
    volume, points = make_inputs(device, torch.float64, channels)
    results = []
    for op in (grid_sample, reference.grid_sample):
        values = op(volume, points, *box(points))
        (slope,) = torch.autograd.grad(values.square().sum(), points, create_graph=True)
        results.append(torch.autograd.grad(slope.square().sum(), (volume, points)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_jacobian_matches_reference(device, channels):
    volume, points = make_inputs(device, torch.float64, channels)
    results = []
    for op in (grid_sample_jacobian, reference.grid_sample_jacobian):
        values, jacobian = op(volume, points, *box(points))
        grads = torch.autograd.grad(values.square().sum() + jacobian.square().sum(), (volume, points))
        results.append((values, jacobian, *grads))
    torch.testing.assert_close(*results)


@pytest.fixture
def threads():
    """Sets the number of threads and restores it."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("channels", [1, 24])
def test_threads_do_not_change_the_result(threads, channels):
    volume, points = make_inputs(torch.device("cpu"), torch.float32, channels, points=2 * SPLIT_GRAIN + 100)
    results = []
    for count in (1, 3):
        threads(count)
        values, jacobian = grid_sample_jacobian(volume, points, *box(points))
        sampled = grid_sample(volume, points, *box(points))
        grads = torch.autograd.grad(values.square().sum() + jacobian.square().sum(), (volume, points))
        results.append((values, jacobian, *grads, *torch.autograd.grad(sampled.square().sum(), (volume, points))))
    for alone, shared in zip(*results, strict=True):
        assert torch.equal(alone, shared)


@pytest.mark.parametrize("channels", [1, 2])
def test_gradcheck(device, channels):
    volume, points = make_inputs(device, torch.float64, channels, points=4)
    sample = lambda v, p: grid_sample(v, p, *box(p))  # noqa: E731
    assert torch.autograd.gradcheck(sample, (volume, points))
    assert torch.autograd.gradgradcheck(sample, (volume, points))
    assert torch.autograd.gradcheck(lambda v, p: grid_sample_jacobian(v, p, *box(p)), (volume, points))


def test_third_derivative_fails_loudly(device):
    volume, points = make_inputs(device, torch.float64)
    (slope,) = torch.autograd.grad(grid_sample(volume, points, *box(points)).sum(), points, create_graph=True)
    (bend,) = torch.autograd.grad(slope.square().sum(), points, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        bend.sum().backward()


def test_constant_volume_gives_the_constant_everywhere(device):
    volume, points = make_inputs(device, torch.float64, spread=3.0)
    values = grid_sample(torch.full_like(volume, 0.25), points, *box(points))
    torch.testing.assert_close(values, torch.full_like(values, 0.25), rtol=0.0, atol=1e-15)


def test_linear_function_is_reproduced_between_voxel_centres(device):
    resolution = torch.tensor([4, 5, 3], dtype=torch.float64)
    axes = [(torch.arange(n, dtype=torch.float64) + 0.5) / n for n in (4, 5, 3)]
    lower, upper = LOWER.double(), UPPER.double()
    centres = lower + torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) * (upper - lower)
    slope = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]], dtype=torch.float64)
    half = 0.5 / resolution
    points = lower + (half + torch.rand(50, 3, dtype=torch.float64) * (1.0 - 2.0 * half)) * (upper - lower)
    volume, points = (centres @ slope.T).to(device), points.to(device)
    values, jacobian = grid_sample_jacobian(volume, points, lower, upper)
    torch.testing.assert_close(values, points @ slope.T.to(device))
    torch.testing.assert_close(jacobian, slope.to(device).expand(50, 2, 3))


def test_a_point_that_is_nan_gives_nan_and_adds_nothing_to_the_volume(device):
    volume, points = make_inputs(device, torch.float64)
    kept = [0, 1, 2, 4, 5, 6]
    for axis in range(3):
        broken = points.detach().clone()
        broken[3, axis] = torch.nan
        for op in (grid_sample, lambda *given: torch.cat([x.flatten(1) for x in grid_sample_jacobian(*given)], dim=1)):
            values = op(volume, broken, *box(points))
            assert values[3, :3].isnan().all()
            torch.testing.assert_close(values[kept], op(volume, points[kept], *box(points)))
            (grad,) = torch.autograd.grad(values.square().sum(), volume)
            (expected,) = torch.autograd.grad(op(volume, points[kept], *box(points)).square().sum(), volume)
            torch.testing.assert_close(grad, expected)


def test_infinite_coordinates_take_the_border(device):
    volume, points = make_inputs(device, torch.float64)
    far, infinite = points.detach().clone(), points.detach().clone()
    far[:, 0], infinite[:, 0] = 1e6, torch.inf
    far[:3, 2], infinite[:3, 2] = -1e6, -torch.inf
    inputs = [(volume, each.requires_grad_()) for each in (far, infinite)]
    results = []
    for given in inputs:
        values = grid_sample(*given, *box(points))
        results.append((values, *torch.autograd.grad(values.square().sum(), given)))
    torch.testing.assert_close(*results)


def test_single_voxel_axis_is_constant_along_it(device):
    volume, points = torch.rand(1, 2, 1, 2, device=device), torch.rand(5, 3, device=device)
    values, jacobian = grid_sample_jacobian(volume, points, torch.zeros(3), torch.ones(3))
    torch.testing.assert_close(
        values, reference.grid_sample(volume, points, *(x.to(points) for x in (torch.zeros(3), torch.ones(3))))
    )
    assert not jacobian[..., [0, 2]].any()


def test_empty_input(device):
    volume, _ = make_inputs(device, torch.float32)
    points = torch.empty(0, 3, device=device, requires_grad=True)
    values, jacobian = grid_sample_jacobian(volume, points, *box(points))
    assert grid_sample(volume, points, *box(points)).shape == (0, 3)
    assert values.shape == (0, 3)
    assert jacobian.shape == (0, 3, 3)
    (values.sum() + jacobian.sum() + grid_sample(volume, points, *box(points)).sum()).backward()
    assert not volume.grad.any()


def test_strided_input(device):
    volume, points = make_inputs(device, torch.float32)
    turned = volume.transpose(0, 1).contiguous().transpose(0, 1)
    spaced = torch.stack((points, points), dim=-1).flatten(-2)[:, ::2]
    assert not turned.is_contiguous()
    assert not spaced.is_contiguous()
    torch.testing.assert_close(grid_sample(turned, spaced, *box(points)), grid_sample(volume, points, *box(points)))


def test_two_backwards_through_one_graph(device):
    inputs = make_inputs(device, torch.float32)
    values = grid_sample(*inputs, *box(inputs[1]))
    first = torch.autograd.grad(values.sum(), inputs, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(values.sum(), inputs), first)


def test_names_the_mismatched_argument(device):
    volume, points = make_inputs(device, torch.float32)
    with pytest.raises(ValueError, match=r"points must have shape \[P, 3\], got \[7, 2\]"):
        grid_sample(volume, points[:, :2], *box(points))
    with pytest.raises(ValueError, match=r"volume must be torch.float32 on .* like points, got torch.float64"):
        grid_sample(volume.double(), points, *box(points))
    with pytest.raises(ValueError, match=r"points must be float32 or float64"):
        grid_sample(volume, points.half(), *box(points))
