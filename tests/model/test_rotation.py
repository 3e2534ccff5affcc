import pytest
import torch
from scipy.spatial.transform import Rotation

from selfrecon_warp.model.rotation import rotation_from_axis_angle, rotation_from_quaternion


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
def test_axis_angle_matches_scipy_at_every_size(dtype, tolerance):
    directions = torch.nn.functional.normalize(torch.randn(200, 3, dtype=torch.float64), dim=-1)
    vectors = directions * torch.logspace(-9, 1, 200, dtype=torch.float64)[:, None]
    expected = torch.from_numpy(Rotation.from_rotvec(vectors.numpy()).as_matrix())
    found = rotation_from_axis_angle(vectors.to(dtype)).double()
    exact = torch.from_numpy(Rotation.from_rotvec(vectors.to(dtype).double().numpy()).as_matrix())
    torch.testing.assert_close(found, exact, atol=tolerance, rtol=0)
    torch.testing.assert_close(found, expected, atol=max(tolerance, 1e-5), rtol=0)


@pytest.mark.parametrize("size", [0.0, 1e-8, 0.00999, 0.0101, 0.5, 3.1])
def test_axis_angle_gradients(size):
    vectors = (torch.tensor([[0.6, -0.48, 0.64]], dtype=torch.float64) * size).requires_grad_()
    assert torch.autograd.gradcheck(rotation_from_axis_angle, (vectors,))
    assert torch.autograd.gradgradcheck(rotation_from_axis_angle, (vectors,))


def test_gradient_at_zero_is_the_generator():
    jacobian = torch.autograd.functional.jacobian(rotation_from_axis_angle, torch.zeros(3))
    generator_x = torch.tensor([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    torch.testing.assert_close(jacobian[..., 0], generator_x)


def test_quaternions_match_scipy_at_any_length():
    quat = torch.randn(50, 4, dtype=torch.float64)
    expected = torch.from_numpy(Rotation.from_quat(quat[:, [1, 2, 3, 0]].numpy()).as_matrix())
    torch.testing.assert_close(rotation_from_quaternion(quat), expected)
    torch.testing.assert_close(rotation_from_quaternion(7 * quat), expected)
    assert torch.autograd.gradcheck(rotation_from_quaternion, (quat[:3].requires_grad_(),))
