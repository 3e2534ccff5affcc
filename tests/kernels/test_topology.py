import pytest
import torch
from mesh_operations import ball, cube, fine, sheets, strip

from selfrecon_warp.kernels.reference import topology as reference
from selfrecon_warp.kernels.topology import mesh_topology


@pytest.mark.parametrize("scene", [cube, ball, sheets, strip])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_matches_reference(device, scene, dtype):
    vertices, faces = scene(device)
    V = vertices.shape[-2]
    found, expected = mesh_topology(faces.to(dtype), V), reference.mesh_topology(faces, V)
    torch.testing.assert_close(tuple(found), tuple(expected))


def test_a_vertex_of_very_many_faces_is_sorted_too(device):
    """Beyond what is sorted by insertion: fans around the first, the last and a vertex between."""
    generator = torch.Generator().manual_seed(0)
    rim = torch.randperm(299, generator=generator) + 1
    fans = [torch.stack([torch.full((298,), hub), rim[:-1], rim[1:]], 1) for hub in (0, 300, 150)]
    faces = torch.cat(fans)[torch.randperm(3 * 298, generator=generator)].to(device)
    found, expected = mesh_topology(faces, 301), reference.mesh_topology(faces, 301)
    torch.testing.assert_close(tuple(found), tuple(expected))


def test_a_cube_is_closed(device):
    _, faces = cube(device)
    topology = mesh_topology(faces, 8)
    assert len(topology.edges) == topology.pair_count == 18
    assert int(topology.neighbour_count.sum()) == 36
    assert torch.equal(topology.next_side[topology.next_side.long()], torch.arange(36, device=device).int())


def test_an_edge_of_three_faces_has_three_pairs(device):
    faces = torch.tensor([[0, 1, 2], [0, 1, 3], [1, 0, 4]], device=device)
    topology = mesh_topology(faces, 5)
    assert topology.pair_count == 3
    assert topology.neighbour_count.tolist() == [4, 4, 2, 2, 2]


@pytest.mark.parametrize("vertex_count", [0, 3])
def test_empty_input(device, vertex_count):
    topology = mesh_topology(torch.zeros(0, 3, dtype=torch.int64, device=device), vertex_count)
    assert topology.edges.shape == (0, 2)
    assert topology.neighbour_count.tolist() == [0] * vertex_count
    assert topology.pair_count == 0


def test_strided_input(device):
    _, faces = ball(device)
    wide = faces.repeat_interleave(2, 1)[:, ::2]
    assert not wide.is_contiguous()
    torch.testing.assert_close(tuple(mesh_topology(wide, 162)), tuple(mesh_topology(faces, 162)))


def test_threads_do_not_change_the_result(device, threads):
    vertices, faces = fine(device)
    results = []
    for count in (1, 2):
        threads(count)
        results.append(mesh_topology(faces, vertices.shape[1]))
    torch.testing.assert_close(tuple(results[0]), tuple(results[1]), rtol=0, atol=0)


def test_names_what_is_wrong(device):
    _, faces = ball(device)
    for call, message in (
        (lambda: mesh_topology(faces[:, :2], 162), r"faces must have shape \[F, 3\], got \[320, 2\]"),
        (lambda: mesh_topology(faces.double(), 162), "faces must be int32 or int64"),
        (lambda: mesh_topology(faces, 161), "faces must hold indices from 0 to 160, got 0 to 161"),
        (lambda: mesh_topology(faces - 1, 162), "faces must hold indices from 0 to 161, got -1 to 160"),
        (lambda: mesh_topology(faces + 2**32, 162), "faces must hold indices from 0 to 161, got 4294967296"),
        (lambda: mesh_topology(faces, -1), "vertex_count must not be negative, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
