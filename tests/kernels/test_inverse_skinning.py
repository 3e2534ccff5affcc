import pytest
import torch

from selfrecon_warp.kernels.grid_sample import grid_sample
from selfrecon_warp.kernels.inverse_skinning import unskin_points, unskin_points_in_volume
from selfrecon_warp.kernels.reference import inverse_skinning as reference
from selfrecon_warp.kernels.skinning import skin_points

LOWER, UPPER = torch.tensor([-1.0, -1.2, -0.8]), torch.tensor([1.0, 1.2, 0.8])


def rotations(vectors):
    """Rotation matrices of rotation vectors ``[..., 3]``."""
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    rows = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), dim=-1)
    return torch.matrix_exp(rows.unflatten(-1, (3, 3)))


def make_inputs(device, dtype, points=9, joints=3, bend=0.4):
    """Canonical points, a smooth weight volume and the bones of two frames."""
    generator = torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    axes = [
        low + (torch.arange(n) + 0.5) / n * (high - low) for low, high, n in zip(LOWER, UPPER, (8, 9, 7), strict=True)
    ]
    nodes = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).double()
    centres = LOWER + rand(joints, 3) * (UPPER - LOWER)
    volume = (-2.0 * (nodes[..., None, :] - centres).square().sum(-1)).softmax(-1)
    bones = torch.eye(4, dtype=torch.float64).repeat(2, joints, 1, 1)
    bones[..., :3, :3] = rotations(2.0 * bend * (rand(2, joints, 3) - 0.5))
    bones[..., :3, 3] = 0.2 * (rand(2, joints, 3) - 0.5)
    canonical = 0.8 * (LOWER + rand(2, points, 3) * (UPPER - LOWER))
    return [x.to(device, dtype) for x in (canonical, volume, bones)]


def box(like):
    return LOWER.to(like), UPPER.to(like)


def skin(canonical, volume, bones):
    weights = grid_sample(volume, canonical.flatten(0, 1), *box(canonical))
    return skin_points(canonical, weights.unflatten(0, canonical.shape[:2]), bones)


def weights_of(canonical, volume):
    return grid_sample(volume, canonical.flatten(0, 1), *box(canonical)).unflatten(0, canonical.shape[:2])


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
@pytest.mark.parametrize("joints", [3, 24])
def test_constant_weights_are_undone(device, dtype, close, joints):
    canonical, volume, bones = make_inputs(device, dtype, joints=joints)
    weights = weights_of(canonical, volume)
    points, converged, residual = unskin_points(skin_points(canonical, weights, bones), weights, bones)
    assert converged.all()
    assert residual.max() < close
    torch.testing.assert_close(points, canonical, rtol=0.0, atol=close)


@pytest.mark.parametrize(("dtype", "close", "tolerance"), [(torch.float32, 2e-5, 1e-5), (torch.float64, 1e-9, 1e-10)])
@pytest.mark.parametrize("joints", [3, 8])
def test_weights_that_vary_are_undone(device, dtype, close, tolerance, joints):
    canonical, volume, bones = make_inputs(device, dtype, points=40, joints=joints)
    posed = skin(canonical, volume, bones)
    points, converged, residual = unskin_points_in_volume(posed, volume, *box(posed), bones, tolerance=tolerance)
    assert converged.all()
    assert residual.max() <= tolerance
    torch.testing.assert_close(skin(points, volume, bones), posed, rtol=0.0, atol=2.0 * tolerance)
    torch.testing.assert_close(points, canonical, rtol=0.0, atol=close)


def test_given_starts_decide_which_fold_is_found(device):
    canonical, volume, bones = make_inputs(device, torch.float64, points=200, bend=3.0)
    posed = skin(canonical, volume, bones)
    near = canonical[:, :, None] + 1e-3
    points, converged, _ = unskin_points_in_volume(posed, volume, *box(posed), bones, starts=near, tolerance=1e-10)
    torch.testing.assert_close(points[converged], canonical[converged], rtol=0.0, atol=1e-6)
    assert converged.float().mean() > 0.97


@pytest.mark.parametrize("bend", [0.4, 2.0])
@pytest.mark.parametrize("starts", [1, 3, 9])
def test_matches_reference(device, bend, starts):
    canonical, volume, bones = make_inputs(device, torch.float64, points=30, bend=bend)
    weights = weights_of(canonical, volume)
    posed = skin_points(canonical, weights, bones)
    posed[1, :4] += 2.0
    leaves = [x.clone().requires_grad_() for x in (posed, volume, weights, bones)]
    results = []
    for module in (None, reference):
        closed = (module.unskin_points if module else unskin_points)(leaves[0], leaves[2], leaves[3])
        op = module.unskin_points_in_volume if module else unskin_points_in_volume
        varying = op(leaves[0], leaves[1], *box(posed), leaves[3], starts=starts, tolerance=1e-9)
        total = closed.points.square().sum() + varying.points.square().sum()
        results.append((*closed, *varying, *torch.autograd.grad(total, leaves)))
    torch.testing.assert_close(*results)


def test_gradcheck(device):
    canonical, volume, bones = make_inputs(device, torch.float64, points=3)
    weights = weights_of(canonical, volume)
    posed = skin_points(canonical, weights, bones)
    inputs = [x.requires_grad_() for x in (posed, weights, bones)]
    assert torch.autograd.gradcheck(lambda *given: unskin_points(*given).points, inputs)

    def varying(posed, bones, volume):
        points, converged, _ = unskin_points_in_volume(posed, volume, *box(posed), bones, tolerance=1e-13, steps=60)
        assert converged.all()
        return points

    small = volume[2:6, 3:6, 2:5].clone().requires_grad_()
    near = 0.3 * canonical
    posed = skin(near, small, bones).detach().requires_grad_()
    assert torch.autograd.gradcheck(varying, (posed, bones.detach().requires_grad_(), small))


def test_gradient_undoes_that_of_skinning(device):
    canonical, volume, bones = make_inputs(device, torch.float64)
    canonical.requires_grad_()
    back = unskin_points_in_volume(skin(canonical, volume, bones), volume, *box(canonical), bones, tolerance=1e-12)
    upstream = torch.randn_like(back.points)
    torch.testing.assert_close(torch.autograd.grad(back.points, canonical, upstream)[0], upstream)


def test_second_derivative_fails_loudly(device):
    canonical, volume, bones = make_inputs(device, torch.float64)
    posed = skin(canonical, volume, bones).requires_grad_()
    weights = weights_of(canonical, volume)
    for points in (
        unskin_points(posed, weights, bones).points,
        unskin_points_in_volume(posed, volume, *box(posed), bones).points,
    ):
        (grad,) = torch.autograd.grad(points.square().sum(), posed, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            grad.sum().backward()


def test_singular_matrices_are_counted_and_skipped(device):
    canonical, volume, bones = make_inputs(device, torch.float64)
    flat = bones.clone()
    flat[1, :, 2] = flat[1, :, 1]
    weights = weights_of(canonical, volume).requires_grad_()
    posed = skin_points(canonical, weights, flat).detach().requires_grad_()
    flat.requires_grad_()
    for result in (
        unskin_points(posed, weights, flat),
        unskin_points_in_volume(posed, volume, *box(posed), flat, tolerance=1e-10),
    ):
        assert result.converged[0].all()
        assert (~result.converged).sum() == len(canonical[1])
        assert torch.equal(result.points[1], posed[1])
        assert result.residual[1].isfinite().all()
        grads = torch.autograd.grad(result.points.square().sum(), (posed, flat))
        for grad in grads:
            assert grad.isfinite().all()
            assert grad[0].any()
            assert not grad[1].any()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_point_that_is_not_finite_does_not_converge(device, value):
    canonical, volume, bones = make_inputs(device, torch.float64)
    weights = weights_of(canonical, volume)
    posed = skin_points(canonical, weights, bones)
    posed[0, 3, 1] = value
    posed.requires_grad_()
    bones.requires_grad_()
    for result in (
        unskin_points(posed, weights, bones),
        unskin_points_in_volume(posed, volume, *box(posed), bones, tolerance=1e-10),
    ):
        assert (~result.converged).nonzero().tolist() == [[0, 3]]
        assert result.residual[0, 3].isnan()
        total = result.points[result.converged].square().sum()
        for grad in torch.autograd.grad(total, (posed, bones)):
            assert grad.isfinite().all()


def test_no_steps_converge_only_where_the_start_is_the_answer(device):
    canonical, volume, bones = make_inputs(device, torch.float64)
    posed = skin(canonical, volume, bones)
    starts = canonical[:, :, None].clone()
    starts[0, 0] += 0.1
    result = unskin_points_in_volume(posed, volume, *box(posed), bones, starts=starts, steps=0)
    assert (~result.converged).nonzero().tolist() == [[0, 0]]
    torch.testing.assert_close(result.points, starts[:, :, 0], rtol=0.0, atol=0.0)


def test_threads_do_not_change_the_result(threads):
    canonical, volume, bones = make_inputs(torch.device("cpu"), torch.float32, points=5000)
    posed = skin(canonical, volume, bones)
    weights = weights_of(canonical, volume)
    results = []
    for count in (1, 3):
        threads(count)
        results.append(
            (*unskin_points(posed, weights, bones), *unskin_points_in_volume(posed, volume, *box(posed), bones))
        )
    for alone, shared in zip(*results, strict=True):
        assert torch.equal(alone, shared)


@pytest.mark.parametrize("empty", ["points", "frames"])
def test_empty_input(device, empty):
    canonical, volume, bones = make_inputs(device, torch.float32)
    posed = canonical[:, :0] if empty == "points" else canonical[:0]
    bones = bones if empty == "points" else bones[:0]
    posed.requires_grad_()
    weights = torch.ones(posed.shape[1], 3, device=device)
    for result in (
        unskin_points(posed, weights, bones),
        unskin_points_in_volume(posed, volume, *box(posed), bones),
    ):
        assert result.points.shape == posed.shape
        assert result.converged.shape == result.residual.shape == posed.shape[:2]
        assert torch.autograd.grad(result.points.sum(), posed)[0].shape == posed.shape


def test_strided_input(device):
    canonical, volume, bones = make_inputs(device, torch.float32)
    posed, weights = skin(canonical, volume, bones), weights_of(canonical, volume)
    strided = [torch.stack((x, x), dim=-1)[..., 0] for x in (posed, weights, volume, bones)]
    assert not any(x.is_contiguous() for x in strided)
    torch.testing.assert_close(unskin_points(strided[0], strided[1], strided[3]), unskin_points(posed, weights, bones))
    torch.testing.assert_close(
        unskin_points_in_volume(strided[0], strided[2], *box(posed), strided[3]),
        unskin_points_in_volume(posed, volume, *box(posed), bones),
    )


def test_two_backwards_through_one_graph(device):
    canonical, volume, bones = make_inputs(device, torch.float32)
    posed = skin(canonical, volume, bones).requires_grad_()
    inputs = posed, volume.requires_grad_(), bones.requires_grad_()
    points = unskin_points_in_volume(posed, volume, *box(posed), bones).points
    first = torch.autograd.grad(points.sum(), inputs, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(points.sum(), inputs), first)


def test_names_the_mismatched_argument(device):
    canonical, volume, bones = make_inputs(device, torch.float32)
    with pytest.raises(ValueError, match=r"weights must have shape \[P=9, J=3\], got \[9, 2\]"):
        unskin_points(canonical, torch.ones(9, 2, device=device), bones)
    with pytest.raises(ValueError, match=r"posed must have shape \[B=2, P, 3\], got \[9, 3\]"):
        unskin_points_in_volume(canonical[0], volume, *box(canonical), bones)
    with pytest.raises(ValueError, match=r"volume must have shape \[X, Y, Z, J=3\]"):
        unskin_points_in_volume(canonical, volume[..., :2], *box(canonical), bones)
    with pytest.raises(ValueError, match=r"starts must have shape \[B=2, P=9, S, 3\]"):
        unskin_points_in_volume(canonical, volume, *box(canonical), bones, starts=canonical)
    with pytest.raises(ValueError, match="starts must be at least 1"):
        unskin_points_in_volume(canonical, volume, *box(canonical), bones, starts=0)
    with pytest.raises(ValueError, match="steps must be at least 0"):
        unskin_points_in_volume(canonical, volume, *box(canonical), bones, steps=-1)
    with pytest.raises(ValueError, match=r"bones must be torch.float32 on .* like posed, got torch.float64"):
        unskin_points(canonical, torch.ones(9, 3, device=device), bones.double())
