"""One self-contained ``report.html``: what went in, what came out, how good it is.

Fill a :class:`ReportContent` and call :func:`write_report`. Pictures, videos, the avatar and the scripts are embedded;
the page asks nothing of the network and forbids itself to, follows the reader's light or dark setting, and prints.
What it is made of lies in ``page/``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import cv2
import jinja2
import numpy as np
from markupsafe import Markup

from selfrecon_warp.errors import RunError
from selfrecon_warp.staging import replacing_file
from selfrecon_warp.view.report_curves import Curve, FitLog, chart
from selfrecon_warp.view.report_scores import Scores, headline_rows, score_rows
from selfrecon_warp.view.report_viewer import ViewerContent

SCORE_NOTE = "Means over the frames with ground truth. PSNR and SSIM: inside the mask, over white."
PAGE = "page"
TEMPLATE, STYLE, SCRIPT, VIEWER = "report.html.j2", "report.css", "report.js", "viewer.min.js"


@dataclass(frozen=True)
class Picture:
    """One embedded picture.

    Attributes:
        label: Shown beneath it; frames are lined up by it.
        image: RGB or RGBA, ``[H, W, 3 or 4]`` uint8.
        description: What there is to see, for readers who do not.
    """

    label: str
    image: np.ndarray
    description: str


@dataclass(frozen=True)
class FrameRow:
    """Pictures of one frame, input first.

    Attributes:
        frame: Its number in the capture.
        pictures: In the order shown.
        note: A few words, such as the frame's overlap.
    """

    frame: int
    pictures: Sequence[Picture]
    note: str = ""


@dataclass(frozen=True)
class ReportContent:
    """Everything on the page; what is empty is left out.

    Attributes:
        title: Name of the capture.
        summary: A sentence or two beneath the title.
        viewer: The avatar to turn and to play.
        fit: Scores of the fit.
        initial: Scores of the body before the fit.
        novel: Scores in poses that the capture does not show, in the true poses as given.
        calibrated: The same in the true poses carried over to the fit's skeleton.
        score_note: What the scores were measured on.
        frame_scores: Scores frame by frame.
        frames: Rows of the picture grid; the first picture of each is what the others are compared with.
        turntable_video: MP4 of the canonical mesh turning.
        turntable_strip: The same as one picture, RGB or RGBA ``[H, W, C]`` uint8.
        videos: Further videos by title.
        videos_elsewhere: Files that are too large for the page.
        log: Loss curves.
        facts: Groups of name and value: configuration, versions, hardware.
        problems: What a reader should know before trusting the result.
    """

    title: str
    summary: str = ""
    viewer: ViewerContent | None = None
    fit: Scores | None = None
    initial: Scores | None = None
    novel: Scores | None = None
    calibrated: Scores | None = None
    score_note: str = SCORE_NOTE
    frame_scores: Sequence[Curve] = ()
    frames: Sequence[FrameRow] = ()
    turntable_video: Path | None = None
    turntable_strip: np.ndarray | None = None
    videos: Mapping[str, Path] = field(default_factory=dict)
    videos_elsewhere: Sequence[Path] = ()
    log: FitLog = field(default_factory=FitLog)
    facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    problems: Sequence[str] = ()


def write_report(path: Path, content: ReportContent) -> None:
    """Write the page; appears whole or not at all.

    Args:
        path: Usually ``RUN/report.html``.
        content: What to show.

    Raises:
        RunError: A video is missing or the file cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("selfrecon_warp.view", PAGE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "picture": picture_uri,
        "video": video_uri,
        "chart": chart,
        "base64": lambda data: base64.b64encode(data).decode(),
        "json": _script_json,
    }
    rows = score_rows(content.fit, content.initial)
    page = environment.get_template(TEMPLATE).render(
        content=content,
        rows=rows,
        novel=score_rows(content.calibrated, content.novel),
        headlines=headline_rows(rows),
        compared=any(row.initial is not None for row in rows),
        style=page_part(STYLE),
        script=page_part(SCRIPT),
        viewer_script=page_part(VIEWER) if content.viewer is not None else "",
    )
    with replacing_file(path) as staged:
        staged.write_text(page, encoding="utf-8")


def page_part(name: str) -> Markup:
    """A style sheet or script of the page, which goes into it as it is."""
    text = resources.files("selfrecon_warp.view").joinpath(PAGE, name).read_text(encoding="utf-8")
    return Markup(text)  # noqa: S704 - a file of the package


def picture_uri(image: np.ndarray) -> str:
    """A picture as a data URI: JPEG, or WebP where it is transparent.

    Args:
        image: RGB or RGBA, ``[H, W, 3 or 4]`` uint8.

    Raises:
        ValueError: It is no such picture.
    """
    if image.ndim != 3 or image.shape[2] not in (3, 4) or image.dtype != np.uint8:
        raise ValueError(f"image must be [H, W, 3 or 4] uint8, got {image.dtype} {list(image.shape)}")
    if image.shape[2] == 3:
        kind, pixels, quality = "jpeg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88]
    else:
        kind, pixels, quality = "webp", cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA), [cv2.IMWRITE_WEBP_QUALITY, 88]
    data = cv2.imencode(f".{kind}", pixels, quality)[1].tobytes()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def video_uri(path: Path) -> str:
    """An MP4 as a data URI.

    Raises:
        RunError: The file is missing.
    """
    try:
        return f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror or error})") from error


def _script_json(values: Mapping[str, object]) -> Markup:
    """JSON that may stand inside a script element."""
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704 - nothing in it can end the element
