import pytest
import torch
import trimesh

from selfrecon_warp.kernels.closest_point import closest_point
from selfrecon_warp.kernels.reference import closest_point as reference


def make_inputs(device, dtype, offset=0.0):
    """Points in and around a wobbly ball."""
    mesh = trimesh.creation.icosphere(subdivisions=2)
    generator = torch.Generator().manual_seed(0)
    vertices = torch.tensor(mesh.vertices) * (1 + 0.2 * torch.rand(len(mesh.vertices), 1, generator=generator))
    points = 2 * torch.randn(300, 3, generator=generator, dtype=torch.float64)
    return (
        (points + offset).to(device, dtype),
        (vertices + offset).to(device, dtype),
        torch.tensor(mesh.faces).to(device),
    )


def place(face_index, barycentrics, vertices, faces):
    return (vertices[faces[face_index].long()] * barycentrics[..., None]).sum(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_reference(device, dtype):
    points, vertices, faces = make_inputs(device, dtype)
    distance, face_index, barycentrics = closest_point(points, vertices, faces)
    expected, expected_face, expected_barycentrics = reference.closest_point(points, vertices, faces)
    torch.testing.assert_close(distance, expected)
    torch.testing.assert_close(
        place(face_index, barycentrics, vertices, faces), place(expected_face, expected_barycentrics, vertices, faces)
    )
    inside = (barycentrics > 1e-3).all(1)
    assert inside.sum() > 20
    torch.testing.assert_close(face_index[inside], expected_face[inside])
    torch.testing.assert_close(barycentrics.sum(1), torch.ones_like(distance))


def test_double_precision_far_from_the_origin(device):
    inputs = make_inputs(device, torch.float64, offset=1e4)
    torch.testing.assert_close(closest_point(*inputs)[0], reference.closest_point(*inputs)[0], rtol=1e-9, atol=1e-9)


def test_places_on_the_surface_are_found_again(device):
    _, vertices, faces = make_inputs(device, torch.float64)
    weights = torch.rand(len(faces), 3, dtype=torch.float64, device=device) + 0.1
    weights = weights / weights.sum(1, keepdim=True)
    on_surface = place(torch.arange(len(faces), device=device), weights, vertices, faces)
    distance, face_index, barycentrics = closest_point(on_surface, vertices, faces)
    assert distance.max() < 1e-12
    torch.testing.assert_close(face_index, torch.arange(len(faces), device=device))
    torch.testing.assert_close(barycentrics, weights)


def test_degenerate_faces_are_left_out(device):
    points, vertices, faces = make_inputs(device, torch.float32)
    expected = closest_point(points, vertices, faces)
    spoiled = torch.cat([faces[:5, [0, 1, 0]], faces, faces[:5, [0, 0, 0]]])
    distance, face_index, barycentrics = closest_point(points, vertices, spoiled)
    torch.testing.assert_close((distance, face_index - 5, barycentrics), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slivers_match_reference(device, dtype):
    generator = torch.Generator().manual_seed(0)
    ends = torch.randn(200, 2, 3, generator=generator, dtype=torch.float64)
    third = ends[:, 0] + torch.rand(200, 1, generator=generator, dtype=torch.float64) * (ends[:, 1] - ends[:, 0])
    heights = 10 ** (-9 * torch.rand(200, 1, generator=generator, dtype=torch.float64))
    third = third + heights * torch.randn(200, 3, generator=generator, dtype=torch.float64)
    vertices = torch.cat([ends, third[:, None]], 1).view(-1, 3)
    faces = torch.arange(600).view(-1, 3).to(device)
    points = torch.randn(400, 3, generator=generator, dtype=torch.float64)
    expected = reference.closest_point(points.to(device), vertices.to(device), faces)[0]
    distance = closest_point(points.to(device, dtype), vertices.to(device, dtype), faces)[0]
    close = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-7, "atol": 1e-9}
    torch.testing.assert_close(distance.double(), expected, **close)


def test_equally_near_faces_go_to_the_lower_index(device):
    points, vertices, faces = make_inputs(device, torch.float32)
    expected = closest_point(points, vertices, faces)
    doubled = closest_point(points, vertices, torch.cat([faces, faces, faces]))
    torch.testing.assert_close(doubled, expected)


def test_points_that_are_not_finite_match_nothing(device):
    points, vertices, faces = make_inputs(device, torch.float32)
    points[3, 1] = float("nan")
    points[5, 0] = float("inf")
    distance, face_index, barycentrics = closest_point(points, vertices, faces)
    assert face_index[[3, 5]].tolist() == [-1, -1]
    assert distance[[3, 5]].isinf().all()
    assert (barycentrics[[3, 5]] == 0).all()
    assert distance.isfinite().sum() == len(points) - 2


def test_empty_input(device):
    points, vertices, faces = make_inputs(device, torch.float32)
    distance, face_index, barycentrics = closest_point(points[:0], vertices, faces)
    assert distance.shape == face_index.shape == (0,)
    assert barycentrics.shape == (0, 3)


def test_strided_input(device):
    points, vertices, faces = make_inputs(device, torch.float32)
    strided = [t.T.contiguous().T for t in (points, vertices, faces)]
    torch.testing.assert_close(closest_point(*strided), closest_point(points, vertices, faces))


def test_names_the_mismatched_argument(device):
    points, vertices, faces = make_inputs(device, torch.float32)
    with pytest.raises(ValueError, match=r"points must have shape \[P, 3\], got \[300, 2\]"):
        closest_point(points[:, :2], vertices, faces)
    with pytest.raises(ValueError, match=r"vertices must be torch.float32 on .* like points, got torch.float64"):
        closest_point(points, vertices.double(), faces)
    with pytest.raises(ValueError, match="faces must hold at least one face with an area, got F=0 without"):
        closest_point(points, vertices, faces[:0])
    with pytest.raises(ValueError, match="faces must hold at least one face with an area, got F=80 without"):
        closest_point(points, 0 * vertices, faces[:80])
    with pytest.raises(ValueError, match="faces must hold indices from 0 to 9"):
        closest_point(points, vertices[:10], faces)
    with pytest.raises(ValueError, match="vertices must be finite"):
        closest_point(points, vertices * float("nan"), faces)
