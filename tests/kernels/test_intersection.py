import math

import pytest
import torch
from torch.nn import functional as F

from selfrecon_warp.kernels import intersection
from selfrecon_warp.kernels.interop import SPLIT_GRAIN
from selfrecon_warp.kernels.intersection import implicit_gradient, ray_step
from selfrecon_warp.kernels.reference import intersection as reference
from selfrecon_warp.kernels.small_matrices import inverse_3x3

LIMITS = {"distance_tolerance": 0.02, "angle_tolerance": 0.02, "max_step": 0.05}
FORMS = ["inverse", "least_squares"]


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make_rays(device, dtype=torch.float64, rays=23, exact=False):
    """Points, value, gradient, posed, Jacobian, directions and centre; the first ray's map is singular.

    A third of the rays have converged; exact ones all lie on their rays.
    """
    centre = random(3, seed=1, dtype=dtype)
    directions = F.normalize(random(2, rays, 3, seed=2, dtype=dtype), dim=-1)
    value, off = 0.03 * random(2, rays, seed=3, dtype=dtype), 0.05 * random(2, rays, 3, seed=4, dtype=dtype)
    value[:, ::3], off[:, ::3] = 1e-3, 1e-3
    if exact:
        off = torch.zeros_like(off)
    posed = centre + 2.0 * directions + off
    jacobian = torch.eye(3, dtype=dtype) + 0.3 * random(2, rays, 3, 3, seed=5, dtype=dtype)
    jacobian[:, 1:2] = 0.0
    gradient = F.normalize(random(2, rays, 3, seed=6, dtype=dtype), dim=-1)
    points = random(2, rays, 3, seed=7, dtype=dtype)
    return [x.to(device) for x in (points, value, gradient, posed, jacobian, directions, centre)]


def step_inputs(device, **options):
    points, value, gradient, posed, jacobian, directions, centre = make_rays(device, **options)
    inverse, regular = inverse_3x3(jacobian)
    return points, value, gradient, posed, directions, centre, inverse, regular


def differentiable(inputs):
    """The inputs of ``implicit_gradient`` that carry one."""
    return [inputs[i].requires_grad_() for i in (1, 3, 5, 6)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_step_matches_reference(device, dtype):
    inputs = step_inputs(device, dtype=dtype)
    found, expected = ray_step(*inputs, **LIMITS), reference.ray_step(*inputs, **LIMITS)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    stay = found.converged | ~inputs[-1]
    assert found.converged.any()
    assert not found.converged.all()
    assert torch.equal(found.points[stay], inputs[0][stay])
    length = (found.points - inputs[0]).norm(dim=-1)
    assert float(length.max()) < LIMITS["max_step"] * (1 + 1e-4)


def test_one_step_solves_a_plane_under_an_affine_map(device):
    points, _, gradient, _, jacobian, directions, centre = make_rays(device)
    gradient = gradient[:, :1].expand_as(gradient)
    shift = torch.tensor([0.1, 0.2, 2.0], dtype=torch.float64, device=device)

    def residuals(points):
        return (points * gradient).sum(-1) - 0.4, (jacobian @ points[..., None])[..., 0] + shift

    inverse, regular = inverse_3x3(jacobian)
    slope = (gradient * (inverse @ directions[..., None])[..., 0]).sum(-1).abs()
    limits = {"distance_tolerance": 1e-9, "angle_tolerance": 1e-7, "max_step": 1e6}
    value, posed = residuals(points)
    points, converged = ray_step(points, value, gradient, posed, directions, centre, inverse, regular, **limits)
    assert not converged.any()
    value, posed = residuals(points)
    _, converged = ray_step(points, value, gradient, posed, directions, centre, inverse, regular, **limits)
    assert torch.equal(converged, regular & (slope > intersection.STEP_SLOPE))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_implicit_gradient_matches_reference(device, form, dtype):
    inputs = make_rays(device, dtype=dtype)
    wanted = differentiable(inputs)
    results = []
    for module in (intersection, reference):
        points, regular = module.implicit_gradient(*inputs, form=form)
        results.append((points, regular, *torch.autograd.grad(points.sin().sum(), wanted)))
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)
    assert int((~results[0][1]).sum()) >= 2


def test_both_forms_agree_on_points_that_lie_on_their_rays(device):
    inputs = make_rays(device, exact=True)
    wanted = differentiable(inputs)
    results = []
    for form in FORMS:
        points, regular = implicit_gradient(*inputs, form=form, threshold=1e-9)
        results.append((points, regular, *torch.autograd.grad(points.cos().sum(), wanted)))
    torch.testing.assert_close(*results)


def test_gradcheck(device):
    points, value, gradient, posed, jacobian, directions, centre = make_rays(device)
    for form in FORMS:  # the points answer to changes, so their derivative is tested along a linear system
        values, poses, aims, origin = differentiable([points, value, gradient, posed, jacobian, directions, centre])

        def solved(value, posed, directions, centre, form=form):
            return reference.implicit_gradient(points, value, gradient, posed, jacobian, directions, centre, form)[0]

        upstream = random(*points.shape, seed=8).to(device)
        found = implicit_gradient(points, values, gradient, poses, jacobian, aims, origin, form)[0]
        ours = torch.autograd.grad(found, (values, poses, aims, origin), upstream)
        probes = [random(*x.shape, seed=9 + i).to(device) for i, x in enumerate((values, poses, aims, origin))]
        _, change = torch.autograd.functional.jvp(solved, (values, poses, aims, origin), tuple(probes))
        expected = sum((a * b).sum() for a, b in zip(ours, probes, strict=True))
        torch.testing.assert_close((change * upstream).sum(), expected)


def test_values_that_are_not_finite_spoil_their_own_ray_only(device):
    clean, spoiled = step_inputs(device), [x.clone() for x in step_inputs(device)]
    spoiled[1][0, 4], spoiled[3][0, 5], spoiled[2][0, 7] = math.nan, math.inf, math.nan
    expected, found = ray_step(*clean, **LIMITS), ray_step(*spoiled, **LIMITS)
    bad = torch.zeros_like(clean[-1])
    bad[0, [4, 5, 7]] = True
    assert torch.equal(found.points[~bad], expected.points[~bad])
    assert not found.converged[bad].any()

    inputs = make_rays(device)
    inputs[4][0, 4], inputs[2][0, 5] = math.nan, math.nan
    wanted = differentiable(inputs)
    for form in FORMS:
        points, regular = implicit_gradient(*inputs, form=form)
        assert not regular[0, 4:6].any()
        gradients = torch.autograd.grad(points.sum(), wanted)
        assert all(x.isfinite().all() for x in gradients)
        assert not any(x[0, 4:6].any() for x in gradients[:3])


def test_empty_input(device):
    stepped = ray_step(*step_inputs(device, rays=0), **LIMITS)
    assert stepped.points.shape == (2, 0, 3)
    assert stepped.converged.shape == (2, 0)
    inputs = make_rays(device, rays=0)
    wanted = differentiable(inputs)
    for form in FORMS:
        gradients = torch.autograd.grad(implicit_gradient(*inputs, form=form)[0].sum(), wanted)
        assert not gradients[-1].any()


def test_strided_input(device):
    def strided(x):
        return x if x.dim() < 2 else x.transpose(0, -1).contiguous().transpose(0, -1)

    inputs = step_inputs(device)
    torch.testing.assert_close(ray_step(*map(strided, inputs), **LIMITS), ray_step(*inputs, **LIMITS))
    inputs = make_rays(device)
    for form in FORMS:
        torch.testing.assert_close(
            implicit_gradient(*map(strided, inputs), form=form), implicit_gradient(*inputs, form=form)
        )


def test_two_backwards_through_one_graph(device):
    inputs = make_rays(device)
    wanted = differentiable(inputs)
    points = implicit_gradient(*inputs)[0].sum()
    first = torch.autograd.grad(points, wanted, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(points, wanted), first)


def test_threads_do_not_change_the_result(threads):
    inputs = make_rays("cpu", rays=SPLIT_GRAIN + 7)
    wanted = differentiable(inputs)
    results = []
    for count in (1, 2):
        threads(count)
        points, value, gradient, posed, jacobian, directions, centre = (x.detach() for x in inputs)
        found = [*ray_step(points, value, gradient, posed, directions, centre, *inverse_3x3(jacobian), **LIMITS)]
        for form in FORMS:
            moved, regular = implicit_gradient(*inputs, form=form)
            found += [moved, regular, *torch.autograd.grad(moved.sin().sum(), wanted)]
        results.append(found)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_names_the_mismatched_argument(device):
    step, rays = step_inputs(device), make_rays(device)
    for call, message in (
        (lambda: ray_step(step[0], step[1][:1], *step[2:], **LIMITS), r"value must have shape \[B=2, R=23\]"),
        (
            lambda: ray_step(*step[:-1], step[-1].int(), **LIMITS),
            "regular must be bool on .* like points, got torch.int32",
        ),
        (lambda: ray_step(*step[:5], step[5].float(), *step[6:], **LIMITS), "centre must be torch.float64"),
        (lambda: implicit_gradient(*rays[:-1], rays[0][0]), r"centre must have shape \[3\], got \[23, 3\]"),
        (lambda: implicit_gradient(*rays, form="exact"), "form must be 'inverse' or 'least_squares', got 'exact'"),
        (lambda: implicit_gradient(*rays[:3], rays[3].float(), *rays[4:]), "posed must be torch.float64"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
