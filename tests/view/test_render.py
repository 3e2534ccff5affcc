import math

import numpy as np
import pytest
import torch
import trimesh

from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.capture.dataset import decode_normals
from selfrecon_warp.view.render import (
    contact_strip,
    draw_outline,
    orbit_camera,
    person_box,
    render_mask,
    render_normals,
    render_shaded,
    render_vertex_colours,
    turntable,
    vertex_normals,
)

CENTRE = torch.tensor([0.0, 0.0, 2.0])


@pytest.fixture
def camera() -> Camera:
    """World axes x right, y down, z forward."""
    return Camera((90.0, 90.0), (39.5, 31.5), height=64, width=80)


@pytest.fixture
def ball() -> tuple[torch.Tensor, torch.Tensor]:
    mesh = trimesh.creation.icosphere(4, 0.5)
    return torch.tensor(np.asarray(mesh.vertices)).float() + CENTRE, torch.tensor(np.asarray(mesh.faces))


def test_vertex_normals_of_a_sphere_point_outward(ball):
    vertices, faces = ball
    normals = vertex_normals(vertices, faces)
    torch.testing.assert_close(normals, (vertices - CENTRE) / 0.5, atol=0.01, rtol=0)
    assert vertex_normals(torch.zeros(1, 3), torch.zeros(0, 3, dtype=torch.long)).eq(0).all()


def test_normals_use_the_encoding_of_captures(ball, camera):
    picture = render_normals(*ball, camera, supersample=1)
    mask = render_mask(*ball, camera)
    assert picture.shape == (64, 80, 3)
    assert (picture[~mask] == 0).all()
    decoded = decode_normals(torch.from_numpy(picture), camera.rotation())[torch.from_numpy(mask)]
    rows, columns = np.nonzero(mask)
    directions = camera.rays(torch.from_numpy(np.stack((columns, rows), -1)))
    along = directions @ CENTRE  # where each ray meets the ball
    depth = along - (along**2 - CENTRE @ CENTRE + 0.25).clamp(min=0).sqrt()
    expected = torch.nn.functional.normalize(directions * depth[:, None] - CENTRE, dim=-1)
    degrees = torch.rad2deg((decoded * expected).sum(-1).clamp(-1, 1).acos())
    assert degrees.mean() < 1
    middle = picture[31, 39] / 127.5 - 1
    assert middle[2] > 0.99  # towards the camera
    assert picture[20, 39, 1] > 127 > picture[45, 39, 1]  # up is green
    assert picture[31, 50, 0] > 127 > picture[31, 28, 0]  # right is red


def test_faces_seen_from_behind_show_their_other_side(ball, camera):
    vertices, faces = ball
    flipped = faces.flip(-1)
    np.testing.assert_array_equal(
        render_normals(vertices, faces, camera), render_normals(vertices, flipped, camera), strict=True
    )


def test_outline_is_smooth_and_coverage_keeps_the_area(ball, camera):
    alpha = render_shaded(*ball, camera, background=None, supersample=4)[..., 3] / 255
    assert ((alpha > 0.1) & (alpha < 0.9)).sum() > 30
    slope = math.tan(math.asin(0.5 / 2.0))
    assert alpha.sum() == pytest.approx(math.pi * (90 * slope) ** 2, rel=0.01)
    assert render_mask(*ball, camera).sum() == pytest.approx(alpha.sum(), rel=0.03)


def test_light_comes_from_above_and_the_background_stays(ball, camera):
    photograph = np.random.default_rng(0).integers(0, 255, (64, 80, 3)).astype(np.uint8)
    picture = render_shaded(*ball, camera, background=photograph)
    np.testing.assert_array_equal(picture[:5], photograph[:5])
    assert picture[20, 36].mean() > picture[45, 44].mean() + 20
    assert (render_shaded(*ball, camera)[0, 0] == 255).all()
    with pytest.raises(ValueError, match="background must have shape"):
        render_shaded(*ball, camera, background=photograph[:10])


def test_vertex_colours_arrive_unlit(ball, camera):
    vertices, faces = ball
    colours = torch.tensor([51, 102, 204], dtype=torch.uint8).expand(len(vertices), 3)
    picture = render_vertex_colours(vertices, faces, colours, camera)
    np.testing.assert_array_equal(picture[31, 39], [51, 102, 204])
    np.testing.assert_array_equal(render_vertex_colours(vertices, faces, colours.float() / 255, camera), picture)
    with pytest.raises(ValueError, match="colours must have shape"):
        render_vertex_colours(vertices, faces, colours[:5], camera)


def test_odd_sizes_and_an_empty_view_work(ball, camera):
    vertices, faces = ball
    small = camera.resized(33, 41)
    assert render_shaded(vertices, faces, small).shape == (33, 41, 3)
    behind = vertices * torch.tensor([1.0, 1.0, -1.0])
    assert (render_shaded(behind, faces, camera) == 255).all()
    assert not render_mask(behind, faces, camera).any()
    with pytest.raises(ValueError, match="supersample must be at least 1"):
        render_shaded(vertices, faces, camera, supersample=0)


def test_turntable_keeps_the_whole_mesh_in_every_view():
    mesh = trimesh.creation.box((1.4, 1.7, 0.3))
    vertices = torch.tensor(np.asarray(mesh.vertices)).float() + torch.tensor([0.1, -0.3, 0.05])
    faces = torch.tensor(np.asarray(mesh.faces))
    views = list(turntable(vertices, faces, 6, 96, 72, background=None))
    assert len(views) == 6
    for view in views:
        alpha = view[..., 3] > 0
        assert alpha.any()
        assert alpha[1:-1, 1:-1].sum() == alpha.sum()
    assert (views[0][..., 3] > 0).any(1).sum() > 60  # it fills the picture


def test_turntable_begins_with_the_front_and_shows_the_left_side_next():
    """A bar reaching towards the model's left (+x) and a smaller one towards its front (+z)."""
    bars = []
    for size, middle in (((0.6, 0.2, 0.2), (0.4, 0.0, 0.0)), ((0.2, 1.2, 0.2), (0.0, 0.0, 0.0))):
        mesh = trimesh.creation.box(size)
        mesh.apply_translation(middle)
        bars.append(mesh)
    mesh = trimesh.util.concatenate(bars)
    vertices, faces = torch.tensor(np.asarray(mesh.vertices)).float(), torch.tensor(np.asarray(mesh.faces))
    front, quarter = list(turntable(vertices, faces, 4, 64, 64, background=None))[:2]
    row = front[32, :, 3] > 0
    column = np.flatnonzero(front[10, :, 3] > 0).mean()
    assert np.flatnonzero(row).max() - column > 3 * (column - np.flatnonzero(row).min())  # seen from the front: right
    assert (quarter[32, :, 3] > 0).sum() < row.sum()


def test_orbit_camera_faces_the_front():
    vertices = torch.tensor([[0.0, -1, 0], [0, 1, 0], [0.3, 0, 0.2]])
    camera = orbit_camera(vertices, 100, 80)
    u, v, z = camera.project(torch.tensor([[0.15, 0.0, 0.1], [0.25, 0.0, 0.1], [0.15, 0.1, 0.1]])).unbind(-1)
    assert u[0].item() == pytest.approx(39.5, abs=1e-3)
    assert v[0].item() == pytest.approx(49.5, abs=1e-3)
    assert u[1] > u[0]  # +x, the model's left, is on the right
    assert v[2] < v[0]
    assert z.min() > 0


def test_contact_strip_lays_pictures_out():
    pictures = [np.full((2, 3, 3), shade, np.uint8) for shade in (10, 20, 30)]
    assert contact_strip(pictures).shape == (2, 9, 3)
    grid = contact_strip(pictures, columns=2)
    assert grid.shape == (4, 6, 3)
    assert grid[0, 5, 0] == 20
    assert grid[3, 0, 0] == 30
    assert grid[3, 5, 0] == 255
    with pytest.raises(ValueError, match="one shape"):
        contact_strip([pictures[0], pictures[0][:1]])
    with pytest.raises(ValueError, match="one shape"):
        contact_strip([])


def test_person_box_holds_every_mask():
    first, second = np.zeros((2, 50, 40), bool)
    first[10:20, 5:10] = True
    second[30:41, 12:14] = True
    rows, columns = person_box([first, second], margin=0.1)
    assert (rows, columns) == (slice(7, 44), slice(2, 17))
    assert person_box([np.zeros((5, 6), bool)]) == (slice(0, 5), slice(0, 6))


def test_outline_is_drawn_on_a_copy():
    image = np.zeros((20, 20, 3), np.uint8)
    mask = np.zeros((20, 20), bool)
    mask[5:15, 5:15] = True
    drawn = draw_outline(image, mask, colour=(255, 0, 0))
    assert drawn[5, 10, 0] > 200
    assert (drawn[10, 10] == 0).all()
    assert (image == 0).all()
