"""Colour and normal losses, differentiated as the fit does, against the same losses with every ray solved anew."""

import copy
from dataclasses import replace

import pytest
import torch
from capture_files import default_body, write_capture
from parameter_groups import GROUPS

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
    "model.sdf.feature_size=8",
    "model.offset.width=16",
    "model.offset.depth=2",
    "model.appearance.width=16",
    "init.iterations=15",
    "init.cache=false",
    "method.regularised_vertices=0",
    "method.distance_tolerance=1e-11",
    "method.angle_tolerance=1e-8",
    "method.weighted_normals=false",
    "optimiser.camera_terms=[focal, principal, quat, T]",
    "stages.coarse.resolution=[33, 45, 21]",
    "stages.coarse.rays=60",
    "stages.coarse.solve_steps=40",
    *(f"stages.coarse.losses.{name}=0" for name in ("consistency", "pull", "eikonal", "rigidity", "temporal")),
]
FRAMES = torch.tensor([0, 2])


@pytest.fixture(scope="module")
def fit(tmp_path_factory) -> Fit:
    """A fit about to take its first step, in double precision, its offset network not at zero."""
    capture = read_capture(write_capture(tmp_path_factory.mktemp("whole") / "capture", 3, (120, 96)))
    started = Fit(capture, copy.deepcopy(default_body()), load_config("selfrecon", SMALL), CPU)
    started.prepare(FitProgress([]))
    with torch.no_grad():
        for parameter in started.avatar.deformation.offset.network.last.parameters():
            parameter.copy_(0.02 * torch.randn_like(parameter))
    started.remesh(started.config.stages[0])
    started.avatar.double()
    return started


@pytest.fixture(scope="module")
def rays(fit) -> step.Rays:
    """Pixels whose rays meet the surface, and where they start."""
    config, mesh = fit.config, fit.mesh
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        found = fit.avatar.camera.project(
            fit.avatar.deformation(mesh.vertices.double(), fit.avatar.codes[FRAMES], fit.avatar.bones(FRAMES))[0]
        )
    masks = fit.observations.masks[FRAMES]
    face_index = step.visible_faces(found.float(), mesh.faces, *masks.shape[1:])
    drawn = step._sample_rays(mesh, found.float(), face_index, masks, FRAMES, config.stages[0].rays, generator)
    return replace(drawn, start=drawn.start.double())


def losses(fit: Fit, rays: step.Rays, *overrides: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The implicit branch: its loss, and what is left to differentiate."""
    config = load_config("selfrecon", [*SMALL, *overrides])
    stage, generator = config.stages[0], torch.Generator().manual_seed(0)
    left, terms = step._implicit_branch(
        fit.avatar, fit.mesh, fit.observations, rays, stage, config.method, fit.clips, generator
    )
    assert float(terms["converged"]) > 0.5
    value = sum(getattr(stage.losses, name) * terms[name] for name in ("colour", "normal") if name in terms)
    return torch.as_tensor(value), left


@pytest.mark.parametrize("group", GROUPS)
def test_losses_fall_along_their_gradient_as_with_every_ray_solved_anew(fit, rays, group):
    parameters = GROUPS[group](fit.avatar)
    for parameter in parameters:
        parameter.requires_grad_()
        parameter.grad = None
    generator = torch.Generator().manual_seed(1)
    directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    losses(fit, rays)[1].backward()
    found = zip(parameters, directions, strict=True)
    predicted = sum(float((p.grad * d).sum()) for p, d in found if p.grad is not None)
    step_length, ends = 1e-6, []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter += sign * step_length * direction
        ends.append(float(losses(fit, rays)[0]))
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter -= sign * step_length * direction
    measured = (ends[0] - ends[1]) / (2 * step_length)
    assert predicted == pytest.approx(measured, rel=2e-3, abs=1e-7)


def test_published_scales_double_colours_and_average_weighted_normals_over_their_number(fit, rays):
    weighted = "method.weighted_normals=true"
    colour, normal = "stages.coarse.losses.colour=0", "stages.coarse.losses.normal=0"
    here, published = ("method.published_scales=false", "method.published_scales=true")
    single, double = (float(losses(fit, rays, normal, scales)[0]) for scales in (here, published))
    assert double == pytest.approx(2.0 * single)
    alike = [float(losses(fit, rays, colour, scales)[0]) for scales in (here, published)]
    assert alike[0] == pytest.approx(alike[1])  # every weight is one
    heavier, published_one = (float(losses(fit, rays, colour, weighted, scales)[0]) for scales in (here, published))
    assert 0.0 < published_one < 0.95 * heavier
