import dataclasses

import numpy as np
import pytest
import torch
from rigged_meshes import make_rigged

from selfrecon_warp.asset.cloth_weights import cloth_weights
from selfrecon_warp.asset.rigged import RiggedMesh, rigged_from_run
from selfrecon_warp.errors import RunError
from selfrecon_warp.kernels.skinning import skin_points

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def fitted(sphere) -> RiggedMesh:
    return rigged_from_run(sphere.run, CPU)


def test_a_runs_mesh_is_posed_as_the_fits_bones_pose_it(fitted, sphere):
    bones = sphere.avatar.bones(torch.arange(3))
    vertices = torch.from_numpy(fitted.vertices)
    weights = cloth_weights(sphere.avatar, vertices, torch.from_numpy(fitted.faces))
    expected = skin_points(vertices, weights, bones).numpy()
    np.testing.assert_allclose(fitted.posed(fitted.poses, fitted.trans), expected, atol=2e-6)


def test_a_runs_mesh_names_smpls_joints_and_carries_colours(fitted):
    assert fitted.joint_names[:3] == ("pelvis", "left_hip", "right_hip")
    np.testing.assert_allclose(fitted.weights.sum(1), 1.0, atol=1e-6)
    assert np.abs(fitted.vertex_colours / 255 - (0.25, 0.5, 0.75)).max() < 0.005
    assert fitted.texture is None
    outward = fitted.vertices - fitted.vertices.mean(0)
    assert ((outward * fitted.normals).sum(1) > 0).all()


def test_the_canonical_pose_leaves_vertices_where_they_are(fitted, sphere):
    pose = sphere.avatar.canonical_body().pose.numpy()[None]
    np.testing.assert_allclose(fitted.posed(pose, np.zeros((1, 3)))[0], fitted.vertices, atol=1e-6)


def test_frames_one_by_one_are_the_frames_at_once():
    rigged = make_rigged(frames=11)
    assert np.array_equal(np.stack(list(rigged.posed_frames())), rigged.posed(rigged.poses, rigged.trans))


def test_other_canonical_positions_can_be_posed_a_frame_each():
    rigged = make_rigged()
    moved = rigged.vertices + np.linspace(0, 0.1, rigged.frame_count, dtype=np.float32)[:, None, None]
    together = rigged.posed(rigged.poses, rigged.trans, moved)
    alone = rigged.posed(rigged.poses[[4]], rigged.trans[[4]], moved[4])
    np.testing.assert_allclose(together[4], alone[0], atol=1e-7)


def test_fewer_influences_keep_the_strongest_and_sum_to_one():
    rigged = make_rigged()
    fewer = rigged.with_influences(2)
    assert ((fewer.weights > 0).sum(1) <= 2).all()
    np.testing.assert_allclose(fewer.weights.sum(1), 1.0, atol=1e-6)
    assert np.array_equal(fewer.weights.argmax(1), rigged.weights.argmax(1))
    assert rigged.with_influences(6) is rigged


@pytest.mark.parametrize("textured", [False, True])
def test_what_is_saved_is_loaded(tmp_path, textured):
    rigged = make_rigged(textured=textured)
    (tmp_path / "avatar").mkdir()
    (tmp_path / "avatar" / "stale").touch()
    rigged.save(tmp_path / "avatar")
    files = {file.name for file in (tmp_path / "avatar").iterdir()}
    assert files == {"mesh.npz"} | ({"texture.png", "normal_map.png"} if textured else set())
    loaded = RiggedMesh.load(tmp_path / "avatar")
    for field in dataclasses.fields(RiggedMesh):
        found, expected = getattr(loaded, field.name), getattr(rigged, field.name)
        assert np.array_equal(found, expected), field.name
        assert not isinstance(expected, np.ndarray) or found.dtype == expected.dtype


# ---- bad input ------------------------------------------------------------------------------------------------------


def spoil_missing(folder):
    (folder / "mesh.npz").unlink()


def spoil_truncated(folder):
    (folder / "mesh.npz").write_bytes((folder / "mesh.npz").read_bytes()[:1000])


def spoil_picture(folder):
    (folder / "texture.png").write_bytes((folder / "texture.png").read_bytes()[:100])


def rewrite(folder, **changes):
    with np.load(folder / "mesh.npz") as archive:
        arrays = dict(archive)
    np.savez(folder / "mesh.npz", **{k: v for k, v in (arrays | changes).items() if v is not None})


def spoil_pickled(folder):
    rewrite(folder, joint_names=np.array([{"a": 1}] * 6, object))


def spoil_shape(folder):
    rewrite(folder, trans=np.zeros((2, 3)))


def spoil_index(folder):
    rewrite(folder, faces=np.full((1, 3), 10**6), face_texcoords=np.zeros((1, 3)))


def spoil_tree(folder):
    rewrite(folder, parents=np.array([-1, 2, 1, 2, 0, 4]))


def spoil_names(folder):
    rewrite(folder, joint_names=None)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (spoil_missing, "mesh.npz is missing"),
        (spoil_truncated, "mesh.npz is damaged"),
        (spoil_picture, "texture.png is truncated"),
        (spoil_pickled, "Python objects"),
        (spoil_shape, "trans must have shape"),
        (spoil_index, "faces must lie in 0 ... 161"),
        (spoil_tree, "parents must begin with -1"),
        (spoil_names, "joint_names"),
    ],
)
def test_damaged_avatars_are_refused(tmp_path, spoil, expected):
    make_rigged(textured=True).save(tmp_path / "avatar")
    spoil(tmp_path / "avatar")
    with pytest.raises(RunError, match="selfrecon texture") as caught:
        RiggedMesh.load(tmp_path / "avatar")
    assert expected in str(caught.value)


def test_inconsistent_meshes_are_refused():
    rigged = make_rigged(textured=True)
    for changes, expected in (
        ({"joint_names": ("pelvis",)}, "joint_names must name 6 joints"),
        ({"texcoords": None}, "given together"),
        ({"texcoords": None, "face_texcoords": None}, "need texcoords"),
        ({"weights": rigged.weights[:, :3]}, "parents must have shape"),
    ):
        with pytest.raises(ValueError, match=expected):
            dataclasses.replace(rigged, **changes)
