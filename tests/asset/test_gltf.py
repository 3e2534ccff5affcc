import dataclasses

import cv2
import numpy as np
import pytest
from glb_file import Glb
from rigged_meshes import FRAMES, make_rigged

from selfrecon_warp.asset.gltf import glb_bytes, linear_colours, quaternions
from selfrecon_warp.asset.morphs import principal_morphs
from selfrecon_warp.asset.rigged import RiggedMesh
from selfrecon_warp.asset.seams import split_at_seams


def posed(rigged: RiggedMesh, frame: int, displacement=0.0) -> np.ndarray:
    """Ours, doubled at the seams as in the file."""
    vertices = rigged.vertices + displacement
    split = split_at_seams(rigged).source
    return rigged.posed(rigged.poses[[frame]], rigged.trans[[frame]], vertices)[0][split]


@pytest.mark.parametrize("textured", [False, True])
@pytest.mark.parametrize("influences", [4, 8])
def test_every_frame_is_posed_as_ours(textured, influences):
    rigged = make_rigged(textured=textured).with_influences(influences)
    glb = Glb(glb_bytes(rigged, influences=influences))
    for frame in range(FRAMES):
        np.testing.assert_allclose(glb.posed(frame), posed(rigged, frame), atol=2e-6)


def test_a_second_set_of_joints_only_on_request():
    rigged = make_rigged()
    assert "JOINTS_1" not in Glb(glb_bytes(rigged)).primitive["attributes"]
    assert "WEIGHTS_1" in Glb(glb_bytes(rigged, influences=8)).primitive["attributes"]


def test_weights_sum_to_one_and_unused_joints_are_joint_zero():
    glb = Glb(glb_bytes(make_rigged(), influences=8))
    joints = np.concatenate([glb.attribute(f"JOINTS_{g}") for g in range(2)], 1)
    weights = np.concatenate([glb.attribute(f"WEIGHTS_{g}") for g in range(2)], 1)
    np.testing.assert_allclose(weights.sum(1), 1.0, atol=1e-6)
    assert (joints[weights == 0] == 0).all()
    assert (weights[:, 6:] == 0).all()


def test_joints_rest_where_they_are_bound():
    rigged = make_rigged()
    glb = Glb(glb_bytes(rigged))
    (skin,) = glb.json["skins"]
    rest = glb.globals()[skin["joints"]]
    np.testing.assert_allclose(rest, rigged.bind, atol=1e-9)
    inverse = glb.accessor(skin["inverseBindMatrices"])
    np.testing.assert_allclose(inverse @ rest, np.tile(np.eye(4), (len(rest), 1, 1)), atol=1e-6)
    assert (inverse[:, 3] == (0, 0, 0, 1)).all()
    np.testing.assert_allclose(glb.posed(), rigged.vertices, atol=1e-6)


def test_joints_have_names_and_parents():
    rigged = make_rigged()
    glb = Glb(glb_bytes(rigged))
    nodes = glb.json["nodes"]
    assert tuple(nodes[joint]["name"] for joint in glb.json["skins"][0]["joints"]) == rigged.joint_names
    for joint, parent in enumerate(rigged.parents[1:], 1):
        assert joint in nodes[parent]["children"]


def test_rotations_are_unit_and_never_jump():
    steps = np.linspace(0, 4 * np.pi, 50)  # two turns, past the angle where quaternions change sign
    poses = np.zeros((50, 6, 3), np.float32)
    poses[:, :, 1] = np.remainder(steps + np.pi, 2 * np.pi)[:, None] - np.pi
    rigged = dataclasses.replace(make_rigged(frames=50), poses=poses)
    turned = quaternions(rigged)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), 1.0, atol=1e-6)
    assert ((turned[1:] * turned[:-1]).sum(-1) > 0.9).all()


def test_the_motion_has_a_key_a_frame():
    glb = Glb(glb_bytes(make_rigged(), motion_name="walk"))
    assert glb.json["animations"][0]["name"] == "walk"
    tracks = glb.tracks()
    assert {path for _, path in tracks} == {"rotation", "translation"}
    for times, values in tracks.values():
        np.testing.assert_allclose(times, np.arange(FRAMES) / 25.0, atol=1e-6)
        assert len(values) == FRAMES


def test_bounds_and_targets_are_told():
    glb = Glb(glb_bytes(make_rigged(textured=True)))
    attributes = glb.primitive["attributes"]
    accessors, views = glb.json["accessors"], glb.json["bufferViews"]
    assert "min" in accessors[attributes["POSITION"]]
    assert "min" in accessors[glb.json["animations"][0]["samplers"][0]["input"]]
    assert {views[accessors[index]["bufferView"]]["target"] for index in attributes.values()} == {34962}
    assert views[accessors[glb.primitive["indices"]]["bufferView"]]["target"] == 34963
    for index in range(len(accessors)):
        assert np.isfinite(glb.accessor(index)).all()


def test_faces_are_ours_and_outward():
    rigged = make_rigged(textured=True)
    glb = Glb(glb_bytes(rigged))
    faces = glb.accessor(glb.primitive["indices"]).reshape(-1, 3).astype(int)
    assert np.array_equal(split_at_seams(rigged).source[faces], rigged.faces)
    uv = glb.attribute("TEXCOORD_0")
    assert np.array_equal(uv[faces], rigged.texcoords[rigged.face_texcoords])


@pytest.mark.parametrize(("image", "tolerance"), [("png", 0), ("jpeg", 6)])
def test_textures_are_embedded(image, tolerance):
    rigged = make_rigged(textured=True)
    glb = Glb(glb_bytes(rigged, image=image))
    (material,) = glb.json["materials"]
    surface = material["pbrMetallicRoughness"]
    for texture, expected, allowed, mime in (
        (surface["baseColorTexture"], rigged.texture, tolerance, f"image/{image}"),
        (material["normalTexture"], rigged.normal_map, 0, "image/png"),
    ):
        picture = glb.json["images"][glb.json["textures"][texture["index"]]["source"]]
        assert picture["mimeType"] == mime
        found = cv2.imdecode(np.frombuffer(glb.view(picture["bufferView"]), np.uint8), cv2.IMREAD_COLOR_RGB)
        assert np.abs(found.astype(int) - expected).max() <= allowed
    assert "COLOR_0" not in glb.primitive["attributes"]


def test_tangents_come_with_a_normal_map_and_follow_the_texture():
    rigged = make_rigged(textured=True)
    glb = Glb(glb_bytes(rigged))
    tangents, normals = glb.attribute("TANGENT"), glb.attribute("NORMAL")
    np.testing.assert_allclose(np.linalg.norm(tangents[:, :3], axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose((tangents[:, :3] * normals).sum(1), 0.0, atol=1e-5)
    assert set(np.unique(tangents[:, 3])) == {-1.0, 1.0}
    sides = np.abs(normals[:, 2]) > 0.5
    assert (tangents[sides, 0] > 0.5).all()  # u grows along x on both charts
    assert "TANGENT" not in Glb(glb_bytes(dataclasses.replace(rigged, normal_map=None))).primitive["attributes"]


def test_vertex_colours_are_linear_light():
    rigged = make_rigged()
    colours = Glb(glb_bytes(rigged)).attribute("COLOR_0")
    np.testing.assert_allclose(colours[:, :3], linear_colours(rigged.vertex_colours), atol=1e-5)
    assert (colours[:, 3] == 1).all()
    assert linear_colours(np.array([0, 188, 255])) == pytest.approx([0, 0.5029, 1], abs=1e-4)


def test_unlit_is_an_extension_that_is_declared():
    plain, unlit = Glb(glb_bytes(make_rigged())), Glb(glb_bytes(make_rigged(), unlit=True))
    assert "extensionsUsed" not in plain.json
    assert unlit.json["extensionsUsed"] == ["KHR_materials_unlit"]
    assert "KHR_materials_unlit" in unlit.json["materials"][0]["extensions"]


def test_an_open_mesh_is_seen_from_both_sides():
    closed = make_rigged()
    opened = dataclasses.replace(closed, faces=closed.faces[3:])
    assert "doubleSided" not in Glb(glb_bytes(closed)).json["materials"][0]
    assert Glb(glb_bytes(opened)).json["materials"][0]["doubleSided"] is True


def test_morph_targets_follow_the_motion():
    rigged = make_rigged().with_influences(4)
    random = np.random.default_rng(1)
    displacements = 0.05 * random.normal(size=(FRAMES, len(rigged.vertices), 3))
    morphs = principal_morphs(displacements, FRAMES)
    glb = Glb(glb_bytes(rigged, morphs=morphs))
    assert glb.json["meshes"][0]["weights"] == [0.0] * FRAMES
    np.testing.assert_allclose(glb.posed(), rigged.vertices, atol=1e-6)
    for frame in range(FRAMES):
        np.testing.assert_allclose(glb.posed(frame), posed(rigged, frame, displacements[frame]), atol=2e-6)


def test_morph_targets_turn_the_normals():
    rigged = make_rigged()
    grown = 0.3 * (rigged.vertices - (0.0, 1.0, 0.1))[None]
    flattened = grown * (0.0, 0.0, -3.0)
    glb = Glb(glb_bytes(dataclasses.replace(rigged, poses=rigged.poses[:1], trans=rigged.trans[:1]), morphs=None))
    for displacement, changes in ((grown, False), (flattened, True)):
        morphs = principal_morphs(displacement, 1)
        glb = Glb(glb_bytes(rigged.with_motion(rigged.poses[:1], rigged.trans[:1], 25), morphs=morphs))
        (target,) = glb.primitive["targets"]
        assert (np.abs(glb.accessor(target["NORMAL"])).max() > 0.1) == changes


def test_a_mesh_without_motion_is_still_a_file():
    rigged = make_rigged()
    glb = Glb(glb_bytes(rigged.with_motion(rigged.poses[:0], rigged.trans[:0], 25)))
    assert "animations" not in glb.json
    np.testing.assert_allclose(glb.posed(), rigged.vertices, atol=1e-6)


def test_large_meshes_get_large_indices():
    rigged = make_rigged(subdivisions=6, frames=1)
    glb = Glb(glb_bytes(make_rigged(frames=1)))
    assert glb.json["accessors"][glb.primitive["indices"]]["componentType"] == 5123
    repeated = np.concatenate([rigged.vertices, rigged.vertices])[:70000]
    big = dataclasses.replace(
        rigged,
        vertices=repeated,
        normals=np.concatenate([rigged.normals] * 2)[:70000],
        weights=np.concatenate([rigged.weights] * 2)[:70000],
        vertex_colours=None,
        faces=rigged.faces + (70000 - len(rigged.vertices)),
    )
    glb = Glb(glb_bytes(big))
    assert glb.json["accessors"][glb.primitive["indices"]]["componentType"] == 5125
    assert glb.accessor(glb.primitive["indices"]).max() == 69999


def test_vertices_without_normal_get_one():
    rigged = make_rigged()
    normals = rigged.normals.copy()
    normals[0] = 0
    found = Glb(glb_bytes(dataclasses.replace(rigged, normals=normals))).attribute("NORMAL")
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)


def test_extras_are_told():
    assert Glb(glb_bytes(make_rigged(), extras={"scale": 2})).json["asset"]["extras"] == {"scale": 2}


def test_wrong_choices_are_refused():
    rigged = make_rigged()
    morphs = principal_morphs(np.ones((FRAMES, 5, 3)), 1)
    for choices, expected in (
        ({"influences": 5}, "influences must be 4 or 8"),
        ({"image": "webp"}, "image must be jpeg or png"),
        ({"morphs": morphs}, "morphs must have shapes"),
    ):
        with pytest.raises(ValueError, match=expected):
            glb_bytes(rigged, **choices)
