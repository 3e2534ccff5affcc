"""The lean iteration asks less and says the same."""

import pytest
import torch
from capture_files import default_body, write_capture

from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.config import Config, MethodConfig, load_config
from selfrecon_warp.train import regularisers, step
from selfrecon_warp.train.fit import Fit
from selfrecon_warp.train.progress import FitProgress

CPU = torch.device("cpu")
SMALL = [
    "model.skinning_resolution=[17, 29, 9]",
    "model.sdf.width=64",
    "model.sdf.depth=4",
    "model.sdf.feature_size=8",
    "model.offset.width=16",
    "model.offset.depth=2",
    "model.appearance.width=16",
    "init.iterations=15",
    "init.cache=false",
    "method.regularised_vertices=60",
    "optimiser.camera_terms=[focal, principal, T]",
    *(f"stages.{name}.resolution=[33, 45, 21]" for name in ("coarse", "medium", "fine")),
    *(f"stages.{name}.rays=40" for name in ("coarse", "medium", "fine")),
    *(f"stages.{name}.splat_radius=0.06" for name in ("coarse", "medium", "fine")),
]
FRAMES = torch.tensor([0, 2])


@pytest.fixture(scope="module")
def fit(tmp_path_factory) -> Fit:
    """A fit that has taken one step, its offset network not at zero."""
    capture = read_capture(write_capture(tmp_path_factory.mktemp("lean") / "capture", 3, (120, 96)))
    started, progress = Fit(capture, default_body(), load_config("selfrecon", SMALL), CPU), FitProgress([])
    started.prepare(progress)
    with torch.no_grad():
        for parameter in started.avatar.deformation.offset.network.last.parameters():
            parameter.copy_(0.02 * torch.randn_like(parameter))
    started.advance(progress)
    return started


def settings(*overrides: str) -> Config:
    return load_config("selfrecon", [*SMALL, *overrides])


def explicit_gradients(fit: Fit, config: Config) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The explicit branch's loss, and its gradients by everything it moves."""
    avatar, mesh = fit.avatar, fit.mesh
    fit.optimiser.zero_grad(set_to_none=True)
    mesh.vertices.grad = None
    generator = torch.Generator().manual_seed(0)
    loss, _, _ = step._explicit_branch(
        avatar, mesh, fit.observations, FRAMES, config.stages[0], config.method, generator
    )
    loss.backward()
    named = {"vertices": mesh.vertices, **dict(avatar.named_parameters())}
    return loss.detach(), {name: p.grad.clone() for name, p in named.items() if p.grad is not None}


@pytest.mark.parametrize("silhouette", ["splat", "antialiased"])
def test_silhouettes_move_everything_alike_through_the_few_vertices_they_move(fit, silhouette):
    alone = [f"method.silhouette={silhouette}", "stages.coarse.losses.consistency=0"]
    loss, whole = explicit_gradients(fit, settings(*alone))
    lean_loss, lean = explicit_gradients(fit, settings(*alone, "method.lean=true"))
    assert float(lean_loss) == pytest.approx(float(loss), rel=1e-6)
    moved = {name for name, gradient in whole.items() if gradient.any()}
    assert {"vertices", "codes", "poses", "trans", "camera.focal", "camera.T"} <= moved
    for name in moved:
        torch.testing.assert_close(lean[name], whole[name], rtol=1e-3, atol=1e-5 * float(whole[name].abs().max()))


def test_the_vertices_silhouettes_move_most_say_nearly_everything(fit):
    alone = ["stages.coarse.losses.consistency=0"]
    _, whole = explicit_gradients(fit, settings(*alone))
    few = len(fit.mesh.vertices) // 3
    _, lean = explicit_gradients(fit, settings(*alone, "method.lean=true", f"method.lean_vertices={few}"))
    for name in ("trans", "poses", "camera.focal"):
        cosine = torch.nn.functional.cosine_similarity(lean[name].flatten(), whole[name].flatten(), dim=0)
        assert cosine > 0.98


def regularised(fit: Fit, config: Config, seed: int) -> dict[str, float]:
    """The regularisers at points off the surface, where they have something to say."""
    avatar, generator = fit.avatar, torch.Generator().manual_seed(seed)
    points = fit.mesh.vertices.detach()[:80].view(2, 40, 3)
    codes, bones = avatar.codes[FRAMES], avatar.bones(FRAMES)
    _, _, jacobian = avatar.deformation.with_jacobian(points, codes, bones)
    terms = regularisers.regulariser_terms(
        avatar, fit.mesh, points, jacobian, codes, config.stages[0], config.method, fit.clips, generator
    )
    return {name: float(term.detach()) for name, term in terms.items()}


def test_drawn_regularisers_are_right_on_average(fit):
    means = []
    for overrides in ([], ["method.lean=true", "method.lean_points=24", "method.lean_vertices=60"]):
        runs = [regularised(fit, settings(*overrides), seed) for seed in range(30)]
        means.append({name: sum(run[name] for run in runs) / len(runs) for name in runs[0]})
    for name in ("eikonal", "rigidity", "pull"):
        assert means[1][name] == pytest.approx(means[0][name], rel=0.15), name


def test_a_lean_fit_runs_and_its_losses_stay_finite(fit):
    config = settings("method.lean=true", "method.lean_vertices=300", "method.lean_points=50")
    terms = [
        step.fit_step(
            fit.avatar,
            fit.mesh,
            fit.observations,
            FRAMES,
            config.stages[0],
            config,
            fit.optimiser,
            fit.clips,
            fit.generator,
            1.0,
        )
        for _ in range(3)
    ]
    assert all(torch.isfinite(value).all() for each in terms for value in each.values())
    assert {"mask", "iou", "colour", "eikonal", "rigidity", "pull"} <= terms[0].keys()


@pytest.mark.parametrize("steps", [4, 10])
def test_rays_that_have_converged_need_not_be_asked_again(fit, monkeypatch, steps):
    stage = settings(f"stages.coarse.solve_steps={steps}").stages[0]
    method = MethodConfig(distance_tolerance=1e-6, angle_tolerance=0.01)
    with torch.no_grad():
        avatar, frames = fit.avatar, FRAMES
        bones, codes = avatar.bones(frames), avatar.codes[frames]
        start = fit.mesh.vertices.detach()[:60].expand(2, -1, -1) + 0.02 * torch.randn(2, 60, 3)
        pixels = avatar.camera.project(avatar.deformation(start, codes, bones)[0])[..., :2]
        rays, centre = avatar.camera.rays(pixels + torch.randn_like(pixels)), avatar.camera.centre()
        parts = step._solve(avatar, start, rays, centre, codes, bones, stage, method)
        monkeypatch.setattr(step, "TRIAL_STEPS", steps)
        once = step._solve(avatar, start, rays, centre, codes, bones, stage, method)
    assert torch.equal(parts.converged, once.converged)
    torch.testing.assert_close(parts.points, once.points, rtol=0, atol=1e-6)
    assert once.converged.any()
    assert not once.converged.all()


def test_matrices_are_multiplied_exactly_where_rays_are_solved(fit, monkeypatch):
    seen = {}

    def spy(name, function):
        def called(*arguments, **options):
            seen[name] = torch.get_float32_matmul_precision()
            return function(*arguments, **options)

        return called

    monkeypatch.setattr(step, "intersect", spy("solve", step.intersect))
    monkeypatch.setattr(step, "loss_colour", spy("colour", step.loss_colour))
    before = torch.get_float32_matmul_precision()
    for tf32, expected in ((True, "high"), (False, before)):
        config = settings(f"method.tf32={str(tf32).lower()}")
        step.fit_step(
            fit.avatar,
            fit.mesh,
            fit.observations,
            FRAMES,
            config.stages[0],
            config,
            fit.optimiser,
            fit.clips,
            fit.generator,
            1.0,
        )
        assert seen == {"solve": "highest", "colour": expected}
        assert torch.get_float32_matmul_precision() == before
