"""The derivative of a ray's meeting point by every group of parameters, against re-solving with them moved."""

import copy

import pytest
import torch
from capture_files import default_body, write_capture
from parameter_groups import GROUPS

from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.config import load_config
from selfrecon_warp.kernels.intersection import implicit_gradient
from selfrecon_warp.kernels.small_matrices import inverse_3x3
from selfrecon_warp.model.avatar import Avatar
from selfrecon_warp.surface.intersection import attach_implicit_gradient, intersect
from selfrecon_warp.surface.polyak import intersect_polyak
from selfrecon_warp.train.losses import loss_normal
from selfrecon_warp.train.step import canonical_directions

SMALL = [
    "model.skinning_resolution=[17, 29, 9]",
    "model.sdf.width=64",
    "model.sdf.depth=4",
    "model.sdf.feature_size=4",
    "model.offset.width=16",
    "model.offset.depth=2",
    "model.offset.code_length=6",
    "model.appearance.width=16",
]
FRAMES = torch.tensor([0, 2])


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """An avatar whose field is about a sphere, and pixels and start points of rays that meet it."""
    torch.manual_seed(0)
    capture = read_capture(write_capture(tmp_path_factory.mktemp("method") / "capture", 3, (160, 120)))
    offsets = torch.zeros(24, 3)
    config = load_config("selfrecon", SMALL).model
    avatar = Avatar(
        config, copy.deepcopy(default_body()), capture.camera, capture.poses, capture.trans, capture.betas, offsets
    )
    with torch.no_grad():
        for parameter in avatar.deformation.offset.network.last.parameters():
            parameter.copy_(0.02 * torch.randn_like(parameter))
        avatar.sdf.layers[-1].bias[0] += 0.4  # a sphere of about 0.2 m around the hips
    avatar = avatar.double()
    avatar.deformation.offset.progress = 1.0
    towards = torch.nn.functional.normalize(torch.randn(80, 3, dtype=torch.float64), dim=-1)
    surface = 0.2 * towards
    for _ in range(30):  # onto the zero level along the gradient
        sample = avatar.sdf.sample(surface)
        step = (sample.value / sample.gradient.square().sum(-1))[:, None] * sample.gradient
        surface = (surface - step).detach()
    start = surface.expand(len(FRAMES), -1, -1)
    codes, bones = avatar.codes[FRAMES].detach(), avatar.bones(FRAMES).detach()
    posed, jacobian, _ = avatar.deformation.with_jacobian(start, codes, bones)
    pixels = avatar.camera.project(posed)[..., :2].detach()
    rays = canonical_directions(jacobian, avatar.camera.rays(pixels), differentiable=False)
    normal = torch.nn.functional.normalize(avatar.sdf.sample(surface).gradient, dim=-1)
    frontal = ((rays * normal).sum(-1).abs() > 0.5).all(0)
    start, pixels = start[:, frontal], pixels[:, frontal]
    assert start.shape[1] >= 8
    return avatar, start + 1e-3 * torch.randn_like(start), pixels


def solve(avatar, start, pixels):
    """Meeting points to machine precision, without gradient."""
    codes, bones = avatar.codes[FRAMES], avatar.bones(FRAMES)
    points = start
    with torch.no_grad():
        for _ in range(4):  # the Jacobian is taken anew in each round
            _, jacobian, _ = avatar.deformation.with_jacobian(points, codes, bones)
            points, converged = intersect(
                points,
                avatar.camera.rays(pixels),
                avatar.camera.centre(),
                lambda p: field(avatar, p),
                lambda p: avatar.deformation(p, codes, bones)[0],
                jacobian,
                steps=8,
                distance_tolerance=1e-13,
                angle_tolerance=1e-13,
            )
    return points, converged


def field(avatar, points):
    sample = avatar.sdf.sample(points.reshape(-1, 3))
    return sample.value.view(points.shape[:-1]), sample.gradient.view(points.shape)


def attached(avatar, points, pixels):
    value, gradient = field(avatar, points)
    posed, jacobian, _ = avatar.deformation.with_jacobian(points, avatar.codes[FRAMES], avatar.bones(FRAMES))
    return attach_implicit_gradient(
        points,
        value,
        gradient.detach(),
        posed,
        jacobian.detach(),
        avatar.camera.rays(pixels),
        avatar.camera.centre(),
    )


@pytest.mark.parametrize("group", GROUPS)
def test_implicit_gradient_is_that_of_the_solved_point(scene, group):
    avatar, start, pixels = scene
    parameters = GROUPS[group](avatar)
    for parameter in parameters:
        parameter.requires_grad_()
    points, _ = solve(avatar, start, pixels)
    moving, regular = attached(avatar, points, pixels)
    generator = torch.Generator().manual_seed(1)
    upstream = torch.randn(points.shape, generator=generator, dtype=points.dtype) * regular[..., None]
    gradients = torch.autograd.grad((moving * upstream).sum(), parameters, allow_unused=True)
    directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    predicted = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True) if g is not None)
    step, ends = 1e-6, []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter += sign * step * direction
            ends.append((solve(avatar, points, pixels)[0] * upstream).sum())
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter -= sign * step * direction
    measured = (ends[0] - ends[1]) / (2 * step)
    assert abs(measured) > 1e-4
    torch.testing.assert_close(predicted.detach(), measured, rtol=2e-4, atol=1e-7)


def test_the_published_step_ends_at_the_same_points(scene):
    avatar, start, pixels = scene
    expected, regular = solve(avatar, start, pixels)
    codes, bones = avatar.codes[FRAMES].detach(), avatar.bones(FRAMES).detach()
    found, converged = intersect_polyak(
        start,
        avatar.camera.rays(pixels),
        avatar.camera.centre(),
        lambda p: field(avatar, p),
        lambda p: avatar.deformation(p, codes, bones)[0],
        steps=400,
        distance_tolerance=1e-6,
        angle_tolerance=1e-6,
    )
    both = converged & regular
    assert both.float().mean() > 0.8
    torch.testing.assert_close(found[both], expected[both], rtol=0, atol=2e-5)


def test_canonical_view_direction_is_carried_on_to_the_ray(scene):
    avatar, start, pixels = scene
    points, _ = solve(avatar, start, pixels)
    codes, bones = avatar.codes[FRAMES].detach(), avatar.bones(FRAMES).detach()
    _, jacobian, _ = avatar.deformation.with_jacobian(points, codes, bones)
    rays = avatar.camera.rays(pixels).detach()
    canonical = canonical_directions(jacobian, rays, differentiable=False).detach()
    with torch.no_grad():
        step = 1e-6
        ends = [avatar.deformation(points + sign * step * canonical, codes, bones)[0] for sign in (1.0, -1.0)]
    carried = torch.nn.functional.normalize(ends[0] - ends[1], dim=-1)
    torch.testing.assert_close(carried, rays, rtol=0, atol=1e-6)


def test_normals_are_carried_as_the_deformed_surface_turns(scene):
    avatar, start, pixels = scene
    points, _ = solve(avatar, start, pixels)
    codes, bones = avatar.codes[FRAMES].detach(), avatar.bones(FRAMES).detach()
    _, gradient = field(avatar, points)
    _, jacobian, _ = avatar.deformation.with_jacobian(points, codes, bones)
    inverse, _ = inverse_3x3(jacobian.detach())
    normal = torch.nn.functional.normalize((inverse.transpose(-1, -2) @ gradient[..., None])[..., 0], dim=-1).detach()
    canonical = torch.nn.functional.normalize(gradient.detach(), dim=-1)
    first = torch.nn.functional.normalize(torch.linalg.cross(canonical, torch.roll(canonical, 1, -1)), dim=-1)
    for tangent in (first, torch.linalg.cross(canonical, first)):
        with torch.no_grad():
            ends = [avatar.deformation(points + sign * 1e-6 * tangent, codes, bones)[0] for sign in (1.0, -1.0)]
        moved = (ends[0] - ends[1]) / 2e-6
        assert ((moved * normal).sum(-1).abs() < 1e-6).all()


def test_normal_loss_vanishes_where_the_map_is_rigid_and_the_normals_agree():
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(1, 6, 3, 3, generator=generator, dtype=torch.float64))[0]
    gradient = torch.randn(1, 6, 3, generator=generator, dtype=torch.float64)
    observed = torch.nn.functional.normalize((rotation @ gradient[..., None])[..., 0], dim=-1)
    assert loss_normal(gradient, rotation, observed, torch.ones(1, 6, dtype=torch.float64)) < 1.1e-4


def test_rays_that_graze_the_surface_carry_no_gradient_in_either_form():
    slopes = torch.tensor([0.002, 0.008, 0.012, 0.1, 0.9], dtype=torch.float64)
    directions = torch.stack([(1.0 - slopes**2).sqrt(), torch.zeros_like(slopes), -slopes], -1)[None]
    normals = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand(1, 5, 3)
    points = 3.0 * directions
    jacobian, centre = torch.eye(3, dtype=torch.float64).expand(1, 5, 3, 3), torch.zeros(3, dtype=torch.float64)
    for form in ("inverse", "least_squares"):
        value = torch.zeros(1, 5, dtype=torch.float64, requires_grad=True)
        moved, regular = implicit_gradient(points, value, normals, points, jacobian, directions, centre, form=form)
        moved.sum().backward()
        assert regular.tolist() == [[False, False, True, True, True]]
        assert value.grad.ne(0).tolist() == regular.tolist()
