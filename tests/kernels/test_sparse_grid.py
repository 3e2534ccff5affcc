import pytest
import torch

from selfrecon_warp.kernels.reference import sparse_grid as reference
from selfrecon_warp.kernels.sparse_grid import GridWorkspace, evaluate_sparse

LOWER, UPPER = (-1.0, -1.2, -0.8), (1.1, 1.3, 0.9)
SIZES = [(33, 49, 25), (30, 41, 23), (2, 3, 9), (24, 65, 30)]


def box(device, dtype=torch.float32):
    return [torch.tensor(corner, device=device, dtype=dtype) for corner in (LOWER, UPPER)]


def sphere(points, centre=(0.05, 0.1, 0.02), radius=0.6):
    return (points - points.new_tensor(centre)).norm(dim=1) - radius


def capsule(points, start, end, radius):
    start, axis = points.new_tensor(start), points.new_tensor(end) - points.new_tensor(start)
    t = ((points - start) @ axis / (axis @ axis)).clamp(0, 1)
    return (points - start - t[:, None] * axis).norm(dim=1) - radius


def thin_arm(points):
    """A body with an arm of a cell and a half across, which no coarse node can see."""
    return torch.minimum(sphere(points, radius=0.35), capsule(points, (0, 0, 0), (0.9, -1.0, 0.5), 0.05))


def two_pieces(points):
    return torch.minimum(sphere(points, (-0.4, -0.5, 0), 0.4), sphere(points, (0.5, 0.6, 0.1), 0.3))


def torus(points):
    ring = (points[:, :2].norm(dim=1) - 0.6).square() + points[:, 2].square()
    return ring.sqrt() - 0.2


def wavy(points):
    """A surface no interpolation predicts: bumps of a few cells."""
    return sphere(points) + 0.06 * (points * 25).sin().prod(dim=1)


def plate(points):
    """A separate plate thinner than two cells between the coarse nodes."""
    size = points.new_tensor([0.5, 0.5, 0.06])
    return ((points - points.new_tensor([0.2, 0.1, 0.12])).abs() - size).amax(dim=1)


SHAPES = [sphere, thin_arm, two_pieces, torus, wavy]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("resolution", SIZES)
def test_finds_exactly_the_cells_of_a_dense_evaluation(device, shape, resolution):
    expected = reference.evaluate_sparse(shape, *box(device), resolution)
    grid = evaluate_sparse(shape, *box(device), resolution)
    assert torch.equal(grid.cells, expected.cells)
    assert grid.capped <= expected.capped
    at = grid.evaluated
    torch.testing.assert_close(grid.values[at], expected.values[at], atol=1e-6, rtol=0)


@pytest.mark.parametrize("resolution", [(65, 73, 50), (49, 40, 61)])
def test_a_steep_guard_finds_pieces_that_no_coarse_node_sees(device, resolution):
    expected = reference.evaluate_sparse(plate, *box(device), resolution)
    grid = evaluate_sparse(plate, *box(device), resolution, guard_stride=2)
    assert len(grid.cells) > 0
    assert torch.equal(grid.cells, expected.cells)


def test_a_wrong_prediction_is_corrected(device):
    """Lone deep nodes: interpolation places their surface around the neighbours, where there is none."""
    lower, upper = torch.zeros(3, device=device), torch.full((3,), 24.0, device=device)
    lone = torch.tensor([[8.0, 8, 8], [16, 8, 12], [16, 16, 16], [10, 20, 14]], device=device)

    def field(points):
        return torch.where(torch.cdist(points, lone).amin(dim=1) < 0.5, -1.0, 0.1)

    expected = reference.evaluate_sparse(field, lower, upper, (25, 25, 25))
    grid = evaluate_sparse(field, lower, upper, (25, 25, 25), coarsest_stride=2, guard=0.0)
    assert len(grid.cells) == 8 * len(lone)
    assert torch.equal(grid.cells, expected.cells)


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 16, 64])
def test_the_coarsest_stride_changes_the_queries_not_the_cells(device, stride):
    grid = evaluate_sparse(thin_arm, *box(device), (40, 53, 37), coarsest_stride=stride)
    expected = reference.evaluate_sparse(thin_arm, *box(device), (40, 53, 37))
    assert torch.equal(grid.cells, expected.cells)


def test_dense_mode_asks_for_every_node(device):
    grid = evaluate_sparse(sphere, *box(device), (20, 31, 17), mode="dense")
    expected = reference.evaluate_sparse(sphere, *box(device), (20, 31, 17))
    assert torch.equal(grid.cells, expected.cells)
    assert grid.evaluated.all()
    assert grid.queries == 20 * 31 * 17


def test_queries_follow_the_surface_not_the_volume(device):
    queries = {}
    for size in (65, 129):
        seen = []

        def counted(points, seen=seen):
            seen.append(points)
            return sphere(points)

        grid = evaluate_sparse(counted, *box(device), (size, size, size))
        points = torch.cat(seen)
        corners = len(_corners(grid))
        assert grid.queries == len(points) == len(points.unique(dim=0))
        assert grid.calls == len(seen)
        assert corners <= grid.queries < 1.7 * corners
        queries[size] = grid.queries
    assert queries[129] < 4.5 * queries[65]


def test_queries_stay_within_a_third_of_the_fewest_possible(device):
    """Every corner of a crossed cell has to be asked for; what else is asked costs as much and tells less."""

    def body(points):
        arms = [capsule(points, (0, 0.3, 0), (side * 0.5, -0.2, 0), 0.12) for side in (-1, 1)]
        return torch.stack([capsule(points, (0, -0.5, 0), (0, 0.5, 0), 0.3), *arms]).amin(0)

    grid = evaluate_sparse(body, *box(device), (129, 153, 105))
    assert torch.equal(grid.cells, reference.evaluate_sparse(body, *box(device), (129, 153, 105)).cells)
    assert len(_corners(grid)) <= grid.queries < 1.33 * len(_corners(grid))


def test_threads_do_not_change_the_result(device, threads):
    """Large enough that every shared kernel is split."""
    grids = []
    for count in (1, 2, 3):
        threads(count)
        workspace = GridWorkspace((97, 103, 99), device)
        grids.append(evaluate_sparse(wavy, *box(device), (97, 103, 99), workspace=workspace))
    for grid in grids[1:]:
        assert len(grid.cells) > 15_000
        assert torch.equal(grid.cells, grids[0].cells)
        assert torch.equal(grid.evaluated, grids[0].evaluated)
        assert torch.equal(grid.dense(), grids[0].dense())
        assert grid.queries == grids[0].queries


def _corners(grid):
    _, Y, Z = grid.values.shape
    offsets = [x * Y * Z + y * Z + z for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    return torch.cat([grid.cells + offset for offset in offsets]).unique()


def test_every_corner_of_a_crossed_cell_is_evaluated(device):
    for mode in ("lossless", "fast"):
        grid = evaluate_sparse(torus, *box(device), (40, 41, 37), mode=mode)
        assert grid.evaluated.reshape(-1)[_corners(grid).long()].all()


def test_fast_mode_interpolates_the_last_level(device):
    exact = evaluate_sparse(torus, *box(device), (64, 65, 47))
    fast = evaluate_sparse(torus, *box(device), (64, 65, 47), mode="fast")
    assert fast.queries < 0.5 * exact.queries
    both = exact.evaluated & fast.evaluated
    error = (exact.values - fast.values)[both].abs().max()
    assert both.any()
    assert error < 0.25 * (2.1 / 63)
    assert abs(len(fast.cells) - len(exact.cells)) < 0.02 * len(exact.cells)


@pytest.mark.parametrize("motion", [0.0, 0.3, 1.0, 3.0])
def test_a_warm_start_after_a_small_motion_finds_what_a_cold_one_finds(device, motion):
    resolution = (41, 50, 33)
    before = evaluate_sparse(two_pieces, *box(device), resolution)
    spacing = (before.upper - before.lower) / (torch.tensor(resolution, device=device) - 1)
    _, Y, Z = resolution
    low = torch.stack([before.cells // (Y * Z), before.cells // Z % Y, before.cells % Z], dim=1)
    seeds = before.lower + (low + 0.5) * spacing
    shift = motion * spacing.min() / 3**0.5

    def moved(points):
        return two_pieces(points - shift)

    cold = evaluate_sparse(moved, *box(device), resolution)
    warm = evaluate_sparse(moved, *box(device), resolution, seeds=seeds)
    assert torch.equal(warm.cells, cold.cells)
    if motion <= 0.3:
        assert warm.queries < cold.queries


def test_a_warm_start_walks_to_a_surface_that_left_every_seed(device):
    seeds = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    seeds = torch.nn.functional.normalize(seeds, dim=1).to(device)
    pieces = [seeds * 0.4 + seeds.new_tensor([-0.4, -0.5, 0]), seeds * 0.2 + seeds.new_tensor([0.5, 0.6, 0.1])]
    cold = evaluate_sparse(two_pieces, *box(device), (41, 50, 33))
    warm = evaluate_sparse(two_pieces, *box(device), (41, 50, 33), seeds=torch.cat(pieces))
    assert torch.equal(warm.cells, cold.cells)


def test_seeds_that_meet_nothing_are_ignored(device):
    cold = evaluate_sparse(sphere, *box(device), (33, 30, 31))
    wild = torch.tensor([[float("nan"), 0, 0], [0, float("inf"), 0], [0, 0, -1e30]], device=device)
    for seeds in (torch.full((3, 3), 50.0, device=device), torch.zeros(0, 3, device=device), wild):
        assert torch.equal(evaluate_sparse(sphere, *box(device), (33, 30, 31), seeds=seeds).cells, cold.cells)


def test_a_reused_workspace_gives_what_a_fresh_one_gives(device):
    workspace = GridWorkspace((31, 33, 29), device)
    for shape in (sphere, torus, thin_arm, sphere):
        fresh = evaluate_sparse(shape, *box(device), (31, 33, 29))
        reused = evaluate_sparse(shape, *box(device), (31, 33, 29), workspace=workspace)
        assert torch.equal(reused.cells, fresh.cells)
        assert torch.equal(reused.evaluated, fresh.evaluated)
        assert reused.queries == fresh.queries


def test_a_grid_whose_workspace_was_used_again_says_so(device):
    workspace = GridWorkspace((9, 9, 9), device)
    first = evaluate_sparse(sphere, *box(device), (9, 9, 9), workspace=workspace)
    assert first.evaluated.any()
    second = evaluate_sparse(sphere, *box(device), (9, 9, 9), workspace=workspace)
    assert second.dense().isfinite().all()
    with pytest.raises(RuntimeError, match="used for another evaluation"):
        first.dense()
    with pytest.raises(RuntimeError, match="used for another evaluation"):
        first.evaluated.any()


def test_stamps_start_over_before_they_overflow(device):
    workspace = GridWorkspace((31, 33, 29), device)
    workspace.epoch = 2**31 - 4
    for _ in range(3):
        grid = evaluate_sparse(sphere, *box(device), (31, 33, 29), workspace=workspace)
        assert torch.equal(grid.cells, evaluate_sparse(sphere, *box(device), (31, 33, 29)).cells)


def test_dense_values_have_the_sign_of_the_field_everywhere(device):
    for shape in (thin_arm, torus):
        expected = reference.evaluate_sparse(shape, *box(device), (40, 41, 37)).values
        grid = evaluate_sparse(shape, *box(device), (40, 41, 37))
        assert torch.equal(grid.dense() < 0, expected < 0)
        assert torch.equal(grid.dense()[grid.evaluated], grid.values[grid.evaluated])


def test_the_level_moves_the_surface(device):
    grown = evaluate_sparse(sphere, *box(device), (31, 33, 29), level=0.1)
    expected = evaluate_sparse(lambda p: sphere(p, radius=0.7), *box(device), (31, 33, 29))
    assert torch.equal(grown.cells, expected.cells)


def test_a_surface_that_leaves_the_box_is_capped(device):
    grid = evaluate_sparse(lambda p: sphere(p, radius=1.0), *box(device), (31, 33, 29))
    assert grid.capped > 0
    values = grid.dense()
    border = torch.ones_like(values, dtype=torch.bool)
    border[1:-1, 1:-1, 1:-1] = False
    assert (values[border] > 0).all()


def test_nothing_inside_gives_no_cells(device):
    grid = evaluate_sparse(lambda p: sphere(p, radius=-1.0), *box(device), (31, 33, 29))
    assert grid.cells.shape == (0,)


def test_double_precision_and_column_output(device):
    grid = evaluate_sparse(lambda p: sphere(p)[:, None], *box(device, torch.float64), (31, 33, 29), chunk=100)
    assert grid.values.dtype == torch.float64
    assert torch.equal(grid.cells, evaluate_sparse(sphere, *box(device), (31, 33, 29)).cells)


def test_strided_box_corners(device):
    corners = torch.stack(box(device), dim=1)
    grid = evaluate_sparse(sphere, corners[:, 0], corners[:, 1], (31, 33, 29))
    assert torch.equal(grid.cells, evaluate_sparse(sphere, *box(device), (31, 33, 29)).cells)


def test_queries_run_without_gradient(device):
    scale = torch.ones((), device=device, requires_grad=True)
    grid = evaluate_sparse(lambda p: scale * sphere(p), *box(device), (9, 9, 9))
    assert not grid.values.requires_grad


@pytest.mark.parametrize(
    ("message", "changed"),
    [
        (r"lower must have shape \[3\], got \[2\]", {"lower": torch.zeros(2)}),
        ("lower must be float32 or float64, got torch.int64", {"lower": torch.tensor([-1, -1, -1])}),
        ("upper must exceed lower", {"upper": torch.full((3,), -2.0)}),
        ("upper must exceed lower", {"upper": torch.full((3,), float("inf"))}),
        (r"seeds must have shape \[P, 3\]", {"seeds": torch.zeros(4, 2)}),
        ("resolution must have 2 or more nodes", {"resolution": (9, 1, 9)}),
        ("coarsest_stride must be a power of two, got 3", {"coarsest_stride": 3}),
        ("mode must be", {"mode": "quick"}),
        ("level must be finite", {"level": float("nan")}),
        ("chunk must be at least 1", {"chunk": 0}),
        ("guard must be 0 or more", {"guard": -1.0}),
        (r"workspace must be of resolution \(9, 9, 9\)", {"workspace": GridWorkspace((9, 9, 8))}),
        ("sdf must return one value a point", {"sdf": lambda p: sphere(p)[1:]}),
    ],
)
def test_names_the_wrong_argument(device, message, changed):
    lower, upper = box(device)
    given = {"sdf": sphere, "lower": lower, "upper": upper, "resolution": (9, 9, 9), **changed}
    given = {name: each.to(device) if isinstance(each, torch.Tensor) else each for name, each in given.items()}
    with pytest.raises(ValueError, match=message):
        evaluate_sparse(**given)


@pytest.mark.parametrize("mode", ["lossless", "fast", "dense"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_refused(device, mode, value):
    def broken(points):
        return sphere(points).index_fill(0, torch.tensor([len(points) // 2], device=device), value)

    with pytest.raises(ValueError, match="sdf must return finite values, got 1 that are not"):
        evaluate_sparse(broken, *box(device), (9, 9, 9), mode=mode)
