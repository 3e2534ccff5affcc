import math

import pytest
import torch
import trimesh

from selfrecon_warp.kernels import laplacian, mesh_losses
from selfrecon_warp.kernels.interop import SPLIT_GRAIN
from selfrecon_warp.kernels.laplacian import laplacian_cotangent, laplacian_uniform, loss_laplacian
from selfrecon_warp.kernels.mesh import edge_lengths, face_areas, face_normals, vertex_normals
from selfrecon_warp.kernels.mesh_losses import loss_edge_length, loss_normal_consistency
from selfrecon_warp.kernels.reference import mesh as reference
from selfrecon_warp.kernels.topology import mesh_corners, mesh_topology


def cot(vertices, faces, module=laplacian):
    return module.loss_laplacian(vertices, faces, method="cot")


def cotcurv(vertices, faces, module=laplacian):
    return module.loss_laplacian(vertices, faces, method="cotcurv")


def curvature_normal(vertices, faces, module=laplacian):
    return module.laplacian_cotangent(vertices, faces, curvature=True)


def edges_at_rest(vertices, faces, module=mesh_losses):
    return module.loss_edge_length(vertices, faces, target_length=0.3)


PLAIN = {
    op.__name__: (op, getattr(reference, op.__name__))
    for op in (
        face_normals,
        face_areas,
        vertex_normals,
        edge_lengths,
        loss_edge_length,
        loss_normal_consistency,
        laplacian_uniform,
        laplacian_cotangent,
        loss_laplacian,
    )
}
WITH_OPTIONS = {
    op.__name__: (op, lambda vertices, faces, op=op: op(vertices, faces, reference))
    for op in (cot, cotcurv, curvature_normal, edges_at_rest)
}
OPS = PLAIN | WITH_OPTIONS
LOSSES = [name for name in OPS if name.startswith("loss") or name in ("cot", "cotcurv", "edges_at_rest")]
CONSTANT_WEIGHTS = [name for name in OPS if "cot" in name or "curvature" in name]


def each(names):
    return pytest.mark.parametrize("name", names)


def cube(device, dtype=torch.float64):
    """A cube of side 2 from 12 triangles."""
    box = trimesh.creation.box((2.0, 2.0, 2.0))
    return torch.tensor(box.vertices, dtype=dtype, device=device), torch.tensor(box.faces, device=device)


def ball(device, dtype=torch.float64, frames=2, subdivisions=2):
    """Frames of a bumpy sphere."""
    sphere = trimesh.creation.icosphere(subdivisions=subdivisions)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(frames, *sphere.vertices.shape, generator=generator, dtype=torch.float64)
    vertices = torch.tensor(sphere.vertices) + 0.05 * noise
    return vertices.to(device, dtype), torch.tensor(sphere.faces, device=device)


def sheets(device, dtype=torch.float64, frames=2):
    """Random triangles: open borders, edges of many faces, faces twice, faces naming a vertex twice, a lone vertex."""
    generator = torch.Generator().manual_seed(3)
    vertices = torch.rand(frames, 10, 3, generator=generator, dtype=torch.float64)
    faces = torch.randint(9, (24, 3), generator=generator)
    faces = torch.cat([faces, faces[:3], torch.tensor([[1, 1, 2], [4, 4, 4]])])
    return vertices.to(device, dtype), faces.to(device)


def strip(device, dtype=torch.float64):
    """Two unit right triangles over a square, bent by a right angle along its diagonal."""
    points = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0.5, 0.5, math.sqrt(0.5)]]
    return torch.tensor(points, dtype=dtype, device=device), torch.tensor([[0, 1, 2], [3, 2, 1]], device=device)


def gradient(op, vertices, faces, seed=1):
    """Values, and the gradient of a weighted sum of them."""
    vertices = vertices.detach().requires_grad_()
    values = op(vertices, faces)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.rand(values.shape, generator=generator, dtype=torch.float64).to(values)
    return values.detach(), *torch.autograd.grad((values * weight).sum(), vertices)


@pytest.mark.parametrize("scene", [cube, ball, sheets, strip])
@each(OPS)
def test_matches_reference(device, scene, name):
    vertices, faces = scene(device)
    op, expected = OPS[name]
    torch.testing.assert_close(gradient(op, vertices, faces), gradient(expected, vertices, faces))


@each(OPS)
def test_single_precision_matches_reference(device, name):
    vertices, faces = ball(device, torch.float32)
    op, expected = OPS[name]
    values, slope = gradient(op, vertices, faces)
    assert values.dtype == slope.dtype == torch.float32
    expected_values, expected_slope = gradient(expected, vertices.double(), faces)
    torch.testing.assert_close(values, expected_values.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(slope, expected_slope.float(), rtol=1e-3, atol=1e-4)


@each([name for name in OPS if name not in CONSTANT_WEIGHTS])
def test_gradcheck(device, name):
    for scene in (strip, sheets):
        vertices, faces = scene(device)
        vertices = vertices[:1] if vertices.dim() == 3 else vertices
        assert torch.autograd.gradcheck(lambda v, f=faces: OPS[name][0](v, f), vertices.requires_grad_())


def test_laplacians_can_be_differentiated_twice(device):
    vertices, faces = strip(device)
    vertices.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda v: laplacian_uniform(v, faces), vertices)
    weights = torch.rand_like(vertices)

    def square_of_gradient(op):
        (slope,) = torch.autograd.grad((op(vertices, faces).square() * weights).sum(), vertices, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), vertices)

    for name in ("laplacian_uniform", "laplacian_cotangent", "curvature_normal"):
        op, expected = OPS[name]
        torch.testing.assert_close(square_of_gradient(op), square_of_gradient(expected))


@pytest.mark.parametrize("scene", [cube, ball, sheets, strip])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_topology_matches_reference(device, scene, dtype):
    vertices, faces = scene(device)
    V = vertices.shape[-2]
    found, expected = mesh_topology(faces.to(dtype), V), reference.mesh_topology(faces, V)
    torch.testing.assert_close(tuple(found), tuple(expected))
    torch.testing.assert_close(mesh_corners(faces.to(dtype), V), expected.corners)


def test_a_vertex_of_very_many_faces_is_sorted_too(device):
    """Beyond what is sorted by insertion: fans around the first, the last and a vertex between."""
    generator = torch.Generator().manual_seed(0)
    rim = torch.randperm(299, generator=generator) + 1
    fans = [torch.stack([torch.full((298,), hub), rim[:-1], rim[1:]], 1) for hub in (0, 300, 150)]
    faces = torch.cat(fans)[torch.randperm(3 * 298, generator=generator)].to(device)
    found, expected = mesh_topology(faces, 301), reference.mesh_topology(faces, 301)
    torch.testing.assert_close(tuple(found), tuple(expected))


@each(OPS)
def test_topology_in_place_of_faces(device, name):
    vertices, faces = sheets(device)
    given = mesh_topology(faces, vertices.shape[1])
    op, _ = OPS[name]
    torch.testing.assert_close(gradient(op, vertices, given), gradient(op, vertices, faces), rtol=0, atol=0)


@each(OPS)
def test_a_batch_is_its_frames(device, name):
    vertices, faces = ball(device, frames=3)
    op, _ = OPS[name]
    values, slope = gradient(op, vertices, faces)
    if name in LOSSES:
        torch.testing.assert_close(values, torch.stack([op(frame, faces) for frame in vertices]).mean())
        alone = [gradient(op, frame, faces)[1] / 3 for frame in vertices]
        torch.testing.assert_close(slope, torch.stack(alone))
    else:
        torch.testing.assert_close(values, torch.stack([op(frame, faces) for frame in vertices]))


def test_normal_consistency_of_a_cube(device):
    """12 of 18 edges join faces at a right angle, 6 are diagonals of flat sides."""
    vertices, faces = cube(device)
    assert float(loss_normal_consistency(vertices, faces)) == pytest.approx(12 / 18)


def test_normal_consistency_does_not_depend_on_orientation(device):
    vertices, faces = ball(device)
    turned = faces.clone()
    turned[::3] = turned[::3].flip(1)
    torch.testing.assert_close(
        gradient(loss_normal_consistency, vertices, turned), gradient(loss_normal_consistency, vertices, faces)
    )


def test_normal_consistency_of_three_half_planes_on_one_edge(device):
    """At 0, 90 and 180 degrees: two right angles (1 each) and a flat pair (0)."""
    points = [[0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [-1, 0, 0]]
    vertices = torch.tensor(points, dtype=torch.float64, device=device)
    faces = torch.tensor([[0, 1, 2], [0, 1, 3], [0, 1, 4]], device=device)
    assert mesh_topology(faces, 5).pair_count == 3
    assert float(loss_normal_consistency(vertices, faces)) == pytest.approx(2 / 3)


def test_areas_and_normals_of_a_cube(device):
    vertices, faces = cube(device)
    torch.testing.assert_close(face_areas(vertices, faces), torch.full_like(vertices[:1, 0], 2.0).expand(12))
    normals = face_normals(vertices, faces)
    torch.testing.assert_close(normals.abs().sum(-1), torch.ones_like(normals[:, 0]))
    assert ((normals * vertices[faces].mean(1)).sum(-1) > 0).all()
    assert ((vertex_normals(vertices, faces) * vertices).sum(-1) > 1).all()


def test_edges_of_a_cube(device):
    vertices, faces = cube(device)
    lengths = edge_lengths(vertices, faces).sort().values
    expected = torch.tensor(12 * [2.0] + 6 * [math.sqrt(8)], dtype=torch.float64, device=device)
    torch.testing.assert_close(lengths, expected)
    assert float(loss_edge_length(vertices, faces)) == pytest.approx((12 * 4 + 6 * 8) / 18)
    assert float(loss_edge_length(vertices, faces, 2.0)) == pytest.approx(6 * (math.sqrt(8) - 2) ** 2 / 18)


@pytest.mark.parametrize("op", [laplacian_uniform, laplacian_cotangent, curvature_normal])
def test_inside_of_a_regular_grid_has_no_laplacian(device, op):
    row, column = torch.meshgrid(torch.arange(6), torch.arange(7), indexing="ij")
    vertices = torch.stack([row, column, 2 * row - column], -1).double().view(-1, 3).to(device)
    here = (row * 7 + column)[:-1, :-1].flatten()
    faces = torch.cat([torch.stack(x, 1) for x in ((here, here + 7, here + 1), (here + 1, here + 7, here + 8))])
    inside = ((row > 0) & (row < 5) & (column > 0) & (column < 6)).flatten().to(device)
    result = op(vertices, faces.to(device))
    assert result[inside].abs().max() < 1e-12
    assert result[~inside].norm(dim=-1).min() > 0.1


def test_curvature_normal_of_a_sphere_points_inward_with_its_curvature(device):
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    vertices, faces = torch.tensor(sphere.vertices, device=device), torch.tensor(sphere.faces, device=device)
    # A third of the area around a vertex is its own: 1 / (4 A) counts three times less than the mean curvature needs.
    six = torch.bincount(faces.flatten()) == 6
    curvature = -(curvature_normal(vertices, faces) * vertices).sum(-1)[six] / 0.5
    torch.testing.assert_close(curvature, torch.full_like(curvature, 2 / 0.5 / 6), rtol=0.02, atol=0)


@each(OPS)
def test_moving_everything_changes_nothing(device, name):
    vertices, faces = sheets(device)
    op, _ = OPS[name]
    values, slope = gradient(op, vertices, faces)
    torch.testing.assert_close(op(vertices + 2.5, faces), values)
    torch.testing.assert_close(
        slope.sum(1), torch.zeros_like(slope[:, 0]), rtol=0, atol=1e-9 * float(slope.abs().max())
    )


@each(OPS)
def test_vertices_of_no_face_get_zero(device, name):
    vertices, faces = ball(device)
    more = torch.cat([vertices, torch.full_like(vertices[:, :2], 7.0)], 1)
    op, _ = OPS[name]
    values, slope = gradient(op, more, faces)
    assert not slope[:, -2:].any()
    if name in LOSSES:
        share = vertices.shape[1] / more.shape[1] if "cot" in name or "laplacian" in name else 1.0
        torch.testing.assert_close(values, share * op(vertices, faces))
    elif len(values[0]) == more.shape[1]:
        assert not values[:, -2:].any()


@each(OPS)
def test_faces_without_area_and_edges_without_length(device, name):
    """Three vertices of the ball fall together, one falls on a neighbour."""
    vertices, faces = ball(device)
    a, b, c = faces[0].tolist()
    vertices[:, b] = vertices[:, c] = vertices[:, a]
    d, e, _ = next(face for face in faces.tolist() if not set(face) & {a, b, c})
    vertices[:, e] = vertices[:, d]
    op, expected = OPS[name]
    values, slope = gradient(op, vertices, faces)
    assert values.isfinite().all()
    assert slope.isfinite().all()
    torch.testing.assert_close(values, expected(vertices, faces))


@each(OPS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_vertex_that_is_not_finite_spoils_no_other_gradient(device, name, bad):
    vertices, faces = ball(device)
    spoilt = int(faces[0, 0])
    broken = vertices.clone()
    broken[0, spoilt, 1] = bad
    op, _ = OPS[name]
    leaf = broken.requires_grad_()
    values = op(leaf, faces)
    assert not values.isfinite().all()
    (slope,) = torch.autograd.grad(values.square().nan_to_num().sum() if name not in LOSSES else values, leaf)
    assert slope.isfinite().all()
    assert slope[1].any()
    around = (faces == spoilt).any(1)
    far = torch.ones(vertices.shape[1], dtype=torch.bool, device=device)
    for _ in range(4):  # a Laplacian's gradient reaches two rings
        far[faces[around].flatten()] = False
        around = (~far[faces]).any(1)
    assert far.any()
    whole = vertices.detach().requires_grad_()
    values = op(whole, faces)
    (expected,) = torch.autograd.grad(values.square().sum() if name not in LOSSES else values, whole)
    torch.testing.assert_close(slope[0, far], expected[0, far])
    torch.testing.assert_close(slope[1], expected[1])


@each(OPS)
def test_empty_input(device, name):
    vertices, faces = ball(device, torch.float32)
    op, expected = OPS[name]
    for v, f in ((vertices[:0], faces), (vertices, faces[:0]), (vertices[:, :0], faces[:0]), (vertices[0], faces[:0])):
        leaf = v.detach().requires_grad_()
        values = op(leaf, f)
        assert values.shape == expected(v, f).shape
        assert not values.any()
        assert not torch.autograd.grad(values.sum(), leaf)[0].any()


@each(OPS)
def test_strided_input(device, name):
    vertices, faces = ball(device)
    strided = vertices.transpose(1, 2).contiguous().transpose(1, 2)
    wide = faces.repeat_interleave(2, 1)[:, ::2]
    assert not strided.is_contiguous()
    assert not wide.is_contiguous()
    op, _ = OPS[name]
    torch.testing.assert_close(gradient(op, strided, wide), gradient(op, vertices, faces))


@each(OPS)
def test_strided_gradient(device, name):
    vertices, faces = ball(device)
    vertices.requires_grad_()
    values = OPS[name][0](vertices, faces)
    upstream = torch.ones((), dtype=values.dtype, device=device).expand(values.shape)
    expected = torch.autograd.grad(values, vertices, torch.ones_like(values), retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(values, vertices, upstream), expected)


@each(OPS)
def test_two_backwards_through_one_graph(device, name):
    vertices, faces = ball(device)
    vertices.requires_grad_()
    values = OPS[name][0](vertices, faces).sum()
    first = torch.autograd.grad(values, vertices, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(3.0 * values, vertices), (3.0 * first[0],))


@pytest.fixture
def threads():
    """Sets the number of threads and restores it."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_do_not_change_the_result(device, threads, dtype):
    sphere = trimesh.creation.icosphere(subdivisions=5)
    vertices = torch.tensor(sphere.vertices, dtype=dtype, device=device)[None]
    vertices = vertices + 0.001 * torch.randn(vertices.shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    faces = torch.tensor(sphere.faces, device=device)
    assert vertices.shape[1] > 2 * SPLIT_GRAIN
    results = []
    for count in (1, 2):
        threads(count)
        topology = mesh_topology(faces, vertices.shape[1])
        results.append([*topology[1:], *(part for op, _ in OPS.values() for part in gradient(op, vertices, topology))])
    for one, two in zip(*results, strict=True):
        if isinstance(one, torch.Tensor) and one.dim() == 0:
            torch.testing.assert_close(one, two)  # torch's own sum depends on the number of threads
        else:
            assert torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two


def test_no_gradient_is_made_where_none_is_recorded(device):
    vertices, faces = ball(device)
    with torch.no_grad():
        for op, _ in OPS.values():
            assert not op(vertices.requires_grad_(), faces).requires_grad


@each(OPS)
def test_names_what_is_wrong(device, name):
    vertices, faces = ball(device)
    op, _ = OPS[name]
    with pytest.raises(ValueError, match=r"vertices must have shape \[B, V, 3\], got \[2, 162, 2\]"):
        op(vertices[..., :2], faces)
    with pytest.raises(
        ValueError, match=r"vertices must have shape \[V, 3\], got \[3, 2\]|must have shape \[B, V, 3\]"
    ):
        op(vertices[0, 0], faces)
    with pytest.raises(ValueError, match="vertices must be float32 or float64"):
        op(vertices.long(), faces)
    with pytest.raises(ValueError, match=r"faces must have shape \[F, 3\], got \[320, 2\]"):
        op(vertices, faces[:, :2])
    with pytest.raises(ValueError, match="faces must be int32 or int64"):
        op(vertices, faces.double())
    with pytest.raises(ValueError, match="faces must hold indices from 0 to 160, got 0 to 161"):
        op(vertices[:, :-1], faces)
    with pytest.raises(ValueError, match="faces must hold indices from 0 to 161, got -1 to 160"):
        op(vertices, faces - 1)
    with pytest.raises(ValueError, match="faces must be the topology of V=161 vertices, got one of 162"):
        op(vertices[:, :-1], mesh_topology(faces, 162))
    with pytest.raises(ValueError, match=r"faces must be on .* like vertices, got meta"):
        op(vertices, faces.to("meta"))


def test_names_the_wrong_option(device):
    vertices, faces = ball(device)
    with pytest.raises(ValueError, match="method must be one of uniform, cot, cotcurv, got 'cotan'"):
        loss_laplacian(vertices, faces, method="cotan")
    with pytest.raises(ValueError, match="target_length must be finite and not negative, got -1"):
        loss_edge_length(vertices, faces, -1.0)
    with pytest.raises(ValueError, match="least_area must be finite and not negative, got nan"):
        loss_normal_consistency(vertices, faces, math.nan)
    for op in (loss_laplacian, laplacian_cotangent):
        with pytest.raises(ValueError, match="least_area must be positive and finite, got 0"):
            op(vertices, faces, least_area=0.0)
    with pytest.raises(ValueError, match="vertex_count must not be negative, got -1"):
        mesh_topology(faces, -1)
