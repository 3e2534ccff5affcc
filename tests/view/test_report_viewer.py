import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from glb_file import Glb
from html_page import HtmlPage
from rigged_meshes import FRAMES, make_rigged

from selfrecon_warp.asset.upright import upright
from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.view import report_viewer
from selfrecon_warp.view.report import PAGE, ReportContent, write_report
from selfrecon_warp.view.report_viewer import contact_sheet, viewer_content

PARTS = Path(report_viewer.__file__).parent / PAGE


@pytest.fixture(scope="module")
def bundle() -> str:
    return (PARTS / "viewer.min.js").read_text(encoding="utf-8")


def test_the_bundle_is_of_this_source_and_the_versions_named(bundle):
    package = json.loads((PARTS / "package.json").read_text())
    locked = json.loads((PARTS / "package-lock.json").read_text())["packages"]
    source = hashlib.sha256((PARTS / "viewer.js").read_bytes()).hexdigest()[:16]
    versions = package["dependencies"] | package["devDependencies"]
    assert set(versions) == {"three", "esbuild"}
    for name, version in versions.items():
        assert locked[f"node_modules/{name}"]["version"] == version
    banner = bundle.partition("\n")[0]
    expected = f"/* viewer.js {source}, three {versions['three']} (MIT), esbuild {versions['esbuild']} */"
    assert banner == expected, "viewer.js or package.json has changed: run `make viewer`"
    assert f'"{versions["three"].split(".")[1]}"' in bundle  # three.js calls this its revision
    assert "SPDX-License-Identifier: MIT" in bundle


def test_the_bundle_is_classic_and_small(bundle):
    assert len(bundle) < 800_000
    assert bundle.isascii()
    assert not re.search(r"^(import|export)\b|sourceMappingURL", bundle, re.MULTILINE)


def test_the_notice_names_what_is_in_the_bundle():
    notice = (Path(__file__).parents[2] / "NOTICE").read_text(encoding="utf-8")
    assert "three.js" in notice
    assert "selfrecon_warp/view/page/viewer.min.js" in notice
    assert "Permission is hereby granted, free of charge" in notice


def test_the_embedded_file_decodes(tmp_path):
    rigged = make_rigged(textured=True)
    write_report(tmp_path / "report.html", ReportContent("ball", viewer=viewer_content(rigged)))
    page = HtmlPage((tmp_path / "report.html").read_text(encoding="utf-8"))
    glb = Glb(base64.b64decode(page.texts["viewer-glb"], validate=True))
    assert glb.json["asset"]["version"] == "2.0"
    assert len(glb.json["skins"][0]["joints"]) == len(rigged.parents)
    assert len(glb.json["animations"]) == 1


def test_textures_are_made_smaller_and_nothing_else_changes():
    rigged = make_rigged(textured=True)
    content = viewer_content(rigged, texels=16)
    glb = Glb(content.glb)
    for picture, kind in zip(glb.json["images"], ("jpeg", "png"), strict=True):
        assert picture["mimeType"] == f"image/{kind}"
    assert {image.shape for image in images_of(glb)} == {(16, 16, 3)}
    assert {image.shape for image in images_of(Glb(viewer_content(rigged).glb))} == {(64, 64, 3), (32, 32, 3)}
    assert content.textured
    assert (content.frames, content.rate) == (FRAMES, 25.0)


def test_the_box_holds_the_person_in_every_pose():
    rigged = make_rigged()
    content = viewer_content(rigged)
    standing, _ = upright(rigged)
    posed = np.stack(list(standing.posed_frames()))
    np.testing.assert_allclose(content.low, posed.min((0, 1)), atol=1e-3)
    np.testing.assert_allclose(content.high, posed.max((0, 1)), atol=1e-3)
    assert not content.textured
    assert content.settings["sheet"] is None


def test_one_pose_is_enough():
    rigged = make_rigged()
    content = viewer_content(replace(rigged, poses=rigged.poses[:1], trans=rigged.trans[:1]))
    assert content.frames == 1


def test_the_sheet_shows_every_input_picture(sphere, monkeypatch):
    capture = read_capture(sphere.run.capture_folder)
    monkeypatch.setattr(report_viewer, "SHEET_COLUMNS", 2)
    sheet = contact_sheet(capture)
    assert (sheet.columns, sheet.rows, sheet.step) == (2, 2, 1)
    height, width = sheet.image.shape[0] // 2, sheet.image.shape[1] // 2
    assert width / height == pytest.approx(sheet.aspect, abs=0.02)
    tiles = [sheet.image[r * height : (r + 1) * height, c * width : (c + 1) * width] for r in (0, 1) for c in (0, 1)]
    assert [tile.any() for tile in tiles] == [True, True, True, False]
    monkeypatch.setattr(report_viewer, "SHEET_TILES", 2)
    assert contact_sheet(capture).step == 2


def images_of(glb: Glb) -> list[np.ndarray]:
    views = [glb.json["bufferViews"][image["bufferView"]] for image in glb.json["images"]]
    parts = [glb.binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]] for view in views]
    return [cv2.imdecode(np.frombuffer(part, np.uint8), cv2.IMREAD_COLOR) for part in parts]
