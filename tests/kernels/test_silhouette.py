import math

import pytest
import torch
import trimesh

from selfrecon_warp.kernels.contour import mesh_edges
from selfrecon_warp.kernels.rasterize import visible_faces
from selfrecon_warp.kernels.reference import silhouette as reference
from selfrecon_warp.kernels.silhouette import soft_silhouette

HEIGHT, WIDTH = 23, 31


def balls(device, dtype, subdivisions=2):
    """Two frames of two overlapping balls, faces about as large as a pixel, one ball reaching outside the picture."""
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions)
    shape, faces = torch.tensor(mesh.vertices, dtype=dtype), torch.tensor(mesh.faces)
    generator = torch.Generator().manual_seed(0)
    wobble = 1 + 0.1 * torch.rand(2, 2, len(shape), 1, generator=generator, dtype=torch.float64).to(dtype)
    centre = torch.tensor([[[13.3, 10.6, 0], [27.1, 14.2, 0]], [[16.9, 11.4, 0], [8.2, 3.1, 0]]], dtype=dtype)
    vertices = centre[:, :, None] + wobble * shape * torch.tensor([8.0, 8.0, 0.1], dtype=dtype)
    vertices = vertices.view(2, -1, 3) + torch.tensor([0.0, 0.0, 3.0], dtype=dtype)
    return vertices.to(device).requires_grad_(), torch.cat([faces, faces + len(shape)]).to(device)


def rectangle(device, left, right, top, bottom):
    corners = [[left, top, 2.0], [left, bottom, 2.0], [right, bottom, 2.0], [right, top, 2.0]]
    vertices = torch.tensor([corners], dtype=torch.float64, device=device, requires_grad=True)
    return vertices, torch.tensor([[0, 1, 2], [0, 2, 3]], device=device)


def render(vertices, faces, size=(HEIGHT, WIDTH)):
    return soft_silhouette(vertices, faces, visible_faces(vertices, faces, *size))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_reference(device, dtype):
    vertices, faces = balls(device, dtype)
    face_index = visible_faces(vertices, faces, HEIGHT, WIDTH)
    actual = soft_silhouette(vertices, faces, face_index, mesh_edges(faces))
    expected = reference.soft_silhouette(vertices, faces, face_index)
    assert ((actual > 0) & (actual < 1)).sum() > 100
    torch.testing.assert_close(actual, expected)
    upstream = torch.randn_like(actual)
    torch.testing.assert_close(
        torch.autograd.grad(actual, vertices, upstream),
        torch.autograd.grad(expected, vertices, upstream),
        rtol=1e-4,
        atol=1e-5,
    )


def test_gradcheck(device):
    vertices, faces = balls(device, torch.float64, subdivisions=1)
    assert torch.autograd.gradcheck(lambda v: render(v, faces), vertices[:1].detach().requires_grad_())


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.5, 0.83])
def test_a_rectangle_keeps_its_exact_width_and_height(device, shift):
    vertices, faces = rectangle(device, 4 + shift, 20.6, 3.7 + shift, 15.0)
    mask = render(vertices, faces)[0]
    torch.testing.assert_close(mask[10].sum().item(), 16.6 - shift)
    torch.testing.assert_close(mask[:, 10].sum().item(), 11.3 - shift)
    (grad,) = torch.autograd.grad(mask[10].sum() + mask[11].sum(), vertices)
    torch.testing.assert_close(grad[0, :, 0].view(2, 2).sum(1).tolist(), [-2.0, 2.0])


def test_area_and_its_gradient_follow_the_shape(device):
    mesh = trimesh.creation.icosphere(subdivisions=4)
    shape = torch.tensor(mesh.vertices, dtype=torch.float64, device=device)[None]
    faces = torch.tensor(mesh.faces, device=device)
    radius = torch.tensor(14.3, dtype=torch.float64, device=device, requires_grad=True)
    place = torch.tensor([20.2, 17.9, 3.0], dtype=torch.float64, device=device, requires_grad=True)
    area = render(place + shape * radius * torch.tensor([1.0, 1.0, 0.01], device=device), faces, (36, 41)).sum()
    by_radius, by_place = torch.autograd.grad(area, (radius, place))
    assert area.item() == pytest.approx(math.pi * 14.3**2, rel=5e-3)
    assert by_radius.item() == pytest.approx(2 * math.pi * 14.3, rel=2e-2)
    assert by_place.abs().max() < 1


def test_value_is_continuous_while_a_side_passes_pixel_centres(device):
    steps = torch.linspace(0, 2, 401, dtype=torch.float64).tolist()
    masks = torch.cat([render(*rectangle(device, 4.3, 14.0 + step, 3.2, 18.4)).detach() for step in steps])
    assert masks[:, 6:16].diff(dim=0).abs().max() < 0.0051


@pytest.mark.parametrize("scale", [(1.0, 1.0, -1.0), (0.0, 1.0, 1.0)], ids=["behind the camera", "zero area"])
def test_nothing_drawn_gives_an_empty_mask(device, scale):
    vertices, faces = balls(device, torch.float64)
    mask = render(vertices * torch.tensor(scale, dtype=torch.float64, device=device), faces)
    assert (mask == 0).all()
    (grad,) = torch.autograd.grad(mask.sum(), vertices)
    assert (grad == 0).all()


def test_a_full_picture_stays_full(device):
    vertices, faces = rectangle(device, -5.0, 50.0, -5.0, 50.0)
    assert (render(vertices, faces) == 1).all()


def test_empty_input(device):
    vertices, faces = balls(device, torch.float32)
    assert render(vertices[:0], faces).shape == (0, HEIGHT, WIDTH)
    mask = render(vertices, faces[:0])
    assert (mask == 0).all()
    (grad,) = torch.autograd.grad(mask.sum(), vertices)
    assert (grad == 0).all()


def test_strided_input(device):
    vertices, faces = balls(device, torch.float32)
    vertices = vertices.detach()
    face_index = visible_faces(vertices, faces, HEIGHT, WIDTH)
    expected = soft_silhouette(vertices, faces, face_index)
    strided = vertices.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    turned = face_index.long().transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(soft_silhouette(strided, faces.repeat_interleave(2, 1)[:, ::2], turned), expected)


def test_two_backwards_through_one_graph(device):
    vertices, faces = balls(device, torch.float64)
    loss = render(vertices, faces).square().sum()
    first = torch.autograd.grad(loss, vertices, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, vertices), first)


def test_names_the_mismatched_argument(device):
    vertices, faces = balls(device, torch.float32)
    face_index = visible_faces(vertices, faces, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match=r"face_index must have shape \[B=2, H, W\], got \[1, 23, 31\]"):
        soft_silhouette(vertices, faces, face_index[:1])
    with pytest.raises(ValueError, match=r"faces must hold indices from 0 to 9"):
        soft_silhouette(vertices[:, :10], faces, face_index, mesh_edges(faces[:0]))
