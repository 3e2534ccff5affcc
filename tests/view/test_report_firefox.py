"""The report as Firefox opens it from the file system."""

import shutil
from collections.abc import Iterator

import numpy as np
import pytest
from firefox import FirefoxPage

FIREFOX, XVFB = shutil.which("firefox-esr") or shutil.which("firefox"), shutil.which("Xvfb")

pytestmark = pytest.mark.skipif(
    FIREFOX is None or XVFB is None, reason="no Firefox or no Xvfb on this machine (apt install firefox-esr xvfb)"
)


@pytest.fixture(scope="module")
def page(file) -> Iterator[FirefoxPage]:
    with FirefoxPage(str(FIREFOX), str(XVFB), 900, 700) as opened:
        opened.open(file)
        yield opened


@pytest.fixture(autouse=True)
def quiet(page) -> Iterator[None]:
    """Nothing on the console, nothing asked of the network, whatever a test does."""
    yield
    assert page.complaints() == []
    asked = page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [address for address in asked if not address.startswith(("file:", "data:", "blob:"))] == []


def stage(page: FirefoxPage, frame: int) -> np.ndarray:
    """The stage's part of what there is to see, at a frame of the motion."""
    page.evaluate(
        f"(() => {{ const s = document.getElementById('viewer-frame'); s.value = {frame};"
        " s.dispatchEvent(new Event('input')); delete document.getElementById('viewer-stage').dataset.shown;"
        " document.getElementById('viewer-stage').scrollIntoView({behavior: 'instant'}); })()"
    )
    page.wait_for(f"document.getElementById('viewer-stage').dataset.shown === '{frame}'")
    x, y, width, height = page.evaluate(
        "(() => { const b = document.getElementById('viewer-stage').getBoundingClientRect();"
        " return [b.x, b.y, b.width, b.height].map(Math.round); })()"
    )
    return page.screenshot()[max(0, y) : y + height, max(0, x) : x + width]


def changed(first: np.ndarray, second: np.ndarray) -> float:
    """Share of the pixels that differ."""
    return float((np.abs(first.astype(int) - second).max(-1) > 40).mean())


def test_the_avatar_is_drawn_and_moves(page):
    page.wait_for("document.getElementById('viewer').dataset.state === 'ready'")
    first = stage(page, 0)
    colourful = first.max(-1).astype(int) - first.min(-1) > 60
    assert 0.02 < colourful.mean() < 0.6
    assert changed(first, stage(page, 4)) > 0.01
    assert page.evaluate("document.getElementById('viewer-message').hidden")


def test_the_keyboard_is_enough(page):
    page.wait_for("document.getElementById('viewer').dataset.state === 'ready'")
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(40):
        page.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.localName"))
    expected = ["theme", "canvas", "viewer-play", "viewer-frame", "viewer-skeleton", "viewer-reset", "compare-share"]
    assert [name for name in dict.fromkeys(reached) if name in expected] == expected
    before = stage(page, 0)
    page.evaluate("document.querySelector('canvas').focus()")
    page.press(*["ArrowRight"] * 4, "+")
    assert changed(before, stage(page, 0)) > 0.01
    page.evaluate("document.getElementById('viewer-frame').focus()")
    page.press("ArrowRight", "ArrowRight")
    assert page.evaluate("document.getElementById('viewer-frame').getAttribute('aria-valuetext')") == "frame 2 of 6"
    page.evaluate("document.getElementById('compare-share').focus()")
    share = float(page.evaluate("document.getElementById('compare-share').value"))
    page.press("ArrowLeft")
    assert float(page.evaluate("document.getElementById('compare-share').value")) < share


def test_complaints_are_heard(page, tmp_path):
    """What the other tests rely on."""
    wrong = tmp_path / "wrong.html"
    wrong.write_text("<script>document.missing.name</script>")
    page.open(wrong)
    assert any("missing" in line for line in page.complaints())
    page.forget()
