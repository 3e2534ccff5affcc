import math

import pytest
import torch
import trimesh

from selfrecon_warp.errors import RunError
from selfrecon_warp.kernels.sparse_grid import GridWorkspace
from selfrecon_warp.surface.extraction import extract_mesh, largest_components, lattice

LOWER, UPPER = torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([1.0, 1.0, 1.0])


def ball(points, centre, radius):
    return (points - points.new_tensor(centre)).norm(dim=1) - radius


def body_and_floater(points):
    return torch.minimum(ball(points, (-0.2, 0, 0), 0.5), ball(points, (0.7, 0.6, 0.5), 0.12))


def as_trimesh(mesh):
    return trimesh.Trimesh(mesh.vertices.cpu().numpy(), mesh.faces.cpu().numpy(), process=False)


def test_extracts_a_closed_outward_surface(device):
    mesh = extract_mesh(lambda p: ball(p, (0, 0, 0), 0.6), LOWER.to(device), UPPER.to(device), (40, 41, 42))
    body = as_trimesh(mesh)
    assert body.is_watertight
    assert body.euler_number == 2
    assert body.volume == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.01)
    assert not mesh.capped
    assert mesh.queries < 40 * 41 * 42 / 2
    assert not mesh.vertices.requires_grad


def test_the_level_shrinks_the_body():
    mesh = extract_mesh(lambda p: ball(p, (0, 0, 0), 0.6), LOWER, UPPER, (40, 40, 40), level=-0.1)
    assert mesh.vertices.norm(dim=1).mean().item() == pytest.approx(0.5, abs=2e-3)


def test_small_pieces_are_dropped_on_request(device):
    box = LOWER.to(device), UPPER.to(device), (48, 48, 48)
    both, body = (extract_mesh(body_and_floater, *box, min_fraction=fraction) for fraction in (0.0, 0.2))
    assert as_trimesh(both).body_count == 2
    assert as_trimesh(body).body_count == 1
    assert as_trimesh(body).is_watertight
    assert both.dropped == 0
    assert body.dropped == len(both.faces) - len(body.faces) > 0
    assert body.vertices[:, 0].max() < 0.4


def test_a_warm_start_follows_the_surface():
    workspace = GridWorkspace((48, 48, 48))
    before = extract_mesh(body_and_floater, LOWER, UPPER, (48, 48, 48), workspace=workspace)

    def moved(points):
        return body_and_floater(points - 0.01)

    cold = extract_mesh(moved, LOWER, UPPER, (48, 48, 48))
    warm = extract_mesh(moved, LOWER, UPPER, (48, 48, 48), warm=before.vertices, workspace=workspace)
    assert torch.equal(warm.vertices, cold.vertices)
    assert torch.equal(warm.faces, cold.faces)
    assert warm.queries < cold.queries


def test_a_body_that_leaves_the_box_is_reported():
    mesh = extract_mesh(lambda p: ball(p, (0, 0, 0), 1.2), LOWER, UPPER, (20, 20, 20))
    assert mesh.capped
    assert as_trimesh(mesh).is_watertight


def test_a_vanished_surface_is_a_clear_error():
    with pytest.raises(
        RunError, match=r"no surface: its smallest value in the box \(-1, -1, -1\) to \(1, 1, 1\) is 0\.\d"
    ):
        extract_mesh(lambda p: ball(p, (0, 0, 0), -0.1), LOWER, UPPER, (20, 20, 20))
    with pytest.raises(RunError, match=r"only the border of the box .* enlarge the box"):
        extract_mesh(lambda p: ball(p, (0, 0, 0), 9.0), LOWER, UPPER, (2, 2, 2))


def test_values_that_are_not_finite_are_a_clear_error():
    with pytest.raises(RunError, match=r"not finite at .* training has diverged"):
        extract_mesh(lambda p: ball(p, (0, 0, 0), 0.5) / 0, LOWER, UPPER, (20, 20, 20))


def test_largest_components_keeps_order_gradient_and_drops_unused_vertices():
    pieces = [trimesh.creation.icosphere(1), trimesh.creation.icosphere(0), trimesh.creation.icosphere(1)]
    whole = trimesh.util.concatenate(pieces)
    vertices = torch.cat([torch.tensor(whole.vertices), torch.ones(5, 3, dtype=torch.float64)]).requires_grad_()
    faces = torch.tensor(whole.faces)
    kept_vertices, kept_faces = largest_components(vertices, faces, 0.5)
    assert len(kept_vertices) == 2 * 42
    torch.testing.assert_close(kept_vertices[kept_faces], torch.cat([vertices[faces][:80], vertices[faces][100:]]))
    (gradient,) = torch.autograd.grad(kept_vertices.sum(), vertices)
    assert gradient.sum() == 2 * 42 * 3
    all_vertices, all_faces = largest_components(vertices, faces, 0.0)
    assert len(all_vertices) == len(whole.vertices)
    assert torch.equal(all_faces, faces)
    assert len(largest_components(vertices, faces[:0], 0.5)[0]) == 0
    with pytest.raises(ValueError, match="min_fraction must lie between 0 and 1, got 2"):
        largest_components(vertices, faces, 2)


def test_lattice_holds_the_box_in_cubes():
    lower, upper, resolution = lattice(torch.tensor([-0.5, -1.0, 0.0]), torch.tensor([0.5, 1.0, 0.33]), 0.1)
    assert resolution == (11, 21, 5)
    torch.testing.assert_close((upper - lower) / (torch.tensor(resolution) - 1), torch.full((3,), 0.1))
    torch.testing.assert_close(lower, torch.tensor([-0.5, -1.0, -0.035]))
    with pytest.raises(ValueError, match="spacing must be positive"):
        lattice(LOWER, UPPER, 0.0)
