import pytest
import torch

from selfrecon_warp.kernels.interop import SPLIT_GRAIN
from selfrecon_warp.kernels.rasterize import interpolate, pixel_barycentrics, rasterize, visible_faces
from selfrecon_warp.kernels.reference import rasterize as reference

HEIGHT, WIDTH = 13, 19


def make_inputs(device, dtype, seed=0, faces=8):
    """Two frames of overlapping random triangles, some reaching outside the picture."""
    generator = torch.Generator().manual_seed(seed)
    V = 3 * faces
    corner = torch.rand(2, faces, 1, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT]) - 2
    around = corner + 7 * torch.rand(2, faces, 3, 2, generator=generator)
    z = 1 + 2 * torch.rand(2, faces, 3, 1, generator=generator)
    vertices = torch.cat([around, z], -1).reshape(2, V, 3).to(device, dtype).requires_grad_()
    return vertices, torch.randperm(V, generator=generator).view(-1, 3).to(device)


def quad(device, size, dtype=torch.float32):
    """A tessellated sheet over the whole picture with jittered inner vertices."""
    generator = torch.Generator().manual_seed(1)
    n = 12
    steps = torch.linspace(0, 1, n)
    v, u = torch.meshgrid(steps * (size[0] - 1), steps * (size[1] - 1), indexing="ij")
    jitter = torch.rand(2, n, n, generator=generator) - 0.5
    jitter[:, [0, -1]] = 0
    jitter[:, :, [0, -1]] = 0
    vertices = torch.stack([u + jitter[0], v + jitter[1], torch.full_like(u, 2.0)], -1).view(1, -1, 3)
    corner = (torch.arange(n - 1)[:, None] * n + torch.arange(n - 1)).flatten()
    faces = torch.cat(
        [torch.stack([corner, corner + n, corner + 1], -1), torch.stack([corner + 1, corner + n, corner + n + 1], -1)]
    )
    return vertices.to(device, dtype), faces.to(device)


@pytest.mark.parametrize("cull", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_reference(device, dtype, cull):
    vertices, faces = make_inputs(device, dtype)
    actual = rasterize(vertices, faces, HEIGHT, WIDTH, cull)
    expected = reference.rasterize(vertices, faces, HEIGHT, WIDTH, cull)
    assert 0.1 < (actual.face_index >= 0).double().mean() < 1
    torch.testing.assert_close(actual, expected)
    upstream = torch.randn_like(actual.barycentrics), torch.randn_like(actual.depth)
    torch.testing.assert_close(
        torch.autograd.grad(actual[1:], vertices, upstream), torch.autograd.grad(expected[1:], vertices, upstream)
    )


def test_gradcheck(device):
    vertices, faces = make_inputs(device, torch.float64, faces=3)
    assert torch.autograd.gradcheck(lambda v: rasterize(v, faces, HEIGHT, WIDTH)[1:], vertices)


def test_frames_drawn_one_by_one_are_the_same(device, monkeypatch):
    vertices, faces = make_inputs(device, torch.float32)
    expected = rasterize(vertices, faces, HEIGHT, WIDTH), visible_faces(vertices, faces, HEIGHT, WIDTH)
    monkeypatch.setattr("selfrecon_warp.kernels.rasterize.MOST_KEYS", 1)
    actual = rasterize(vertices, faces, HEIGHT, WIDTH), visible_faces(vertices, faces, HEIGHT, WIDTH)
    torch.testing.assert_close(actual, expected)


def test_face_index_alone_is_the_same_image(device):
    vertices, faces = make_inputs(device, torch.float32)
    face_index = visible_faces(vertices, faces, HEIGHT, WIDTH)
    assert face_index.dtype == torch.int32
    torch.testing.assert_close(face_index, rasterize(vertices, faces.int(), HEIGHT, WIDTH).face_index)


def test_a_tessellated_sheet_leaves_no_gap_and_gives_back_pixel_coordinates(device):
    vertices, faces = quad(device, (37, 53), torch.float64)
    fragments = rasterize(vertices, faces, 37, 53)
    assert (fragments.face_index >= 0).all()
    assert (fragments.barycentrics > -1e-12).all()
    v, u = torch.meshgrid(torch.arange(37.0), torch.arange(53.0), indexing="ij")
    pixels = torch.stack([u, v], -1)[None].to(vertices)
    torch.testing.assert_close(interpolate(vertices[0, :, :2].contiguous(), faces, fragments), pixels)
    assert (rasterize(vertices.float(), faces, 37, 53).face_index >= 0).all()


def test_perspective_makes_three_dimensional_points_linear(device):
    points = torch.tensor([[-1.0, -1.0, 2.0], [2.0, -0.5, 5.0], [0.2, 1.5, 3.0]], dtype=torch.float64, device=device)
    scale, centre = 20.0, torch.tensor([20.0, 20.0], dtype=torch.float64, device=device)
    projected = torch.cat([centre + scale * points[:, :2] / points[:, 2:], points[:, 2:]], -1)
    fragments = rasterize(projected[None], torch.tensor([[0, 1, 2]], device=device), 41, 41)
    b, row, column = (fragments.face_index >= 0).nonzero(as_tuple=True)
    found = fragments.barycentrics[b, row, column] @ points
    torch.testing.assert_close(found[:, 2], fragments.depth[b, row, column])
    again = centre + scale * found[:, :2] / found[:, 2:]
    torch.testing.assert_close(again, torch.stack([column, row], -1).double())


def test_equal_depth_goes_to_the_lower_face_index(device):
    vertices, faces = quad(device, (9, 9))
    expected = visible_faces(vertices, faces, 9, 9)
    torch.testing.assert_close(visible_faces(vertices, torch.cat([faces, faces]), 9, 9), expected)


def test_front_faces_run_counter_clockwise_in_the_picture(device):
    vertices = torch.tensor([[[1.0, 1.0, 2.0], [1.0, 8.0, 2.0], [8.0, 1.0, 2.0]]], device=device)
    front, back = torch.tensor([[0, 1, 2]], device=device), torch.tensor([[0, 2, 1]], device=device)
    assert (visible_faces(vertices, front, 9, 9, cull_backfaces=True) == 0).any()
    assert (visible_faces(vertices, back, 9, 9, cull_backfaces=True) == -1).all()
    assert (visible_faces(vertices, back, 9, 9) == 0).any()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda v: v * torch.tensor([1.0, 1.0, -1.0], device=v.device),
        lambda v: v * torch.tensor([1.0, 0.0, 1.0], device=v.device),
        lambda v: v + torch.tensor([1e9, 0.0, 0.0], device=v.device),
        lambda v: v * float("nan"),
    ],
    ids=["behind the camera", "zero area", "outside", "not a number"],
)
def test_nothing_to_see_gives_background_and_no_gradient(device, spoil):
    vertices, faces = make_inputs(device, torch.float32)
    fragments = rasterize(spoil(vertices), faces, HEIGHT, WIDTH)
    assert (fragments.face_index == -1).all()
    assert (fragments.barycentrics == 0).all()
    assert (fragments.depth == 0).all()
    (grad,) = torch.autograd.grad(fragments.depth.sum(), vertices)
    assert (torch.nan_to_num(grad) == 0).all()


def test_degenerate_faces_do_not_disturb_the_others(device):
    vertices, faces = make_inputs(device, torch.float32)
    expected = rasterize(vertices, faces, HEIGHT, WIDTH)
    actual = rasterize(vertices, torch.cat([faces, faces[:, [0, 0, 1]]]), HEIGHT, WIDTH)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chosen_pixels_match_the_image(device, dtype):
    vertices, faces = make_inputs(device, dtype)
    fragments = rasterize(vertices, faces, HEIGHT, WIDTH)
    b, row, column = (
        t.flatten()
        for t in torch.meshgrid(*(torch.arange(n, device=device) for n in fragments.depth.shape), indexing="ij")
    )
    inputs = faces, b, torch.stack([column, row], -1), fragments.face_index.flatten()
    barycentrics, depth = pixel_barycentrics(vertices, *inputs)
    torch.testing.assert_close(barycentrics.view_as(fragments.barycentrics), fragments.barycentrics)
    torch.testing.assert_close(depth.view_as(fragments.depth), fragments.depth)
    upstream = torch.randn_like(barycentrics), torch.randn_like(depth)
    torch.testing.assert_close(
        torch.autograd.grad((barycentrics, depth), vertices, upstream),
        torch.autograd.grad(reference.pixel_barycentrics(vertices, *inputs), vertices, upstream),
    )


def test_gradcheck_of_chosen_pixels_between_centres(device):
    vertices, faces = make_inputs(device, torch.float64, faces=3)
    face_index, batch_index = torch.tensor([0, 1, -1, 2], device=device), torch.tensor([0, 1, 0, 1], device=device)
    pixels = torch.tensor([[3.25, 4.5], [1.0, 2.0], [0.0, 0.0], [8.1, 3.3]], dtype=torch.float64, device=device)
    assert torch.autograd.gradcheck(lambda v: pixel_barycentrics(v, faces, batch_index, pixels, face_index), vertices)


@pytest.mark.parametrize("per_frame", [False, True])
def test_interpolate_matches_reference(device, per_frame):
    vertices, faces = make_inputs(device, torch.float64)
    fragments = rasterize(vertices, faces, HEIGHT, WIDTH)
    shape = (2, vertices.shape[1], 4) if per_frame else (vertices.shape[1], 4)
    attributes = torch.randn(shape, dtype=torch.float64, device=device, requires_grad=True)
    actual, expected = interpolate(attributes, faces, fragments), reference.interpolate(attributes, faces, fragments)
    torch.testing.assert_close(actual, expected)
    upstream = torch.randn_like(actual)
    torch.testing.assert_close(
        torch.autograd.grad(actual, (attributes, vertices), upstream, retain_graph=True),
        torch.autograd.grad(expected, (attributes, vertices), upstream),
    )


def test_gradcheck_of_interpolate(device):
    vertices, faces = make_inputs(device, torch.float64, faces=3)
    attributes = torch.randn(9, 2, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda a, v: interpolate(a, faces, rasterize(v, faces, 7, 9)), (attributes, vertices)
    )


@pytest.mark.parametrize(("frames", "vertex_count", "face_count"), [(0, 6, 2), (2, 6, 0), (2, 0, 0)])
def test_empty_input(device, frames, vertex_count, face_count):
    vertices = torch.rand(frames, vertex_count, 3, device=device, requires_grad=True)
    faces = torch.arange(6, device=device).view(2, 3)[:face_count]
    fragments = rasterize(vertices, faces, 5, 4)
    assert fragments.face_index.shape == (frames, 5, 4)
    assert (fragments.face_index == -1).all()
    values = interpolate(torch.rand(vertex_count, 2, device=device), faces, fragments)
    assert values.shape == (frames, 5, 4, 2)
    (grad,) = torch.autograd.grad(fragments.depth.sum() + values.sum(), vertices)
    assert (grad == 0).all()


def test_no_pixels_or_no_face_below_them(device):
    vertices, faces = make_inputs(device, torch.float32)
    for count in (0, 3):
        frame = torch.zeros(count, dtype=torch.int64, device=device)
        pixels = torch.zeros(count, 2, device=device)
        for some in (faces, faces[:0]):
            barycentrics, depth = pixel_barycentrics(vertices, some, frame, pixels, frame - 1)
            assert barycentrics.shape == (count, 3)
            assert (barycentrics == 0).all()
            assert (depth == 0).all()


def test_strided_input(device):
    vertices, faces = make_inputs(device, torch.float32)
    strided = vertices.detach().permute(2, 1, 0).contiguous().permute(2, 1, 0)
    wide = faces.repeat_interleave(2, 1)[:, ::2]
    assert not strided.is_contiguous()
    assert not wide.is_contiguous()
    torch.testing.assert_close(
        rasterize(strided, wide, HEIGHT, WIDTH), rasterize(vertices.detach(), faces, HEIGHT, WIDTH)
    )


def test_two_backwards_through_one_graph(device):
    vertices, faces = make_inputs(device, torch.float32)
    fragments = rasterize(vertices, faces, HEIGHT, WIDTH)
    loss = (fragments.depth.square().sum() + fragments.barycentrics.square().sum()).sqrt()
    first = torch.autograd.grad(loss, vertices, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, vertices), first)


def test_names_the_mismatched_argument(device):
    vertices, faces = make_inputs(device, torch.float32)
    with pytest.raises(ValueError, match=r"vertices_pixel must have shape \[B, V, 3\]"):
        rasterize(vertices[0], faces, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match=r"faces must hold indices from 0 to 9, got 0 to \d+"):
        rasterize(vertices[:, :10], faces, HEIGHT, WIDTH)
    for index in (faces.int(), -1 - faces.int()):
        with pytest.raises(ValueError, match=r"faces must hold indices from 0 to 9, got -?\d+ to -?\d+"):
            visible_faces(vertices[:, :10], index, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match=r"faces must hold indices from 0 to -1"):
        visible_faces(vertices[:, :0], faces.int(), HEIGHT, WIDTH)
    with pytest.raises(ValueError, match=r"faces must be int32 or int64, got torch.float32"):
        rasterize(vertices, faces.float(), HEIGHT, WIDTH)
    with pytest.raises(ValueError, match=r"vertices_pixel must be float32 or float64, got torch.float16"):
        rasterize(vertices.half(), faces, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        rasterize(vertices, faces, HEIGHT, 0)
    none = torch.zeros(1, dtype=torch.int64, device=device)
    with pytest.raises(ValueError, match=r"batch_index must hold indices from 0 to 1, got 5 to 5"):
        pixel_barycentrics(vertices, faces, none + 5, torch.zeros(1, 2, device=device), none)
    fragments = rasterize(vertices, faces, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match=r"attributes must have shape \[V, C\] or \[B=2, V, C\], got \[3, 24, 1\]"):
        interpolate(torch.rand(3, 24, 1, device=device), faces, fragments)
    with pytest.raises(ValueError, match=r"barycentrics must have shape \[2, 13, 19, 3\] after face_index"):
        interpolate(torch.rand(24, 1, device=device), faces, (fragments.face_index, fragments.barycentrics[:1]))


def test_interpolate_takes_any_image(device):
    vertices, faces = make_inputs(device, torch.float64)
    attributes = torch.rand(vertices.shape[1], 2, dtype=torch.float64, device=device)
    fragments = rasterize(vertices, faces, HEIGHT, WIDTH)
    expected = interpolate(attributes, faces, fragments)
    layered = (
        fragments.face_index[..., None].expand(-1, -1, -1, 2),
        fragments.barycentrics[..., None, :].expand(-1, -1, -1, 2, -1),
    )
    torch.testing.assert_close(
        interpolate(attributes, faces, layered), expected[..., None, :].expand(-1, -1, -1, 2, -1)
    )
    flat = fragments.face_index.flatten(1), fragments.barycentrics.flatten(1, 2)
    torch.testing.assert_close(interpolate(attributes, faces, flat), expected.flatten(1, 2))


def test_vertices_that_are_not_finite_leave_the_other_faces_alone(device):
    vertices, faces = make_inputs(device, torch.float32)
    values = torch.tensor([float("nan"), float("inf"), -float("inf")], device=device)
    bad = torch.zeros(len(faces), dtype=torch.bool, device=device)
    for number, (value, axis) in enumerate([(v, a) for v in values for a in range(3)][: len(faces) - 3]):
        spoilt = vertices.detach().clone()
        spoilt[:, faces[number, 1], axis] = value
        bad[:] = False
        bad[number] = True
        spoilt.requires_grad_()
        actual = rasterize(spoilt, faces, HEIGHT, WIDTH)
        expected = rasterize(vertices, faces[~bad], HEIGHT, WIDTH)
        numbers = torch.cat([(~bad).nonzero()[:, 0].int(), torch.tensor([-1], dtype=torch.int32, device=device)])
        torch.testing.assert_close(actual.face_index, numbers[expected.face_index.long()])
        torch.testing.assert_close(actual[1:], expected[1:])
        torch.testing.assert_close(
            torch.autograd.grad(actual.depth.sum(), spoilt), torch.autograd.grad(expected.depth.sum(), vertices)
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wide_faces_and_slivers_match_reference(device, dtype):
    generator = torch.Generator().manual_seed(3)
    vertices = torch.rand(1, 150, 3, generator=generator, dtype=torch.float64) * torch.tensor([300.0, 160.0, 2.0])
    vertices = vertices + torch.tensor([-100.0, -50.0, 1.0])
    vertices[:, 75:, 1] = 0.4 * vertices[:, 75:, 0] + 0.3 * vertices[:, 75:, 1]
    vertices[:, 120:, :2] = vertices[:, 120:, :2].round()
    vertices = vertices.to(device, dtype)
    faces = torch.arange(150, device=device).view(-1, 3)
    actual = visible_faces(vertices, faces, 61, 97)
    torch.testing.assert_close(actual, reference.visible_faces(vertices, faces, 61, 97))
    assert len(actual.unique()) > 20


def test_a_face_beyond_the_picture_covers_it(device):
    for size in (1e2, 1e5, 1e8):
        corners = [[-size, -size, 2.0], [-size, 3 * size, 2.0], [3 * size, -size, 2.0]]
        vertices = torch.tensor([corners], dtype=torch.float64, device=device)
        fragments = rasterize(vertices, torch.tensor([[0, 1, 2]], device=device), HEIGHT, WIDTH)
        assert (fragments.face_index == 0).all()
        torch.testing.assert_close(fragments.depth, torch.full_like(fragments.depth, 2.0))


def test_threads_do_not_change_the_result(device, threads):
    generator = torch.Generator().manual_seed(2)
    F = 5 * SPLIT_GRAIN // 2
    corner = 140 * torch.rand(2, F, 1, 2, generator=generator, dtype=torch.float64) - 5
    around = corner + 6 * torch.rand(2, F, 3, 2, generator=generator, dtype=torch.float64)
    vertices = torch.cat([around, 1 + torch.rand(2, F, 3, 1, generator=generator, dtype=torch.float64)], -1)
    vertices = vertices.view(2, -1, 3).to(device).requires_grad_()
    faces = torch.arange(3 * F, device=device).view(-1, 3)
    results = []
    for count in (1, 2, 3):
        threads(count)
        fragments = rasterize(vertices, faces, 128, 130)
        values = interpolate(vertices, faces, fragments)
        grads = torch.autograd.grad(fragments.depth.sum() + values.square().sum(), vertices)
        results.append((*fragments, visible_faces(vertices, faces, 128, 130), values, *grads))
    for result in results[1:]:
        for found, expected in zip(result[:-1], results[0][:-1], strict=True):
            assert torch.equal(found, expected)
        torch.testing.assert_close(result[-1], results[0][-1])
