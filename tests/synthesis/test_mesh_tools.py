import numpy as np
import pytest

from selfrecon_warp.synthesis.layers import lattice
from selfrecon_warp.synthesis.mesh_tools import (
    Mesh,
    border_edges,
    clip,
    edges,
    extrude_border,
    smooth_mesh,
    subdivide,
    surface_nets,
    vertex_normals,
)


def ball(cell: float = 0.1) -> Mesh:
    points, size = lattice(np.full(3, -1.3), np.full(3, 1.3), cell)
    return surface_nets((np.linalg.norm(points, axis=1) - 1).reshape(size), np.full(3, -1.3), cell)


def test_surface_nets_close_a_ball_facing_outwards() -> None:
    mesh = ball()
    assert not len(border_edges(mesh.faces))
    assert len(mesh.vertices) - len(edges(mesh.faces)) + len(mesh.faces) == 2
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), 1, atol=0.02)
    assert (vertex_normals(*mesh) * mesh.vertices).sum(1).min() > 0.9


def test_clip_cuts_along_the_zero_line() -> None:
    mesh = ball()
    half = clip(mesh, mesh.vertices[:, 1] + 0.031)
    assert half.vertices[:, 1].min() == pytest.approx(-0.031, abs=1e-4)
    rim = half.vertices[np.unique(border_edges(half.faces))]
    np.testing.assert_allclose(rim[:, 1], -0.031, atol=1e-4)


def test_subdivision_rounds_without_moving_vertices() -> None:
    mesh = ball(0.25)
    finer, (height,) = subdivide(mesh, mesh.vertices[:, 1])
    assert len(finer.faces) == 4 * len(mesh.faces)
    np.testing.assert_array_equal(finer.vertices[: len(mesh.vertices)], mesh.vertices)
    coarse_error = np.abs(
        np.linalg.norm((mesh.vertices[mesh.faces[:, 0]] + mesh.vertices[mesh.faces[:, 1]]) / 2, axis=1) - 1
    )
    fine_error = np.abs(np.linalg.norm(finer.vertices[len(mesh.vertices) :], axis=1) - 1)
    assert fine_error.mean() < coarse_error.mean()
    assert np.abs(height - finer.vertices[:, 1]).max() < 0.05


def test_smoothing_keeps_the_size() -> None:
    mesh = ball()
    rough = Mesh(mesh.vertices + 0.02 * np.random.default_rng(0).standard_normal(mesh.vertices.shape), mesh.faces)
    smooth = smooth_mesh(rough, 5)
    radius = np.linalg.norm(smooth.vertices, axis=1)
    assert radius.mean() == pytest.approx(1, abs=0.02)
    assert radius.std() < 0.6 * np.linalg.norm(rough.vertices, axis=1).std()


@pytest.mark.parametrize("turned", [False, True])
def test_extruded_strip_faces_the_side_it_shows(turned: bool) -> None:
    mesh = ball()
    half = clip(mesh, mesh.vertices[:, 1])
    profile = [(0.0, -0.02), (0.1, 0.0), (0.1, 0.05)] if turned else [(0.05, 0.0), (0.1, 0.0)]
    grown, origin = extrude_border(half, profile, np.ones(len(half.vertices)), turned)
    assert len(origin) == len(grown.vertices) - len(half.vertices)
    assert grown.vertices[:, 1].min() == pytest.approx(-0.1, abs=0.02)
    strip = grown.faces[len(half.faces) :][:, :3]
    a, b, c = (grown.vertices[strip[:, k]] for k in range(3))
    across = np.cross(b - a, c - a)
    radial = (across * a * (1, 0, 1)).sum(1)
    sheet = len(strip) // len(profile) if not turned else len(strip) // 2
    assert ((radial[:sheet] > 0) != turned).mean() > 0.95
