import copy

import torch
from sphere_run import CELL, RADIUS

from selfrecon_warp.surface.extraction import extract_mesh, lattice
from selfrecon_warp.train.initialisation import raise_surface

SINK, SWEEPS = 0.04, 3


def test_a_surface_that_sinks_sweep_by_sweep_meets_no_wall(sphere):
    avatar = copy.deepcopy(sphere.avatar)
    for _ in range(SWEEPS):
        mesh = extract_mesh(avatar.sdf, *lattice(avatar.lower, avatar.upper, CELL))
        raise_surface(avatar, mesh.vertices, mesh.faces, torch.full((len(mesh.vertices),), -SINK))
    left = RADIUS - SWEEPS * SINK
    radius = torch.linspace(0.3 * left, left + 0.05, 30)
    for axis in torch.eye(3):
        value = avatar.sdf(sphere.centre + radius[:, None] * axis).detach()
        assert (value - (radius - left)).abs().max() < 0.01
        slope = value.diff() / radius.diff()
        assert ((slope > 0.8) & (slope < 1.2)).all()


def test_a_surface_moves_where_the_mesh_does(sphere):
    avatar = copy.deepcopy(sphere.avatar)
    mesh = extract_mesh(avatar.sdf, *lattice(avatar.lower, avatar.upper, CELL))
    upwards = (mesh.vertices[:, 1] - sphere.centre[1]) / RADIUS
    raise_surface(avatar, mesh.vertices, mesh.faces, 0.02 * upwards)
    for sign in (-1.0, 1.0):
        pole = sphere.centre + torch.tensor([0.0, sign * (RADIUS + sign * 0.02), 0.0])
        assert abs(float(avatar.sdf(pole[None]))) < 0.003
    side = sphere.centre + torch.tensor([RADIUS, 0.0, 0.0])
    assert abs(float(avatar.sdf(side[None]))) < 0.003
