import pytest
import torch
from torch.nn import functional as F

from selfrecon_warp.surface.intersection import attach_implicit_gradient, intersect

TORCH = {"dtype": torch.float64}


class Scene:
    """A sphere of radius ``radius`` under a bent affine map, seen from ``centre``."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.radius = torch.tensor(0.5, **TORCH)
        self.shift = torch.tensor([0.1, -0.05, 2.0], **TORCH)
        self.bend = torch.tensor(0.3, **TORCH)
        self.centre = torch.tensor([0.02, 0.01, -0.1], **TORCH)
        aim = 0.2 * torch.rand(2, 9, 2, generator=generator, **TORCH) - 0.06
        self.directions = F.normalize(torch.cat([aim, torch.ones(2, 9, 1, **TORCH)], -1), dim=-1)
        self.linear = torch.tensor([[1.1, 0.1, 0.0], [0.0, 0.9, 0.2], [-0.1, 0.0, 1.0]], **TORCH)

    def field(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        length = points.norm(dim=-1)
        return length - self.radius, points / length[..., None]

    def deform(self, points: torch.Tensor) -> torch.Tensor:
        curve = self.bend * points[..., :1] ** 2
        return points @ self.linear.T + F.pad(curve, (1, 1)) + self.shift

    def jacobian(self, points: torch.Tensor) -> torch.Tensor:
        slope = torch.zeros(*points.shape[:-1], 3, 3, **TORCH)
        slope[..., 1, 0] = 2.0 * self.bend * points[..., 0]
        return self.linear + slope

    def start(self) -> torch.Tensor:
        """Points on the near side, a few millimetres to centimetres off."""
        guess = torch.linalg.solve(self.linear, (self.centre + 1.6 * self.directions - self.shift)[..., None])[..., 0]
        return F.normalize(guess, dim=-1) * 0.51

    def solve(self, steps: int = 30, start: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        start = self.start() if start is None else start
        return intersect(
            start, self.directions, self.centre, self.field, self.deform, self.jacobian(start),
            steps=steps, distance_tolerance=1e-12, angle_tolerance=1e-12, max_step=0.2,
        )  # fmt: skip


def test_solved_points_lie_on_surface_and_ray():
    scene = Scene()
    points, converged = scene.solve()
    assert converged.all()
    torch.testing.assert_close(points.norm(dim=-1), scene.radius.expand(2, 9))
    reached = F.normalize(scene.deform(points) - scene.centre, dim=-1)
    torch.testing.assert_close(reached, scene.directions)


def test_three_steps_from_millimetres_away_reach_micrometres():
    scene = Scene()
    exact, _ = scene.solve()
    near = exact + 2e-3 * torch.randn(exact.shape, generator=torch.Generator().manual_seed(1), **TORCH)
    points, _ = scene.solve(steps=3, start=near)
    assert float((points - exact).abs().max()) < 1e-6


@pytest.mark.parametrize("name", ["radius", "shift", "bend", "centre", "directions"])
def test_implicit_gradient_matches_finite_differences_of_the_solved_point(name):
    scene = Scene()
    exact, _ = scene.solve()
    parameter = getattr(scene, name).clone().requires_grad_()
    setattr(scene, name, parameter)
    value, gradient = scene.field(exact)
    points, regular = attach_implicit_gradient(
        exact, value, gradient, scene.deform(exact), scene.jacobian(exact).detach(), scene.directions, scene.centre
    )
    assert regular.all()
    torch.testing.assert_close(points, exact)
    upstream = torch.randn(exact.shape, generator=torch.Generator().manual_seed(2), **TORCH)
    (found,) = torch.autograd.grad((points * upstream).sum(), parameter)
    probe = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3), **TORCH)
    if name == "directions":  # unit directions can only turn
        probe = probe - (probe * scene.directions.detach()).sum(-1, keepdim=True) * scene.directions.detach()
    step = 1e-5
    ends = []
    for sign in (1, -1):
        moved = parameter.detach() + sign * step * probe
        setattr(scene, name, F.normalize(moved, dim=-1) if name == "directions" else moved)
        ends.append((scene.solve(start=exact)[0] * upstream).sum())
    torch.testing.assert_close((found * probe).sum(), (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-7)


def test_singular_maps_are_skipped_and_carry_no_gradient():
    scene = Scene()
    points = scene.start()
    centre = scene.centre.requires_grad_()
    value, gradient = scene.field(points)
    moved, regular = attach_implicit_gradient(
        points, value, gradient, scene.deform(points), torch.zeros(2, 9, 3, 3, **TORCH), scene.directions, centre
    )
    assert not regular.any()
    torch.testing.assert_close(moved, points)
    (grad,) = torch.autograd.grad(moved.sum(), centre)
    assert not grad.any()
