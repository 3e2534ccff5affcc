import pytest
import torch
import trimesh

from selfrecon_warp.kernels.best_views import best_views
from selfrecon_warp.kernels.rasterize import rasterize
from selfrecon_warp.kernels.reference import best_views as reference
from selfrecon_warp.surface.mesh import vertex_normals

SIZE = 40


def turning_ball(device, dtype, pictures=7, points=200):
    """A ball of one metre that turns before a camera, points on it, and a random map of trust."""
    ball = trimesh.creation.icosphere(subdivisions=2)
    vertices = torch.tensor(ball.vertices, dtype=torch.float64)
    faces = torch.tensor(ball.faces)
    angles = torch.arange(pictures, dtype=torch.float64) * (2 * torch.pi / pictures)
    cosine, sine, zero, one = angles.cos(), angles.sin(), torch.zeros_like(angles), torch.ones_like(angles)
    turns = torch.stack((cosine, zero, sine, zero, one, zero, -sine, zero, cosine), -1).view(-1, 3, 3)
    posed = torch.einsum("nij,vj->nvi", turns, vertices) + torch.tensor([0.0, 0.0, 4.0], dtype=torch.float64)
    normals = vertex_normals(posed, faces)
    cosines = -(normals * torch.nn.functional.normalize(posed, dim=-1)).sum(-1)
    z = posed[..., 2:]
    pixels = torch.cat((50 * posed[..., :2] / z + (SIZE - 1) / 2, z), -1)
    generator = torch.Generator().manual_seed(0)
    face_index = torch.randint(-1, len(faces), (points,), generator=generator)
    barycentrics = torch.rand(points, 3, generator=generator, dtype=torch.float64)
    barycentrics = barycentrics / barycentrics.sum(1, keepdim=True)
    depth = rasterize(pixels, faces, SIZE, SIZE).depth
    trust = torch.rand(depth.shape, generator=generator, dtype=torch.float64)
    floats = (each.to(device, dtype) for each in (pixels, cosines, barycentrics, depth, trust))
    pixels, cosines, barycentrics, depth, trust = floats
    return pixels, cosines, faces.to(device), face_index.to(device), barycentrics, depth, trust


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 3, 9])
def test_matches_reference(device, dtype, count):
    inputs = turning_ball(device, dtype)
    found, expected = best_views(*inputs, count), reference.best_views(*inputs, count)
    torch.testing.assert_close(found.weight, expected.weight)
    assert torch.equal(found.picture, expected.picture)
    torch.testing.assert_close(found.pixel, expected.pixel, atol=1e-4, rtol=1e-5)
    assert (found.weight[:, 0] > 0).float().mean() > 0.8


def test_many_points_match_reference_on_several_threads(device):
    inputs = turning_ball(device, torch.float64, points=3000)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = best_views(*inputs, 2)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found.picture, reference.best_views(*inputs, 2).picture)


def test_the_most_frontal_picture_comes_first(device):
    pixels, cosines, faces, face_index, barycentrics, depth, trust = turning_ball(device, torch.float64)
    found = best_views(pixels, cosines, faces, face_index, barycentrics, depth, torch.ones_like(trust), 3)
    corners = faces[face_index.clamp(min=0)]
    cosine = (cosines[:, corners] * barycentrics).sum(-1).T  # [T, N]
    seen = found.picture[:, 0] >= 0
    chosen = cosine.gather(1, found.picture[:, :1].long().clamp(min=0))[:, 0]
    nearly = (chosen > cosine.amax(1) - 0.1)[seen]  # nearer pictures may win over slightly more frontal ones
    assert nearly.float().mean() > 0.95
    assert (found.weight.diff(dim=1) <= 0).all()
    assert (found.picture[face_index < 0] == -1).all()


def test_what_lies_behind_is_not_seen(device):
    """Two squares before a camera, one before the other: points of the far one count where the near one is not."""
    near = torch.tensor([[10.0, 10.0, 2.0], [30.0, 10.0, 2.0], [30.0, 30.0, 2.0], [10.0, 30.0, 2.0]])
    far = torch.tensor([[0.0, 0.0, 2.1], [39.0, 0.0, 2.1], [39.0, 39.0, 2.1], [0.0, 39.0, 2.1]])
    pixels = torch.cat((near, far))[None].to(device)
    faces = torch.tensor([[0, 2, 1], [0, 3, 2], [4, 6, 5], [4, 7, 6]], device=device)
    depth = rasterize(pixels, faces, SIZE, SIZE).depth
    barycentrics = torch.tensor([[0.3, 0.4, 0.3], [0.9, 0.05, 0.05]], device=device)
    given = (pixels, torch.ones(1, 8, device=device), faces, torch.tensor([2, 2], device=device), barycentrics, depth)
    found = best_views(*given, torch.ones_like(depth), 1)
    assert found.picture[:, 0].tolist() == [-1, 0]
    assert best_views(*given, torch.ones_like(depth), 1, tolerance=0.2).picture[:, 0].tolist() == [0, 0]
    assert best_views(*given, torch.zeros_like(depth), 1).weight.sum() == 0


@pytest.mark.parametrize("empty", ["points", "pictures", "faces"])
def test_nothing_gives_no_picture(device, empty):
    pixels, cosines, faces, face_index, barycentrics, depth, trust = turning_ball(device, torch.float32)
    if empty == "points":
        face_index, barycentrics = face_index[:0], barycentrics[:0]
    if empty == "pictures":
        pixels, cosines, depth, trust = pixels[:0], cosines[:0], depth[:0], trust[:0]
    if empty == "faces":
        faces, face_index = faces[:0], torch.full_like(face_index, -1)
    found = best_views(pixels, cosines, faces, face_index, barycentrics, depth, trust, 2)
    assert found.weight.shape == (len(face_index), 2)
    assert (found.picture == -1).all()
    assert not found.weight.any()
