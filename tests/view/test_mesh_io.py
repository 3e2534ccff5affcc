import pytest
import torch
import trimesh

from selfrecon_warp.errors import RunError
from selfrecon_warp.view.mesh_io import read_ply, write_ply

VERTICES = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1.25]])  # one vertex twice, kept
FACES = torch.tensor([[0, 1, 2], [0, 3, 4]])


def test_a_mesh_comes_back_unchanged(tmp_path):
    write_ply(tmp_path / "new" / "a.ply", VERTICES, FACES.int())
    mesh = read_ply(tmp_path / "new" / "a.ply")
    assert torch.equal(mesh.vertices, VERTICES)
    assert torch.equal(mesh.faces, FACES)
    assert mesh.colours is None
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.ply"]


def test_colours_come_back_and_other_readers_see_them(tmp_path):
    colours = torch.tensor([[0.0, 0.5, 1.0]]).expand(5, 3) * torch.linspace(0, 1, 5)[:, None]
    write_ply(tmp_path / "a.ply", VERTICES.double(), FACES, colours)
    expected = (colours * 255).round().to(torch.uint8)
    mesh = read_ply(tmp_path / "a.ply")
    assert mesh.colours is not None
    assert torch.equal(mesh.colours, expected)
    write_ply(tmp_path / "b.ply", VERTICES, FACES, expected)
    assert (tmp_path / "b.ply").read_bytes() == (tmp_path / "a.ply").read_bytes()
    other = trimesh.load(tmp_path / "a.ply", process=False)
    assert other.visual.vertex_colors[:, :3].tolist() == expected.tolist()


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"faces must have shape \[F, 3\]"):
        write_ply("unused", VERTICES, FACES[:, :2])
    with pytest.raises(ValueError, match=r"colours must have shape \[V=5, 3\]"):
        write_ply("unused", VERTICES, FACES, torch.zeros(4, 3))


def test_bad_files_are_named(tmp_path):
    with pytest.raises(RunError, match=r"a\.ply is missing"):
        read_ply(tmp_path / "a.ply")
    (tmp_path / "a.ply").write_bytes(b"nothing of the kind")
    with pytest.raises(RunError, match=r"a\.ply is damaged"):
        read_ply(tmp_path / "a.ply")
    write_ply(tmp_path / "b.ply", VERTICES, FACES)
    (tmp_path / "b.ply").write_bytes((tmp_path / "b.ply").read_bytes()[:-20])
    with pytest.raises(RunError, match=r"b\.ply"):
        read_ply(tmp_path / "b.ply")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be written"):
        write_ply(tmp_path / "file" / "c.ply", VERTICES, FACES)
