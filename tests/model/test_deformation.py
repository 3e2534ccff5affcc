import pytest
import torch

from selfrecon_warp.model.deformation import BasisOffset, Deformation, MlpOffset, dct_basis, smooth_codes
from selfrecon_warp.model.rotation import rotation_from_axis_angle

LOWER, UPPER = torch.full((3,), -1.0).double(), torch.full((3,), 1.0).double()


def linear_volume() -> torch.Tensor:
    """Two joints whose weights vary linearly with x, which trilinear lookup reproduces exactly."""
    centres = (torch.arange(16, dtype=torch.float64) + 0.5) / 16
    first = centres[:, None, None].expand(16, 8, 8)
    return torch.stack([first, 1.0 - first], -1).contiguous()


HANDS = torch.tensor([[[0.2, 0.1, 0.0], [0.8, -0.6, 0.0]], [[-0.2, 0.1, 0.0], [-0.8, -0.6, 0.0]]]).double()


def make(kind: str, at_offset: bool, hands=None) -> tuple[Deformation, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    offset = BasisOffset(6, 16, 2, 3) if kind == "basis" else MlpOffset(6, 16, 2, 3)
    torch.nn.init.normal_(offset.network.last.weight, 0.0, 0.05)
    deformation = Deformation(offset.double(), linear_volume(), LOWER, UPPER, at_offset, hands)
    codes = torch.randn(2, 6, dtype=torch.float64)
    bones = torch.eye(4, dtype=torch.float64).repeat(2, 2, 1, 1)
    bones[..., :3, :3] = rotation_from_axis_angle(0.4 * torch.randn(2, 2, 3, dtype=torch.float64))
    bones[..., :3, 3] = 0.2 * torch.randn(2, 2, 3, dtype=torch.float64)
    points = torch.rand(2, 7, 3, dtype=torch.float64) - 0.5
    return deformation, points, codes, bones


@pytest.mark.parametrize("hands", [None, HANDS], ids=["free", "hands"])
@pytest.mark.parametrize("at_offset", [True, False])
@pytest.mark.parametrize("kind", ["basis", "mlp"])
def test_jacobian_is_the_derivative_of_the_map(kind, at_offset, hands):
    deformation, points, codes, bones = make(kind, at_offset, hands)
    if hands is not None:  # about both hands' beginnings and rims
        points = HANDS[torch.arange(2), 0][:, None] + 0.2 * points
    posed, jacobian, offset_jacobian = deformation.with_jacobian(points, codes, bones)
    torch.testing.assert_close(posed, deformation(points, codes, bones)[0])
    step = 1e-6
    for axis in range(3):
        moved = torch.zeros(3, dtype=torch.float64)
        moved[axis] = step
        ahead, behind = (deformation(points + sign * moved, codes, bones) for sign in (1, -1))
        torch.testing.assert_close(jacobian[..., axis], (ahead[0] - behind[0]) / (2 * step), rtol=1e-5, atol=1e-6)
        slope = (ahead[1] - behind[1]) / (2 * step) + moved / step
        torch.testing.assert_close(offset_jacobian[..., axis], slope, rtol=1e-5, atol=1e-6)


def test_hands_that_are_worn_ride_on_the_bones_alone():
    deformation, points, codes, _ = make("mlp", False, HANDS)
    within = HANDS[:, 0] + 0.08 * HANDS[:, 1]
    before = HANDS[:, 0] - 0.01 * HANDS[:, 1]
    assert (deformation.displacement(within, codes) == 0).all()
    free = deformation.offset(torch.cat([within, before, points[0]]), codes)
    torch.testing.assert_close(deformation.displacement(before, codes), free[:, 2:4])
    deformation.hands_worn[1] = False
    moved = deformation.displacement(within, codes)
    assert (moved[:, 0] == 0).all()
    torch.testing.assert_close(moved[:, 1], free[:, 1])


def test_shared_points_deform_as_batched_ones():
    deformation, points, codes, bones = make("basis", False)
    shared = deformation(points[0], codes, bones)[0]
    torch.testing.assert_close(shared, deformation(points[:1].expand(2, -1, -1), codes, bones)[0])


def test_known_weights_spare_the_lookup_and_change_nothing():
    deformation, points, codes, bones = make("basis", False)
    weights = deformation.skinning_weights(points[0])
    torch.testing.assert_close(
        deformation(points[0], codes, bones, weights)[0], deformation(points[0], codes, bones)[0]
    )


def test_fresh_offset_is_near_zero():
    torch.manual_seed(0)
    for offset in (BasisOffset(16, 64, 2, 4), MlpOffset()):
        codes = smooth_codes(40, 16 if isinstance(offset, BasisOffset) else 128)[:2]
        assert offset(torch.rand(50, 3) - 0.5, codes).norm(dim=-1).max().item() < 0.02


def test_codes_are_smooth_in_time_with_the_published_spread():
    torch.manual_seed(0)
    codes = smooth_codes(100, 128)
    spectrum = dct_basis(100) @ codes
    assert codes.shape == (100, 128)
    assert float(spectrum[20:].abs().max()) < 1e-4
    assert 0.04 < float(codes.std()) < 0.05


def test_dct_basis_is_orthonormal():
    basis = dct_basis(30)
    torch.testing.assert_close(basis @ basis.T, torch.eye(30), atol=1e-5, rtol=0)
