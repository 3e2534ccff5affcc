import os
import shutil

import numpy as np
import pytest
import torch
import trimesh
from glb_file import Glb
from rigged_meshes import make_rigged
from typer.testing import CliRunner

from selfrecon_warp.asset import export
from selfrecon_warp.asset.export import SUFFIXES, ExportChoices, export_run
from selfrecon_warp.asset.rigged import AVATAR, RiggedMesh
from selfrecon_warp.cli import app
from selfrecon_warp.errors import RunError
from selfrecon_warp.train.run_folder import RunFolder

CPU = torch.device("cpu")
RADIUS = 0.25  # of the run's sphere [m]


@pytest.fixture
def run(sphere, tmp_path) -> RunFolder:
    return RunFolder(shutil.copytree(sphere.run.path, tmp_path / "run"))


@pytest.fixture
def textured(run) -> RunFolder:
    make_rigged(textured=True).save(run.path / AVATAR)
    return run


def call(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments), "--device", "cpu"])


def exported(run, *arguments):
    result = call(run.path, *arguments)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


def folder_names(folder):
    return {file.name for file in folder.iterdir()}


# ---- results --------------------------------------------------------------------------------------------------------


def test_a_run_becomes_a_glb_file_that_stands_upright(run):
    said = exported(run)
    assert "24 joints, 3 frames, vertex colours" in said
    assert folder_names(run.path / "export") == {"avatar.glb"}
    glb = Glb(run.path / "export" / "avatar.glb")
    assert "left_knee" in glb.node_names
    frames = np.stack([glb.posed(frame) for frame in range(3)])
    assert np.median(frames[..., 1].min(1)) == pytest.approx(0.0, abs=1e-4)
    assert frames[0].mean(0)[[0, 2]] == pytest.approx([0, 0], abs=2e-3)  # extracted in cells of 5 cm
    pelvis = glb.globals(0)[0]
    np.testing.assert_allclose(pelvis[:3, :3], np.eye(3), atol=1e-6)  # faces +z
    assert glb.posed()[:, 1].min() == pytest.approx(0.0, abs=1e-6)


def test_the_file_leads_back_into_the_capture(run, sphere):
    exported(run)
    glb = Glb(run.path / "export" / "avatar.glb")
    back = np.array(glb.json["asset"]["extras"]["capture_from_asset"])
    for frame in range(3):
        centre = glb.posed(frame).mean(0) @ back[:3, :3].T + back[:3, 3]
        assert centre == pytest.approx(sphere.centres[frame].numpy(), abs=2e-3)


@pytest.mark.parametrize("form", ["obj", "ply"])
def test_static_files_hold_the_canonical_pose_or_a_frame(run, form):
    said = exported(run, "--format", form)
    assert "joints" not in said
    exported(run, "--format", form, "--frame", 2, "--out", run.path / f"posed.{form}")
    canonical = trimesh.load(run.path / "export" / f"avatar.{form}", process=False)
    posed = trimesh.load(run.path / f"posed.{form}", process=False)
    assert len(canonical.vertices) == len(posed.vertices)
    for mesh in (canonical, posed):
        assert mesh.vertices[:, 1].min() == pytest.approx(0.0, abs=0.02)
        np.testing.assert_allclose(mesh.extents, 2 * RADIUS, atol=0.01)
    assert posed.vertices.mean(0)[0] == pytest.approx(0.2, abs=0.01)  # it moves 0.1 m a frame


def test_arrays_have_the_names_of_the_attributes(run):
    exported(run, "--format", "npz", "--morphs", 2)
    with np.load(run.path / "export" / "avatar.npz", allow_pickle=False) as archive:
        arrays = dict(archive)
    assert arrays["joint_names"][4] == "left_knee"
    np.testing.assert_allclose(arrays["bind"] @ arrays["inverse_bind"], np.tile(np.eye(4), (24, 1, 1)), atol=1e-9)
    assert arrays["morph_offsets"].shape == (2, *arrays["vertices"].shape)
    assert arrays["morph_weights"].shape == (3, 2)
    assert {"vertices", "faces", "weights", "poses", "trans", "frame_rate", "capture_from_asset"} <= set(arrays)


@pytest.mark.parametrize("suffix", ["usdz", "usda", "usdc"])
def test_usd_files(textured, tmp_path, suffix):
    pytest.importorskip("pxr", reason="needs usd-core: pip install 'selfrecon-warp[usd]'")
    exported(textured, "--format", "usd", "--out", tmp_path / "made" / f"a.{suffix}")
    pictures = set() if suffix == "usdz" else {"a_texture.jpg", "a_normal_map.png"}
    assert folder_names(tmp_path / "made") == {f"a.{suffix}"} | pictures


def test_the_textured_mesh_is_taken_where_there_is_one(textured):
    assert "162 vertices, 320 triangles, 6 joints, 7 frames, textured" in exported(textured)
    glb = Glb(textured.path / "export" / "avatar.glb")
    assert "TEXCOORD_0" in glb.primitive["attributes"]
    assert "3 frames, vertex colours" in exported(textured, "--untextured")


def test_choices_reach_the_file(run):
    exported(run, "--influences", 8, "--morphs", 2, "--unlit")
    glb = Glb(run.path / "export" / "avatar.glb")
    assert "JOINTS_1" in glb.primitive["attributes"]
    assert len(glb.primitive["targets"]) == 2
    assert glb.json["extensionsUsed"] == ["KHR_materials_unlit"]


def test_every_format_of_the_help_is_known():
    text = CliRunner().invoke(app, ["export", "-h"], env={"COLUMNS": "300"}).stdout
    assert "|".join(SUFFIXES) in text


# ---- FBX ------------------------------------------------------------------------------------------------------------


def fake_blender(folder, script):
    path = folder / "blender"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_blender_is_given_the_glb_file(textured, tmp_path):
    # its last four arguments: the GLB file, the file to write, frames, rate
    script = 'for last; do :; done; while [ $# -gt 4 ]; do shift; done; cp "$1" "$2"; echo "$3 $4" >> "$2"'
    exported(textured, "--format", "fbx-via-blender", "--blender", fake_blender(tmp_path, script))
    data = (textured.path / "export" / "avatar.fbx").read_bytes()
    assert data.startswith(b"glTF")
    assert data.endswith(b"7 25.0\n")


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'Error: no such operator'; exit 1", "no such operator"),
        ("exit 0", "exit code 0"),
        ("echo \"ModuleNotFoundError: No module named 'numpy'\"; exit 1", "python3-numpy"),
    ],
)
def test_blenders_failure_is_told(textured, tmp_path, script, expected):
    result = call(textured.path, "--format", "fbx-via-blender", "--blender", fake_blender(tmp_path, script))
    assert result.exit_code == 2
    assert expected in result.stderr
    assert folder_names(textured.path / "export") == set()


def test_a_missing_blender_is_told(textured, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for arguments, expected in (
        ((), "no blender on PATH"),
        (("--blender", tmp_path / "nothing"), f"--blender {tmp_path / 'nothing'}: is no program"),
    ):
        result = call(textured.path, "--format", "fbx-via-blender", *arguments)
        assert result.exit_code == 2
        assert expected in result.stderr
    assert not (textured.path / "export").exists()


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--format", "stl"), "--format stl: must be one of glb, obj"),
        (("--out", "a.obj"), "--out a.obj: must be a file with suffix .glb for glb"),
        (("--format", "usd", "--out", "a.usd"), ".usdz or .usdc or .usda"),
        (("--influences", "5"), "--influences 5: must be 4 or 8"),
        (("--image", "webp"), "--image webp: must be jpeg or png"),
        (("--frame", "1"), "--frame belongs to obj and ply"),
        (("--format", "obj", "--frame", "7"), "--frame 7: the motion has frames 0 to 6"),
        (("--format", "ply", "--morphs", "2"), "--morphs: ply holds one pose"),
        (("--format", "npz", "--unlit"), "--unlit belongs to glb"),
    ],
)
def test_wrong_choices_are_refused(textured, monkeypatch, tmp_path, arguments, expected):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    result = call(textured.path, *arguments)
    assert result.exit_code == 2, result.output + repr(result.exception)
    assert expected in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    assert call(tmp_path).exit_code == 2


def test_a_damaged_avatar_is_refused(textured):
    (textured.path / AVATAR / "mesh.npz").write_bytes(b"PK")
    result = call(textured.path)
    assert result.exit_code == 2
    assert "selfrecon texture" in result.stderr


def test_failure_leaves_an_earlier_file_alone(textured, monkeypatch):
    (textured.path / "export").mkdir()
    (textured.path / "export" / "avatar.glb").write_text("earlier")

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "glb_bytes", full_disk)
    with pytest.raises(RunError, match="No space left on device"):
        export_run(textured, CPU)
    assert folder_names(textured.path / "export") == {"avatar.glb"}
    assert (textured.path / "export" / "avatar.glb").read_text() == "earlier"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_told(textured, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    assert call(textured.path, "--out", tmp_path / "locked" / "a.glb").exit_code == 2


def test_the_library_call_returns_what_it_wrote(textured):
    done = export_run(textured, CPU, choices=ExportChoices(format="npz"))
    assert done.path == textured.path / "export" / "avatar.npz"
    assert isinstance(done.rigged, RiggedMesh)
    assert done.morphs is None
