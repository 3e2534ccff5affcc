import math

import pytest
import torch
import trimesh

from selfrecon_warp.kernels.contour import mesh_edges
from selfrecon_warp.kernels.rasterize import visible_faces
from selfrecon_warp.kernels.reference import silhouette as reference
from selfrecon_warp.kernels.silhouette import antialiased_silhouette, blended_silhouette, splatted_silhouette

HEIGHT, WIDTH = 23, 31
SOFT = [
    (blended_silhouette, {"sigma": 0.9, "blur_radius": 2.6, "faces_per_pixel": 5}),
    (blended_silhouette, {"sigma": 0.9, "blur_radius": 2.6}),
    (splatted_silhouette, {"radius": 2.3, "points_per_pixel": 20}),
]
SOFT_NAMES = ["blended nearest", "blended all", "splatted"]


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


def soup(device, dtype, count=30):
    """Two frames of separate triangles: clipped to shared corners, faces would be equally far but for rounding."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, count, 1, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT]) - 4
    around = corner + 8 * torch.rand(2, count, 3, 2, generator=generator)
    vertices = torch.cat([around, 2 + torch.rand(2, count, 3, 1, generator=generator)], -1).view(2, -1, 3)
    return vertices.to(device, dtype).requires_grad_(), torch.arange(3 * count, device=device).view(-1, 3)


def rectangle(device, left, right, top, bottom):
    corners = [[left, top, 2.0], [left, bottom, 2.0], [right, bottom, 2.0], [right, top, 2.0]]
    vertices = torch.tensor([corners], dtype=torch.float64, device=device, requires_grad=True)
    return vertices, torch.tensor([[0, 1, 2], [0, 2, 3]], device=device)


def render(vertices, faces, size=(HEIGHT, WIDTH)):
    return antialiased_silhouette(vertices, faces, *size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_reference(device, dtype):
    vertices, faces = balls(device, dtype)
    face_index = visible_faces(vertices, faces, HEIGHT, WIDTH)
    known = {"face_index": face_index, "edges": mesh_edges(faces)}
    actual = antialiased_silhouette(vertices, faces, HEIGHT, WIDTH, **known)
    expected = reference.antialiased_silhouette(vertices, faces, HEIGHT, WIDTH)
    torch.testing.assert_close(render(vertices, faces), actual)
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
    expected = antialiased_silhouette(vertices, faces, HEIGHT, WIDTH)
    strided = vertices.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    turned = face_index.long().transpose(1, 2).contiguous().transpose(1, 2)
    wide = faces.repeat_interleave(2, 1)[:, ::2]
    torch.testing.assert_close(antialiased_silhouette(strided, wide, HEIGHT, WIDTH, face_index=turned), expected)
    for op, options in SOFT:
        torch.testing.assert_close(
            op(strided, wide, HEIGHT, WIDTH, **options), op(vertices, faces, HEIGHT, WIDTH, **options)
        )


def test_two_backwards_through_one_graph(device):
    vertices, faces = balls(device, torch.float64)
    for op, options in [(antialiased_silhouette, {}), *SOFT]:
        loss = op(vertices, faces, HEIGHT, WIDTH, **options).square().sum()
        first = torch.autograd.grad(loss, vertices, retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(loss, vertices), first)


def test_names_the_mismatched_argument(device):
    vertices, faces = balls(device, torch.float32)
    face_index = visible_faces(vertices, faces, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match=r"face_index must have shape \[2, 23, 31\], got \[1, 23, 31\]"):
        antialiased_silhouette(vertices, faces, HEIGHT, WIDTH, face_index=face_index[:1])
    with pytest.raises(ValueError, match=r"faces must hold indices from 0 to 9"):
        antialiased_silhouette(
            vertices[:, :10], faces, HEIGHT, WIDTH, face_index=face_index, edges=mesh_edges(faces[:0])
        )
    for op, options in SOFT:
        with pytest.raises(ValueError, match=r"faces must hold indices from 0 to 9, got 0 to \d+"):
            op(vertices[:, :10], faces, HEIGHT, WIDTH, **options)
        with pytest.raises(ValueError, match=r"vertices_pixel must have shape \[B, V, 3\]"):
            op(vertices[0], faces, HEIGHT, WIDTH, **options)
        with pytest.raises(ValueError, match="height must be at least 1, got 0"):
            op(vertices, faces, 0, WIDTH, **options)
    with pytest.raises(ValueError, match="sigma must be a finite number of square pixels above 0, got 0"):
        blended_silhouette(vertices, faces, HEIGHT, WIDTH, sigma=0.0, blur_radius=1.0)
    with pytest.raises(ValueError, match="blur_radius must be a finite number of pixels, 0 or more, got -1"):
        blended_silhouette(vertices, faces, HEIGHT, WIDTH, sigma=1.0, blur_radius=-1.0)
    with pytest.raises(ValueError, match="faces_per_pixel must be at least 1, got 0"):
        blended_silhouette(vertices, faces, HEIGHT, WIDTH, sigma=1.0, blur_radius=1.0, faces_per_pixel=0)


@pytest.mark.parametrize(("op", "options"), SOFT, ids=SOFT_NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_soft_forms_match_reference(device, op, options, dtype):
    vertices, faces = soup(device, dtype)
    actual = op(vertices, faces, HEIGHT, WIDTH, **options)
    expected = getattr(reference, op.__name__)(vertices, faces, HEIGHT, WIDTH, **options)
    assert ((actual > 0.01) & (actual < 0.99)).sum() > 100
    torch.testing.assert_close(actual, expected)
    upstream = torch.randn_like(actual)
    torch.testing.assert_close(
        torch.autograd.grad(actual, vertices, upstream),
        torch.autograd.grad(expected, vertices, upstream),
        rtol=1e-3 if dtype == torch.float32 else 1e-6,
        atol=1e-4 if dtype == torch.float32 else 1e-8,
    )


@pytest.mark.parametrize(("op", "options"), SOFT, ids=SOFT_NAMES)
def test_gradcheck_of_soft_forms(device, op, options):
    vertices, faces = soup(device, torch.float64, count=3)
    vertices = vertices[:1].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: op(v, faces, HEIGHT, WIDTH, **options), vertices)


@pytest.mark.parametrize("sigma", [0.2, 1.0, 5.0])
def test_one_straight_border_fades_as_the_sigmoid_of_the_squared_distance(device, sigma):
    vertices, faces = rectangle(device, 9.5, 400.0, -200.0, 300.0)
    mask = blended_silhouette(vertices, faces, 23, 20, sigma=sigma, blur_radius=6.0)[0]
    distance = torch.arange(20, dtype=torch.float64, device=device) - 9.5
    expected = torch.sigmoid(distance * distance.abs() / sigma).where(distance > -6, 0)
    torch.testing.assert_close(mask[:, :15], expected[:15].expand(23, -1))


def test_as_many_faces_as_there_are_is_all_of_them(device):
    vertices, faces = balls(device, torch.float32, subdivisions=1)
    options = {"sigma": 0.8, "blur_radius": 2.5}
    every = blended_silhouette(vertices, faces, HEIGHT, WIDTH, **options)
    counted = blended_silhouette(vertices, faces, HEIGHT, WIDTH, **options, faces_per_pixel=len(faces))
    torch.testing.assert_close(every, counted)
    upstream = torch.randn_like(every)
    torch.testing.assert_close(
        torch.autograd.grad(every, vertices, upstream),
        torch.autograd.grad(counted, vertices, upstream),
        atol=1e-4,
        rtol=1e-4,
    )


def test_one_disc_has_the_opacity_of_its_distance(device):
    vertices = torch.tensor([[[6.0, 5.0, 2.0]]], dtype=torch.float64, device=device)
    mask = splatted_silhouette(vertices, torch.zeros(0, 3, dtype=torch.int64, device=device), 11, 13, radius=3.0)[0]
    v, u = torch.meshgrid(torch.arange(11.0), torch.arange(13.0), indexing="ij")
    expected = (1 - ((u - 6) ** 2 + (v - 5) ** 2) / 9).clamp(min=0).double().to(device)
    torch.testing.assert_close(mask, expected)


@pytest.mark.parametrize(("op", "options"), SOFT, ids=SOFT_NAMES)
def test_soft_forms_of_nothing_are_empty(device, op, options):
    vertices, faces = balls(device, torch.float32, subdivisions=1)
    assert op(vertices[:0], faces, HEIGHT, WIDTH, **options).shape == (0, HEIGHT, WIDTH)
    nothing = [(vertices - 1e4, faces), (vertices * -1, faces)]
    nothing += [] if op is splatted_silhouette else [(vertices, faces[:0])]
    for away, some in nothing:
        mask = op(away, some, HEIGHT, WIDTH, **options)
        assert (mask == 0).all()
        (grad,) = torch.autograd.grad(mask.sum(), vertices)
        assert (grad == 0).all()


@pytest.mark.parametrize(("op", "options"), SOFT[:2], ids=SOFT_NAMES[:2])
def test_vertices_without_a_number_leave_the_others_alone(device, op, options):
    vertices, faces = balls(device, torch.float32, subdivisions=1)
    spoilt = vertices.detach().clone()
    spoilt[0, 3] = float("nan")
    spoilt[0, 7, 2] = float("inf")
    spoilt[1, 5, 0] = float("-inf")
    spoilt.requires_grad_()
    for frame, bad in ((0, (3, 7)), (1, (5,))):
        kept = faces[torch.stack([(faces != i).all(1) for i in bad]).all(0)]
        mask = op(spoilt, faces, HEIGHT, WIDTH, **options)[frame]
        expected = op(vertices, kept, HEIGHT, WIDTH, **options)[frame]
        torch.testing.assert_close(mask, expected)
        (grad,) = torch.autograd.grad(mask.sum(), spoilt)
        (expected_grad,) = torch.autograd.grad(expected.sum(), vertices)
        torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("op", "options"), SOFT, ids=SOFT_NAMES)
def test_threads_do_not_change_the_result(device, threads, op, options):
    vertices, faces = balls(device, torch.float64, subdivisions=4)
    results = []
    for count in (1, 2, 3):
        threads(count)
        mask = op(vertices, faces, 71, 83, **options)
        results.append((mask, *torch.autograd.grad(mask.square().sum(), vertices)))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])
