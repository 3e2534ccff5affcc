import math
from typing import ClassVar

import pytest
import torch
from mesh_operations import MeshOperations, Operation, ball, cube, gradient

from selfrecon_warp.kernels.mesh_losses import loss_edge_length, loss_normal_consistency
from selfrecon_warp.kernels.reference import mesh_losses as reference


class TestMeshLosses(MeshOperations):
    operations: ClassVar = {
        "loss_edge_length": Operation(loss_edge_length, reference.loss_edge_length, loss=True),
        "loss_edge_length, at rest": Operation(
            lambda vertices, faces: loss_edge_length(vertices, faces, target_length=0.3),
            lambda vertices, faces: reference.loss_edge_length(vertices, faces, target_length=0.3),
            loss=True,
        ),
        "loss_normal_consistency": Operation(loss_normal_consistency, reference.loss_normal_consistency, loss=True),
    }


def test_normal_consistency_of_a_cube(device):
    """12 of 18 edges join faces at a right angle, 6 are diagonals of flat sides."""
    vertices, faces = cube(device)
    assert float(loss_normal_consistency(vertices, faces)) == pytest.approx(12 / 18)


def test_normal_consistency_does_not_depend_on_orientation(device):
    vertices, faces = ball(device)
    turned = faces.clone()
    turned[::3] = turned[::3].flip(1)
    torch.testing.assert_close(
        gradient(loss_normal_consistency, vertices, turned), gradient(loss_normal_consistency, vertices, faces)
    )


def test_normal_consistency_of_three_half_planes_on_one_edge(device):
    """At 0, 90 and 180 degrees: two right angles (1 each) and a flat pair (0)."""
    points = [[0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [-1, 0, 0]]
    vertices = torch.tensor(points, dtype=torch.float64, device=device)
    faces = torch.tensor([[0, 1, 2], [0, 1, 3], [0, 1, 4]], device=device)
    assert float(loss_normal_consistency(vertices, faces)) == pytest.approx(2 / 3)


def test_edge_lengths_of_a_cube(device):
    vertices, faces = cube(device)
    assert float(loss_edge_length(vertices, faces)) == pytest.approx((12 * 4 + 6 * 8) / 18)
    assert float(loss_edge_length(vertices, faces, 2.0)) == pytest.approx(6 * (math.sqrt(8) - 2) ** 2 / 18)


def test_names_the_wrong_option(device):
    vertices, faces = ball(device)
    with pytest.raises(ValueError, match="target_length must be finite and not negative, got -1"):
        loss_edge_length(vertices, faces, -1.0)
    with pytest.raises(ValueError, match="least_area must be finite and not negative, got nan"):
        loss_normal_consistency(vertices, faces, math.nan)
