import numpy as np
import pytest
import torch
import trimesh

from selfrecon_warp.asset.cloth_weights import CLOSE_M, cloth_weights, spread_weights
from selfrecon_warp.surface.extraction import extract_mesh, lattice


def grid(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A square sheet of 10 cm in x and y, ``side`` vertices along an edge."""
    row, column = np.mgrid[:side, :side]
    vertices = np.stack((column, row, 0 * row), -1).reshape(-1, 3) * (0.1 / (side - 1))
    index = np.arange(side * side).reshape(side, side)
    a, b, c, d = (part.ravel() for part in (index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]))
    faces = np.concatenate((np.stack((a, b, d), 1), np.stack((a, d, c), 1)))
    return torch.from_numpy(vertices).float(), torch.from_numpy(faces)


def halves(vertices: torch.Tensor) -> torch.Tensor:
    """One joint takes the left half of the sheet, another the right."""
    right = (vertices[:, 0] > 0.05).float()
    return torch.stack((1 - right, right), 1)


def test_rigid_places_keep_their_weights():
    vertices, faces = grid(21)
    weights = halves(vertices)
    assert spread_weights(vertices, faces, weights, torch.zeros(len(vertices))) is weights
    length = torch.where(vertices[:, 1] > 0.05, 0.02, 0.0)
    spread = spread_weights(vertices, faces, weights, length)
    assert torch.equal(spread[length == 0], weights[length == 0])
    assert not torch.equal(spread[length > 0], weights[length > 0])


def test_spread_weights_sum_to_one_and_stay_in_range():
    vertices, faces = grid(21)
    weights = torch.rand(len(vertices), 5) ** 4
    weights = weights / weights.sum(1, keepdim=True)
    spread = spread_weights(vertices, faces, weights, 0.01 + 0.05 * torch.rand(len(vertices)))
    torch.testing.assert_close(spread.sum(1), torch.ones(len(vertices)))
    assert (spread.amin(0) >= weights.amin(0) - 1e-6).all()
    assert (spread.amax(0) <= weights.amax(0) + 1e-6).all()


def test_a_step_becomes_the_known_exponential():
    vertices, faces = grid(81)
    length = 0.01
    spread = spread_weights(vertices, faces, halves(vertices), torch.full((len(vertices),), length))
    beyond = (vertices[:, 0] - 0.05).double()
    exact = torch.where(beyond > 0, 1 - 0.5 * torch.exp(-beyond / length), 0.5 * torch.exp(beyond / length))
    assert (spread[:, 1].double() - exact).abs().max() < 0.04  # the step itself lies between two vertices


def test_the_same_surface_gives_the_same_weights_however_finely_it_is_cut():
    coarse, fine = grid(21), grid(81)
    spread = [spread_weights(v, f, halves(v), torch.full((len(v),), 0.02))[:, 1] for v, f in (coarse, fine)]
    middle = [s.view(side, side)[side // 2] for s, side in zip(spread, (21, 81), strict=True)]
    assert (middle[0] - middle[1][::4]).abs().max() < 0.05


def test_a_part_that_hangs_free_follows_what_it_hangs_on():
    tail = trimesh.creation.cylinder(radius=0.02, height=0.2, sections=16).subdivide().subdivide()
    vertices, faces = torch.from_numpy(tail.vertices).float(), torch.from_numpy(tail.faces)
    root = vertices[:, 2] > 0.09
    weights = torch.stack((root.float(), 1 - root.float()), 1)
    spread = spread_weights(vertices, faces, weights, torch.where(root, 0.0, 0.5))
    assert spread[vertices[:, 2] < -0.09, 0].min() > 0.6


def test_mesh_without_loose_parts_or_faces_is_left_alone():
    weights = torch.full((4, 2), 0.5)
    vertices, faces = torch.rand(4, 3), torch.zeros(0, 3, dtype=torch.long)
    assert torch.equal(spread_weights(vertices, faces, weights, torch.full((4,), 0.1)), weights)


def test_names_the_mismatched_argument():
    vertices, faces = grid(3)
    with pytest.raises(ValueError, match="length must have shape"):
        spread_weights(vertices, faces, halves(vertices), torch.zeros(3))


def test_an_avatars_weights_are_the_bodys_on_the_body(sphere):
    avatar = sphere.avatar
    body = avatar.canonical_body()
    weights = cloth_weights(avatar, body.vertices, body.faces)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)))
    assert (weights - body.weights).abs().sum(1).mean() < (
        (avatar.deformation.skinning_weights(body.vertices) - body.weights).abs().sum(1).mean()
    )


def test_only_what_stands_off_the_body_is_spread(sphere):
    avatar = sphere.avatar
    mesh = extract_mesh(avatar.sdf, *lattice(avatar.lower, avatar.upper, 0.05))
    body = avatar.canonical_body()
    weights = cloth_weights(avatar, mesh.vertices, mesh.faces)
    distance = torch.cdist(mesh.vertices, body.vertices).amin(1)
    assert distance.max() > 5 * CLOSE_M  # the sphere is wider than the hips it surrounds
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)))
