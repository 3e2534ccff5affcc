import io

import pytest
import torch
from capture_files import default_body, write_capture

from selfrecon_warp.capture.dataset import Capture, read_capture
from selfrecon_warp.config import Config, load_config
from selfrecon_warp.surface.mesh import vertex_normals
from selfrecon_warp.train.fit import Fit
from selfrecon_warp.train.progress import FitProgress
from selfrecon_warp.train.step import fit_step

CPU = torch.device("cpu")
SMALL = [
    "registration.body_sweeps=1",
    "registration.samples=60",
    "init.cell=0.05",
    "init.frames=4",
    "init.iterations=150",
    "model.skinning_cell=0.08",
    "model.sdf.grid.levels=4",
    "model.sdf.grid.finest_cell=0.03",
    "model.sdf.grid.log2_size=12",
    "model.appearance.grid.levels=4",
    "model.appearance.grid.log2_size=12",
    "stages.coarse.iterations=5",
    "stages.medium.iterations=4",
    "stages.fine.iterations=0",
    *(f"stages.{name}.{key}" for name in ("coarse", "medium", "fine") for key in ("rays=80", "frames_per_step=2")),
    "stages.coarse.cell=0.05",
    "stages.medium.cell=0.04",
    "stages.coarse.remesh_period=3",
    "stages.coarse.registration_period=4",
    "stages.medium.registration_period=0",
    "stages.fine.cell=0.04",
]
PERCEPTRONS = [
    "model.sdf.type=mlp",
    "model.sdf.width=64",
    "model.sdf.depth=4",
    "model.sdf.feature_size=16",
    "model.offset.type=mlp",
    "model.offset.width=32",
    "model.appearance.type=mlp",
    "model.appearance.width=32",
    "model.skinning_at_offset=true",
    "optimiser.network=0.0001",
]


@pytest.fixture(scope="module")
def capture(tmp_path_factory) -> Capture:
    return read_capture(write_capture(tmp_path_factory.mktemp("fit") / "capture", 4, (160, 130)))


def config(*overrides: str) -> Config:
    return load_config("fast", [*SMALL, *overrides])


def started(capture: Capture, settings: Config) -> tuple[Fit, FitProgress]:
    fit, progress = Fit(capture, default_body(), settings, CPU), FitProgress([])
    fit.prepare(progress)
    return fit, progress


def states(fit: Fit) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in fit.avatar.fitted_state().items()}


def test_a_resumed_fit_ends_where_an_unbroken_one_does(capture):
    settings = config("optimiser.poses=0.001", "optimiser.trans=0.001")
    whole, progress = started(capture, settings)
    halfway = None
    while whole.iteration < whole.total:
        whole.advance(progress)
        if whole.iteration == 4:
            halfway = {"avatar": states(whole), **{k: v for k, v in whole.state().items() if k != "avatar"}}
            halfway = torch.load(_saved(halfway), weights_only=True)
    resumed = Fit(capture, default_body(), settings, CPU)
    resumed.restore(halfway, 4)
    while resumed.iteration < resumed.total:
        resumed.advance(progress)
    for name, tensor in states(whole).items():
        torch.testing.assert_close(states(resumed)[name], tensor, rtol=0, atol=0, msg=name)


def test_an_imported_avatar_is_fitted_on(capture):
    trained, progress = started(capture, config())
    trained.advance(progress)
    resumed = Fit(capture, default_body(), config(), CPU)
    resumed.restore({"avatar": states(trained)}, 3)
    assert torch.equal(resumed.avatar.sdf.table, trained.avatar.sdf.table)
    terms = resumed.advance(progress)
    assert resumed.iteration == 4
    assert all(torch.isfinite(value).all() for value in terms.values())
    assert not torch.equal(resumed.avatar.sdf.table, trained.avatar.sdf.table)


def test_terms_that_are_all_switched_off_leave_everything_where_it_is(capture):
    names = ("contour", "mask", "consistency", "pull", "colour", "normal", "eikonal", "rigidity", "temporal")
    fit, progress = started(capture, config(*(f"stages.coarse.losses.{name}=0" for name in names)))
    before = states(fit)
    fit.advance(progress)
    assert all(torch.equal(before[name], after) for name, after in states(fit).items())


def _saved(state) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


def test_the_same_seed_gives_the_same_avatar_and_another_seed_another(capture):
    ends = []
    for seed in (0, 0, 1):
        fit, progress = started(capture, config(f"seed={seed}", "stages.medium.iterations=0"))
        while fit.iteration < fit.total:
            fit.advance(progress)
        ends.append(states(fit))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert not torch.equal(ends[0]["sdf.table"], ends[2]["sdf.table"])


@pytest.mark.parametrize("networks", [[], PERCEPTRONS], ids=["grid", "mlp"])
def test_every_learned_part_moves_and_losses_stay_finite(capture, networks):
    refined = ["optimiser.poses=0.001", "optimiser.trans=0.001", "optimiser.camera=0.001"]
    fit, progress = started(capture, config(*networks, *refined, "optimiser.camera_terms=[focal, T]"))
    before = states(fit)
    terms = [fit.advance(progress) for _ in range(3)]
    assert all(torch.isfinite(value) for step in terms for value in step.values())
    assert terms[-1]["converged"] > 0.5
    after = states(fit)
    still = {name for name in before if before[name].numel() and torch.equal(before[name], after[name])}
    fixed = {"betas", "joint_offsets", "lower", "upper", "camera.quat", "camera.principal", "sdf.base"}
    fixed |= {"hand_moves"}
    assert {name.split(".")[0] for name in still - fixed} <= {"deformation", "sdf", "appearance"}
    moved = {name.split(".")[0] for name in before.keys() - still}
    assert {"sdf", "deformation", "appearance", "codes", "poses", "trans", "camera"} <= moved


def test_moved_vertices_pull_the_field_after_them(capture):
    off = [f"stages.coarse.losses.{term}=0" for term in ("contour", "mask", "colour", "normal", "consistency")]
    fit, progress = started(capture, config("init.shape=body", "stages.coarse.remesh_period=1000", *off))
    fit.advance(progress)
    normals = vertex_normals(fit.mesh.vertices.detach(), fit.mesh.faces)
    with torch.no_grad():
        fit.mesh.vertices += 0.01 * normals
    before = fit.avatar.sdf(fit.mesh.vertices.detach()).mean()
    frame, stage = torch.tensor([0]), fit.config.stages[0]
    for _ in range(40):
        fit_step(
            fit.avatar,
            fit.mesh,
            fit.observations,
            frame,
            stage,
            fit.config,
            fit.optimiser,
            fit.clips,
            fit.generator,
            1.0,
        )
    after = fit.avatar.sdf(fit.mesh.vertices.detach()).mean()
    assert before > 0.005
    assert abs(after) < 0.4 * before
