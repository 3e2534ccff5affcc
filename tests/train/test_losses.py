import torch

from selfrecon_warp.model.rotation import rotation_from_axis_angle
from selfrecon_warp.train.losses import (
    geman_mcclure,
    loss_acceleration,
    loss_colour,
    loss_consistency,
    loss_eikonal,
    loss_mask_iou,
    loss_normal,
    loss_rigidity,
    loss_temporal,
)


def test_geman_mcclure_is_quadratic_near_zero_and_bounded_far_away():
    torch.testing.assert_close(geman_mcclure(torch.tensor(1e-3), 1.0), torch.tensor(0.5e-6), rtol=1e-4, atol=0)
    assert 1.9 < float(geman_mcclure(torch.tensor(100.0), 1.0)) < 2.0


def test_mask_loss_is_zero_on_equal_masks_and_one_on_disjoint_ones():
    mask = torch.zeros(1, 8, 8)
    mask[:, 2:5, 2:5] = 1.0
    assert float(loss_mask_iou(mask, mask)) == 0.0
    assert float(loss_mask_iou(mask, mask.roll(4, 2))) == 1.0


def test_rigid_maps_cost_nothing_and_have_a_finite_gradient():
    rotation = rotation_from_axis_angle(torch.tensor([[0.0, 0.0, 0.0], [0.3, -0.8, 0.2]])).requires_grad_()
    loss = loss_rigidity(rotation, 0.5)
    loss.backward()
    assert float(loss.detach()) < 1e-6
    assert rotation.grad.isfinite().all()


def test_stretch_costs_as_its_log_singular_values():
    stretch = torch.diag(torch.tensor([1.2, 0.9, 1.0]))[None]
    length = torch.tensor([1.2, 0.9, 1.0]).log().square().sum().sqrt()
    torch.testing.assert_close(loss_rigidity(stretch, 0.5), geman_mcclure(length, 0.5), rtol=1e-4, atol=1e-6)


def test_normals_carried_by_the_map_agree_with_the_field():
    rotation = rotation_from_axis_angle(torch.randn(2, 5, 3))
    gradient = torch.randn(2, 5, 3)
    posed = (rotation @ torch.nn.functional.normalize(gradient, dim=-1)[..., None])[..., 0]
    assert float(loss_normal(gradient, rotation, posed, torch.ones(2, 5))) < 1e-3
    assert float(loss_normal(gradient, rotation, -posed, torch.ones(2, 5))) > 1.9


def test_colour_ignores_rays_without_weight():
    rendered, observed = torch.zeros(1, 4, 3), torch.ones(1, 4, 3)
    weights = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    observed[:, 1:] = 100.0
    assert float(loss_colour(rendered, observed, weights)) == 3.0


def test_temporal_terms_spare_slow_motion_and_see_jitter():
    time = torch.linspace(0, 1, 60)[:, None, None]
    slow = 0.1 * torch.cos(torch.pi * time) * torch.ones(60, 4, 3)
    jitter = 0.01 * torch.randn(60, 4, 3, generator=torch.Generator().manual_seed(0))
    clips = [(0, 25), (25, 60)]
    assert float(loss_temporal(slow, clips)) < 0.1 * float(loss_temporal(jitter, clips))
    assert float(loss_acceleration(slow, clips)) < 0.05 * float(loss_acceleration(jitter, clips))


def test_temporal_terms_do_not_reach_across_clips():
    jump = torch.cat([torch.zeros(30, 2, 3), torch.ones(30, 2, 3)])
    assert float(loss_temporal(jump, [(0, 30), (30, 60)])) < 1e-6
    assert float(loss_acceleration(jump, [(0, 30), (30, 60)])) == 0.0
    assert float(loss_temporal(jump, [(0, 5), (5, 8)])) == 0.0


def test_eikonal_and_consistency_are_zero_at_rest():
    assert float(loss_eikonal(torch.nn.functional.normalize(torch.randn(9, 3), dim=-1))) < 1e-10
    assert float(loss_consistency(torch.zeros(2, 9, 3), 0.01)) == 0.0
