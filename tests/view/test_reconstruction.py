import copy

import pytest
import torch
from torch.nn.functional import normalize

from selfrecon_warp.model.appearance import Appearance
from selfrecon_warp.view.reconstruction import Reconstruction
from selfrecon_warp.view.render import Canvas

CELL, RADIUS = 0.05, 0.25


class Recorder(Appearance):
    """Remembers what it is asked for."""

    def forward(self, points, directions, normals, feature, codes):
        assert len(feature) == len(points)
        assert codes is None
        self.points, self.directions, self.normals = points.cpu(), directions.cpu(), normals.cpu()
        return points.clamp(0, 1)


@pytest.fixture
def reconstruction(sphere, device) -> Reconstruction:
    """Its avatar may be spoiled."""
    return Reconstruction(copy.deepcopy(sphere.avatar).to(device), CELL)


@pytest.fixture
def recorder(reconstruction) -> Recorder:
    reconstruction.avatar.appearance = Recorder()
    return reconstruction.avatar.appearance


def test_mesh_is_the_zero_set(sphere, reconstruction):
    distance = (reconstruction.vertices.cpu() - sphere.centre).norm(dim=-1)
    torch.testing.assert_close(distance, torch.full_like(distance, RADIUS), atol=2e-3, rtol=0)


def test_frames_move_the_mesh_as_the_avatar_says(sphere, reconstruction):
    posed = reconstruction.posed([0, 2]).cpu()
    for vertices, frame in zip(posed, (0, 2), strict=True):
        expected = (reconstruction.vertices.cpu() - sphere.centre) @ sphere.rotations[frame].T + sphere.centres[frame]
        torch.testing.assert_close(vertices, expected, atol=1e-5, rtol=0)


def test_jacobians_match_the_deformations_own(sphere, reconstruction, device):
    torch.manual_seed(0)
    avatar, frames = reconstruction.avatar, [0, 1]
    avatar.poses[:, 1:3] += 0.4
    avatar.codes.normal_(std=0.3)
    found = reconstruction.jacobians(frames, reconstruction.posed(frames))
    points = reconstruction.vertices.expand(2, -1, -1)
    _, expected, _ = avatar.deformation.with_jacobian(
        points, avatar.codes[frames], avatar.bones(torch.tensor(frames).to(device))
    )
    assert (found - expected).abs().mean() < 0.01
    assert (expected.cpu() - sphere.rotations[frames][:, None]).abs().mean() > 0.03  # there was something to find


@pytest.mark.parametrize("frame", [0, 1])
def test_pixels_are_coloured_where_their_ray_meets_the_field(sphere, reconstruction, recorder, frame):
    posed = reconstruction.posed([frame])
    canvas = Canvas(posed[0], reconstruction.faces, reconstruction.avatar.camera, 2)
    index = reconstruction.pixel_colours(canvas, reconstruction.jacobians([frame], posed)[0])[0].cpu()

    hit, points = (values.flatten(0, 1) for values in sphere.meets(frame))
    outward = normalize(points - sphere.centre, dim=-1)
    rays = sphere.avatar.camera.rays(torch.stack((index % 71, index // 71), -1)) @ sphere.rotations[frame]
    inside = hit[index] & ((outward[index] * rays).sum(-1) < -0.5)
    assert inside.sum() > 300
    error = (recorder.points - points[index])[inside].norm(dim=-1)
    assert error.max() < 1e-3  # the mesh itself is 1.6 mm off at its worst
    torch.testing.assert_close(recorder.directions[inside], rays[inside], atol=2e-3, rtol=0)
    assert ((recorder.normals * outward[index])[inside].sum(-1) > 0.99).all()


def test_every_pixel_that_shows_the_mesh_is_coloured(sphere, reconstruction):
    posed = reconstruction.posed([0])
    canvas = Canvas(posed[0], reconstruction.faces, reconstruction.avatar.camera, 2)
    index, colours = reconstruction.pixel_colours(canvas, reconstruction.jacobians([0], posed)[0])
    picture = canvas.painted(index, colours, background=None)
    assert (picture[..., 3] > 0).sum() == len(index) == len(colours)
    assert abs(int((picture[..., 3] > 127).sum()) - int(sphere.meets(0)[0].sum())) < 30


def test_vertices_are_seen_from_outside(sphere, reconstruction, recorder):
    colours = reconstruction.vertex_colours()
    assert colours.shape == reconstruction.vertices.shape
    outward = normalize(reconstruction.vertices.cpu() - sphere.centre, dim=-1)
    assert ((recorder.normals * outward).sum(-1) > 0.99).all()
    torch.testing.assert_close(recorder.directions, -recorder.normals)


def test_batches_hold_every_frame_once(reconstruction):
    assert [frame for batch in reconstruction.batches(range(100)) for frame in batch] == list(range(100))
