import sys
import zipfile

import numpy as np
import pytest
from rigged_meshes import FRAMES, make_rigged

from selfrecon_warp.asset.gltf import linear_colours
from selfrecon_warp.asset.morphs import principal_morphs
from selfrecon_warp.asset.usd import write_usd
from selfrecon_warp.errors import ExportError

pytest.importorskip("pxr", reason="needs usd-core: pip install 'selfrecon-warp[usd]'")

from pxr import UsdGeom, UsdShade, UsdUtils
from usd_file import Stage


@pytest.mark.parametrize("suffix", [".usda", ".usdc", ".usdz"])
@pytest.mark.parametrize("influences", [4, 8])
def test_usd_skins_every_frame_as_we_do(tmp_path, suffix, influences):
    rigged = make_rigged(textured=True).with_influences(influences)
    write_usd(tmp_path / f"avatar{suffix}", rigged, influences=influences)
    stage = Stage(tmp_path / f"avatar{suffix}")
    for frame in range(FRAMES):
        expected = rigged.posed(rigged.poses[[frame]], rigged.trans[[frame]])[0]
        np.testing.assert_allclose(stage.posed(frame), expected, atol=2e-6)


def test_blend_shapes_follow_the_motion(tmp_path):
    rigged = make_rigged().with_influences(4)
    displacements = 0.05 * np.random.default_rng(1).normal(size=(FRAMES, len(rigged.vertices), 3))
    write_usd(tmp_path / "avatar.usdc", rigged, morphs=principal_morphs(displacements, FRAMES))
    stage = Stage(tmp_path / "avatar.usdc")
    for frame, displacement in enumerate(displacements):
        moved = rigged.vertices + displacement
        expected = rigged.posed(rigged.poses[[frame]], rigged.trans[[frame]], moved)[0]
        np.testing.assert_allclose(stage.posed(frame), expected, atol=2e-6)


def test_the_stage_tells_its_units_and_time(tmp_path):
    rigged = make_rigged()
    write_usd(tmp_path / "avatar.usda", rigged)
    stage = Stage(tmp_path / "avatar.usda").stage
    assert UsdGeom.GetStageUpAxis(stage) == "Y"
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1.0
    assert (stage.GetTimeCodesPerSecond(), stage.GetStartTimeCode(), stage.GetEndTimeCode()) == (25, 0, FRAMES - 1)


def test_texture_coordinates_go_up(tmp_path):
    rigged = make_rigged(textured=True)
    write_usd(tmp_path / "avatar.usda", rigged)
    stage = Stage(tmp_path / "avatar.usda")
    st = UsdGeom.PrimvarsAPI(stage.mesh).GetPrimvar("st")
    flat = np.array(st.ComputeFlattened()).reshape(-1, 3, 2)
    expected = rigged.texcoords[rigged.face_texcoords]
    np.testing.assert_allclose(flat, np.stack((expected[..., 0], 1 - expected[..., 1]), -1), atol=1e-7)


def test_the_archive_holds_its_textures(tmp_path):
    write_usd(tmp_path / "avatar.usdz", make_rigged(textured=True))
    assert [file.name for file in tmp_path.iterdir()] == ["avatar.usdz"]
    names = zipfile.ZipFile(tmp_path / "avatar.usdz").namelist()
    assert {name.rpartition("/")[2] for name in names} == {
        "avatar.usdc",
        "avatar_texture.jpg",
        "avatar_normal_map.png",
    }
    _, assets, unresolved = UsdUtils.ComputeAllDependencies(str(tmp_path / "avatar.usdz"))
    assert len(assets) == 2
    assert not unresolved


def test_materials_are_preview_surfaces(tmp_path):
    for name, rigged in (("textured", make_rigged(textured=True)), ("plain", make_rigged())):
        write_usd(tmp_path / f"{name}.usdc", rigged)
        stage = Stage(tmp_path / f"{name}.usdc")
        material, _ = UsdShade.MaterialBindingAPI(stage.mesh.GetPrim()).ComputeBoundMaterial()
        surface, _, _ = material.ComputeSurfaceSource()
        assert surface.GetIdAttr().Get() == "UsdPreviewSurface"
        source = surface.GetInput("diffuseColor").GetConnectedSources()[0][0].source
        kind = UsdShade.Shader(source.GetPrim()).GetIdAttr().Get()
        assert kind == ("UsdUVTexture" if name == "textured" else "UsdPrimvarReader_float3")
        assert bool(surface.GetInput("normal")) == (name == "textured")


def test_vertex_colours_are_linear_light(tmp_path):
    rigged = make_rigged()
    write_usd(tmp_path / "avatar.usdc", rigged)
    stage = Stage(tmp_path / "avatar.usdc")
    colours = np.array(stage.mesh.GetDisplayColorAttr().Get())
    np.testing.assert_allclose(colours, linear_colours(rigged.vertex_colours), atol=1e-6)


def test_a_mesh_without_motion_is_still_a_file(tmp_path):
    rigged = make_rigged()
    write_usd(tmp_path / "avatar.usdc", rigged.with_motion(rigged.poses[:0], rigged.trans[:0], 25))
    np.testing.assert_allclose(Stage(tmp_path / "avatar.usdc").posed(0), rigged.vertices, atol=1e-6)


def test_without_usd_core_the_message_tells_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pxr", None)
    with pytest.raises(ExportError, match=r"pip install 'selfrecon-warp\[usd\]'"):
        write_usd(tmp_path / "avatar.usdz", make_rigged())
