import numpy as np
import pytest
import torch
import trimesh

from selfrecon_warp.surface.sewing import clip, zip_loops


def sphere(subdivisions=3):
    mesh = trimesh.creation.icosphere(subdivisions)
    return torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces)


def length(loop, vertices):
    corners = vertices.numpy()[loop]
    return np.linalg.norm(corners - np.roll(corners, -1, axis=0), axis=1).sum()


def test_what_is_below_stays_and_ends_at_the_level():
    vertices, faces = sphere(4)
    clipped = clip(vertices, faces, vertices[:, 2] - 0.3)
    used = clipped.vertices[clipped.faces.unique()]
    assert used[:, 2].max().item() == pytest.approx(0.3, abs=1e-12)
    assert torch.equal(clipped.vertices[: len(vertices)], vertices)
    kept = trimesh.Trimesh(clipped.vertices.numpy(), clipped.faces.numpy(), process=False)
    assert kept.is_winding_consistent
    assert kept.area == pytest.approx(2 * np.pi * 1.3, rel=3e-3)
    assert (kept.face_normals * kept.triangles_center).sum(1).min() > 0.99


def test_the_loop_runs_once_around_the_cut_as_the_faces_do():
    vertices, faces = sphere(4)
    clipped = clip(vertices, faces, vertices[:, 2] - 0.3)
    (loop,) = clipped.loops
    assert length(loop, clipped.vertices) == pytest.approx(2 * np.pi * np.sqrt(1 - 0.09), rel=5e-3)
    sides = {tuple(side) for face in clipped.faces.tolist() for side in zip(face, face[1:] + face[:1], strict=True)}
    walked = set(zip(loop.tolist(), np.roll(loop, -1).tolist(), strict=True))
    assert walked <= sides
    assert not {(b, a) for a, b in walked} & sides


def test_a_level_through_two_bodies_gives_two_loops_and_none_gives_none():
    vertices, faces = sphere()
    both = torch.cat([vertices, vertices + torch.tensor([3.0, 0.0, 0.0])])
    pair = torch.cat([faces, faces + len(vertices)])
    assert len(clip(both, pair, both[:, 2] - 0.1).loops) == 2
    whole = clip(both, pair, both[:, 2] - 2.0)
    assert whole.loops == []
    assert torch.equal(whole.faces, pair)
    assert len(clip(both, pair, both[:, 2] + 2.0).faces) == 0


@pytest.mark.parametrize("turn", [0.0, 1.0])
def test_zipping_two_cuts_closes_the_surface(turn):
    vertices, faces = sphere()
    below = clip(vertices, faces, vertices[:, 2] - 0.05)
    c, s = np.cos(turn), np.sin(turn)
    turned = vertices @ torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64).T
    above = clip(turned, faces, 0.1 - turned[:, 2])
    strip = zip_loops(
        below.vertices.numpy(), below.loops[0], above.vertices.numpy(), above.loops[0][::-1], len(below.vertices)
    )
    assert len(strip) == len(below.loops[0]) + len(above.loops[0])
    joined = trimesh.Trimesh(
        np.concatenate([below.vertices.numpy(), above.vertices.numpy()]),
        np.concatenate([below.faces.numpy(), strip, above.faces.numpy() + len(below.vertices)]),
        process=False,
    )
    assert joined.is_watertight
    assert joined.is_winding_consistent
    assert joined.volume == pytest.approx(4 / 3 * np.pi, rel=0.03)
