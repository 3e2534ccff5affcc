"""What the regularisers leave free, and what they cost where the answer is known in closed form."""

import math

import pytest
import torch
from torch import nn

from selfrecon_warp.config import MethodConfig, StageConfig
from selfrecon_warp.kernels.mesh_losses import loss_normal_consistency
from selfrecon_warp.model.deformation import dct_basis
from selfrecon_warp.model.rotation import rotation_from_axis_angle
from selfrecon_warp.train.losses import (
    geman_mcclure,
    loss_acceleration,
    loss_consistency,
    loss_eikonal,
    loss_normal,
    loss_rigidity,
    loss_temporal,
)
from selfrecon_warp.train.regularisers import eikonal_points, regulariser_terms

WINDOW, KEPT = 30, 10
TURN = rotation_from_axis_angle(torch.tensor([0.4, -0.9, 0.3], dtype=torch.float64))


# ---- temporal -------------------------------------------------------------------------------------------------------


def test_the_temporal_term_leaves_ten_cosines_a_window_free_and_nothing_else():
    basis = dct_basis(WINDOW)
    for k in range(WINDOW):
        cost = float(loss_temporal(basis[k, :, None, None], [(0, WINDOW)]))
        assert cost == pytest.approx(0.0 if k < KEPT else 1.0 / (WINDOW - KEPT), abs=1e-6)
    generator = torch.Generator().manual_seed(0)
    slopes = []
    for _ in range(40):
        path = torch.randn(WINDOW, 1, 3, generator=generator).requires_grad_()
        loss_temporal(path, [(0, WINDOW)]).backward()
        slopes.append(basis @ path.grad[:, 0, 0])
    slopes = torch.stack(slopes)
    assert slopes[:, :KEPT].abs().max() < 1e-6
    assert torch.linalg.matrix_rank(slopes, tol=1e-4) == WINDOW - KEPT


def test_standing_still_costs_nothing_and_an_even_walk_its_few_high_cosines():
    steps = torch.arange(80.0)[:, None, None]
    still, even = torch.full((80, 5, 3), 2.5), 0.02 * steps * torch.ones(1, 5, 3)
    jitter = 0.02 * torch.randn(80, 5, 3, generator=torch.Generator().manual_seed(0))
    clips = [(0, 45), (45, 80)]
    assert float(loss_temporal(still, clips)) < 1e-6
    assert float(loss_temporal(still + jitter, clips)) == pytest.approx(float(loss_temporal(jitter, clips)), rel=1e-4)
    halves = [math.pi * k / (2 * WINDOW) for k in range(KEPT + 1, WINDOW, 2)]  # even cosines do not see a ramp
    tail = sum(math.cos(half) / (2.0 * math.sin(half) ** 2) for half in halves)
    expected = 0.02 * math.sqrt(2.0 / WINDOW) * tail / (WINDOW - KEPT)
    assert float(loss_temporal(even, clips)) == pytest.approx(expected, rel=1e-3)
    assert expected < 0.1 * float(loss_temporal(jitter, clips))


def test_second_differences_are_blind_to_even_motion_alone():
    steps = torch.arange(20.0, dtype=torch.float64)[:, None, None]
    even = 1.0 + 0.3 * steps * torch.ones(1, 2, 3, dtype=torch.float64)
    assert float(loss_acceleration(even, [(0, 20)])) < 1e-25
    assert float(loss_acceleration(0.5 * 0.01 * steps**2, [(0, 20)])) == pytest.approx(1e-4)


# ---- rigidity -------------------------------------------------------------------------------------------------------


class LinearOffset(nn.Module):
    """Moves points by ``M p + t - p``."""

    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, points: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return points.expand(len(codes), *points.shape[-2:]) @ (self.matrix.T - torch.eye(3).to(points)) + 0.1

    def with_jacobian(self, points: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        slope = self.matrix - torch.eye(3).to(points)
        return self(points, codes), slope.expand(*points.shape[:-1], 3, 3)


class Stub:
    """As much of an avatar, a field and a mesh as the regularisers look at."""

    def __init__(self, matrix: torch.Tensor, slope: float = 1.0) -> None:
        offset = LinearOffset(matrix)
        self.deformation = type("Deformation", (), {"offset": offset})()
        self.sdf = type("Field", (), {"sample": lambda _, points: type("Sample", (), {"gradient": radial(points)})()})()
        self.vertices = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=-1)
        self.lower, self.upper = -torch.ones(3).double(), torch.ones(3).double()
        self.poses = torch.zeros(1)

        def radial(points: torch.Tensor) -> torch.Tensor:
            return slope * torch.nn.functional.normalize(points, dim=-1)


def terms(stub: Stub, **method) -> dict[str, torch.Tensor]:
    stage = StageConfig(
        name="one", iterations=1, losses={"pull": 0.0, "temporal": 0.0, "eikonal": 1.0, "rigidity": 1.0}
    )
    points = torch.randn(2, 40, 3, dtype=torch.float64)
    known = stub.deformation.offset.matrix.expand(2, 40, 3, 3)
    return regulariser_terms(
        stub, stub, points, known, torch.zeros(2, 1), stage, MethodConfig(**method), [], torch.Generator()
    )


FORMS = [{}, {"regularised_vertices": 30, "jittered_rigidity": True}]
FORMS.append({**FORMS[1], "lean": True, "lean_points": 16})


@pytest.mark.parametrize("method", FORMS, ids=["rays", "published", "lean"])
def test_a_rigid_offset_costs_nothing_and_a_scaled_one_its_logarithm(method):
    assert float(terms(Stub(TURN), **method)["rigidity"].detach()) < 1e-9
    scaled = terms(Stub(1.3 * TURN), **method)["rigidity"]
    expected = geman_mcclure(torch.tensor(math.sqrt(3.0) * math.log(1.3)), 0.5)
    assert float(scaled.detach()) == pytest.approx(float(expected), rel=1e-5)


def test_rigidity_does_not_care_for_rotations_before_or_after():
    matrix = torch.eye(3).double() + 0.3 * torch.randn(3, 3, generator=torch.Generator().manual_seed(2)).double()
    alone = loss_rigidity(matrix[None], 0.5)
    for turned in (TURN @ matrix, matrix @ TURN, TURN @ matrix @ TURN.T):
        torch.testing.assert_close(loss_rigidity(turned[None], 0.5), alone, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(loss_rigidity(torch.linalg.inv(matrix)[None], 0.5), alone, rtol=1e-6, atol=1e-9)


def test_rigidity_passes_a_finite_difference_check():
    matrices = torch.eye(3).double() + 0.2 * torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(3)).double()
    assert torch.autograd.gradcheck(lambda m: loss_rigidity(m, 0.5), matrices.requires_grad_())


# ---- consistency ----------------------------------------------------------------------------------------------------


def test_the_robust_function_has_its_values_and_slopes():
    c = 0.01
    residual = torch.tensor([0.0, 0.5, 1.0, 2.0, 5.0, 1000.0], dtype=torch.float64, requires_grad=True)
    value = geman_mcclure(residual * c, c)
    torch.testing.assert_close(value[:4].detach(), torch.tensor([0.0, 2 / 17, 0.4, 1.0], dtype=torch.float64))
    assert 1.99 < float(value[-1].detach()) < 2.0
    (slope,) = torch.autograd.grad(value.sum(), residual)
    expected = 16.0 * residual / (residual**2 + 4.0) ** 2
    torch.testing.assert_close(slope, expected.detach())
    finest = torch.linspace(0, 10, 10001, dtype=torch.float64)
    steepest = finest[(16.0 * finest / (finest**2 + 4.0) ** 2).argmax()]
    assert float(steepest) == pytest.approx(2.0 / math.sqrt(3.0), abs=1e-3)  # further out, trust falls


def test_consistency_is_smooth_where_nothing_moves_and_turns_with_what_does():
    still = torch.zeros(2, 5, 3, dtype=torch.float64, requires_grad=True)
    loss_consistency(still, 0.01).backward()
    assert not still.grad.any()
    moved = 0.02 * torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(loss_consistency(moved @ TURN.T, 0.01), loss_consistency(moved, 0.01))
    assert torch.autograd.gradcheck(lambda d: loss_consistency(d, 0.01), moved.requires_grad_())
    assert float(loss_consistency(moved, None).detach()) == pytest.approx(float(moved.detach().square().sum(-1).mean()))


# ---- eikonal, normals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", FORMS, ids=["rays", "published", "lean"])
@pytest.mark.parametrize("slope", [1.0, 1.5, 0.2])
def test_a_distance_costs_nothing_and_a_steeper_field_its_excess_squared(method, slope):
    assert float(terms(Stub(TURN, slope), **method)["eikonal"]) == pytest.approx((slope - 1.0) ** 2, abs=1e-12)


def test_the_eikonal_asks_about_the_surface_and_the_whole_box():
    stub, surface = Stub(TURN), torch.zeros(1, 700, 3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    points = eikonal_points(stub, surface, MethodConfig(eikonal_share=1.0, eikonal_box=1.8), generator)
    near, far = points[:700], points[700:]
    assert float(near.std()) == pytest.approx(0.01, rel=0.05)
    assert len(far) == 700 // 6
    assert 1.7 < float(far.abs().max()) < 1.8
    inside = eikonal_points(stub, surface, MethodConfig(eikonal_share=0.5), generator)
    assert len(inside) == 350 + 350 // 6
    assert float(inside.abs().max()) <= 1.0


def test_eikonal_and_normal_terms_ignore_rotations_of_everything():
    generator = torch.Generator().manual_seed(1)
    gradient, observed = (torch.randn(1, 9, 3, generator=generator).double() for _ in range(2))
    observed = torch.nn.functional.normalize(observed, dim=-1)
    jacobian = torch.eye(3).double() + 0.2 * torch.randn(1, 9, 3, 3, generator=generator).double()
    weights = torch.rand(1, 9, generator=generator).double()
    torch.testing.assert_close(loss_eikonal(gradient @ TURN.T), loss_eikonal(gradient))
    alone = loss_normal(gradient, jacobian, observed, weights)
    in_world = loss_normal(gradient, TURN @ jacobian, observed @ TURN.T, weights)
    in_canonical = loss_normal(gradient @ TURN.T, jacobian @ TURN.T, observed, weights)
    longer = loss_normal(3.0 * gradient, jacobian, observed, weights)
    for other in (in_world, in_canonical, longer):
        torch.testing.assert_close(other, alone)


def test_normal_consistency_is_none_on_a_plane_and_measures_a_fold():
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], dtype=torch.float64)
    faces = torch.tensor([[0, 1, 2], [2, 1, 3]], dtype=torch.int32)
    assert float(loss_normal_consistency(vertices, faces)) < 1e-12
    fold = math.radians(35.0)
    axis = torch.nn.functional.normalize(vertices[2] - vertices[1], dim=0)
    folded = vertices.clone()
    folded[3] = vertices[1] + rotation_from_axis_angle(fold * axis) @ (vertices[3] - vertices[1])
    expected = 1.0 - math.cos(fold)
    for placed in (folded, 7.0 * folded + 2.0, folded @ TURN.T):
        assert float(loss_normal_consistency(placed, faces)) == pytest.approx(expected, rel=1e-6)
