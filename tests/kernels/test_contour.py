import math

import pytest
import torch
import trimesh

from selfrecon_warp.kernels.contour import contour_edges, contour_points, mesh_edges, nearest_contour, silhouette_edges
from selfrecon_warp.kernels.rasterize import visible_faces
from selfrecon_warp.kernels.reference import contour as reference

HEIGHT, WIDTH = 45, 61


def sphere(device, dtype=torch.float32, radius=17.0):
    """Two frames of a sphere whose orthographic outline is a circle, the second one reaching outside the picture."""
    mesh = trimesh.creation.icosphere(subdivisions=3)
    shape = torch.tensor(mesh.vertices, dtype=dtype, device=device)
    centre = torch.tensor([[30.3, 21.6, 0.0], [9.1, 24.2, 0.0]], dtype=dtype, device=device)
    vertices = centre[:, None] + shape * radius * torch.tensor([1.0, 1.0, 0.01], dtype=dtype, device=device)
    return vertices + torch.tensor([0.0, 0.0, 3.0], dtype=dtype, device=device), torch.tensor(mesh.faces, device=device)


def sheets(device, dtype=torch.float32):
    """Random triangles sharing some edges: open borders, degenerate and repeated faces."""
    generator = torch.Generator().manual_seed(3)
    vertices = torch.rand(2, 12, 3, generator=generator) * torch.tensor([WIDTH, HEIGHT, 2.0]) + torch.tensor(
        [0, 0, 1.0]
    )
    faces = torch.randint(12, (20, 3), generator=generator)
    return vertices.to(device, dtype), faces.to(device)


@pytest.mark.parametrize("scene", [sphere, sheets])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_reference(device, scene, dtype):
    vertices, faces = scene(device, dtype)
    edges = mesh_edges(faces)
    torch.testing.assert_close(edges, reference.mesh_edges(faces))
    face_index = visible_faces(vertices, faces, HEIGHT, WIDTH)
    every = silhouette_edges(vertices, faces, edges)
    assert len(every.edge_index) > 20
    torch.testing.assert_close(every, reference.silhouette_edges(vertices, faces, edges))
    on_border = contour_edges(vertices, faces, edges, face_index)
    assert 0 < len(on_border.edge_index) <= len(every.edge_index)
    torch.testing.assert_close(on_border, reference.contour_edges(vertices, faces, edges, face_index))


def test_every_edge_of_a_closed_mesh_has_two_faces(device):
    _, faces = sphere(device)
    edges = mesh_edges(faces.int())
    assert len(edges.vertex_index) == len(faces) * 3 // 2
    assert (edges.face_index >= 0).all()
    corners = faces[edges.face_index.long()]
    for end in edges.vertex_index.T:
        assert (corners == end[:, None, None]).any(-1).all()


def test_a_sphere_gives_its_outline_with_outward_normals(device):
    vertices, faces = sphere(device, torch.float64)
    face_index = visible_faces(vertices, faces, HEIGHT, WIDTH)
    contour = contour_edges(vertices, faces, mesh_edges(faces), face_index)
    middle, outward = contour_points(vertices, contour)
    centre = torch.tensor([[30.3, 21.6], [9.1, 24.2]], dtype=torch.float64, device=device)[contour.frame_index]
    assert ((middle - centre).norm(dim=-1) > 0.97 * 17).all()
    radial = torch.nn.functional.normalize(middle - centre, dim=-1)
    assert ((radial * outward).sum(-1) > 0.95).all()
    assert (middle > -1.5).all()
    assert (contour.frame_index == 0).sum() > (contour.frame_index == 1).sum() > 0


def test_silhouette_loops_close(device):
    vertices, faces = sphere(device)
    contour = silhouette_edges(vertices[:1], faces, mesh_edges(faces))
    start, end = contour.vertex_index.T
    torch.testing.assert_close(start.sort().values, end.sort().values)


def test_points_are_differentiable(device):
    vertices, faces = sphere(device, torch.float64)
    contour = silhouette_edges(vertices, faces, mesh_edges(faces))
    few = type(contour)(*(part[::17] for part in contour))
    vertices.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: contour_points(v, few), vertices)


def test_same_order_in_every_run(device):
    vertices, faces = sphere(device)
    edges, face_index = mesh_edges(faces), visible_faces(vertices, faces, HEIGHT, WIDTH)
    first = contour_edges(vertices, faces, edges, face_index)
    for _ in range(3):
        torch.testing.assert_close(contour_edges(vertices, faces, edges, face_index), first, rtol=0, atol=0)
    place = first.frame_index * len(edges.vertex_index) + first.edge_index
    assert (place.diff() > 0).all()


def test_border_of_an_open_mesh_is_a_silhouette(device):
    vertices = torch.tensor([[[10.0, 10.0, 2.0], [10.0, 30.0, 2.0], [30.0, 10.0, 2.0]]], device=device)
    for faces in (torch.tensor([[0, 1, 2]], device=device), torch.tensor([[0, 2, 1]], device=device)):
        contour = silhouette_edges(vertices, faces, mesh_edges(faces))
        middle, outward = contour_points(vertices, contour)
        away = middle - vertices[0, :, :2].mean(0)
        assert len(middle) == 3
        assert ((away * outward).sum(-1) > 0).all()


@pytest.mark.parametrize("scale", [(1.0, 1.0, -1.0), (0.0, 1.0, 1.0)], ids=["behind the camera", "zero area"])
def test_nothing_drawn_has_no_silhouette(device, scale):
    vertices, faces = sphere(device)
    vertices = vertices * torch.tensor(scale, device=device)
    assert len(silhouette_edges(vertices, faces, mesh_edges(faces)).edge_index) == 0


def test_empty_input(device):
    vertices, faces = sphere(device)
    for v, f in ((vertices[:0], faces), (vertices, faces[:0])):
        edges = mesh_edges(f)
        face_index = torch.full((len(v), HEIGHT, WIDTH), -1, dtype=torch.int32, device=device)
        contour = contour_edges(v, f, edges, face_index)
        assert contour.vertex_index.shape == (0, 2)
        middle, outward = contour_points(v, contour)
        assert middle.shape == outward.shape == (0, 2)


def test_strided_input(device):
    vertices, faces = sphere(device)
    face_index = visible_faces(vertices, faces, HEIGHT, WIDTH)
    expected = contour_edges(vertices, faces, mesh_edges(faces), face_index)
    strided = vertices.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    turned = face_index.transpose(1, 2).contiguous().transpose(1, 2)
    wide = faces.repeat_interleave(2, 1)[:, ::2]
    torch.testing.assert_close(contour_edges(strided, wide, mesh_edges(wide), turned), expected)


def make_queries(device, dtype, Q=200, edges=300):
    generator = torch.Generator().manual_seed(0)
    angle = torch.rand(Q + edges, generator=generator, dtype=torch.float64) * 2 * math.pi
    direction = torch.stack([angle.cos(), angle.sin()], -1).to(device, dtype)
    place = torch.rand(Q + edges, 2, generator=generator, dtype=torch.float64).to(device, dtype)
    place = place * torch.tensor([WIDTH, HEIGHT], device=device)
    frame = torch.randint(3, (Q + edges,), generator=generator).to(device)
    place[:Q] = (place[:Q] - 20) * 1.5
    return place[:Q], frame[:Q], direction[:Q], place[Q:], frame[Q:], direction[Q:]


@pytest.mark.parametrize("radius", [1.0, 6.0, 500.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearest_matches_reference(device, dtype, radius):
    inputs = make_queries(device, dtype)
    actual = nearest_contour(*inputs, radius, 0.7)
    expected = reference.nearest_contour(*inputs, radius, 0.7)
    assert (expected >= 0).any()
    torch.testing.assert_close(actual, expected)


def test_an_edge_is_nearest_to_itself(device):
    *_, midpoints, frame, direction = make_queries(device, torch.float32)
    nearest = nearest_contour(midpoints, frame, direction, midpoints, frame, direction, 2.0, 0.99)
    torch.testing.assert_close(nearest, torch.arange(len(midpoints), device=device))


def test_of_equally_near_edges_the_first_is_taken(device):
    queries = torch.zeros(1, 2, device=device)
    midpoints = torch.tensor([[3.0, 4.0], [-5.0, 0.0], [5.0, 0.0], [0.0, -5.0]], device=device)
    frame, direction = torch.zeros(4, dtype=torch.int64, device=device), torch.tensor([[1.0, 0.0]] * 4, device=device)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        nearest = nearest_contour(queries, frame[:1], direction[:1], midpoints[order], frame, direction, 5.0, 0.9)
        assert nearest.tolist() == [0]


def test_nearest_of_nothing(device):
    queries, query_frame, query_direction, midpoints, edge_frame, edge_direction = make_queries(device, torch.float32)
    found = nearest_contour(
        queries, query_frame, query_direction, midpoints[:0], edge_frame[:0], edge_direction[:0], 2, 0
    )
    assert (found == -1).all()
    found = nearest_contour(
        queries[:0], query_frame[:0], query_direction[:0], midpoints, edge_frame, edge_direction, 2, 0
    )
    assert found.shape == (0,)
    far = nearest_contour(queries + 1e8, query_frame, query_direction, midpoints, edge_frame, edge_direction, 2, 0)
    assert (far == -1).all()


def test_names_the_mismatched_argument(device):
    vertices, faces = sphere(device)
    edges, face_index = mesh_edges(faces), visible_faces(vertices, faces, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match=r"face_index must have shape \[B=2, H, W\]"):
        contour_edges(vertices, faces, edges, face_index[:1])
    with pytest.raises(ValueError, match=r"edge_faces must hold indices from -1 to 9"):
        silhouette_edges(vertices, faces[:10], edges)
    with pytest.raises(ValueError, match="reach must not be negative"):
        contour_edges(vertices, faces, edges, face_index, -1.0)
    inputs = make_queries(device, torch.float32)
    with pytest.raises(ValueError, match=r"query_frame must have shape \[Q=200\], got \[7\]"):
        nearest_contour(inputs[0], inputs[1][:7], *inputs[2:], 2.0, 0.0)
    with pytest.raises(ValueError, match=r"midpoints must be torch.float32 on .* like queries"):
        nearest_contour(*inputs[:3], inputs[3].double(), *inputs[4:], 2.0, 0.0)
    with pytest.raises(ValueError, match="radius must be positive"):
        nearest_contour(*inputs, 0.0, 0.0)
