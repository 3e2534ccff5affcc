"""Sparse evaluation of values that are no distances: noise, constants, the level itself."""

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from selfrecon_warp.kernels.marching_cubes import marching_cubes
from selfrecon_warp.kernels.reference import sparse_grid as reference
from selfrecon_warp.kernels.sparse_grid import evaluate_sparse

LOWER, UPPER = (-1.0, -1.2, -0.8), (1.1, 1.3, 0.9)


def box(device, dtype=torch.float32):
    return [torch.tensor(corner, device=device, dtype=dtype) for corner in (LOWER, UPPER)]


def values_at_nodes(values, lower, upper):
    """An SDF that has the given values at the nodes of a lattice and nearest to them."""
    last = torch.tensor(values.shape, device=values.device) - 1

    def field(points):
        x, y, z = ((points - lower) / (upper - lower) * last).round().long().unbind(1)
        return values[x, y, z]

    return field


def assert_closed(faces):
    """Every edge is run through once in each direction."""
    edges = torch.cat([faces[:, pair] for pair in ([0, 1], [1, 2], [2, 0])])
    forward, backward = edges.unique(dim=0), edges.flip(1).unique(dim=0)
    assert len(forward) == len(edges)
    assert torch.equal(forward, backward)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    resolution=st.tuples(*[st.integers(2, 14)] * 3),
    seed=st.integers(0, 2**16),
    levels=st.integers(1, 4),
    options=st.fixed_dictionaries(
        {
            "level": st.sampled_from([0.0, 0.3, 0.7, -0.5]),
            "coarsest_stride": st.sampled_from([1, 2, 4]),
            "mode": st.sampled_from(["lossless", "fast", "dense"]),
            "guard": st.sampled_from([0.0, 1.0, 100.0]),
            "chunk": st.sampled_from([7, 1 << 16]),
        }
    ),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seeded=st.booleans(),
)
@example(  # interpolation must not round values at the level to below it
    resolution=(7, 7, 7),
    seed=0,
    levels=1,
    options={"level": 0.3, "coarsest_stride": 2, "mode": "fast", "guard": 0.0, "chunk": 7},
    dtype=torch.float32,
    seeded=False,
)
def test_any_values_give_whole_surfaces(resolution, seed, levels, options, dtype, seeded):
    """Steep noise, with many values at the level itself: what is found is a part of the surface that is closed."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(-levels, levels + 1, resolution, generator=generator).to(dtype)
    values = options["level"] + noise / levels
    lower, upper = box("cpu", dtype)
    field = values_at_nodes(values, lower, upper)
    seeds = lower + (upper - lower) * torch.rand(5, 3, generator=generator).to(dtype) if seeded else None
    grid = evaluate_sparse(field, lower, upper, resolution, seeds=seeds, **options)
    every = reference.evaluate_sparse(field, lower, upper, resolution, level=options["level"]).cells
    if options["mode"] == "dense" or (options["coarsest_stride"] == 1 and not seeded):
        assert torch.equal(grid.cells, every)
    elif options["mode"] == "lossless":
        assert torch.isin(grid.cells, every).all()
    vertices, faces = marching_cubes(grid.values, lower, upper, options["level"], grid.cells)
    assert_closed(faces)
    assert len(faces.unique()) == len(vertices)


def test_a_level_that_the_dtype_rounds_leaves_its_own_values_outside(device):
    lower, upper = box(device)
    for level in (0.1, 0.3, 0.7, -0.7):
        values = torch.full((5, 5, 5), level, device=device)
        values[2, 2, 2] = level - 1
        grid = evaluate_sparse(values_at_nodes(values, lower, upper), lower, upper, (5, 5, 5), level=level)
        assert len(grid.cells) == 8
        assert grid.capped == 0


def test_all_inside_is_the_box(device):
    grid = evaluate_sparse(lambda p: -torch.ones_like(p[:, 0]), *box(device), (9, 11, 8))
    expected = reference.evaluate_sparse(lambda p: -torch.ones_like(p[:, 0]), *box(device), (9, 11, 8))
    assert torch.equal(grid.cells, expected.cells)
    assert grid.capped > 0
    vertices, faces = marching_cubes(grid.values, *box(device), cells=grid.cells)
    assert_closed(faces)
    a, b, c = vertices[faces].unbind(1)
    size = torch.tensor(UPPER, device=device) - torch.tensor(LOWER, device=device)
    assert 0.9 * size.prod() < (a * torch.linalg.cross(b, c)).sum() / 6 < size.prod()


def test_two_nodes_an_axis_hold_no_surface(device):
    """Every node lies on the border, and so outside."""
    grid = evaluate_sparse(lambda p: -torch.ones_like(p[:, 0]), *box(device), (2, 2, 2))
    assert (len(grid.cells), grid.capped, grid.queries) == (0, 8, 8)
