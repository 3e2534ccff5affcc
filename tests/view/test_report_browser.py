"""The report as a headless Chromium opens it from the file system."""

import shutil
import subprocess
from collections.abc import Iterator

import numpy as np
import pytest
from browser import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDE, NARROW = (900, 600), (390, 700)
READY = "document.getElementById('viewer').dataset.state === 'ready'"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt install chromium)")


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with Page(str(CHROMIUM)) as opened:
        yield opened


@pytest.fixture(autouse=True)
def quiet(page) -> Iterator[None]:
    """Nothing on the console, nothing asked of the network, whatever a test does."""
    page.complaints.clear()
    page.requests.clear()
    yield
    assert page.complaints == []
    assert [address for address in page.requests if not address.startswith(("file:", "data:", "blob:"))] == []


def show(page: Page, frame: int) -> None:
    """Move the slider, wait for the picture."""
    page.evaluate(
        f"(() => {{ const s = document.getElementById('viewer-frame'); s.value = {frame};"
        " s.dispatchEvent(new Event('input')); delete document.getElementById('viewer-stage').dataset.shown; })()"
    )
    page.wait_for(f"document.getElementById('viewer-stage').dataset.shown === '{frame}'")


def stage(page: Page) -> np.ndarray:
    """The stage's part of what there is to see."""
    page.evaluate("document.getElementById('viewer-stage').scrollIntoView({behavior: 'instant'})")
    x, y, width, height = page.evaluate(
        "(() => { const b = document.getElementById('viewer-stage').getBoundingClientRect();"
        " return [b.x, b.y, b.width, b.height].map(Math.round); })()"
    )
    return page.screenshot()[max(0, y) : y + height, x : x + width]


def drag(page: Page, x: float, y: float, across: float, down: float, steps: int = 8) -> None:
    """One finger, moved step by step."""
    page.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
    for step in range(1, steps + 1):
        point = {"x": x + across * step, "y": y + down * step}
        page.call("Input.dispatchTouchEvent", type="touchMove", touchPoints=[point])
    page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    page.evaluate("new Promise((done) => setTimeout(done, 300))")


def saturation(picture: np.ndarray) -> np.ndarray:
    return picture.max(-1).astype(int) - picture.min(-1)


@pytest.mark.parametrize(("size", "dark"), [(WIDE, False), (NARROW, True)], ids=["wide, light", "narrow, dark"])
def test_the_avatar_is_drawn_at_every_size_and_setting(page, file, size, dark):
    page.open(file, *size, dark=dark)
    page.wait_for(READY)
    show(page, 0)
    first = stage(page)
    assert 0.02 < (saturation(first) > 60).mean() < 0.6
    assert (first[4, 4].mean() < 90) == dark
    show(page, 4)
    changed = np.abs(stage(page).astype(int) - first).max(-1) > 40
    assert changed.mean() > 0.01
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert page.evaluate("document.getElementById('viewer-message').hidden")


def test_layers_differ(page, file):
    page.open(file, *WIDE)
    page.wait_for(READY)
    show(page, 2)
    pictures = {}
    for layer in ("textured", "shaded", "wireframe"):
        page.evaluate(f"document.querySelector('input[value={layer}]').click()")
        show(page, 2)
        pictures[layer] = stage(page)
    height, width = pictures["textured"].shape[:2]
    middle = slice(height // 2 - 40, height // 2 + 40), slice(width // 2 - 40, width // 2 + 40)
    assert saturation(pictures["textured"][middle]).mean() > 50
    assert saturation(pictures["shaded"][middle]).mean() < 40
    wires = np.abs(pictures["wireframe"][middle].astype(int) - pictures["shaded"][middle]).max(-1) > 20
    assert 0.02 < wires.mean() < 0.6


def test_it_plays_and_stops(page, file):
    page.open(file, *WIDE, still=False)
    page.wait_for(READY)
    button = "document.getElementById('viewer-play')"
    page.wait_for(f"{button}.textContent === 'Pause'")
    page.wait_for("document.getElementById('viewer-stage').dataset.shown > 0")
    page.evaluate(f"{button}.click()")
    assert page.evaluate(f"{button}.textContent") == "Play"
    frame = page.evaluate("document.getElementById('viewer-frame').value")
    page.evaluate("new Promise((done) => setTimeout(done, 300))")
    assert page.evaluate("document.getElementById('viewer-frame').value") == frame


def test_who_wants_no_motion_gets_none(page, file):
    page.open(file, *WIDE, still=True)
    page.wait_for(READY)
    assert page.evaluate("document.getElementById('viewer-play').textContent") == "Play"


def test_the_keyboard_is_enough(page, file):
    page.open(file, *WIDE)
    page.wait_for(READY)
    reached = []
    for _ in range(40):
        page.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.localName"))
    expected = ["theme", "canvas", "viewer-play", "viewer-frame", "viewer-skeleton", "viewer-reset", "compare-share"]
    assert [name for name in reached if name in expected][: len(expected)] == expected
    page.evaluate("document.querySelector('canvas').focus()")
    before = stage(page)
    for _ in range(4):
        page.press("ArrowRight")
    page.press("+")
    show(page, 0)
    assert (np.abs(stage(page).astype(int) - before).max(-1) > 40).mean() > 0.01
    page.evaluate("document.getElementById('viewer-frame').focus()")
    page.press("ArrowRight")
    page.press("ArrowRight")
    assert page.evaluate("document.getElementById('viewer-frame').getAttribute('aria-valuetext')") == "frame 2 of 6"


def test_the_comparison_follows_pointer_and_keys(page, file):
    page.open(file, *WIDE)
    page.wait_for(READY)
    page.evaluate("document.getElementById('compare').scrollIntoView({behavior: 'instant'})")
    x, y, width, height = page.evaluate(
        "(() => { const b = document.getElementById('compare-split').getBoundingClientRect();"
        " return [b.x, b.y, b.width, b.height]; })()"
    )

    def share_of_red() -> float:
        row = page.screenshot()[round(y + 0.25 * height), round(x) + 3 : round(x + width) - 3].astype(int)
        return float((row[:, 0] > row[:, 2] + 60).mean())

    assert share_of_red() == pytest.approx(0.5, abs=0.05)
    mouse = {"y": y + 0.3 * height, "button": "left", "clickCount": 1}
    page.call("Input.dispatchMouseEvent", type="mousePressed", x=x + 0.5 * width, **mouse)
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + 0.8 * width, buttons=1, **mouse)
    page.call("Input.dispatchMouseEvent", type="mouseReleased", x=x + 0.8 * width, **mouse)
    assert share_of_red() == pytest.approx(0.8, abs=0.05)
    for _ in range(10):
        page.press("ArrowLeft")
    assert share_of_red() == pytest.approx(0.7, abs=0.05)
    page.evaluate("document.getElementById('compare-frame').focus()")
    page.press("ArrowRight")
    assert page.evaluate("document.getElementById('compare-frame-text').textContent") == "3"


def test_light_and_dark_by_button(page, file):
    page.open(file, *WIDE, dark=True)
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(colour)
    page.evaluate("document.getElementById('theme').click()")
    light = page.evaluate(colour)
    assert light != dark
    assert page.evaluate("document.getElementById('theme').textContent") == "Dark"
    page.open(file, *WIDE, dark=False)
    assert page.evaluate(colour) == light
    page.evaluate("document.getElementById('theme').click()")
    assert page.evaluate(colour) == dark


def test_a_finger_turns_the_avatar_and_scrolls_the_page(page, file):
    page.open(file, *NARROW)
    page.wait_for(READY)
    show(page, 0)
    before = stage(page)
    page.call("Emulation.setTouchEmulationEnabled", enabled=True)
    drag(page, 200, 250, -15, 0)
    assert (np.abs(stage(page).astype(int) - before).max(-1) > 40).mean() > 0.01
    place = page.evaluate("scrollY")
    drag(page, 200, 400, 0, -20)
    assert page.evaluate("scrollY") > place + 80


def test_without_webgl_the_page_says_so(file):
    program = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-3d-apis", "--dump-dom"]
    done = subprocess.run(
        [*program, "--virtual-time-budget=4000", file.as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    assert 'data-state="failed"' in done.stdout
    assert "cannot be shown here" in done.stdout
