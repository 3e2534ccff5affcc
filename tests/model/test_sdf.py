import pytest
import torch

from selfrecon_warp.model.sdf import GridSdf, MlpSdf

LOWER, UPPER = torch.tensor([-1.0, -1.2, -0.8]), torch.tensor([1.0, 1.2, 0.8])


def make_grid_sdf() -> GridSdf:
    torch.manual_seed(0)
    sdf = GridSdf(
        LOWER, UPPER, levels=4, features=2, coarsest_cell=0.4, finest_cell=0.1, log2_size=10, width=16
    ).double()
    axes = [torch.linspace(float(a) + 0.05, float(b) - 0.05, 24) for a, b in zip(LOWER, UPPER, strict=True)]
    nodes = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    sdf.set_base(nodes.norm(dim=-1).double() - 0.5)
    with torch.no_grad():
        sdf.table.uniform_(-0.3, 0.3)
    return sdf


def make_points(count: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(count, 3, generator=generator, dtype=torch.float64) - 0.5) * 1.4


@pytest.mark.parametrize("kind", ["grid", "mlp"])
def test_sample_agrees_with_forward_and_its_gradient_with_autograd(kind):
    sdf = make_grid_sdf() if kind == "grid" else MlpSdf(width=64, depth=4, feature_size=8).double()
    sdf.progress = 1.0
    points = make_points().requires_grad_()
    sample = sdf.sample(points)
    value = sdf(points)
    torch.testing.assert_close(sample.value, value)
    assert sample.feature.shape == (40, sdf.feature_size)
    torch.testing.assert_close(sample.gradient, torch.autograd.grad(value.sum(), points)[0])


@pytest.mark.parametrize("kind", ["grid", "mlp"])
def test_gradient_term_reaches_every_weight_that_shapes_the_field(kind):
    sdf = make_grid_sdf() if kind == "grid" else MlpSdf(width=64, depth=4, feature_size=4).double()
    loss = (sdf.sample(make_points()).gradient.norm(dim=-1) - 1.0).square().mean()
    loss.backward()
    reached = {name for name, p in sdf.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    expected = (
        {"table", "hidden.weight", "hidden.bias", "output.weight"}
        if kind == "grid"
        else {name for name, _ in sdf.named_parameters() if not (name.endswith("bias") and name.startswith("layers.4"))}
    )
    assert expected <= reached


def test_field_parameters_pass_a_finite_difference_check_through_the_spatial_gradient():
    sdf = make_grid_sdf()
    points = make_points(6)
    row = int(torch.autograd.grad(sdf.sample(points).gradient.sum(), sdf.table)[0].abs().sum(-1).argmax())

    def total(step: float) -> torch.Tensor:
        with torch.no_grad():
            sdf.table[row, 0] += step
            result = sdf.sample(points).gradient.square().sum()
            sdf.table[row, 0] -= step
        return result

    exact = torch.autograd.grad(sdf.sample(points).gradient.square().sum(), sdf.table)[0][row, 0]
    torch.testing.assert_close(exact, (total(1e-6) - total(-1e-6)) / 2e-6, rtol=1e-4, atol=1e-6)


def test_paper_field_starts_as_a_sphere():
    torch.manual_seed(0)
    sdf = MlpSdf()
    points = torch.nn.functional.normalize(torch.randn(200, 3), dim=-1) * torch.linspace(0.2, 1.2, 200)[:, None]
    error = (sdf(points) - (points.norm(dim=-1) - 0.6)).abs()
    assert error.mean().item() < 0.1
    assert sdf(torch.zeros(1, 3)).item() < 0 < sdf(torch.tensor([[0.0, 1.2, 0.0]])).item()


def test_base_shape_is_kept_exactly_by_an_untrained_residual():
    sdf = make_grid_sdf()
    with torch.no_grad():
        sdf.output.weight.zero_()
        sdf.output.bias.zero_()
    points = make_points()
    torch.testing.assert_close(sdf(points), points.norm(dim=-1) - 0.5, atol=0.02, rtol=0)
