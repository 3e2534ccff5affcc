import torch
import trimesh

from selfrecon_warp.kernels.contour import mesh_edges
from selfrecon_warp.surface.mesh import Smoothing, vertex_normals


def sphere() -> tuple[torch.Tensor, torch.Tensor]:
    mesh = trimesh.creation.icosphere(subdivisions=2)
    return torch.tensor(mesh.vertices, dtype=torch.float32), torch.tensor(mesh.faces)


def test_normals_of_a_sphere_point_outward():
    vertices, faces = sphere()
    assert float((vertex_normals(vertices, faces) * vertices).sum(-1).min()) > 0.99


def test_normals_of_a_batch_are_those_of_its_members():
    vertices, faces = sphere()
    batch = torch.stack([vertices, 2.0 * vertices + 1.0])
    torch.testing.assert_close(vertex_normals(batch, faces)[1], vertex_normals(vertices, faces))


def test_smoothing_keeps_constants_and_damps_noise():
    vertices, faces = sphere()
    smooth = Smoothing(mesh_edges(faces).vertex_index, len(vertices))
    torch.testing.assert_close(smooth(torch.ones(len(vertices), 1), 3), torch.ones(len(vertices), 1))
    noise = torch.randn(len(vertices), 1, generator=torch.Generator().manual_seed(0))
    assert float(smooth(noise, 2).std()) < 0.6 * float(noise.std())
    assert smooth(noise, 0) is noise
