import dataclasses

import numpy as np
import trimesh
from rigged_meshes import make_rigged

from selfrecon_warp.asset.static import colours_from_texture, write_coloured_ply, write_obj
from selfrecon_warp.capture.image_file import read_image


def rows(path, keyword):
    lines = [line.split()[1:] for line in path.read_text().splitlines() if line.split()[0] == keyword]
    return np.array([[float(value) for value in line] for line in lines])


def test_a_textured_obj_names_its_material_and_pictures(tmp_path):
    rigged = make_rigged(textured=True)
    path = tmp_path / "avatar.obj"
    write_obj(path, rigged, rigged.vertices)
    assert {file.name for file in tmp_path.iterdir()} == {
        "avatar.obj",
        "avatar.mtl",
        "avatar_texture.png",
        "avatar_normal_map.png",
    }
    np.testing.assert_allclose(rows(path, "v"), rigged.vertices, atol=1e-5)
    upward = rows(path, "vt")
    np.testing.assert_allclose(upward, np.c_[rigged.texcoords[:, 0], 1 - rigged.texcoords[:, 1]], atol=1e-5)
    faces = [line.split()[1:] for line in path.read_text().splitlines() if line.startswith("f ")]
    corners = np.array([[[int(i) for i in corner.split("/")] for corner in face] for face in faces]) - 1
    assert np.array_equal(corners[..., 0], rigged.faces)
    assert np.array_equal(corners[..., 1], rigged.face_texcoords)
    assert np.array_equal(read_image(tmp_path / "avatar_texture.png"), rigged.texture)
    loaded = trimesh.load(path, process=False)
    assert loaded.visual.material.image.size == (64, 64)


def test_normals_point_outward(tmp_path):
    rigged = make_rigged()
    write_obj(tmp_path / "avatar.obj", rigged, rigged.vertices)
    assert ((rows(tmp_path / "avatar.obj", "vn") * rigged.normals).sum(1) > 0.9).all()


def test_an_untextured_obj_has_coloured_vertices(tmp_path):
    rigged = make_rigged()
    write_obj(tmp_path / "avatar.obj", rigged, rigged.vertices)
    values = rows(tmp_path / "avatar.obj", "v")
    np.testing.assert_allclose(255 * values[:, 3:], rigged.vertex_colours, atol=0.01)
    plain = dataclasses.replace(rigged, vertex_colours=None)
    write_obj(tmp_path / "plain.obj", plain, rigged.vertices)
    assert rows(tmp_path / "plain.obj", "v").shape[1] == 3


def test_ply_keeps_colours_and_order(tmp_path):
    rigged = make_rigged()
    write_coloured_ply(tmp_path / "avatar.ply", rigged, rigged.vertices)
    loaded = trimesh.load(tmp_path / "avatar.ply", process=False)
    np.testing.assert_allclose(loaded.vertices, rigged.vertices, atol=1e-7)
    assert np.array_equal(loaded.visual.vertex_colors[:, :3], rigged.vertex_colours)


def test_a_textures_colours_reach_the_vertices():
    rigged = make_rigged(textured=True)
    found = colours_from_texture(rigged).astype(int)
    seen = [set(rigged.face_texcoords[rigged.faces == v]) for v in range(len(rigged.vertices))]
    for vertex, coords in enumerate(seen):
        expected = 4 * np.floor(64 * rigged.texcoords[sorted(coords)]).mean(0)
        if len(coords) == 1:
            assert np.abs(found[vertex, :2] - expected).max() <= 1
            assert found[vertex, 2] == 128
