import math
from typing import ClassVar

import torch
from mesh_operations import MeshOperations, Operation, cube

from selfrecon_warp.kernels.mesh import edge_lengths, face_areas, face_normals, vertex_normals
from selfrecon_warp.kernels.reference import mesh as reference


class TestMesh(MeshOperations):
    operations: ClassVar = {
        op.__name__: Operation(op, getattr(reference, op.__name__))
        for op in (face_normals, face_areas, vertex_normals, edge_lengths)
    }


def test_areas_and_normals_of_a_cube(device):
    vertices, faces = cube(device)
    torch.testing.assert_close(face_areas(vertices, faces), torch.full_like(vertices[:1, 0], 2.0).expand(12))
    normals = face_normals(vertices, faces)
    torch.testing.assert_close(normals.abs().sum(-1), torch.ones_like(normals[:, 0]))
    assert ((normals * vertices[faces].mean(1)).sum(-1) > 0).all()
    assert ((vertex_normals(vertices, faces) * vertices).sum(-1) > 1).all()


def test_edges_of_a_cube(device):
    vertices, faces = cube(device)
    lengths = edge_lengths(vertices, faces).sort().values
    expected = torch.tensor(12 * [2.0] + 6 * [math.sqrt(8)], dtype=torch.float64, device=device)
    torch.testing.assert_close(lengths, expected)
