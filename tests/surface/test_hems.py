import pytest
import torch

from selfrecon_warp.kernels.closest_point import closest_point
from selfrecon_warp.model.body import load_body
from selfrecon_warp.surface.distance import signed_distance_to_body
from selfrecon_warp.surface.extraction import extract_mesh, lattice
from selfrecon_warp.surface.hems import BELOW_M, WALL_M, find_lids, open_hems
from selfrecon_warp.surface.mesh import vertex_normals

CELL = 0.016
HEM, WAIST = -0.42, -0.05


@pytest.fixture(scope="module")
def body():
    model = load_body()
    return model.canonical(torch.zeros(model.shape_count))


def naked(body):
    return lambda points: signed_distance_to_body(points, body) - 0.002


def skirted(body):
    """The body in a filled bell from the waist to the knees."""

    def sdf(points):
        share = ((WAIST - points[:, 1]) / (WAIST - HEM)).clamp(0, 1)
        sides = points[:, [0, 2]].norm(dim=-1) - (0.18 + 0.14 * share)
        bell = torch.maximum(sides, torch.maximum(HEM - points[:, 1], points[:, 1] - WAIST))
        return torch.minimum(naked(body)(points), bell)

    return sdf


def surface(sdf, body):
    box = lattice(body.vertices.amin(0) - 0.3, body.vertices.amax(0) + 0.3, CELL)
    mesh = extract_mesh(sdf, *box, min_fraction=0.05)
    return mesh.vertices, mesh.faces


@pytest.fixture(scope="module")
def dressed(body):
    return surface(skirted(body), body)


def from_the_side(mesh):
    """What a camera at the height of the person sees: nothing that looks down."""
    return lambda: vertex_normals(*mesh)[:, 1] > -0.7


def distance(points, mesh):
    return closest_point(points, *mesh)[0]


def test_the_lid_is_what_closes_the_skirt(body, dressed):
    vertices, faces = dressed
    lid = find_lids(vertices, faces, body, from_the_side(dressed))
    centres = vertices[faces[lid].long()].mean(1)
    assert (centres[:, 1] - HEM).abs().quantile(0.98) < 0.01
    corners = vertices[faces[lid].long()]
    area = 0.5 * torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=-1).sum()
    assert 0.15 < area < 0.32  # the bell's foot has 0.32 m^2, legs run through it


def test_an_opened_skirt_shows_the_legs_and_keeps_its_outside(body, dressed):
    vertices, _ = dressed
    opened = open_hems(dressed, body, skirted(body), from_the_side(dressed))
    legs = body.vertices[(body.vertices[:, 1] > HEM + 0.01) & (body.vertices[:, 1] < HEM + 0.08)]
    legs = legs[legs[:, [0, 2]].norm(dim=-1) < 0.25]
    assert distance(legs, dressed).median() > 0.02
    assert distance(legs, opened).quantile(0.9) < 0.006
    outside = vertices[vertices[:, 1] > HEM + 0.02]
    assert distance(outside, opened).max() < 1e-3
    lid = vertices[(vertices[:, 1] < HEM + 0.005) & (vertices[:, 1] > HEM - 0.005)]
    middle = lid[lid[:, [0, 2]].norm(dim=-1) < 0.05]
    assert distance(middle, opened).min() > 0.03


def test_the_cloth_keeps_an_inside(body, dressed):
    opened = open_hems(dressed, body, skirted(body), from_the_side(dressed))
    height = HEM + 0.05
    radius = 0.18 + 0.14 * (WAIST - height) / (WAIST - HEM) - WALL_M
    angle = torch.linspace(0, 6.28, 50)
    wall = torch.stack([radius * angle.cos(), torch.full_like(angle, height), radius * angle.sin()], -1)
    assert distance(wall, opened).max() < 0.003
    assert BELOW_M > WALL_M


def test_without_a_skirt_nothing_changes_and_nobody_looks(body):
    mesh = surface(naked(body), body)

    def refuse():
        raise AssertionError("there is no lid to look for")

    vertices, faces = open_hems(mesh, body, naked(body), refuse)
    assert vertices is mesh[0]
    assert faces is mesh[1]


def test_a_lid_that_a_frame_shows_stays(body, dressed):
    everything = torch.ones(len(dressed[0]), dtype=torch.bool)
    assert not find_lids(*dressed, body, lambda: everything).any()
    assert open_hems(dressed, body, skirted(body), lambda: everything) is dressed
