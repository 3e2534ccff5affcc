import pytest
import torch
import trimesh

from selfrecon_warp.kernels import point_mesh as op
from selfrecon_warp.kernels.interop import SPLIT_GRAIN
from selfrecon_warp.kernels.reference import point_mesh as reference

DISTANCES = ["point_mesh_distance", "mesh_point_distance"]


def make_inputs(device, dtype, lead=(), points=90, subdivisions=2):
    """Points in and around a wobbly ball."""
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions)
    generator = torch.Generator().manual_seed(0)
    wobble = 1 + 0.2 * torch.rand(*lead, len(mesh.vertices), 1, generator=generator, dtype=torch.float64)
    vertices = torch.tensor(mesh.vertices) * wobble
    cloud = 1.2 * torch.randn(*lead, points, 3, generator=generator, dtype=torch.float64)
    leaves = [x.to(device, dtype).requires_grad_() for x in (cloud, vertices)]
    return (*leaves, torch.tensor(mesh.faces).to(device))


def same_gradients(result, expected, inputs):
    generator = torch.Generator().manual_seed(1)
    upstream = torch.randn(expected.shape, generator=generator, dtype=torch.float64).to(expected)
    torch.testing.assert_close(
        torch.autograd.grad(result, inputs, upstream), torch.autograd.grad(expected, inputs, upstream)
    )


@pytest.mark.parametrize("lead", [(), (2,)])
@pytest.mark.parametrize("name", DISTANCES)
def test_distances_match_reference(device, name, lead):
    *leaves, faces = make_inputs(device, torch.float64, lead)
    result, expected = (getattr(module, name)(*leaves, faces) for module in (op, reference))
    torch.testing.assert_close(result[0], expected[0])
    same_gradients(result[0], expected[0], leaves)
    if name == "mesh_point_distance":
        assert torch.equal(result.index, expected.index)


@pytest.mark.parametrize("name", [*DISTANCES, "loss_point_mesh"])
def test_float32_matches_float64(device, name):
    *leaves, faces = make_inputs(device, torch.float32, (2,))
    result = getattr(op, name)(*leaves, faces)
    expected = getattr(reference, name)(*(x.double() for x in leaves), faces)
    values = (result, expected) if isinstance(result, torch.Tensor) else (result[0], expected[0])
    torch.testing.assert_close(values[0].double(), values[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ragged", [False, True])
def test_losses_match_reference(device, ragged):
    *leaves, faces = make_inputs(device, torch.float64, (2,), subdivisions=1)
    lengths = torch.tensor([90, 7], device=device) if ragged else None
    result, expected = (module.loss_point_mesh(*leaves, faces, lengths) for module in (op, reference))
    torch.testing.assert_close(result, expected)
    same_gradients(result, expected, leaves)
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]]])
    result, expected = (module.loss_point_edges(*leaves, edges, lengths) for module in (op, reference))
    torch.testing.assert_close(result, expected)
    same_gradients(result, expected, leaves)
    single = [x[0].detach() for x in leaves]
    torch.testing.assert_close(op.loss_point_mesh(*single, faces), reference.loss_point_mesh(*single, faces))


def test_gradcheck(device):
    points, vertices, faces = make_inputs(device, torch.float64, points=6, subdivisions=0)
    for name in DISTANCES:
        assert torch.autograd.gradcheck(lambda p, v, n=name: getattr(op, n)(p, v, faces)[0], (points, vertices))
    assert torch.autograd.gradcheck(lambda p, v: op.loss_point_mesh(p, v, faces), (points, vertices))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_do_not_change_the_result(device, threads, dtype):
    points, vertices, faces = make_inputs(device, dtype, points=2 * SPLIT_GRAIN, subdivisions=4)
    results = []
    for number in (1, 3):
        threads(number)
        results.append(
            [op.point_mesh_distance(points, vertices, faces), op.mesh_point_distance(points, vertices, faces)]
        )
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-10)


@pytest.mark.parametrize("name", DISTANCES)
def test_faces_without_area_count_as_segments_and_points(device, name):
    *leaves, faces = make_inputs(device, torch.float64)
    flat = torch.cat([faces[:9, [0, 1, 1]], faces[9:20, [0, 0, 1]], faces[20:30, [2, 2, 2]]])
    line = torch.stack([leaves[1][3], leaves[1][40], 0.3 * leaves[1][3] + 0.7 * leaves[1][40]]).detach()
    vertices = torch.cat([leaves[1].detach(), line]).requires_grad_()
    count = len(leaves[1])
    flat = torch.cat([flat, torch.tensor([[count, count + 1, count + 2]], device=device)])
    result, expected = (getattr(module, name)(leaves[0], vertices, flat)[0] for module in (op, reference))
    torch.testing.assert_close(result, expected)
    same_gradients(result, expected, leaves[:1])


def test_points_on_the_mesh_have_no_distance_and_no_gradient(device):
    _, vertices, faces = make_inputs(device, torch.float64)
    points = vertices.detach().clone().requires_grad_()
    squared = op.point_mesh_distance(points, vertices, faces).squared_distance
    assert not squared.any()
    assert not any(x.any() for x in torch.autograd.grad(squared.sum(), (points, vertices)))


def test_distance_to_a_plane(device):
    vertices = torch.tensor([[-9.0, -9, 0], [9, -9, 0], [0, 12, 0]], device=device, dtype=torch.float64)
    points = torch.tensor([[0.0, 0, 2], [1, -1, -3]], device=device, dtype=torch.float64).requires_grad_()
    places = op.point_mesh_distance(points, vertices, torch.tensor([[0, 1, 2]], device=device))
    assert places.squared_distance.tolist() == [4.0, 9.0]
    (gradient,) = torch.autograd.grad(places.squared_distance.sum(), points)
    expected = torch.tensor([[0.0, 0, 4], [0, 0, -6]], device=device, dtype=torch.float64)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("name", DISTANCES)
def test_what_is_not_finite_is_left_out(device, name):
    points, vertices, faces = make_inputs(device, torch.float64)
    expected_index = getattr(reference, name)(points, vertices, faces)[1]
    with torch.no_grad():
        points[4, 1], points[11, 2], vertices[7] = float("nan"), float("inf"), float("nan")
    result = getattr(op, name)(points, vertices, faces)
    kept = points.isfinite().all(1) if name == "point_mesh_distance" else ~(faces == 7).any(1)
    assert torch.equal(result[1] == -1, ~kept)
    assert torch.equal(result[0].isinf(), ~kept)
    broken = faces[(faces == 7).any(1)]
    assert len(broken) > 3
    if name == "point_mesh_distance":
        whole = (faces != 7).all(1).nonzero()[:, 0]
        expected = reference.point_mesh_distance(points[kept], vertices, faces[whole]).squared_distance
        torch.testing.assert_close(result[0][kept], expected)
    else:
        assert not torch.isin(result[1], torch.tensor([4, 11], device=device)).any()
        same = kept & ~torch.isin(expected_index, torch.tensor([4, 11], device=device))
        assert torch.equal(result[1][same], expected_index[same])
    for gradient in torch.autograd.grad(result[0][kept].sum(), (points, vertices)):
        assert gradient.isfinite().all()


def test_empty_input(device):
    points, vertices, faces = make_inputs(device, torch.float32, (2,))
    for given in ((points[:, :0], vertices, faces), (points, vertices, faces[:0]), (points[:0], vertices[:0], faces)):
        to_mesh, to_points = op.point_mesh_distance(*given), op.mesh_point_distance(*given)
        assert to_mesh.squared_distance.shape == given[0].shape[:2]
        assert to_points.squared_distance.shape == (len(given[0]), len(given[2]))
        assert to_mesh.squared_distance.isinf().all()
        assert (to_points.index == -1).all()
        (to_mesh.squared_distance.sum() + to_points.squared_distance.sum()).backward()
    assert op.loss_point_mesh(points, vertices, faces[:0]).isinf()
    assert op.loss_point_mesh(points[:0], vertices[:0], faces) == 0
    assert not points.grad.any()


def test_strided_input(device):
    inputs = make_inputs(device, torch.float32, (2,))
    strided = [x.detach().transpose(-1, 0).contiguous().transpose(-1, 0) for x in inputs]
    assert not any(x.is_contiguous() for x in strided)
    for name in DISTANCES:
        torch.testing.assert_close(tuple(getattr(op, name)(*strided)), tuple(getattr(op, name)(*inputs)))


def test_two_backwards_through_one_graph(device):
    *leaves, faces = make_inputs(device, torch.float32)
    loss = op.loss_point_mesh(*leaves, faces)
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, leaves), first)


def test_names_the_mismatched_argument(device):
    points, vertices, faces = make_inputs(device, torch.float32)
    for name in [*DISTANCES, "loss_point_mesh"]:
        function = getattr(op, name)
        with pytest.raises(ValueError, match=r"vertices must have shape \[V, 3\], got \[1, 162, 3\]"):
            function(points, vertices[None], faces)
        with pytest.raises(ValueError, match=r"vertices must be torch.float32 on .* like points, got torch.float64"):
            function(points, vertices.double(), faces)
        with pytest.raises(ValueError, match="faces must hold indices from 0 to 9"):
            function(points, vertices[:10], faces)
        with pytest.raises(ValueError, match="faces must be int32 or int64"):
            function(points, vertices, faces.float())
        with pytest.raises(ValueError, match=r"point_lengths must be \[B=1\] integers"):
            function(points, vertices, faces, torch.tensor([3, 4], device=device))
    with pytest.raises(ValueError, match=r"edges must have shape \[E, 2\], got \[320, 3\]"):
        op.loss_point_edges(points, vertices, faces)
    with pytest.raises(ValueError, match="edges must hold indices from 0 to 9"):
        op.loss_point_edges(points, vertices[:10], faces[:, :2])
