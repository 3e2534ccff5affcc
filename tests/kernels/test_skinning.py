import pytest
import torch

from selfrecon_warp.kernels.interop import SPLIT_GRAIN
from selfrecon_warp.kernels.reference import skinning as reference
from selfrecon_warp.kernels.skinning import skin_points, skin_points_jacobian


@pytest.fixture
def threads():
    """Sets the number of threads and restores it."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


SHARING = [((), ()), ((2,), ()), ((), (2,)), ((2,), (2,))]


def make_inputs(device, dtype, points_lead=(), weights_lead=(), joints=3, points=7):
    """Points, weights, weight gradients and the bones of two frames."""
    generator = torch.Generator().manual_seed(0)
    shapes = (*points_lead, points, 3), (*weights_lead, points, joints), (*weights_lead, points, joints, 3)
    inputs = [torch.randn(*shape, generator=generator, dtype=dtype) for shape in shapes]
    inputs.append(torch.randn(2, joints, 4, 4, generator=generator, dtype=dtype))
    return [x.to(device).requires_grad_() for x in inputs]


@pytest.mark.parametrize("joints", [1, 3, 9, 24])
@pytest.mark.parametrize(("points_lead", "weights_lead"), SHARING)
def test_matches_reference(device, points_lead, weights_lead, joints):
    points, weights, _, bones = make_inputs(device, torch.float32, points_lead, weights_lead, joints)
    inputs = points, weights, bones
    posed, expected = skin_points(*inputs), reference.skin_points(*inputs)
    upstream = torch.randn_like(expected)
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(posed, expected, **close)
    torch.testing.assert_close(
        torch.autograd.grad(posed, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), **close
    )


@pytest.mark.parametrize(("points_lead", "weights_lead"), SHARING)
def test_jacobian_matches_reference(device, points_lead, weights_lead):
    inputs = make_inputs(device, torch.float64, points_lead, weights_lead, joints=4)
    results = []
    for op in (skin_points_jacobian, reference.skin_points_jacobian):
        posed, jacobian = op(*inputs)
        results.append((posed, jacobian, *torch.autograd.grad(posed.square().sum() + jacobian.square().sum(), inputs)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("points", [1, 130, 300])
def test_blocks_and_strips_of_any_length(device, points):
    inputs = make_inputs(device, torch.float64, (2,), (), 5, points)
    for op, own in ((skin_points, (0, 1, 3)), (skin_points_jacobian, (0, 1, 2, 3))):
        given = [inputs[k] for k in own]
        results = []
        for call in (op, getattr(reference, op.__name__)):
            outputs = call(*given)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            results.append((*outputs, *torch.autograd.grad(sum(x.square().sum() for x in outputs), given)))
        torch.testing.assert_close(*results)


@pytest.mark.parametrize(("points_lead", "weights_lead"), SHARING)
def test_threads_do_not_change_the_result(threads, points_lead, weights_lead):
    points, weights, _, bones = make_inputs(torch.device("cpu"), torch.float32, points_lead, weights_lead, 3, 8200)
    assert len(points.flatten(0, -2)) > 2 * SPLIT_GRAIN
    results = []
    for count in (1, 3):
        threads(count)
        posed = skin_points(points, weights, bones)
        results.append((posed, *torch.autograd.grad(posed.square().sum(), (points, weights, bones))))
    for alone, shared in zip(*results, strict=True):
        assert torch.equal(alone, shared)


def test_jacobian_is_the_derivative_of_skinning_with_weights_that_vary(device):
    points, weights, slopes, bones = make_inputs(device, torch.float64)

    def skin(moving):
        varying = weights + torch.einsum("pjn,pn->pj", slopes, moving - points)
        return skin_points(moving, varying, bones)

    rows = torch.autograd.functional.jacobian(skin, points)
    expected = torch.einsum("bpmpn->bpmn", rows)
    torch.testing.assert_close(skin_points_jacobian(points, weights, slopes, bones)[1], expected)


def test_constant_weights_give_the_blended_rotation(device):
    points, weights, slopes, bones = make_inputs(device, torch.float64)
    for given, zero in zip(
        skin_points_jacobian(points, weights, None, bones),
        skin_points_jacobian(points, weights, torch.zeros_like(slopes), bones),
        strict=True,
    ):
        torch.testing.assert_close(given, zero)


@pytest.mark.parametrize(("points_lead", "weights_lead"), SHARING)
def test_gradcheck(device, points_lead, weights_lead):
    points, weights, slopes, bones = make_inputs(device, torch.float64, points_lead, weights_lead, points=3)
    assert torch.autograd.gradcheck(skin_points, (points, weights, bones))
    assert torch.autograd.gradgradcheck(skin_points, (points, weights, bones))
    assert torch.autograd.gradcheck(skin_points_jacobian, (points, weights, slopes, bones))


def test_third_derivatives_match_reference(device):
    points, weights, _, bones = make_inputs(device, torch.float64)
    inputs = points, weights, bones
    results = []
    for op in (skin_points, reference.skin_points):
        total = op(*inputs).pow(3).sum()
        for _ in range(3):
            grads = torch.autograd.grad(total, inputs, create_graph=True)
            total = sum(x.square().sum() for x in grads)
        results.append(grads)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_point_that_is_not_finite_sends_nothing_to_weights_and_bones(device, value):
    points, weights, slopes, bones = make_inputs(device, torch.float64)
    broken = points.detach().clone()
    broken[2, 1] = value
    kept = [0, 1, 3, 4, 5, 6]
    for some in (None, slopes):
        posed, jacobian = skin_points_jacobian(broken, weights, some, bones)
        assert not posed[:, 2].isfinite().any()
        assert posed[:, kept].isfinite().all()
        total = posed.square().sum() + (0.0 if some is None else jacobian.square().sum())
        got = torch.autograd.grad(total, (weights, bones))
        pieces = points[kept], weights[kept], None if some is None else slopes[kept], bones
        posed, jacobian = skin_points_jacobian(*pieces)
        total = posed.square().sum() + (0.0 if some is None else jacobian.square().sum())
        torch.testing.assert_close(got, torch.autograd.grad(total, (weights, bones)))


def test_no_frames_give_zero_gradients(device):
    points, weights, _, bones = make_inputs(device, torch.float32)
    posed = skin_points(points, weights, bones[:0])
    assert posed.shape == (0, 7, 3)
    for grad in torch.autograd.grad(posed.sum(), (points, weights, bones)):
        assert not grad.any()


def test_bones_alone_and_points_alone_get_gradients(device):
    points, weights, _, bones = make_inputs(device, torch.float64)
    everything = torch.autograd.grad(skin_points(points, weights, bones).square().sum(), (points, weights, bones))
    for index in range(3):
        inputs = [x if i == index else x.detach() for i, x in enumerate((points, weights, bones))]
        (alone,) = torch.autograd.grad(skin_points(*inputs).square().sum(), inputs[index])
        torch.testing.assert_close(alone, everything[index])


def test_identity_bones_leave_points_unmoved(device):
    points, weights, slopes, _ = make_inputs(device, torch.float64)
    weights = weights.softmax(-1)
    slopes = slopes - slopes.mean(dim=1, keepdim=True)
    bones = torch.eye(4, dtype=torch.float64, device=device).expand(2, 3, 4, 4)
    posed, jacobian = skin_points_jacobian(points, weights, slopes, bones)
    torch.testing.assert_close(skin_points(points, weights, bones), points.expand(2, -1, -1))
    torch.testing.assert_close(posed, points.expand(2, -1, -1))
    torch.testing.assert_close(jacobian, torch.eye(3, dtype=torch.float64, device=device).expand(2, 7, 3, 3))


def test_empty_input(device):
    points, weights, slopes, bones = make_inputs(device, torch.float32, points=0)
    posed, jacobian = skin_points_jacobian(points, weights, slopes, bones)
    assert skin_points(points, weights, bones).shape == posed.shape == (2, 0, 3)
    assert jacobian.shape == (2, 0, 3, 3)
    (posed.sum() + jacobian.sum() + skin_points(points, weights, bones).sum()).backward()
    assert not bones.grad.any()


def test_strided_input(device):
    inputs = make_inputs(device, torch.float32)
    strided = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in inputs]
    assert not any(x.is_contiguous() for x in strided)
    torch.testing.assert_close(skin_points_jacobian(*strided), skin_points_jacobian(*inputs))
    points, weights, _, bones = strided
    torch.testing.assert_close(skin_points(points, weights, bones), skin_points(inputs[0], inputs[1], inputs[3]))


def test_two_backwards_through_one_graph(device):
    points, weights, slopes, bones = make_inputs(device, torch.float32)
    inputs = points, weights, bones
    for posed in (skin_points(*inputs), skin_points_jacobian(points, weights, slopes, bones)[0]):
        first = torch.autograd.grad(posed.sum(), inputs, retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(posed.sum(), inputs), first)


def test_names_the_mismatched_argument(device):
    points, weights, slopes, bones = make_inputs(device, torch.float32)
    with pytest.raises(ValueError, match=r"weights must have shape \[P=7, J=3\], got \[7, 2\]"):
        skin_points(points, weights[:, :2], bones)
    with pytest.raises(ValueError, match=r"points must have shape \[B=2, P, 3\], got \[3, 7, 3\]"):
        skin_points(points.expand(3, -1, -1), weights, bones)
    with pytest.raises(ValueError, match=r"weight_gradients must have shape \[P=7, J=3, 3\], got \[7, 3, 2\]"):
        skin_points_jacobian(points, weights, slopes[..., :2], bones)
    with pytest.raises(ValueError, match=r"bones must be torch.float32 on .* like points, got torch.float64"):
        skin_points(points, weights, bones.double())
