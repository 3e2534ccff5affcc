import pytest
import torch

from selfrecon_warp.kernels.reference import skinning as reference
from selfrecon_warp.kernels.skinning import skin_points, skin_points_jacobian

SHARING = [((), ()), ((2,), ()), ((), (2,)), ((2,), (2,))]


def make_inputs(device, dtype, points_lead=(), weights_lead=(), joints=3, points=7):
    """Points, weights, weight gradients and the bones of two frames."""
    generator = torch.Generator().manual_seed(0)
    shapes = (*points_lead, points, 3), (*weights_lead, points, joints), (*weights_lead, points, joints, 3)
    inputs = [torch.randn(*shape, generator=generator, dtype=dtype) for shape in shapes]
    inputs.append(torch.randn(2, joints, 4, 4, generator=generator, dtype=dtype))
    return [x.to(device).requires_grad_() for x in inputs]


@pytest.mark.parametrize("joints", [3, 24])
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


def test_gradcheck(device):
    points, weights, slopes, bones = make_inputs(device, torch.float64, points=3)
    assert torch.autograd.gradcheck(skin_points, (points, weights, bones))
    assert torch.autograd.gradgradcheck(skin_points, (points, weights, bones))
    assert torch.autograd.gradcheck(skin_points_jacobian, (points, weights, slopes, bones))


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
