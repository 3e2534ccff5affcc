"""The published configuration, its networks and lattices made small, on a capture of the naked body."""

import pytest
import torch
from capture_files import default_body, write_capture

from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.config import load_config
from selfrecon_warp.train import step
from selfrecon_warp.train.fit import Fit
from selfrecon_warp.train.progress import FitProgress

CPU = torch.device("cpu")
SMALL = [
    "model.skinning_resolution=[17, 29, 9]",
    "model.sdf.width=64",
    "model.sdf.depth=4",
    "model.sdf.feature_size=16",
    "model.offset.width=32",
    "model.offset.depth=2",
    "model.appearance.width=32",
    "init.iterations=60",
    "method.regularised_vertices=200",
    *(f"stages.{name}.resolution=[41, 57, 25]" for name in ("coarse", "medium", "fine")),
    *(f"stages.{name}.rays=100" for name in ("coarse", "medium", "fine")),
    *(f"stages.{name}.splat_radius=0.06" for name in ("coarse", "medium", "fine")),
    *(f"stages.{name}.iterations=8" for name in ("coarse", "medium", "fine")),
    *(f"stages.{name}.epochs=null" for name in ("coarse", "medium", "fine")),
]


@pytest.fixture(scope="module", autouse=True)
def one_first_shape(tmp_path_factory):
    """The body is the same in every test, so its first shape is fitted once and kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    return read_capture(write_capture(tmp_path_factory.mktemp("published") / "capture", 6, (160, 130)))


@pytest.mark.parametrize("name", ["selfrecon", "selfrecon_loose"])
def test_every_stage_runs_and_its_losses_fall(capture, name):
    settings = load_config(name, SMALL)
    fit, progress = Fit(capture, default_body(), settings, CPU), FitProgress([])
    fit.prepare(progress)
    terms = []
    while fit.iteration < fit.total:
        terms.append(fit.advance(progress))
    assert all(torch.isfinite(value).all() for step in terms for value in step.values())

    def mean(name, steps):
        return float(torch.stack([step[name] for step in steps if name in step]).mean())

    assert mean("mask", terms[-8:]) < mean("mask", terms[:8])
    assert mean("colour", terms[-8:]) < mean("colour", terms[:8])
    assert mean("iou", terms[-8:]) > 0.8
    assert mean("converged", terms) > 0.5


def test_the_small_configuration_keeps_the_published_losses_and_their_forms():
    published, small = load_config("selfrecon"), load_config("selfrecon_small")
    assert [stage.losses for stage in small.stages] == [stage.losses for stage in published.stages]
    assert small.registration == published.registration
    sizes = {"regularised_vertices", "distance_tolerance", "lean", "lean_vertices", "lean_points"}
    assert small.method.model_dump(exclude=sizes) == published.method.model_dump(exclude=sizes)


@pytest.mark.parametrize(("rate", "expected"), [(None, 1e-4), (2e-3, 2e-3)])
def test_colours_learn_at_their_own_rate_where_one_is_given(capture, rate, expected):
    settings = load_config("selfrecon", [*SMALL, f"optimiser.appearance={'null' if rate is None else rate}"])
    fit, progress = Fit(capture, default_body(), settings, CPU), FitProgress([])
    fit.prepare(progress)
    fit.advance(progress)
    rates = {id(one): group["lr"] for group in fit.optimiser.param_groups for one in group["params"]}
    assert {rates[id(one)] for one in fit.avatar.appearance.parameters()} == {expected}
    assert {rates[id(one)] for one in fit.avatar.sdf.parameters()} == {1e-4}
    assert {rates[id(one)] for one in fit.avatar.deformation.parameters()} == {1e-4}


def test_a_stage_takes_hold_at_the_next_extraction(capture):
    settings = load_config("selfrecon", [*SMALL, "stages.coarse.iterations=4", "stages.coarse.remesh_period=6"])
    fit, progress = Fit(capture, default_body(), settings, CPU), FitProgress([])
    fit.prepare(progress)
    standing, batches = [], []
    for _ in range(8):
        waiting = len(fit.waiting) or fit.observations.frame_count
        fit.advance(progress)
        standing.append(fit.standing)
        batches.append(waiting - len(fit.waiting))
    assert standing == [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (0, 6), (1, 1), (1, 2)]
    assert batches == [3, 3, 3, 3, 2, 2, 2, 2]


def test_vertices_that_moved_count_as_unmoved_by_an_offset_of_zero(capture):
    settings = load_config("selfrecon", SMALL)
    fit, progress = Fit(capture, default_body(), settings, CPU), FitProgress([])
    fit.prepare(progress)
    fit.remesh(settings.stages[0])
    avatar, mesh = fit.avatar, fit.mesh
    with torch.no_grad():
        for parameter in avatar.deformation.offset.network.last.parameters():
            parameter.zero_()
        mesh.vertices += 0.05 * torch.randn_like(mesh.vertices)
        frames = torch.tensor([0, 3])
        _, displacement = step._drawn(avatar, mesh, avatar.codes[frames], avatar.bones(frames), settings.method)
    assert float(displacement.abs().max()) < 1e-6


def test_debugging_leaves_meshes_and_masks(capture, tmp_path):
    fit, progress = Fit(capture, default_body(), load_config("selfrecon", SMALL), CPU), FitProgress([])
    fit.prepare(progress)
    fit.advance(progress)
    fit.dump(tmp_path / "debug")
    written = sorted(path.name for path in (tmp_path / "debug").iterdir())
    each = [f"{name}_{frame:06d}" for frame in range(3) for name in ("mask", "offset", "posed", "target")]
    assert [name.split(".")[0] for name in written] == sorted(["canonical", *each])
