import numpy as np
import pytest
import torch
import trimesh

from selfrecon_warp.kernels.internal.cube_cases import case_triangles
from selfrecon_warp.kernels.marching_cubes import marching_cubes
from selfrecon_warp.kernels.reference import marching_cubes as reference
from selfrecon_warp.kernels.sparse_grid import evaluate_sparse


def lattice_of(field, resolution, half=1.0, device="cpu", dtype=torch.float64):
    """Values of a field of ``[P, 3]`` points on a cube of half size ``half``, with its corners."""
    axes = [torch.linspace(-half, half, n, device=device, dtype=dtype) for n in resolution]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    corner = torch.full((3,), half, device=device, dtype=dtype)
    return field(points.reshape(-1, 3)).reshape(resolution), -corner, corner


def sphere(points):
    return points.norm(dim=1) - 0.7


def torus(points):
    return ((points[:, :2].norm(dim=1) - 0.6).square() + points[:, 2].square()).sqrt() - 0.25


def capsules(points):
    """Trunk, arms and legs of a coarse body."""
    limbs = [((0, -0.2, 0), (0, 0.5, 0), 0.2), ((0, 0.4, 0), (0.7, 0, 0), 0.09), ((0, 0.4, 0), (-0.7, 0, 0), 0.09)]
    limbs += [((0.1, -0.2, 0), (0.25, -0.8, 0.1), 0.1), ((-0.1, -0.2, 0), (-0.25, -0.8, 0.1), 0.1)]
    distances = []
    for start, end, radius in limbs:
        start, axis = points.new_tensor(start), points.new_tensor(end) - points.new_tensor(start)
        t = ((points - start) @ axis / (axis @ axis)).clamp(0, 1)
        distances.append((points - start - t[:, None] * axis).norm(dim=1) - radius)
    return torch.stack(distances).amin(dim=0)


def as_trimesh(vertices, faces):
    return trimesh.Trimesh(vertices.detach().cpu().numpy(), faces.cpu().numpy(), process=False)


def assert_closed(mesh):
    """Every edge belongs to exactly two faces that run through it in opposite directions; no vertex is unused."""
    _, count = np.unique(mesh.edges_sorted, axis=0, return_counts=True)
    assert (count == 2).all()
    assert len(np.unique(mesh.edges, axis=0)) == len(mesh.edges)
    assert len(np.unique(mesh.faces)) == len(mesh.vertices)
    assert mesh.area_faces.min() > 0


def test_cases_use_every_crossed_edge_and_turn_with_the_sign():
    for case in range(256):
        triangles = case_triangles(case)
        crossed = {4 * a + o for a in range(3) for o in range(4) if _crosses(case, a, o)}
        assert {edge for triangle in triangles for edge in triangle} == crossed
        assert len(triangles) <= 5


def _crosses(case, axis, place):
    start = (place & 1) << (axis + 1) % 3 | (place >> 1) << (axis + 2) % 3
    return (case >> start & 1) != (case >> (start | 1 << axis) & 1)


@pytest.mark.parametrize(
    "resolution", [(9, 11, 10), (5, 3, 7), (2, 2, 2), (2, 9, 4), (3, 4, 67), (4, 3, 33), (3, 3, 32)]
)
def test_matches_reference(device, resolution):
    torch.manual_seed(0)
    values = torch.randn(resolution, device=device, requires_grad=True)
    lower, upper = torch.tensor([-1.0, 0, 2], device=device), torch.tensor([1.0, 3, 3], device=device)
    vertices, faces = marching_cubes(values, lower, upper, 0.1)
    expected_vertices, expected_faces = reference.marching_cubes(values, lower, upper, 0.1)
    assert len(vertices) == len(expected_vertices)
    corners, expected = vertices[faces], expected_vertices[expected_faces]
    torch.testing.assert_close(corners, expected)
    upstream = torch.randn_like(corners)
    gradients = [torch.autograd.grad((c * upstream).sum(), values)[0] for c in (corners, expected)]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_gradcheck(device):
    torch.manual_seed(1)
    values = torch.randn(4, 5, 4, device=device, dtype=torch.float64, requires_grad=True)
    corner = torch.ones(3, device=device, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda values: marching_cubes(values, -corner, corner)[0], values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sphere_has_a_sphere_s_measures(device, dtype):
    values, lower, upper = lattice_of(sphere, (61, 62, 63), device=device, dtype=dtype)
    vertices, faces = marching_cubes(values, lower, upper)
    mesh = as_trimesh(vertices, faces)
    assert vertices.dtype == dtype
    assert_closed(mesh)
    assert len(vertices) - len(mesh.edges_unique) + len(faces) == 2
    assert mesh.area == pytest.approx(4 * np.pi * 0.7**2, rel=2e-3)
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.7**3, rel=2e-3)
    assert ((mesh.face_normals * mesh.triangles_center).sum(axis=1) > 0).all()


def test_two_backwards_through_one_graph(device):
    values, lower, upper = lattice_of(sphere, (9, 9, 9), device=device)
    values.requires_grad_()
    total = marching_cubes(values, lower, upper)[0].square().sum()
    first, second = (torch.autograd.grad(total, values, retain_graph=True)[0] for _ in range(2))
    assert first.abs().sum() > 0
    assert torch.equal(first, second)


def test_shifting_the_values_moves_the_surface_along_its_normal(device):
    values, lower, upper = lattice_of(sphere, (21, 22, 23), device=device)
    offset = torch.zeros((), device=device, dtype=torch.float64, requires_grad=True)
    vertices, faces = marching_cubes(values - offset, lower, upper)
    a, b, c = vertices[faces].unbind(dim=1)
    volume = (a * torch.linalg.cross(b, c)).sum() / 6
    (growth,) = torch.autograd.grad(volume, offset)
    assert growth.item() == pytest.approx(4 * np.pi * 0.7**2, rel=0.02)


@pytest.mark.parametrize(("field", "euler"), [(sphere, 2), (torus, 0), (capsules, 2)])
@pytest.mark.parametrize("resolution", [(40, 40, 40), (33, 51, 28)])
def test_agrees_with_scikit_image(device, field, euler, resolution):
    measure = pytest.importorskip("skimage.measure")
    values, lower, upper = lattice_of(field, resolution, device=device)
    mesh = as_trimesh(*marching_cubes(values, lower, upper))
    spacing = tuple(2 / (n - 1) for n in resolution)
    theirs = trimesh.Trimesh(*measure.marching_cubes(values.cpu().numpy(), 0.0, spacing=spacing)[:2], process=False)
    assert_closed(mesh)
    assert mesh.euler_number == euler
    assert mesh.volume > 0
    assert len(mesh.vertices) == len(theirs.vertices)
    assert mesh.area == pytest.approx(theirs.area, rel=2e-3)
    assert mesh.volume == pytest.approx(abs(theirs.volume), rel=2e-3)


@pytest.mark.parametrize("field", [sphere, torus, capsules])
def test_vertices_lie_on_the_surface(device, field):
    values, lower, upper = lattice_of(field, (51, 52, 53), device=device)
    vertices, _ = marching_cubes(values, lower, upper)
    assert field(vertices).abs().max() < 0.2 * 2 / 50


@pytest.mark.parametrize("seed", range(4))
def test_any_values_give_a_closed_oriented_mesh(device, seed):
    torch.manual_seed(seed)
    values = torch.randn(12, 11, 13, device=device)
    if seed % 2:
        values = values.round()  # a third of all nodes exactly at the level
    corner = torch.full((3,), 6.0, device=device)
    mesh = as_trimesh(*marching_cubes(values, -corner, corner))
    assert_closed(mesh)
    assert mesh.volume > 0


def test_values_at_the_level_leave_distinct_vertices(device):
    values, lower, upper = lattice_of(
        lambda p: p.abs().sum(dim=1) - 0.5, (17, 17, 17), device=device, dtype=torch.float32
    )
    assert (values == 0).sum() > 50
    vertices, faces = marching_cubes(values, lower, upper)
    mesh = as_trimesh(vertices, faces)
    assert_closed(mesh)
    assert len(vertices.unique(dim=0)) == len(vertices)
    merged = trimesh.Trimesh(mesh.vertices, mesh.faces, process=True)
    assert merged.is_watertight
    assert len(merged.vertices) == len(vertices)


def test_a_surface_that_leaves_the_box_is_capped_inside_it(device):
    values, lower, upper = lattice_of(lambda p: p[:, :2].norm(dim=1) - 0.5, (20, 21, 22), device=device)
    vertices, faces = marching_cubes(values, lower, upper)
    mesh = as_trimesh(vertices, faces)
    assert_closed(mesh)
    assert mesh.volume == pytest.approx(2 * np.pi * 0.25, rel=0.03)
    assert ((vertices > lower) & (vertices < upper)).all()


def test_listed_cells_give_the_mesh_of_the_whole_lattice(device):
    lower, upper = -torch.ones(3, device=device), torch.ones(3, device=device)
    for mode in ("lossless", "fast"):
        grid = evaluate_sparse(capsules, lower, upper, (37, 48, 30), mode=mode)
        vertices, faces = marching_cubes(grid.values, lower, upper, cells=grid.cells)
        assert_closed(as_trimesh(vertices, faces))
        for got, expected in zip((vertices, faces), marching_cubes(grid.dense(), lower, upper), strict=True):
            assert torch.equal(got, expected)


def test_part_of_the_cells_gives_part_of_the_mesh(device):
    values, lower, upper = lattice_of(sphere, (20, 20, 20), device=device)
    grid = evaluate_sparse(sphere, lower, upper, (20, 20, 20))
    whole = as_trimesh(*marching_cubes(values, lower, upper))
    part = as_trimesh(*marching_cubes(values, lower, upper, cells=grid.cells[::3]))
    assert 0.2 * whole.area < part.area < 0.5 * whole.area
    assert len(np.unique(part.faces)) == len(part.vertices)


def test_order_and_repetition_of_the_cells_do_not_matter(device):
    values, lower, upper = lattice_of(sphere, (12, 12, 12), device=device)
    cells = evaluate_sparse(sphere, lower, upper, (12, 12, 12)).cells
    expected = marching_cubes(values, lower, upper, cells=cells)
    for listed in (cells.flip(0), torch.cat([cells, cells[:5]]), cells.long()):
        for got, wanted in zip(marching_cubes(values, lower, upper, cells=listed), expected, strict=True):
            assert torch.equal(got, wanted)


def test_every_id_in_range_is_taken(device):
    """Ids at the far border name no cell and give nothing."""
    values, lower, upper = lattice_of(sphere, (9, 10, 11), device=device)
    every = torch.arange(values.numel(), device=device)
    for got, wanted in zip(
        marching_cubes(values, lower, upper, cells=every), marching_cubes(values, lower, upper), strict=True
    ):
        assert torch.equal(got, wanted)


def test_threads_do_not_change_the_result(device):
    """Large enough that every shared kernel is split."""
    values, lower, upper = lattice_of(lambda p: (p * 20).sin().sum(1), (60, 61, 70), device=device)
    before, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(marching_cubes(values, lower, upper))
    finally:
        torch.set_num_threads(before)
    assert len(results[0][0]) > 20_000
    for result in results[1:]:
        assert all(torch.equal(got, expected) for got, expected in zip(result, results[0], strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_stay_local(device, value):
    values, lower, upper = lattice_of(sphere, (12, 12, 12), device=device)
    before, _ = marching_cubes(values, lower, upper)
    values[3:5, 6, 6] = value
    values.requires_grad_()
    vertices, faces = marching_cubes(values, lower, upper)
    assert vertices.isfinite().all()
    assert_closed(as_trimesh(vertices, faces))
    (gradient,) = torch.autograd.grad(vertices.square().sum(), values)
    assert gradient.isfinite().all()
    assert (gradient[3:5, 6, 6] == 0).all()
    assert gradient.abs().sum() > 0
    assert torch.isin(before[:, 0], vertices[:, 0]).float().mean() > 0.8


def test_a_value_at_the_level_is_outside_whatever_the_dtype_rounds(device):
    corner = torch.ones(3, device=device)
    for level in (0.1, 0.3, 0.7, -0.7):
        assert len(marching_cubes(torch.full((4, 4, 4), level, device=device), -corner, corner, level)[0]) == 0


def test_strided_values(device):
    values, lower, upper = lattice_of(torus, (20, 21, 22), device=device)
    strided = values.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert not strided.is_contiguous()
    for got, expected in zip(marching_cubes(strided, lower, upper), marching_cubes(values, lower, upper), strict=True):
        assert torch.equal(got, expected)


def test_no_surface_gives_an_empty_mesh(device):
    values = torch.ones(5, 6, 7, device=device, requires_grad=True)
    corner = torch.ones(3, device=device)
    no_cells = torch.zeros(0, dtype=torch.int32, device=device)
    for cells in (None, no_cells):
        vertices, faces = marching_cubes(values, -corner, corner, cells=cells)
        assert (vertices.shape, faces.shape) == ((0, 3), (0, 3))
        assert (torch.autograd.grad(vertices.sum(), values)[0] == 0).all()


def test_names_the_wrong_argument(device):
    corner = torch.ones(3, device=device)
    with pytest.raises(ValueError, match=r"values must have shape \[X, Y, Z\], got \[4, 4\]"):
        marching_cubes(torch.ones(4, 4, device=device), -corner, corner)
    with pytest.raises(ValueError, match="values must have 2 or more nodes an axis"):
        marching_cubes(torch.ones(4, 1, 4, device=device), -corner, corner)
    values = torch.ones(4, 4, 4, device=device)
    with pytest.raises(ValueError, match="values must be float32 or float64"):
        marching_cubes(values.int(), -corner, corner)
    with pytest.raises(ValueError, match="cells must be int32 or int64"):
        marching_cubes(values, -corner, corner, cells=torch.ones(3, device=device))
    for wrong in (-1, 64):
        with pytest.raises(ValueError, match="cells must hold indices from 0 to 63"):
            marching_cubes(values, -corner, corner, cells=torch.tensor([wrong], device=device))
    with pytest.raises(ValueError, match=r"cells must have shape \[K\]"):
        marching_cubes(values, -corner, corner, cells=torch.zeros(2, 1, dtype=torch.int32, device=device))
