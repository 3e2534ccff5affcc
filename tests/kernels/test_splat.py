import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfrecon_warp.kernels import splat
from selfrecon_warp.kernels.compositing import composite_alpha, composite_weighted
from selfrecon_warp.kernels.internal.point_tiles import tile_lists
from selfrecon_warp.kernels.reference import splat as reference
from selfrecon_warp.kernels.splat import splat_lists, splat_points

H, W, K = 13, 17, 4


def make_points(device, dtype=torch.float32, frames=2, points=40, size=(W, H)):
    """Points in and around the picture, some behind the camera, some at the same depth."""
    generator = torch.Generator().manual_seed(0)
    uv = (torch.rand(frames, points, 2, generator=generator, dtype=dtype) * 1.4 - 0.2) * torch.tensor(size)
    z = torch.rand(frames, points, 1, generator=generator, dtype=dtype) * 3 - 0.3
    z[:, points // 2 :: 3] = z[:, :1].abs() + 0.5
    return torch.cat([uv.to(dtype), z], -1).to(device).requires_grad_()


def make_radius(kind, points):
    B, P, _ = points.shape
    shape = {"one": (), "point": (P,), "frame": (B, P)}[kind]
    if kind == "one":
        return 2.3
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=points.dtype).to(points.device) * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["one", "point", "frame"])
@pytest.mark.parametrize("form", ["splat_points", "splat_lists"])
def test_matches_reference(device, form, kind, dtype):
    points = make_points(device, dtype)
    results = []
    for module in (splat, reference):
        found = getattr(module, form)(points, make_radius(kind, points), H, W, K)
        depth, distance = found[-2:]
        pull = (depth.sin() * torch.arange(depth.numel(), device=device).view_as(depth)).sum() + distance.cos().sum()
        results.append((*found, *torch.autograd.grad(pull, points)))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("chunks", [1, 2, 7, 100])
@pytest.mark.parametrize("radius", [0.4, 3.0, 40.0, 1e6])
def test_tile_lists_hold_every_pixels_points_in_order_whatever_the_chunks(device, chunks, radius):
    points = make_points(device).detach()
    radii = points.new_full((1, 1), radius)
    lists, one = (tile_lists(points, radii, H, W, n) for n in (chunks, 1))
    assert all(torch.equal(a, b) for a, b in zip(lists[1:], one[1:], strict=True))
    found = splat_points(points, radius, H, W, 40)
    torch.testing.assert_close(found, reference.splat_points(points, radius, H, W, 40))


def test_threads_do_not_change_the_result(threads):
    points = make_points("cpu", points=600, size=(600, 600)).detach()
    results = []
    for count in (1, 2):
        threads(count)
        drawn = splat_points(points, 5.0, 600, 600, 2)
        lists = splat_lists(points, 5.0, 600, 600, 2)
        results.append((*drawn, *lists))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_both_forms_hold_the_same(device):
    points = make_points(device).detach()
    padded, lists = splat_points(points, 2.5, H, W, K), splat_lists(points, 2.5, H, W, K)
    found = padded.point_index >= 0
    assert torch.equal(lists.ends.flatten(), found.sum(-1).flatten().cumsum(0).int())
    for some, every in zip(lists[1:], padded, strict=True):
        assert torch.equal(some, every[found])
    alphas, features = 1 - lists.distance / 2.5**2, points[0]
    for blend in (composite_alpha, composite_weighted):
        expected = blend(1 - padded.distance / 2.5**2, padded.point_index, features)
        torch.testing.assert_close(blend(alphas, lists.point_index, features, lists.ends), expected)


def test_gradcheck(device):
    points = make_points(device, torch.float64, points=6, size=(6, 5))

    def drawn(form, inputs):
        return form(inputs, 2.2, 5, 6, 3)[-2:]

    assert torch.autograd.gradcheck(lambda x: drawn(splat_points, x), points)
    assert torch.autograd.gradcheck(lambda x: drawn(splat_lists, x), points)


def test_gradient_of_depth_alone_and_of_distance_alone(device):
    points = make_points(device, torch.float64)
    splats = splat_points(points, 2.3, H, W, K)
    both = torch.autograd.grad(splats.depth.sum() + splats.distance.sum(), points, retain_graph=True)[0]
    depth = torch.autograd.grad(splats.depth.sum(), points, retain_graph=True)[0]
    distance = torch.autograd.grad(splats.distance.sum(), points)[0]
    assert not depth[..., :2].any()
    assert not distance[..., 2].any()
    torch.testing.assert_close(depth + distance, both)


def test_a_point_on_a_pixel_covers_the_pixels_nearer_than_its_radius(device):
    points = torch.tensor([[[4.0, 3.0, 2.0]]], device=device)
    index, depth, distance = splat_points(points, 2.0, 7, 9, 2)
    rows, columns = torch.meshgrid(torch.arange(7), torch.arange(9), indexing="ij")
    expected = ((rows - 3) ** 2 + (columns - 4) ** 2).to(device)
    assert torch.equal(index[0, ..., 0] == 0, expected < 4)
    assert torch.equal(distance[0, ..., 0], torch.where(expected < 4, expected, 0).float())
    assert torch.equal(depth[0, ..., 0], (expected < 4) * 2.0)
    assert (index[..., 1] == -1).all()


def test_equal_depths_go_to_the_lower_index_and_the_farthest_is_dropped(device):
    points = torch.tensor([[[1.0, 1.0, 3.0], [1.0, 1.0, 2.0], [1.0, 1.0, 1.0], [1.0, 1.0, 2.0]]], device=device)
    assert splat_points(points, 0.5, 3, 3, 3).point_index[0, 1, 1].tolist() == [2, 1, 3]
    assert splat_lists(points, 0.5, 3, 3, 2).point_index.tolist() == [2, 1]


def test_points_that_cannot_be_drawn_are_skipped_and_spoil_nothing(device):
    points = make_points(device)
    expected = splat_points(points, 2.0, H, W, K)
    wanted = torch.autograd.grad(expected.depth.sum() + expected.distance.sum(), points)[0]
    bad = [[math.nan, 3, 1], [3, math.inf, 1], [3, 3, math.nan], [3, 3, -math.inf], [3, 3, 0], [1e30, 3, 1]]
    bad = torch.tensor(bad, device=device).expand(2, -1, -1)
    everything = torch.cat([points, bad], 1)
    found = splat_points(everything, 2.0, H, W, K)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found.depth.sum() + found.distance.sum(), points)[0], wanted)
    radius = torch.tensor([2.0, 0.0, -1.0, math.nan], device=device)
    same = torch.tensor([[[3.0, 3.0, 1.0]] * 4], device=device)
    assert set(splat_lists(same, radius, H, W, K).point_index.tolist()) == {0}


@pytest.mark.parametrize(("height", "width"), [(24, 24), (20, 33), (33, 20)])
def test_agrees_with_pytorch3d(height, width):
    pytest.importorskip("pytorch3d")
    from pytorch3d.renderer.compositing import alpha_composite, weighted_sum
    from pytorch3d.renderer.points.rasterize_points import rasterize_points
    from pytorch3d.structures import Pointclouds

    points = make_points("cpu", frames=2, points=60, size=(width, height)).detach()
    points[..., 2] = points[..., 2].clamp_min(0.01)  # PyTorch3D has no near plane but z = 0
    points.requires_grad_()
    radius = make_radius("frame", points).detach() + 0.5
    scale = 2 / min(height, width)
    u, v, z = points.unbind(-1)
    ndc = torch.stack([scale * ((width - 1) / 2 - u), scale * ((height - 1) / 2 - v), z], -1)
    features = torch.randn(len(points), 60, 3, generator=torch.Generator().manual_seed(3)).requires_grad_()

    ours = splat_points(points, radius, height, width, 5)
    index, depth, square = rasterize_points(
        Pointclouds(list(ndc)), (height, width), radius * scale, points_per_pixel=5, bin_size=0
    )
    seen = index >= 0
    first = torch.tensor([0, 60]).view(2, 1, 1, 1)  # it numbers the points of all frames
    theirs = torch.where(seen, index - first, -1).int(), depth * seen, square * seen / scale**2
    assert torch.equal(ours.point_index, theirs[0])
    torch.testing.assert_close(ours[1:], theirs[1:], rtol=1e-4, atol=1e-4)

    packed = features.flatten(0, 1).T
    for mine, name in ((composite_alpha, alpha_composite), (composite_weighted, weighted_sum)):
        alphas = [torch.where(seen, 1 - x / 40, 0) for x in (ours[2], theirs[2])]
        blends = (
            mine(alphas[0], ours.point_index, features),
            name(index.permute(0, 3, 1, 2).long(), alphas[1].permute(0, 3, 1, 2), packed).permute(0, 2, 3, 1),
        )
        torch.testing.assert_close(*blends, rtol=1e-4, atol=1e-4)
        gradients = [
            torch.autograd.grad(blend.sin().sum() + near.sin().sum(), (points, features), retain_graph=True)
            for blend, near in zip(blends, (ours[1], theirs[1]), strict=True)
        ]
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, 1.0, math.nan, math.inf, 1e-4])] * 3),
        max_size=6,
    ),
    st.sampled_from([1e-3, 0.5, 1.0, 7.5, 1e4]),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 3),
)
def test_any_points_agree_with_the_reference(points, radius, height, width, kept):
    points = torch.tensor(points, dtype=torch.float64).view(1, -1, 3)
    inputs = points, radius, height, width, kept
    torch.testing.assert_close(splat_points(*inputs), reference.splat_points(*inputs))
    torch.testing.assert_close(splat_lists(*inputs), reference.splat_lists(*inputs))


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3)])
def test_empty_input(device, shape):
    points = torch.zeros(shape, device=device, requires_grad=True)
    splats, lists = splat_points(points, 1.0, H, W, K), splat_lists(points, torch.zeros(shape[1]).to(device), H, W, K)
    assert splats.point_index.shape == splats.depth.shape == (shape[0], H, W, K)
    assert (splats.point_index == -1).all()
    assert lists.ends.shape == (shape[0], H, W)
    assert len(lists.depth) == 0
    (splats.depth.sum() + lists.depth.sum()).backward()
    assert not points.grad.any()


def test_strided_input(device):
    points = make_points(device)
    strided = points.detach().transpose(0, 2).contiguous().transpose(0, 2)
    radius = make_radius("frame", points)
    assert not strided.is_contiguous()
    torch.testing.assert_close(
        splat_points(strided, radius.T.contiguous().T, H, W, K), splat_points(points, radius, H, W, K)
    )


def test_two_backwards_through_one_graph(device):
    points = make_points(device)
    lists = splat_lists(points, 2.0, H, W, K)
    total = lists.distance.square().sum() + lists.depth.sum()
    first = torch.autograd.grad(total, points, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(total, points), first)


def test_names_the_mismatched_argument(device):
    points = make_points(device)
    for call, message in (
        (
            lambda: splat_points(points[..., :2], 1.0, H, W),
            r"points_pixel must have shape \[B, P, 3\], got \[2, 40, 2\]",
        ),
        (lambda: splat_points(points.int(), 1.0, H, W), "points_pixel must be float32 or float64"),
        (lambda: splat_points(points, 0.0, H, W), "radius must be a finite number of pixels above 0, got 0.0"),
        (
            lambda: splat_points(points, torch.ones(3, device=device), H, W),
            r"radius must have shape \[P=40\], got \[3\]",
        ),
        (lambda: splat_points(points, points[..., 0].double(), H, W), "radius must be torch.float32"),
        (lambda: splat_lists(points, 1.0, 0, W), "height must be at least 1, got 0"),
        (lambda: splat_lists(points, 1.0, H, W, 0), "points_per_pixel must be at least 1, got 0"),
        (lambda: splat_points(points, 1.0, 40_000, 40_000), "points_per_pixel must leave fewer than 2"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
