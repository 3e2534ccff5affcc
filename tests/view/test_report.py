import base64
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from selfrecon_warp.errors import RunError
from selfrecon_warp.view.metrics import AvatarScore, ColourScore, GeometryScore, JointScore, SurfaceScore
from selfrecon_warp.view.report import (
    FitLog,
    FrameRow,
    LossCurve,
    Picture,
    ReportContent,
    loss_chart,
    overlap_problems,
    picture_uri,
    read_log,
    score_rows,
    video_uri,
    write_report,
)
from selfrecon_warp.view.video import write_video

VOID = {"meta", "img"}


class Page(HTMLParser):
    """Collects tags and complains about what is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


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
        fit=avatar(0.0065, 0.978, ColourScore(27.3, 0.91)),
        initial=avatar(0.0179, 0.99),
        frames=[FrameRow(0, pictures, "IoU 0.978"), FrameRow(30, pictures)],
        turntable_video=tmp_path / "turn.mp4",
        turntable_strip=image,
        videos={"Normals": tmp_path / "turn.mp4"},
        log=FitLog([LossCurve("mask<1>", [1, 10, 20], [1.0, 0.1, 0.01])], [("coarse", 1, 10), ("fine", 11, 20)], 252.0),
        facts={"Versions": {"torch": "2.13.0"}},
        problems=["One <frame> is poor."],
    )


def test_the_page_is_whole_and_asks_nothing_of_the_network(tmp_path, content):
    write_report(tmp_path / "run" / "report.html", content)
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    sources = [a[key] for _, a in page.tags for key in ("src", "href", "poster", "action") if key in a]
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"(https?:)?//[a-z]|@import|url\(", re.sub(r'"data:[^"]*"', "", text))
    assert not page.all("script")
    assert not page.all("link")
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["report.html"]


def test_the_page_can_be_read_without_seeing(tmp_path, content):
    write_report(tmp_path / "report.html", content)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    assert all(image["alt"] for image in page.all("img"))
    assert all(video["aria-label"] for video in page.all("video"))
    assert all(chart["aria-label"] for chart in page.all("svg"))
    names = [a["id"] for _, a in page.tags if "id" in a]
    assert len(names) == len(set(names))
    targets = {a["href"][1:] for a in page.all("a")} | {a["aria-labelledby"] for a in page.all("section")}
    assert targets <= set(names)


def test_text_is_escaped_and_values_are_shown(tmp_path, content):
    write_report(tmp_path / "report.html", content)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;male &amp; casual&lt;/b&gt;" in text
    assert "<b>male" not in text
    assert "One &lt;frame&gt; is poor." in text
    assert "\u22121.14 better" in text
    assert "\u22120.012 worse" in text
    assert "4 min 12 s" in text
    assert "2.13.0" in text
    assert "IoU 0.978" in text


def test_what_is_missing_is_left_out(tmp_path):
    write_report(tmp_path / "report.html", ReportContent("bare", fit=AvatarScore(silhouette_iou=0.9)))
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert [section["id"] for section in page.all("section")] == ["scores"]
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Body before the fit" not in text
    assert "Chamfer distance" not in text.split("<tbody>")[1].split("</tbody>")[0]
    write_report(tmp_path / "report.html", ReportContent("barest"))
    assert not Page((tmp_path / "report.html").read_text(encoding="utf-8")).all("section")


def test_rows_know_what_is_better():
    rows = {row.name: row for row in score_rows(avatar(0.006, 0.9), avatar(0.009, 0.95))}
    assert rows["chamfer_cm"].improved is True
    assert rows["silhouette_iou"].improved is False
    assert rows["joint_error_cm"].improved is None
    assert rows["chamfer_cm"].difference == "\u22120.30"
    assert "psnr_db" not in rows
    assert score_rows(None) == []
    alone = score_rows(avatar(0.006, 0.9))[0]
    assert alone.improved is None
    assert alone.difference == alone.shown(None)


def test_log_is_read_flat_and_nested_past_damage(tmp_path):
    records = [
        {"event": "step", "elapsed_s": 1.0, "stage": "coarse", "iteration": 10, "mask": 0.5, "iou": None},
        {"event": "extraction", "elapsed_s": 1.5, "iteration": 10, "vertices": 9000},
        {"event": "step", "elapsed_s": 2.0, "stage": "coarse", "iteration": 20, "mask": 0.4, "resumed": True},
        {"seconds": 3.0, "elapsed_s": 3.0, "stage": "fine", "iteration": 30, "losses": {"mask": 0.3}},
    ]
    lines = [*map(json.dumps, records), '{"cut": ', "[1]"]
    (tmp_path / "log.jsonl").write_text("\n".join(lines), encoding="utf-8")
    log = read_log(tmp_path / "log.jsonl")
    assert [(c.name, list(c.iterations), list(c.values)) for c in log.curves] == [
        ("mask", [10, 20, 30], [0.5, 0.4, 0.3])
    ]
    assert list(log.stages) == [("coarse", 10, 20), ("fine", 30, 30)]
    assert log.seconds == 3.0
    with pytest.raises(RunError, match=r"missing\.jsonl"):
        read_log(tmp_path / "missing.jsonl")


@pytest.mark.parametrize(
    "values",
    [[1.0, 0.1, 0.01], [5.0, 5.0, 5.0], [0.0, -1.0, 2.0], [1e-9, 3e-9, 1e-7], list(np.linspace(1, 9, 3000))],
)
def test_charts_stay_inside_their_frame(values):
    chart = loss_chart(LossCurve("a<b", list(range(len(values))), values), [("x", 0, 1), ("y", 1, 2)])
    svg = ElementTree.fromstring(chart)
    points = np.array([p.split(",") for p in svg.find("polyline").get("points").split()], float)
    assert 2 <= len(points) <= 400
    assert (points[:, 0] >= 45).all()
    assert (points[:, 0] <= 349).all()
    assert (points[:, 1] >= 9.9).all()
    assert (points[:, 1] <= 128.1).all()
    assert 1 <= len(svg.findall("line")) <= 6
    assert svg.get("aria-label").startswith("a<b: ")


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


def test_overlap_problems_name_the_worst_first():
    assert overlap_problems({0: 0.99, 1: 0.96}) == []
    (text,) = overlap_problems({4: 0.93, 5: 0.9, 6: 0.99}, most=1)
    assert text.startswith("2 of 3 frames")
    assert "5 (0.900) and 1 more" in text
    assert overlap_problems({4: 0.93, 6: 0.99})[0].startswith("1 of 2 frame")


def test_bad_paths_are_named(tmp_path, content):
    with pytest.raises(RunError, match=r"gone\.mp4: cannot be read"):
        video_uri(tmp_path / "gone.mp4")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"report\.html: cannot be written"):
        write_report(tmp_path / "file" / "report.html", content)
