import numpy as np
import pytest
import torch
import trimesh

from selfrecon_warp.surface.mesh import vertex_normals
from selfrecon_warp.train.bumps import make_bumps

SPACING = 0.4


@pytest.fixture(scope="module")
def sphere():
    mesh = trimesh.creation.icosphere(subdivisions=4)
    vertices, faces = torch.from_numpy(mesh.vertices).float(), torch.from_numpy(mesh.faces).int()
    return vertices, faces, vertex_normals(vertices, faces)


def test_bumps_add_up_to_a_shift_of_the_whole_surface(sphere):
    bumps = make_bumps(*sphere, SPACING)
    assert 20 < bumps.count < 200
    torch.testing.assert_close(bumps.heights(torch.ones(bumps.count)), torch.ones(len(sphere[0])))
    assert np.abs(bumps.slopes @ np.ones(bumps.count)).max() < 1e-4


def test_slopes_are_how_the_normals_turn(sphere):
    vertices, faces, normals = sphere
    bumps = make_bumps(*sphere, SPACING)
    coefficients = torch.randn(bumps.count, generator=torch.Generator().manual_seed(0))
    step = 1e-3
    raised, lowered = (
        vertex_normals(vertices + sign * step * normals * bumps.heights(coefficients)[:, None], faces)
        for sign in (1.0, -1.0)
    )
    turned = (raised - lowered) / (2 * step)
    predicted = -torch.from_numpy(bumps.slopes @ coefficients.numpy()).view(-1, 3)
    assert (turned - predicted).norm(dim=-1).mean() < 0.05 * turned.norm(dim=-1).mean()


def test_points_between_vertices_mix_their_values(sphere):
    _, faces, _ = sphere
    bumps = make_bumps(*sphere, SPACING)
    coefficients = torch.randn(bumps.count, generator=torch.Generator().manual_seed(1))
    corners = faces[:7].long()
    barycentrics = torch.tensor([0.2, 0.3, 0.5]).expand(7, 3)
    mixed = (bumps.heights(coefficients)[corners] * barycentrics).sum(-1)
    at = torch.from_numpy(bumps.values_at(corners, barycentrics) @ coefficients.numpy()).float()
    torch.testing.assert_close(at, mixed)
    slopes = torch.from_numpy(bumps.slopes @ coefficients.numpy()).view(-1, 3)
    mixed = (slopes[corners] * barycentrics[..., None]).sum(1)
    at = torch.from_numpy(bumps.slopes_at(corners, barycentrics) @ coefficients.numpy()).float().view(-1, 3)
    torch.testing.assert_close(at, mixed)


def test_the_two_sides_of_a_thin_plate_have_bumps_of_their_own():
    plate = trimesh.creation.box((2.0, 2.0, 0.02)).subdivide_to_size(0.1)
    plate = trimesh.Trimesh(plate.vertices, plate.faces, process=True)
    vertices, faces = torch.from_numpy(plate.vertices).float(), torch.from_numpy(plate.faces).int()
    normals = vertex_normals(vertices, faces)
    bumps = make_bumps(vertices, faces, normals, 0.2)
    inner = (vertices[:, :2].abs() < 0.3).all(-1)
    top, bottom = (bumps.values[(inner & (sign * normals[:, 2] > 0.9)).numpy()] for sign in (1, -1))
    assert top.shape[0] > 5
    assert not set(top.nonzero()[1]) & set(bottom.nonzero()[1])


def test_rigid_parts_move_as_one_and_have_no_bumps(sphere):
    vertices, faces, normals = sphere
    parts = torch.where(vertices[:, 2] > 0.6, 0, -1)
    bumps = make_bumps(vertices, faces, normals, SPACING, parts)
    (part,) = bumps.rigid
    assert part.column + 7 == bumps.count
    cap = (parts == 0).numpy()
    assert bumps.values[cap][:, : part.column].nnz == 0
    assert bumps.values[~cap][:, part.column :].nnz == 0
    coefficients = torch.zeros(bumps.count)
    coefficients[part.column :] = 1e-4 * torch.tensor([2.0, -1.0, 3.0, 1.0, 2.0, -1.0, 2.0])
    move = part.move(coefficients)
    moved = vertices @ move[:3, :3].T + move[:3, 3] - vertices
    heights = (moved * normals).sum(-1)[parts == 0]
    torch.testing.assert_close(bumps.heights(coefficients)[parts == 0], heights, rtol=0.01, atol=2e-7)


def test_a_rigid_part_turns_and_grows_about_its_middle(sphere):
    vertices, faces, normals = sphere
    part = make_bumps(vertices, faces, normals, SPACING, torch.where(vertices[:, 0] < -0.5, 0, -1)).rigid[0]
    coefficients = torch.zeros(part.column + 7)
    coefficients[-1] = 0.1
    move = part.move(coefficients)
    torch.testing.assert_close(move[:3, :3] @ part.centre + move[:3, 3], part.centre)
    assert torch.linalg.det(move[:3, :3]).item() == pytest.approx(np.exp(3 * 0.2), rel=1e-4)
