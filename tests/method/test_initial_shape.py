"""The published field begins as a sphere, and the fit to the body's surface makes it the body."""

from dataclasses import replace

import pytest
import torch
from capture_files import default_body

from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.config import InitConfig, load_config
from selfrecon_warp.model.avatar import Avatar
from selfrecon_warp.model.sdf import MlpSdf
from selfrecon_warp.surface.distance import signed_distance_to_body
from selfrecon_warp.surface.extraction import extract_mesh, lattice
from selfrecon_warp.surface.mesh import vertex_normals
from selfrecon_warp.train.initialisation import fit_first_shape

SMALL = [
    "model.skinning_resolution=[9, 15, 5]",
    "model.sdf.width=64",
    "model.sdf.depth=4",
    "model.sdf.feature_size=4",
    "model.offset.width=16",
    "model.appearance.width=16",
]
RADIUS = 0.6


@pytest.fixture(scope="module")
def published() -> MlpSdf:
    torch.manual_seed(1)
    return MlpSdf()


def sphere_points(count: int, radius: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return radius * torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)


def test_the_published_field_begins_as_a_sphere(published):
    directions = sphere_points(300, 1.0)
    inner, outer = torch.full((300,), 0.05), torch.full((300,), 1.5)
    for _ in range(30):  # where its zero lies along each direction
        middle = 0.5 * (inner + outer)
        with torch.no_grad():
            inside = published(middle[:, None] * directions) < 0
        inner, outer = torch.where(inside, middle, inner), torch.where(inside, outer, middle)
    assert 0.5 * RADIUS < float(inner.mean()) < 1.25 * RADIUS  # softplus lies above the hinge the radius is derived for
    assert float(inner.std()) < 0.1 * float(inner.mean())
    gradient = published.sample(inner[:, None] * directions).gradient.detach()
    assert (torch.nn.functional.normalize(gradient, dim=-1) * directions).sum(-1).min() > 0.9
    assert 0.5 < float(gradient.norm(dim=-1).mean()) < 1.5


def test_far_from_its_rounded_corners_the_field_grows_as_the_distance():
    slopes = []
    for seed in range(3):
        torch.manual_seed(seed)
        field, directions = MlpSdf(), sphere_points(100, 1.0)
        with torch.no_grad():
            ends = field(200.0 * directions), field(400.0 * directions)
        slopes.append(float((ends[1] - ends[0]).mean()) / 200.0)
    assert sum(slopes) / len(slopes) == pytest.approx(1.0, abs=0.2)


def test_switching_the_encoding_on_changes_nothing_at_the_start(published):
    points = sphere_points(50, 0.7)
    with torch.no_grad():
        published.progress = -1.0
        plain = published(points)
        published.progress = 1.0
        torch.testing.assert_close(published(points), plain, rtol=0, atol=0)


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    torch.manual_seed(0)
    config, body = load_config("selfrecon", SMALL).model, default_body()
    camera = Camera((100, 100), (32, 32), height=64, width=64)
    still = torch.zeros(2, 24, 3), torch.tensor([[0.0, 0.0, 3.0]]).repeat(2, 1)
    avatar = Avatar(config, body, camera, *still, torch.zeros(10), torch.zeros(24, 3))
    canonical = avatar.canonical_body()
    coarse = extract_mesh(lambda p: signed_distance_to_body(p, canonical), *lattice(avatar.lower, avatar.upper, 0.05))
    few = replace(canonical, vertices=coarse.vertices, faces=coarse.faces.long())  # fewer points, faster steps
    avatar.canonical_body = lambda: few
    settings = InitConfig(shape="surface", iterations=150, cache=False)
    fit_first_shape(avatar, None, settings, torch.Generator().manual_seed(0), seed=0)
    return avatar


def test_the_fit_to_the_surface_makes_the_sphere_the_body(avatar):
    body = avatar.canonical_body()
    vertices, normals = body.vertices, vertex_normals(body.vertices, body.faces)
    sample = avatar.sdf.sample(vertices)
    assert float(sample.value.abs().mean().detach()) < 0.015
    cosine = (torch.nn.functional.normalize(sample.gradient, dim=-1) * normals).sum(-1)
    assert float(cosine.mean().detach()) > 0.85
    with torch.no_grad():
        assert float((avatar.sdf(vertices + 0.06 * normals) > 0).float().mean()) > 0.97
        assert float((avatar.sdf(body.joints[[0, 3, 6, 9, 1, 2]]) < 0).float().mean()) == 1.0
    far = avatar.lower + torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) * (avatar.upper - avatar.lower)
    away = signed_distance_to_body(far, body) > 0.1
    with torch.no_grad():
        assert float((avatar.sdf(far[away]) > 0).float().mean()) > 0.99


def test_the_surface_drawn_from_it_lies_on_the_body(avatar):
    mesh = extract_mesh(avatar.sdf, *lattice(avatar.lower, avatar.upper, 0.05), min_fraction=0.05)
    distance = signed_distance_to_body(mesh.vertices, avatar.canonical_body()).abs()
    assert float(distance.mean()) < 0.012
    assert float(distance.quantile(0.99)) < 0.05
