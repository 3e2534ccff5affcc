import pytest
import torch
from kernel_calls import CALLS

from selfrecon_warp.kernels.paint import paint_texture, paint_vertices
from selfrecon_warp.kernels.rasterize import visible_faces
from selfrecon_warp.kernels.reference import paint as reference


def square(device, size, depths=(2.0, 2.0, 2.0, 2.0)):
    """A quad that covers a picture exactly, and coordinates that lay a texture over it."""
    low, high = -0.5, size - 0.5
    corners = [(low, low), (high, low), (high, high), (low, high)]
    vertices = torch.tensor([[*corner, depth] for corner, depth in zip(corners, depths, strict=True)])
    faces = torch.tensor([[0, 2, 1], [0, 3, 2]])
    texcoords = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    return vertices[None].to(device), faces.to(device), texcoords.to(device)


def textured(device, texture, size, samples=1, **options):
    vertices, faces, texcoords = square(device, size * samples, **options)
    index = visible_faces(vertices, faces, size * samples, size * samples)
    return paint_texture(index, vertices, faces, texcoords, faces, texture.to(device), samples)[0]


@pytest.fixture
def texture():
    return torch.randint(0, 256, (8, 8, 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


@pytest.mark.parametrize("name", ["paint_texture", "paint_vertices"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_reference(device, name, dtype):
    call = CALLS[name]
    given = {
        key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in call.make(dtype).items()
    }
    painted = call.op(**given)
    assert painted.dtype == dtype
    assert 0.04 < painted[..., 3].mean() < 0.9
    torch.testing.assert_close(painted, getattr(reference, name)(**given), atol=1e-5, rtol=0)


def test_a_texture_of_the_pictures_size_arrives_texel_by_texel(device, texture):
    painted = textured(device, texture, 8)
    torch.testing.assert_close(painted[..., :3].cpu(), texture / 255, atol=1e-5, rtol=0)
    assert (painted[..., 3] == 1).all()


def test_samples_average_texels(device, texture):
    painted = textured(device, texture, 4, samples=2)
    means = (texture / 255).view(4, 2, 4, 2, 3).mean((1, 3))
    torch.testing.assert_close(painted[..., :3].cpu(), means, atol=1e-5, rtol=0)


def test_lookups_are_bilinear_and_the_border_goes_on(device):
    ramp = torch.tensor([[[0, 0, 0], [200, 100, 50]]], dtype=torch.uint8)
    row = textured(device, ramp, 4)[0, :, 0].cpu() * 255
    torch.testing.assert_close(row, torch.tensor([0.0, 50.0, 150.0, 200.0]), atol=1e-2, rtol=0)


def test_lookups_are_correct_in_perspective(device):
    """A board that leans back shows its middle where the depths' harmonic mean is."""
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 256, 1).expand(1, 256, 3)
    row = textured(device, ramp, 64, depths=(1.0, 3.0, 3.0, 1.0))[32, :, 0].cpu()
    across = (torch.arange(64) + 0.5) / 64
    expected = (across / 3) / ((1 - across) + across / 3)
    torch.testing.assert_close(row, (expected * 256 - 0.5).clamp(0, 255) / 255, atol=2e-3, rtol=0)


def test_coverage_is_the_share_of_samples(device):
    vertices = torch.tensor([[[-0.5, -0.5, 1.0], [7.5, -0.5, 1.0], [-0.5, 7.5, 1.0]]], device=device)
    faces = torch.tensor([[0, 2, 1]], device=device)
    index = visible_faces(vertices, faces, 8, 8)
    colours = torch.tensor([[0.25, 0.5, 1.0]], device=device).expand(3, 3)
    painted = paint_vertices(index, vertices, faces, colours, 2)[0]
    share = (index[0] >= 0).view(4, 2, 4, 2).float().mean((1, 3))
    torch.testing.assert_close(painted[..., 3], share)
    torch.testing.assert_close(painted[..., :3], share[..., None] * colours[0])


def test_a_vertex_that_is_no_number_spoils_no_lookup(device, texture):
    vertices, faces, texcoords = square(device, 8)
    index = visible_faces(vertices, faces, 8, 8)
    vertices[0, 0] = torch.nan
    painted = paint_texture(index, vertices, faces, texcoords, faces, texture.to(device))
    assert (painted[..., 3] == 1).all()


def test_names_what_is_wrong():
    given = CALLS["paint_texture"].make(torch.float32)
    with pytest.raises(ValueError, match=r"texture must be uint8 of shape \[X, Y, 3\]"):
        paint_texture(**{**given, "texture": given["texture"].float()})
    with pytest.raises(ValueError, match="multiples of samples=4"):
        paint_texture(**{**given, "samples": 4})
