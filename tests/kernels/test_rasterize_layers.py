import itertools

import pytest
import torch

from selfrecon_warp.kernels.rasterize import interpolate, rasterize
from selfrecon_warp.kernels.rasterize_layers import rasterize_layers
from selfrecon_warp.kernels.reference import rasterize as reference_rasterize
from selfrecon_warp.kernels.reference import rasterize_layers as reference

HEIGHT, WIDTH = 14, 19
OPTIONS = [
    {"blur_radius": radius, "perspective_correct": perspective, "clip_barycentrics": clip, "cull_backfaces": cull}
    for radius, perspective, clip, cull in itertools.product((0.0, 2.3), (True, False), (True, False), (True, False))
]


def make_inputs(device, dtype, seed=0, faces=16, size=8.0):
    """Two frames of overlapping random triangles, some reaching outside the picture."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(2, faces, 1, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT]) - size / 2
    around = corner + size * torch.rand(2, faces, 3, 2, generator=generator)
    z = 2 + torch.rand(2, faces, 3, 1, generator=generator)
    vertices = torch.cat([around, z], -1).reshape(2, 3 * faces, 3).to(device, dtype).requires_grad_()
    return vertices, torch.randperm(3 * faces, generator=generator).view(-1, 3).to(device)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(str(v) for v in o.values()))
@pytest.mark.parametrize("layers", [1, 3])
def test_matches_reference(device, layers, options):
    vertices, faces = make_inputs(device, torch.float64, faces=24)
    actual = rasterize_layers(vertices, faces, HEIGHT, WIDTH, layers, **options)
    expected = reference.rasterize_layers(vertices, faces, HEIGHT, WIDTH, layers, **options)
    assert (actual.face_index[..., -1] >= 0).any()
    assert (actual.face_index[..., -1] < 0).any()
    torch.testing.assert_close(actual, expected)
    upstream = [torch.randn_like(x) for x in actual[1:]]
    torch.testing.assert_close(
        torch.autograd.grad(actual[1:], vertices, upstream), torch.autograd.grad(expected[1:], vertices, upstream)
    )


def test_matches_reference_in_single_precision(device):
    vertices, faces = make_inputs(device, torch.float32)
    actual = rasterize_layers(vertices, faces, HEIGHT, WIDTH, 4, blur_radius=1.5, clip_barycentrics=True)
    expected = reference.rasterize_layers(vertices, faces, HEIGHT, WIDTH, 4, blur_radius=1.5, clip_barycentrics=True)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS[1::4], ids=lambda o: "-".join(str(v) for v in o.values()))
def test_gradcheck(device, options):
    vertices, faces = make_inputs(device, torch.float64, faces=3, size=4.0)
    vertices = (vertices[:1] * torch.tensor([0.4, 0.5, 1.0], device=device)).detach().requires_grad_()
    found = rasterize_layers(vertices, faces, 7, 8, 2, **options)
    assert (found.face_index >= 0).sum() > 4
    assert torch.autograd.gradcheck(lambda v: rasterize_layers(v, faces, 7, 8, 2, **options)[1:], vertices)


@pytest.mark.parametrize("cull", [False, True])
def test_one_sharp_layer_is_the_rasterized_image(device, cull):
    vertices, faces = make_inputs(device, torch.float64, faces=60)
    fragments = rasterize(vertices, faces, HEIGHT, WIDTH, cull)
    layers = rasterize_layers(vertices, faces, HEIGHT, WIDTH, 1, cull_backfaces=cull)
    torch.testing.assert_close([x[..., 0] for x in layers[:1]], [fragments.face_index])
    torch.testing.assert_close(layers.barycentrics[..., 0, :], fragments.barycentrics)
    torch.testing.assert_close(layers.depth[..., 0], fragments.depth)
    assert (layers.distance <= 0).all()


def test_layers_come_nearest_first_and_ties_by_face_index(device):
    vertices, faces = make_inputs(device, torch.float32, faces=40)
    layers = rasterize_layers(vertices, torch.cat([faces, faces]), HEIGHT, WIDTH, 12, blur_radius=1.0)
    filled = layers.face_index[..., 1:] >= 0
    assert (layers.depth.diff(dim=-1)[filled] > -1e-5).all()
    first, second = layers.face_index[..., ::2], layers.face_index[..., 1::2]
    assert (second[second >= 0] == first[second >= 0] + len(faces)).all()


def test_a_square_keeps_its_distances(device):
    corners = [[4.0, 3.0, 2.0], [4.0, 11.0, 2.0], [14.0, 11.0, 2.0], [14.0, 3.0, 2.0]]
    vertices = torch.tensor([corners], dtype=torch.float64, device=device)
    layers = rasterize_layers(vertices, torch.tensor([[0, 1, 2]], device=device), HEIGHT, WIDTH, 1, blur_radius=3.0)
    distance = layers.distance[0, ..., 0]
    assert distance[7, 5] == -1
    assert distance[7, 2] == 4
    assert distance[12, 2] == 5
    assert layers.face_index[0, 7, 1, 0] == -1
    assert layers.face_index[0, 11, 8, 0] == 0


def test_interpolate_takes_layers(device):
    vertices, faces = make_inputs(device, torch.float64, faces=6)
    attributes = torch.rand(2, vertices.shape[1], 3, dtype=torch.float64, device=device, requires_grad=True)
    layers = rasterize_layers(vertices, faces, HEIGHT, WIDTH, 3, blur_radius=1.0)
    actual = interpolate(attributes, faces, layers)
    expected = reference_rasterize.interpolate(attributes, faces, layers)
    torch.testing.assert_close(actual, expected)
    upstream = torch.randn_like(actual)
    torch.testing.assert_close(
        torch.autograd.grad(actual, (attributes, vertices), upstream, retain_graph=True),
        torch.autograd.grad(expected, (attributes, vertices), upstream),
    )


def test_clipped_layers_do_not_depend_on_the_order_of_faces(device):
    vertices, faces = make_inputs(device, torch.float32, faces=200, size=12.0)
    order = torch.randperm(len(faces), device=device)
    options = {"blur_radius": 3.0, "clip_barycentrics": True}
    first = rasterize_layers(vertices, faces, HEIGHT, WIDTH, 4, **options)
    second = rasterize_layers(vertices, faces[order], HEIGHT, WIDTH, 4, **options)
    found = torch.where(second.face_index >= 0, order[second.face_index.long()].int(), -1)
    assert torch.equal(found, first.face_index)
    torch.testing.assert_close(second[1:], first[1:])


def test_vertices_that_are_not_finite_leave_the_other_faces_alone(device):
    vertices, faces = make_inputs(device, torch.float32, faces=12)
    spoilt = vertices.detach().clone()
    for number, value in enumerate((float("nan"), float("inf"), -float("inf"))):
        spoilt[:, faces[number, 0], number] = value
    spoilt[:, faces[3, 0], 2] = -1.0
    spoilt[:, faces[4, 0]] = spoilt[:, faces[4, 1]]
    spoilt.requires_grad_()
    actual = rasterize_layers(spoilt, faces, HEIGHT, WIDTH, 4, blur_radius=2.0)
    expected = rasterize_layers(vertices, faces[5:], HEIGHT, WIDTH, 4, blur_radius=2.0)
    torch.testing.assert_close(actual.face_index, torch.where(expected.face_index >= 0, expected.face_index + 5, -1))
    torch.testing.assert_close(actual[1:], expected[1:])
    loss = [x.sum() for x in (actual.depth + actual.distance, expected.depth + expected.distance)]
    torch.testing.assert_close(torch.autograd.grad(loss[0], spoilt), torch.autograd.grad(loss[1], vertices))


def test_nothing_lies_beyond_the_horizon(device):
    corners = [[10.0, 2.0, 1.0], [10.0, 12.0, 1.0], [11.0, 7.0, 20.0]]
    vertices = torch.tensor([corners], dtype=torch.float64, device=device)
    layers = rasterize_layers(vertices, torch.tensor([[0, 1, 2]], device=device), HEIGHT, WIDTH, 1, blur_radius=5.0)
    assert layers.face_index[0, 7, 8, 0] == 0
    assert layers.face_index[0, 7, 13, 0] == -1
    assert layers.depth.min() >= 0


@pytest.mark.parametrize(("frames", "vertex_count", "face_count"), [(0, 6, 2), (2, 6, 0), (2, 0, 0)])
def test_empty_input(device, frames, vertex_count, face_count):
    vertices = torch.rand(frames, vertex_count, 3, device=device, requires_grad=True)
    faces = torch.arange(6, device=device).view(2, 3)[:face_count]
    layers = rasterize_layers(vertices, faces, 5, 4, 3, blur_radius=1.0)
    assert layers.face_index.shape == (frames, 5, 4, 3)
    assert (layers.face_index == -1).all()
    (grad,) = torch.autograd.grad(sum(x.sum() for x in layers[1:]), vertices)
    assert (grad == 0).all()


def test_strided_input(device):
    vertices, faces = make_inputs(device, torch.float32)
    vertices = vertices.detach()
    strided = vertices.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    wide = faces.repeat_interleave(2, 1)[:, ::2]
    torch.testing.assert_close(
        rasterize_layers(strided, wide, HEIGHT, WIDTH, 3), rasterize_layers(vertices, faces, HEIGHT, WIDTH, 3)
    )


def test_two_backwards_through_one_graph(device):
    vertices, faces = make_inputs(device, torch.float64)
    layers = rasterize_layers(vertices, faces, HEIGHT, WIDTH, 3, blur_radius=1.0)
    loss = sum(x.square().sum() for x in layers[1:]).sqrt()
    first = torch.autograd.grad(loss, vertices, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, vertices), first)


def test_threads_do_not_change_the_result(device, threads):
    vertices, faces = make_inputs(device, torch.float64, faces=3000, size=5.0)
    scale = torch.tensor([5.0, 6.0, 1.0], device=device)
    results = []
    for count in (1, 2, 3):
        threads(count)
        layers = rasterize_layers(vertices * scale, faces, 90, 100, 4, blur_radius=1.0, clip_barycentrics=True)
        grads = torch.autograd.grad(sum(x.square().sum() for x in layers[1:]), vertices)
        results.append((*layers, *grads))
    for result in results[1:]:
        for found, expected in zip(result[:-1], results[0][:-1], strict=True):
            assert torch.equal(found, expected)
        torch.testing.assert_close(result[-1], results[0][-1])


def test_names_the_mismatched_argument(device):
    vertices, faces = make_inputs(device, torch.float32)
    with pytest.raises(ValueError, match=r"vertices_pixel must have shape \[B, V, 3\]"):
        rasterize_layers(vertices[0], faces, HEIGHT, WIDTH, 2)
    with pytest.raises(ValueError, match=r"faces must hold indices from 0 to 9, got 0 to \d+"):
        rasterize_layers(vertices[:, :10], faces, HEIGHT, WIDTH, 2)
    with pytest.raises(ValueError, match="faces_per_pixel must be at least 1, got 0"):
        rasterize_layers(vertices, faces, HEIGHT, WIDTH, 0)
    with pytest.raises(ValueError, match="blur_radius must be a finite number of pixels, 0 or more, got nan"):
        rasterize_layers(vertices, faces, HEIGHT, WIDTH, 2, blur_radius=float("nan"))
    with pytest.raises(ValueError, match=r"vertices_pixel must be float32 or float64, got torch\.int64"):
        rasterize_layers(vertices.long(), faces, HEIGHT, WIDTH, 2)
    with pytest.raises(ValueError, match="too many at once"):
        rasterize_layers(vertices, faces, 40_000, 40_000, 2)
