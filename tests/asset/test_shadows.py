"""Shadows of a plate over a floor, and the lamp that casts them."""

import pytest
import torch
import trimesh

from selfrecon_warp.asset.shadows import reached

FLOOR = torch.tensor([[-1.0, -1.0, 0.0], [1.0, -1.0, 0.0], [1.0, 1.0, 0.0], [-1.0, 1.0, 0.0]])
PLATE = FLOOR * 0.25 + torch.tensor([0.0, 0.0, 0.5])
FACES = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])


def shares(direction, points):
    light = torch.nn.functional.normalize(torch.tensor([direction]), dim=-1)
    return reached(light, torch.cat((FLOOR, PLATE))[None], FACES, torch.tensor([points]))[0]


def test_a_plate_shades_the_floor_below_it():
    found = shares([0.0, 0.0, 1.0], [[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.1, 0.1, 0.5]])
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 1.0]))


def test_slanting_light_moves_the_shadow():
    found = shares([1.0, 0.0, 1.0], [[0.0, 0.0, 0.0], [-0.5, 0.0, 0.0]])
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0]))


def test_a_ball_is_lit_on_one_side():
    ball = trimesh.creation.icosphere(subdivisions=3)
    vertices, faces = torch.from_numpy(ball.vertices).float(), torch.from_numpy(ball.faces)
    light = torch.nn.functional.normalize(torch.tensor([[0.3, 0.8, -0.5]]), dim=-1)
    found = reached(light, vertices[None], faces, vertices[None])[0]
    facing = vertices @ light[0]
    assert found[facing > 0.5].min() > 0.999
    assert found[facing < -0.3].max() == 0


def test_shadows_know_how_many_lights():
    with pytest.raises(ValueError, match=r"directions must have shape \[B=1, 3\]|casters must have shape"):
        reached(torch.eye(3), FLOOR[None], FACES[:2], FLOOR[None])
