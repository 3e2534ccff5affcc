import base64
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from html_page import HtmlPage
from rigged_meshes import make_rigged

from selfrecon_warp.errors import RunError
from selfrecon_warp.view.metrics import AvatarScore, ColourScore, GeometryScore, JointScore
from selfrecon_warp.view.metrics_surface import SurfaceScore
from selfrecon_warp.view.report import (
    PAGE,
    FrameRow,
    Picture,
    ReportContent,
    page_part,
    picture_uri,
    video_uri,
    write_report,
)
from selfrecon_warp.view.report_curves import Curve, FitLog
from selfrecon_warp.view.report_viewer import ContactSheet, viewer_content
from selfrecon_warp.view.video import write_video


def avatar(chamfer: float, overlap: float, colour: ColourScore | None = None) -> AvatarScore:
    surface = SurfaceScore(chamfer, chamfer, chamfer, 0.95)
    return AvatarScore(
        GeometryScore(surface, surface, (0,), (surface,), (surface,)), JointScore(0.02, 0.01), overlap, colour
    )


@pytest.fixture
def content(tmp_path) -> ReportContent:
    image = np.random.default_rng(0).integers(0, 255, (40, 30, 3)).astype(np.uint8)
    write_video(tmp_path / "turn.mp4", [image] * 3)
    pictures = [Picture("Input", image, "Photograph"), Picture("Shape", np.dstack([image, image[..., 0]]), "Mesh")]
    return ReportContent(
        title="<b>male & casual</b>",
        summary="A person, reconstructed.",
        viewer=viewer_content(make_rigged(textured=True), ContactSheet(image, 4, 2, 1, 0.75)),
        fit=avatar(0.0065, 0.978, ColourScore(27.3, 0.91)),
        initial=avatar(0.0179, 0.99),
        frames=[FrameRow(0, pictures, "IoU 0.978"), FrameRow(30, pictures)],
        turntable_video=tmp_path / "turn.mp4",
        turntable_strip=image,
        videos={"Normals": tmp_path / "turn.mp4"},
        videos_elsewhere=[Path("infer/colour.mp4")],
        novel={"psnr_db": 20.5},
        calibrated={"psnr_db": 23.25},
        frame_scores=[Curve("Overlap", [0, 1, 2], [0.9, 0.95, 0.97], "with the mask", "frames")],
        log=FitLog([Curve("mask<1>", [1, 10, 20], [1.0, 0.1, 0.01])], [("coarse", 1, 10), ("fine", 11, 20)], 252.0),
        facts={"Versions": {"torch": "2.13.0"}},
        problems=["One <frame> is poor."],
    )


def written(tmp_path, content: ReportContent) -> tuple[str, HtmlPage]:
    write_report(tmp_path / "run" / "report.html", content)
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["report.html"]
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    return text, HtmlPage(text)


def test_the_page_is_whole_and_asks_nothing_of_the_network(tmp_path, content):
    text, page = written(tmp_path, content)
    sources = [a[key] for _, a in page.tags for key in ("src", "srcset", "href", "poster", "action") if key in a]
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not page.all("link")
    markup = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(
        r"(https?:)?//[a-z]|@import|url\((?!data:)", re.sub(r'"data:[^"]*"|url\(data:[^)]*\)', "", markup)
    )
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert not re.search(r"https?:|\*|'self'|unsafe-eval", policy)


def test_scripts_cannot_be_left_early(tmp_path, content):
    _, page = written(tmp_path, content)
    assert len(page.all("script")) == 4
    for part in ("report.js", "viewer.min.js"):
        assert "</script" not in page_part(part).lower()
        assert "<!--" not in page_part(part)
    assert json.loads(page.texts["viewer-data"])["frames"] == 7


def test_scripts_find_every_element_they_ask_for(tmp_path, content):
    _, page = written(tmp_path, content)
    names = {a["id"] for _, a in page.tags if "id" in a}
    for source in ("report.js", "viewer.js"):
        asked = set(re.findall(r"byId\('([a-z-]+)'\)", page_part(source)))
        assert asked
        assert asked <= names


def test_the_parts_of_the_page_are_installed():
    folder = Path(page_part.__code__.co_filename).parent / PAGE
    assert {"report.css", "report.html.j2", "report.js", "viewer.js", "viewer.min.js"} <= {
        f.name for f in folder.iterdir()
    }


def test_the_page_can_be_read_without_seeing(tmp_path, content):
    _, page = written(tmp_path, content)
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    assert all(image["alt"] for image in page.all("img"))
    assert all(video["aria-label"] for video in page.all("video"))
    assert all(chart["aria-label"] for chart in page.all("svg"))
    names = [a["id"] for _, a in page.tags if "id" in a]
    assert len(names) == len(set(names))
    named = {a.get("id") for _, a in page.tags if a.get("aria-labelledby") or a.get("aria-label")}
    asked = {a["id"] for a in page.all("input") if a["type"] == "range"} - {
        "compare-frame"
    }  # which stands in its label
    assert asked
    assert asked <= named
    targets = {a["href"][1:] for a in page.all("a")} | {a["aria-labelledby"] for a in page.all("section")}
    assert targets <= set(names)


def test_text_is_escaped_and_values_are_shown(tmp_path, content):
    text, _ = written(tmp_path, content)
    assert "&lt;b&gt;male &amp; casual&lt;/b&gt;" in text
    assert "<b>male" not in text
    assert "One &lt;frame&gt; is poor." in text
    assert "\u22121.14 better" in text
    assert "\u22120.012 worse" in text
    assert "4 min 12 s" in text
    assert "2.13.0" in text
    assert "IoU 0.978" in text
    assert "20.5" in text
    assert "<code>infer/colour.mp4</code>" in text
    assert "Worth knowing (1)" in text
    assert "1 is perfect" in text


def test_what_is_missing_is_left_out(tmp_path):
    write_report(tmp_path / "report.html", ReportContent("bare", fit=AvatarScore(silhouette_iou=0.9)))
    page = HtmlPage((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert [section["id"] for section in page.all("section")] == ["scores"]
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Body before the fit" not in text
    assert "Chamfer distance" not in text.split("<tbody>")[1].split("</tbody>")[0]
    write_report(tmp_path / "report.html", ReportContent("barest"))
    assert not HtmlPage((tmp_path / "report.html").read_text(encoding="utf-8")).all("section")


def test_pictures_survive_embedding():
    image = cv2.resize(np.random.default_rng(0).integers(0, 255, (4, 5, 3)).astype(np.uint8), (50, 40))
    for picture, kind in ((image, "jpeg"), (np.dstack([image, np.full((40, 50), 255, np.uint8)]), "webp")):
        uri = picture_uri(picture)
        assert uri.startswith(f"data:image/{kind};base64,")
        data = np.frombuffer(base64.b64decode(uri.split(",")[1]), np.uint8)
        back = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        assert np.abs(back.astype(int) - image).mean() < 8
    with pytest.raises(ValueError, match="uint8"):
        picture_uri(image.astype(float))


def test_bad_paths_are_named(tmp_path, content):
    with pytest.raises(RunError, match=r"gone\.mp4: cannot be read"):
        video_uri(tmp_path / "gone.mp4")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"report\.html: cannot be written"):
        write_report(tmp_path / "file" / "report.html", content)
