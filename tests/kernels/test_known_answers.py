"""Small scenes whose answers are known by hand: what PyTorch3D's own tests hold fixed, stated in our conventions."""

import math

import pytest
import torch
import trimesh
from torch import Tensor

from selfrecon_warp.kernels.compositing import composite_alpha, composite_weighted
from selfrecon_warp.kernels.internal.triangle import NEAR
from selfrecon_warp.kernels.marching_cubes import marching_cubes
from selfrecon_warp.kernels.mesh import edge_lengths, face_areas, face_normals
from selfrecon_warp.kernels.mesh_losses import loss_normal_consistency
from selfrecon_warp.kernels.rasterize import rasterize
from selfrecon_warp.kernels.rasterize_layers import rasterize_layers
from selfrecon_warp.kernels.splat import splat_points

PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def picture(*rows: str) -> Tensor:
    """Indices drawn as text, a dot for none."""
    return torch.tensor([[-1 if each == "." else int(each) for each in row] for row in rows])


def assert_picture(found: Tensor, *rows: str) -> None:
    expected = picture(*rows)
    assert torch.equal(found.cpu().long(), expected), found


def corner(z: float, offset: float = 0.0) -> list[list[float]]:
    """A right-angled triangle that covers the pixels ``u, v >= 1 + offset`` with ``u + v <= 8 + 2 offset``."""
    return [[0.5 + offset, 0.5 + offset, z], [8 + offset, 0.5 + offset, z], [0.5 + offset, 8 + offset, z]]


@PRECISIONS
def test_one_triangle(device, dtype):
    vertices = torch.tensor([corner(2.0)], dtype=dtype, device=device)
    fragments = rasterize(vertices, torch.tensor([[0, 1, 2]], device=device), 10, 10)
    assert_picture(
        fragments.face_index[0],
        "..........",
        ".0000000..",
        ".000000...",
        ".00000....",
        ".0000.....",
        ".000......",
        ".00.......",
        ".0........",
        "..........",
        "..........",
    )
    assert torch.equal(fragments.depth[0] == 2.0, fragments.face_index[0] >= 0)


@PRECISIONS
def test_two_layers_of_two_triangles_and_a_blurred_border(device, dtype):
    vertices = torch.tensor([corner(2.0) + corner(1.0, 1.0)], dtype=dtype, device=device)
    faces = torch.tensor([[0, 1, 2], [3, 4, 5]], device=device)
    layers = rasterize_layers(vertices, faces, 10, 10, 2)
    assert_picture(
        layers.face_index[0, ..., 0],
        "..........",
        ".0000000..",
        ".01111111.",
        ".0111111..",
        ".011111...",
        ".01111....",
        ".0111.....",
        ".011......",
        "..1.......",
        "..........",
    )
    assert_picture(
        layers.face_index[0, ..., 1],
        "..........",
        "..........",
        "..00000...",
        "..0000....",
        "..000.....",
        "..00......",
        "..0.......",
        "..........",
        "..........",
        "..........",
    )
    blurred = rasterize_layers(vertices[:, :3], faces[:1], 10, 10, 2, blur_radius=0.75)
    assert_picture(
        blurred.face_index[0, ..., 0],
        "000000000.",
        "000000000.",
        "00000000..",
        "0000000...",
        "000000....",
        "00000.....",
        "0000......",
        "000.......",
        "00........",
        "..........",
    )
    assert (blurred.face_index[..., 1] == -1).all()


@PRECISIONS
def test_barycentrics_follow_perspective(device, dtype):
    """At the middle of the picture of a triangle, corners count by their nearness: 4 : 2 : 1 at 1, 2 and 4 m."""
    vertices = torch.tensor([[[-1.0, -1.0, 1.0], [16.0, -1.0, 2.0], [0.0, 17.0, 4.0]]], dtype=dtype, device=device)
    faces = torch.tensor([[0, 1, 2]], device=device)
    at = (0, 5, 5)
    correct = rasterize_layers(vertices, faces, 11, 11, 1)
    flat = rasterize_layers(vertices, faces, 11, 11, 1, perspective_correct=False)
    exact = {"rtol": 1e-5, "atol": 1e-6}
    nearness = torch.tensor([4.0, 2.0, 1.0], dtype=dtype, device=device) / 7
    torch.testing.assert_close(correct.barycentrics[at][0], nearness, **exact)
    torch.testing.assert_close(correct.depth[at][0].item(), 12 / 7, **exact)
    torch.testing.assert_close(flat.barycentrics[at][0], torch.full_like(nearness, 1 / 3), **exact)
    torch.testing.assert_close(flat.depth[at][0].item(), 7 / 3, **exact)
    torch.testing.assert_close(correct.distance, flat.distance)
    fragments = rasterize(vertices, faces, 11, 11)
    torch.testing.assert_close(fragments.barycentrics, correct.barycentrics[..., 0, :])


@PRECISIONS
def test_distances_are_squared_pixels_and_negative_inside(device, dtype):
    """A square of 6 by 6 pixels in two faces; the nearest border of a face may be the diagonal."""
    vertices = [[2.0, 2.0, 1.0], [8.0, 2.0, 1.0], [8.0, 8.0, 1.0], [2.0, 8.0, 1.0]]
    faces = torch.tensor([[0, 2, 1], [0, 3, 2]], device=device)
    layers = rasterize_layers(torch.tensor([vertices], dtype=dtype, device=device), faces, 11, 11, 2, blur_radius=1.5)
    distance = {(7, 3): -1.0, (5, 4): -0.5, (9, 5): 1.0, (9, 1): 2.0, (8, 5): -0.0}
    for (u, v), expected in distance.items():
        here = layers.face_index[0, v, u].tolist()
        assert 0 in here, (u, v)
        assert layers.distance[0, v, u, here.index(0)].item() == pytest.approx(expected, abs=1e-6), (u, v)
    assert layers.face_index[0, 5, 10].tolist() == [-1, -1]


@PRECISIONS
def test_clipped_barycentrics_stay_on_the_face(device, dtype):
    """One pixel outside an edge: the third corner's share is -1/3 there, and 0 when clipped."""
    vertices = torch.tensor([[[1.0, 1.0, 1.0], [4.0, 1.0, 1.0], [1.0, 4.0, 1.0]]], dtype=dtype, device=device)
    faces = torch.tensor([[0, 1, 2]], device=device)
    free = rasterize_layers(vertices, faces, 5, 5, 1, blur_radius=1.2)
    clipped = rasterize_layers(vertices, faces, 5, 5, 1, blur_radius=1.2, clip_barycentrics=True)
    third = 1 / 3
    for found, expected in ((free, [1.0, third, -third]), (clipped, [0.75, 0.25, 0.0])):
        value = torch.tensor(expected, dtype=dtype, device=device)
        torch.testing.assert_close(found.barycentrics[0, 0, 2, 0], value, rtol=1e-5, atol=1e-6)
    assert torch.equal(free.face_index, clipped.face_index)


def test_back_faces_of_a_pyramid_are_culled(device):
    """Seen from above its tip, a pyramid shows four faces; behind each pixel lies the base, which looks away."""
    vertices = torch.tensor([[[0.5, 0.5, 4.0], [8.5, 0.5, 4.0], [8.5, 8.5, 4.0], [0.5, 8.5, 4.0], [4.6, 4.5, 1.0]]])
    faces = torch.tensor([[4, 1, 0], [4, 2, 1], [4, 3, 2], [4, 0, 3], [0, 1, 2], [0, 2, 3]])
    vertices, faces = vertices.to(device), faces.to(device)
    front = (
        "..........",
        ".00000000.",
        ".30000001.",
        ".33000011.",
        ".33300111.",
        ".33332111.",
        ".33322211.",
        ".33222221.",
        ".32222222.",
        "..........",
    )
    seen = rasterize_layers(vertices, faces, 10, 10, 2)
    culled = rasterize_layers(vertices, faces, 10, 10, 2, cull_backfaces=True)
    covered = picture(*front) >= 0
    assert torch.equal(culled.face_index[0, ..., 0].cpu() >= 0, covered)
    assert torch.equal(culled.face_index[..., 0], seen.face_index[..., 0])
    assert torch.equal(rasterize(vertices, faces, 10, 10, True).face_index, seen.face_index[..., 0])
    assert (culled.face_index[..., 1] == -1).all()
    assert torch.equal(seen.face_index[0, ..., 1].cpu() >= 4, covered)
    inverted = rasterize_layers(vertices, faces.flip(1), 10, 10, 2, cull_backfaces=True)
    assert torch.equal(inverted.face_index[..., 0], seen.face_index[..., 1])


@pytest.mark.parametrize("depth", [-1.0, 0.0, NEAR, math.nan, math.inf])
def test_what_is_not_in_front_of_the_camera_is_not_drawn(device, depth):
    vertices = torch.tensor([corner(depth)], device=device, requires_grad=True)
    faces = torch.tensor([[0, 1, 2]], device=device)
    fragments = rasterize(vertices, faces, 10, 10)
    layers = rasterize_layers(vertices, faces, 10, 10, 2, blur_radius=2.0)
    splats = splat_points(vertices, 2.0, 10, 10, 2)
    for index in (fragments.face_index, layers.face_index, splats.point_index):
        assert (index == -1).all()
    for values in (fragments.barycentrics, fragments.depth, layers.distance, layers.depth, splats.depth):
        assert not values.any()


@PRECISIONS
def test_discs_of_different_radii(device, dtype):
    points = torch.tensor([[[2.0, 2.0, 3.0], [6.0, 3.0, 2.0], [3.0, 6.0, 1.0]]], dtype=dtype, device=device)
    radius = torch.tensor([1.1, 2.1, 3.1], dtype=dtype, device=device)
    splats = splat_points(points, radius, 9, 9, 2)
    assert_picture(
        splats.point_index[0, ..., 0],
        ".........",
        "..0...1..",
        ".000.111.",
        "..0211111",
        ".2222211.",
        ".222221..",
        "2222222..",
        ".22222...",
        ".22222...",
    )
    assert_picture(
        splats.point_index[0, ..., 1],
        ".........",
        ".........",
        ".........",
        ".........",
        ".....1...",
        ".........",
        ".........",
        ".........",
        ".........",
    )


@PRECISIONS
def test_compositing_two_points_of_a_pixel(device, dtype):
    """Half of red before three quarters of green, and nothing beyond."""
    index = torch.tensor([0, 1, -1], device=device).view(1, 1, 1, 3)
    alphas = torch.tensor([0.5, 0.75, 0.9], dtype=dtype, device=device).view(1, 1, 1, 3)
    colours = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=dtype, device=device)
    assert composite_alpha(alphas, index, colours).flatten().tolist() == [0.5, 0.375]
    assert composite_weighted(alphas, index, colours).flatten().tolist() == [0.5, 0.75]


CORNERS = {  # of the cell: x + 2 y + 4 z; triangles as drawn by Lorensen and Cline in their figure of cases
    "1": ((0,), 1),
    "2": ((0, 1), 2),
    "3": ((0, 5), 2),
    "4": ((0, 7), 2),
    "5": ((1, 2, 3), 3),
    "6": ((0, 1, 7), 3),
    "7": ((1, 2, 7), 3),
    "8": ((0, 1, 2, 3), 2),
    "9": ((0, 1, 2, 4), 4),
    "10": ((0, 2, 5, 7), 4),
    "11": ((0, 1, 3, 7), 4),
    "12": ((1, 2, 3, 4), 4),
    "13": ((0, 3, 5, 6), 4),
    "14": ((0, 1, 3, 6), 4),
}


@pytest.mark.parametrize("name", CORNERS)
@PRECISIONS
def test_the_cases_of_marching_cubes(device, dtype, name):
    """A cell among outside nodes: a vertex in the middle of every crossed edge, and the case's triangles inside it."""
    inside, triangles = CORNERS[name]
    values = torch.ones(4, 4, 4, dtype=dtype, device=device)
    for corner_index in inside:
        values[1 + (corner_index & 1), 1 + (corner_index >> 1 & 1), 1 + (corner_index >> 2)] = -1.0
    lower, upper = torch.zeros(3, dtype=dtype, device=device), torch.full((3,), 3.0, dtype=dtype, device=device)
    vertices, faces = marching_cubes(values, lower, upper)
    expected = set()
    for node in (values < 0).nonzero().tolist():
        for axis in range(3):
            for step in (-1, 1):
                beside = list(node)
                beside[axis] += step
                if values[tuple(beside)] > 0:
                    expected.add(tuple((a + b) / 2 for a, b in zip(node, beside, strict=True)))
    assert {tuple(vertex) for vertex in vertices.tolist()} == expected
    assert len(vertices) == len(expected)
    centres = vertices[faces.long()].mean(1)
    assert int(((centres > 1) & (centres < 2)).all(1).sum()) == triangles
    mesh = trimesh.Trimesh(vertices.cpu(), faces.cpu(), process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume > 0


@PRECISIONS
def test_a_block_of_eight_nodes_has_24_vertices_and_44_faces(device, dtype):
    values = torch.ones(5, 5, 5, dtype=dtype, device=device)
    values[1:3, 1:3, 1:3] = -1.0
    lower, upper = torch.full((3,), -1.0, dtype=dtype, device=device), torch.ones(3, dtype=dtype, device=device)
    vertices, faces = marching_cubes(values, lower, upper)
    assert (len(vertices), len(faces)) == (24, 44)
    assert len(vertices.unique(dim=0)) == 24
    assert (vertices.amin().item(), vertices.amax().item()) == (-0.75, 0.25)


@PRECISIONS
def test_normals_across_the_edges_of_a_cube(device, dtype):
    """Of its 18 edges 12 turn by a right angle, and 6 lie in a side."""
    box = trimesh.creation.box()
    vertices = torch.tensor(box.vertices, dtype=dtype, device=device)
    faces = torch.tensor(box.faces, device=device)
    assert loss_normal_consistency(vertices, faces).item() == pytest.approx(12 / 18)
    assert len(edge_lengths(vertices, faces)) == 18
    assert edge_lengths(vertices, faces).sum().item() == pytest.approx(12 + 6 * math.sqrt(2))


@PRECISIONS
def test_areas_and_normals_of_right_angled_triangles(device, dtype):
    vertices = torch.tensor([[1, 3, 0], [4, 3, 0], [1, 5, 0], [1, 3, 7.0]], dtype=dtype, device=device)
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 1], [0, 0, 1]], device=device)
    assert face_areas(vertices, faces).tolist() == [3.0, 7.0, 10.5, 0.0]
    expected = [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    torch.testing.assert_close(face_normals(vertices, faces).tolist(), expected)
