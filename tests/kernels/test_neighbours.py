import pytest
import torch
from scipy.spatial import cKDTree

from selfrecon_warp.kernels.internal.point_tree import PointTree
from selfrecon_warp.kernels.interop import SPLIT_GRAIN
from selfrecon_warp.kernels.neighbours import chamfer_distance, nearest_neighbours
from selfrecon_warp.kernels.reference import neighbours as reference


@pytest.fixture
def threads():
    """Sets the number of threads and restores it."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def cloud(device, dtype, *shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, 3, generator=generator, dtype=torch.float64).to(device, dtype).requires_grad_()


def shell(count, seed=0):
    """Points on a stretched ball, as a body's vertices lie."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=1)
    return points * torch.tensor([0.3, 0.9, 0.2], dtype=torch.float64)


def same_gradients(results, expected, inputs):
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    upstream = upstream.to(expected)
    torch.testing.assert_close(
        torch.autograd.grad(results, inputs, upstream), torch.autograd.grad(expected, inputs, upstream)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2, 9, 64])
@pytest.mark.parametrize("lead", [(), (3,)])
def test_matches_reference(device, dtype, count, lead):
    queries, points = cloud(device, dtype, *lead, 41), cloud(device, dtype, *lead, 150, seed=1)
    squared, index = nearest_neighbours(queries, points, count)
    expected, expected_index = reference.nearest_neighbours(queries, points, count)
    assert torch.equal(index, expected_index)
    torch.testing.assert_close(squared, expected)
    same_gradients(squared, expected, (queries, points))


@pytest.mark.parametrize("count", [1, 4])
def test_ragged_batches_match_reference(device, count):
    queries, points = cloud(device, torch.float64, 4, 30), cloud(device, torch.float64, 4, 40, seed=1)
    lengths = torch.tensor([30, 7, 0, 11], device=device), torch.tensor([40, 2, 9, 0], device=device)
    squared, index = nearest_neighbours(queries, points, count, *lengths)
    expected, expected_index = reference.nearest_neighbours(queries, points, count, *lengths)
    assert torch.equal(index, expected_index)
    torch.testing.assert_close(squared, expected)
    found = expected.isfinite()
    same_gradients(squared[found], expected[found], (queries, points))


@pytest.mark.parametrize("count", [1, 30])
@pytest.mark.parametrize("spread", [0.01, 1.0])
def test_finds_what_scipy_finds(device, threads, count, spread):
    threads(2)
    points = shell(20_000, seed=1)
    queries = shell(3 * SPLIT_GRAIN) + spread * torch.randn(3 * SPLIT_GRAIN, 3, dtype=torch.float64)
    distance, index = cKDTree(points).query(queries, k=[*range(1, count + 1)])
    squared, found = nearest_neighbours(queries.to(device), points.to(device), count)
    assert torch.equal(found.cpu(), torch.from_numpy(index))
    torch.testing.assert_close(squared.cpu().sqrt(), torch.from_numpy(distance))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 5])
def test_threads_do_not_change_the_result(device, threads, dtype, count):
    queries, points = shell(3 * SPLIT_GRAIN).to(device, dtype), shell(5000, seed=1).to(device, dtype)
    results = []
    for number in (1, 3):
        threads(number)
        leaves = queries.clone().requires_grad_(), points.clone().requires_grad_()
        squared, index = nearest_neighbours(*leaves, count)
        results.append((squared, index, *torch.autograd.grad(squared.square().sum(), leaves)))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def degenerate_clouds():
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(700, 3, generator=generator, dtype=torch.float64)
    lattice = torch.cartesian_prod(*[torch.arange(8.0, dtype=torch.float64)] * 3)
    return {
        "one": random[:1],
        "equal": random[:1].expand(500, 3),
        "two places": random[torch.arange(700) % 2],
        "lattice": lattice,
        "line": random[:, :1] * torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64),
        "clusters": (1e-7 * random).float().double() + torch.sign(random[:, :1]),
        "outliers": torch.cat([random, 1e9 * random[:3]]),
        "far away": random + 1e5,
        "huge": 1e18 * random,
        "tiny": 1e-15 * random,
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", list(degenerate_clouds()))
def test_degenerate_clouds_match_reference(device, dtype, name):
    points = degenerate_clouds()[name].to(device, dtype)
    jitter = torch.randn(60, 3, generator=torch.Generator().manual_seed(2), dtype=dtype).to(device)
    scale = points.abs().max() if name in ("huge", "tiny") else 0.5
    queries = torch.cat([points[:60], points[torch.arange(60) % len(points)] + scale * jitter])
    for count in (1, 12):
        squared, index = nearest_neighbours(queries, points, count)
        expected, expected_index = reference.nearest_neighbours(queries, points, count)
        torch.testing.assert_close(squared, expected, rtol=1e-6, atol=0)
        if device.type == "cpu":
            assert torch.equal(index, expected_index)


def test_many_equal_points_cost_no_more_than_few(device):
    points = torch.zeros(200_000, 3, device=device)
    squared, index = nearest_neighbours(points, points, 8)
    assert not squared.any()
    assert torch.equal(index, torch.arange(8, device=device).expand(len(points), -1))


def test_own_points_are_found_at_distance_zero(device):
    points = shell(3000).to(device)
    squared, index = nearest_neighbours(points, points)
    assert not squared.any()
    assert torch.equal(index[:, 0], torch.arange(len(points), device=device))


@pytest.mark.parametrize("count", [1, 4])
def test_what_is_not_finite_is_no_neighbour(device, count):
    queries, points = cloud(device, torch.float32, 50), cloud(device, torch.float32, 60, seed=1)
    nan, inf = float("nan"), float("inf")
    with torch.no_grad():
        queries[3, 1], queries[5, 0], queries[7] = nan, -inf, nan
        points[1, 0], points[2, 2] = nan, inf
    squared, index = nearest_neighbours(queries, points, count)
    expected, expected_index = reference.nearest_neighbours(queries, points, count)
    assert torch.equal(index, expected_index)
    assert (index[[3, 5, 7]] == -1).all()
    assert squared[[3, 5, 7]].isinf().all()
    assert not torch.isin(index, torch.tensor([1, 2], device=device)).any()
    torch.testing.assert_close(squared, expected)
    to_queries, to_points = torch.autograd.grad(squared[squared.isfinite()].sum(), (queries, points))
    assert to_queries.isfinite().all()
    assert to_points.isfinite().all()
    assert not to_points[1:3].any()
    nothing = nearest_neighbours(queries, points * nan, count)
    assert nothing.squared_distance.isinf().all()
    assert (nothing.index == -1).all()


def test_fewer_points_than_asked_for_are_padded(device):
    queries, points = cloud(device, torch.float32, 5), cloud(device, torch.float32, 3, seed=1)
    squared, index = nearest_neighbours(queries, points, 7)
    assert squared[:, 3:].isinf().all()
    assert (index[:, 3:] == -1).all()
    assert torch.equal(index[:, :3].sort(1)[0], torch.arange(3, device=device).expand(5, -1))
    to_points = torch.autograd.grad(squared[:, :3].sum(), points)[0]
    torch.testing.assert_close(to_points, 2 * (5 * points - queries.sum(0)).detach())


def test_gradcheck(device):
    queries, points = cloud(device, torch.float64, 2, 6), cloud(device, torch.float64, 2, 9, seed=1)
    assert torch.autograd.gradcheck(lambda *x: nearest_neighbours(*x, 3).squared_distance, (queries, points))
    for squared in (True, False):
        assert torch.autograd.gradcheck(lambda *x, s=squared: chamfer_distance(*x, squared=s)[0], (queries, points))


def test_empty_input(device):
    some, none = cloud(device, torch.float32, 2, 5), cloud(device, torch.float32, 2, 0)
    for queries, points in ((some, none), (none, some), (none, none), (some[:0], some[:0])):
        squared, index = nearest_neighbours(queries, points, 2)
        assert squared.shape == index.shape == (*queries.shape[:2], 2)
        assert (index == -1).all()
        assert squared.isinf().all()
        squared.nan_to_num(posinf=0).sum().backward()
        PointTree(points).nearest(queries)
    assert chamfer_distance(none, none)[0] == 0
    assert chamfer_distance(some, none)[0].isinf()


def test_strided_input(device):
    queries, points = cloud(device, torch.float32, 2, 20), cloud(device, torch.float32, 2, 30, seed=1)
    strided = [x.transpose(0, 2).contiguous().transpose(0, 2) for x in (queries, points)]
    assert not any(x.is_contiguous() for x in strided)
    expected = nearest_neighbours(queries, points, 3)
    torch.testing.assert_close(nearest_neighbours(*strided, 3), expected)
    torch.testing.assert_close(PointTree(strided[1]).nearest(strided[0], 3), expected)


def test_two_backwards_through_one_graph(device):
    inputs = cloud(device, torch.float32, 20), cloud(device, torch.float32, 30, seed=1)
    squared = nearest_neighbours(*inputs, 3).squared_distance
    first = torch.autograd.grad(squared.sum(), inputs, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(squared.sum(), inputs), first)


@pytest.mark.parametrize("options", [{}, {"squared": False}, {"one_way": True}, {"oriented": True}])
@pytest.mark.parametrize("reductions", [("mean", "mean"), ("sum", "sum"), ("mean", None)])
@pytest.mark.parametrize("ragged", [False, True])
def test_chamfer_matches_reference(device, options, reductions, ragged):
    clouds = cloud(device, torch.float64, 3, 30), cloud(device, torch.float64, 3, 25, seed=1)
    normals = cloud(device, torch.float64, 3, 30, seed=2), cloud(device, torch.float64, 3, 25, seed=3)
    lengths = (None, None)
    if ragged:
        lengths = torch.tensor([30, 4, 11], device=device), torch.tensor([2, 25, 9], device=device)
    options = {**options, "point_reduction": reductions[0], "batch_reduction": reductions[1]}
    results = chamfer_distance(*clouds, *lengths, *normals, **options)
    expected = reference.chamfer_distance(*clouds, *lengths, *normals, **options)
    torch.testing.assert_close(results, expected)
    same_gradients(results[0], expected[0], clouds)
    same_gradients(results[1], expected[1], normals)
    assert chamfer_distance(*clouds, *lengths, **options)[1] is None


def test_chamfer_of_single_clouds(device):
    clouds = cloud(device, torch.float64, 30), cloud(device, torch.float64, 25, seed=1)
    normals = cloud(device, torch.float64, 30, seed=2), cloud(device, torch.float64, 25, seed=3)
    results = chamfer_distance(*clouds, None, None, *normals)
    torch.testing.assert_close(results, reference.chamfer_distance(*clouds, None, None, *normals))
    assert results[0].shape == ()


def test_chamfer_of_a_cloud_with_itself_is_zero_with_zero_gradient(device):
    points = cloud(device, torch.float32, 2, 30)
    for squared in (True, False):
        distance, disagreement = chamfer_distance(points, points, None, None, points, points, squared=squared)
        assert distance == 0
        assert abs(disagreement) < 1e-6
        assert not torch.autograd.grad(distance, points)[0].any()


def test_names_the_mismatched_argument(device):
    queries, points = cloud(device, torch.float32, 2, 5), cloud(device, torch.float32, 2, 6)
    with pytest.raises(ValueError, match=r"points must have shape \[B=2, Q, 3\], got \[1, 6, 3\]"):
        nearest_neighbours(queries, points[:1])
    with pytest.raises(ValueError, match=r"queries must have shape \[B, P, 3\], got \[2, 5, 2\]"):
        nearest_neighbours(queries[..., :2], points)
    with pytest.raises(ValueError, match=r"points must be torch.float32 on .* like queries, got torch.float64"):
        nearest_neighbours(queries, points.double())
    with pytest.raises(ValueError, match="queries must be float32 or float64"):
        nearest_neighbours(queries.half(), points.half())
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        nearest_neighbours(queries, points, 0)
    with pytest.raises(ValueError, match=r"query_lengths must be \[B=2\] integers"):
        nearest_neighbours(queries, points, 1, torch.tensor([1, 2, 3], device=device))
    with pytest.raises(ValueError, match="point_lengths must hold indices from 0 to 6, got 2 to 7"):
        nearest_neighbours(queries, points, 1, None, torch.tensor([2, 7], device=device))
    with pytest.raises(ValueError, match="first_normals and second_normals must be given together"):
        chamfer_distance(queries, points, first_normals=queries)
    with pytest.raises(ValueError, match=r"second_normals must have shape \[B=2, Q=6, 3\], got \[2, 5, 3\]"):
        chamfer_distance(queries, points, None, None, queries, queries)
    with pytest.raises(ValueError, match="point_reduction must be one of"):
        chamfer_distance(queries, points, point_reduction="max")
    with pytest.raises(ValueError, match=r"queries must have shape \[P, 3\]"):
        PointTree(points[0]).nearest(queries)
