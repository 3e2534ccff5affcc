"""One picture that shows whether a capture fits together: body and mask outlines over the photographs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from selfrecon_warp.capture.check import LEAST_OVERLAP, CheckReport
from selfrecon_warp.capture.dataset import Capture
from selfrecon_warp.capture.overlap import body_vertices, mask_box, sample_frames, silhouettes
from selfrecon_warp.errors import CaptureError
from selfrecon_warp.model.body import BodyModel

# RGB
BACKGROUND = (22, 24, 29)
PANEL = (33, 36, 43)
GRID = (62, 67, 78)
TEXT = (232, 235, 240)
FAINT = (150, 157, 170)
MASK_COLOUR = (64, 214, 205)
BODY_COLOUR = (255, 150, 60)
BOTH_COLOUR = (226, 229, 234)
GOOD, CAUTION, BAD = (84, 200, 120), (240, 190, 70), (240, 90, 85)

SHEET_WIDTH = 1920
IDEAL_HEIGHT = 420
MARGIN = 28
GAP = 14
THIN_GAP = 4
HEADER_HEIGHT = 112
CHART_HEIGHT = 190
LINE_HEIGHT = 26
FONT = cv2.FONT_HERSHEY_DUPLEX


def draw_contact_sheet(
    capture: Capture, report: CheckReport, body: BodyModel, path: Path, frames: int = 12
) -> np.ndarray:
    """Draw frames spread over the capture, the overlap of every frame and the problems, and write them as a PNG.

    Args:
        capture: The capture.
        report: What :func:`selfrecon_warp.capture.check.check_capture` found.
        body: The body model that was checked against.
        path: PNG file to write; its folder must exist.
        frames: How many frames to show at most.

    Returns:
        The sheet, RGB, ``[H, W, 3]`` uint8.

    Raises:
        CaptureError: The file cannot be written.
    """
    chosen = sample_frames(len(capture), frames)
    bodies = [silhouettes(body_vertices(capture, body, [frame]), body, capture.camera)[0] for frame in chosen]
    crop = _common_crop(capture, chosen, bodies)
    columns, size = _layout(len(chosen), (crop[2] - crop[0]) / (crop[3] - crop[1]))
    tiles = [
        _draw_tile(capture, frame, outline, crop, size, float(report.overlap[frame]))
        for frame, outline in zip(chosen, bodies, strict=True)
    ]
    rows = [
        _draw_header(capture, report, body),
        *_arrange(tiles, columns),
        _draw_chart(report, chosen),
        _draw_problems(report),
    ]
    sheet = np.concatenate([row for row in rows if len(row)])
    encoded, data = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    try:
        if encoded:
            path.write_bytes(data.tobytes())
    except OSError as error:
        raise CaptureError(f"{path} cannot be written: {error.strerror}") from error
    return sheet


def _common_crop(capture: Capture, chosen: list[int], bodies: list[np.ndarray]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom), exclusive [px], around masks and bodies of all shown frames."""
    boxes = np.array([mask_box(capture.load_mask(frame)) for frame in chosen])
    boxes = np.concatenate(
        (boxes, np.array([mask_box(outline) for outline in bodies if outline.any()], np.int64).reshape(-1, 4))
    )
    (left, top), (right, bottom) = boxes[:, :2].min(0), boxes[:, 2:].max(0) + 1
    height, width = capture.image_size
    pad = round(0.06 * max(right - left, bottom - top))
    return max(left - pad, 0), max(top - pad, 0), min(right + pad, width), min(bottom + pad, height)


def _layout(count: int, aspect: float) -> tuple[int, tuple[int, int]]:
    """Columns, and (width, height) of a photograph of aspect width / height, that fill the sheet's width."""
    room = SHEET_WIDTH - 2 * MARGIN
    ideal = 1.5 * aspect * IDEAL_HEIGHT + GAP  # a tile is a photograph and thumbnails of half its width
    columns = max(1, min(count, round(room / ideal)))
    columns = -(-count // -(-count // columns))
    width = min((room - GAP * (columns - 1)) / columns / 1.5, aspect * 1.3 * IDEAL_HEIGHT)
    return columns, (int(width), int(width / aspect))


def _draw_tile(
    capture: Capture,
    frame: int,
    body_mask: np.ndarray,
    crop: tuple[int, int, int, int],
    size: tuple[int, int],
    overlap: float,
) -> np.ndarray:
    """Photograph with outlines; beside it the normals and the agreement of mask and body at half size."""
    left, top, right, bottom = crop
    window = np.s_[top:bottom, left:right]
    half = (size[0] // 2 - THIN_GAP, (size[1] - THIN_GAP) // 2)
    mask = capture.load_mask(frame)
    photo = _resize(capture.load_image(frame)[window], size)
    _draw_outline(photo, mask[window], MASK_COLOUR)
    _draw_outline(photo, body_mask[window], BODY_COLOUR)
    _write_label(photo, f"frame {frame}   {overlap:.2f}", BAD if overlap < LEAST_OVERLAP else TEXT)
    normals = capture.load_normals(frame)
    normals[~normals.any(-1)] = PANEL
    meeting = np.full((*mask.shape, 3), PANEL, np.uint8)
    meeting[mask], meeting[body_mask], meeting[mask & body_mask] = MASK_COLOUR, BODY_COLOUR, BOTH_COLOUR
    tile = np.full((size[1], size[0] + THIN_GAP + half[0], 3), BACKGROUND, np.uint8)
    tile[:, : size[0]] = photo
    tile[: half[1], -half[0] :] = _resize(normals[window], half)
    tile[-half[1] :, -half[0] :] = _resize(meeting[window], half)
    return tile


def _arrange(tiles: list[np.ndarray], columns: int) -> list[np.ndarray]:
    """Rows of tiles, centred on the sheet."""
    height, width = tiles[0].shape[:2]
    start = (SHEET_WIDTH - columns * width - (columns - 1) * GAP) // 2
    rows = []
    for first in range(0, len(tiles), columns):
        row = _panel(height + GAP)
        for column, tile in enumerate(tiles[first : first + columns]):
            x = start + column * (width + GAP)
            row[:height, x : x + width] = tile
        rows.append(row)
    return rows


def _draw_header(capture: Capture, report: CheckReport, body: BodyModel) -> np.ndarray:
    panel = _panel(HEADER_HEIGHT)
    height, width = capture.image_size
    clips = f"{len(capture.clips)} clips, " if len(capture.clips) > 1 else ""
    facts = (
        f"{len(capture)} frames, {clips}{width} x {height} px, normals for {int(capture.has_normals.sum())}, "
        f"{body.name}, {capture.gender}"
    )
    _write(panel, capture.root.resolve().name, (MARGIN, 52), 1.15, TEXT)
    _write(panel, facts, (MARGIN, 86), 0.55, FAINT)
    words, colour = "ready to fit", GOOD
    if report.problems:
        words = f"errors: {len(report.errors)}   warnings: {len(report.warnings)}"
        colour = BAD if report.errors else CAUTION
    x = SHEET_WIDTH - MARGIN - _text_width(words, 0.7)
    cv2.circle(panel, (x - 20, 44), 8, colour, -1, cv2.LINE_AA)
    _write(panel, words, (x, 52), 0.7, TEXT)
    x = SHEET_WIDTH - MARGIN
    for words, colour in (("both", BOTH_COLOUR), ("projected body", BODY_COLOUR), ("mask", MASK_COLOUR)):
        x -= _text_width(words, 0.5)
        _write(panel, words, (x, 86), 0.5, FAINT)
        cv2.rectangle(panel, (x - 26, 76), (x - 10, 86), colour, -1)
        x -= 50
    return panel


def _draw_chart(report: CheckReport, chosen: list[int]) -> np.ndarray:
    """Overlap of body and mask over all frames, 0 to 1."""
    panel = _panel(CHART_HEIGHT)
    left, right, top, bottom = MARGIN + 54, SHEET_WIDTH - MARGIN, 44, CHART_HEIGHT - 34
    cv2.rectangle(panel, (left, top), (right, bottom), PANEL, -1)
    title = f"overlap of body and mask: mean {report.overlap.mean():.2f}, least {report.overlap.min():.2f}"
    _write(panel, title, (left, top - 14), 0.5, FAINT)
    for level in (0.0, 0.5, 1.0):
        y = round(bottom + (top - bottom) * level)
        cv2.line(panel, (left, y), (right, y), GRID, 1)
        _write(panel, f"{level:.1f}", (MARGIN, y + 5), 0.45, FAINT)
    limit = round(bottom + (top - bottom) * LEAST_OVERLAP)
    for x in range(left, right, 14):
        cv2.line(panel, (x, limit), (min(x + 6, right), limit), BAD, 1)
    count = len(report.overlap)
    across = left + (right - left) * (np.arange(count) + 0.5) / count
    curve = np.stack((across, bottom + (top - bottom) * report.overlap), -1)
    for frame in chosen:
        x = round(across[frame])
        cv2.line(panel, (x, bottom), (x, bottom + 6), FAINT, 1)
        _write(panel, f"{frame}", (x - _text_width(f"{frame}", 0.45) // 2, bottom + 24), 0.45, FAINT)
        cv2.circle(panel, (x, round(curve[frame, 1])), 4, BODY_COLOUR, -1, cv2.LINE_AA)
    cv2.polylines(panel, [np.round(curve * 16).astype(np.int32)], False, BODY_COLOUR, 2, cv2.LINE_AA, shift=4)
    return panel


def _draw_problems(report: CheckReport) -> np.ndarray:
    lines: list[tuple[str, tuple[int, int, int]]] = []
    for problem in report.problems:
        colour = BAD if problem.severity == "error" else CAUTION
        words = f"{problem.severity}: {problem.message}".replace(f"{report.root}/", "").split(" ")
        line = ""
        for word in words:
            if line and _text_width(f"{line} {word}", 0.52) > SHEET_WIDTH - 2 * MARGIN:
                lines.append((line, colour))
                line = f"    {word}"
            else:
                line = f"{line} {word}" if line else word
        lines.append((line, colour))
    panel = _panel(len(lines) * LINE_HEIGHT + GAP if lines else 0)
    for row, (line, colour) in enumerate(lines):
        _write(panel, line, (MARGIN, (row + 1) * LINE_HEIGHT - 8), 0.52, colour)
    return panel


def _draw_outline(photo: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Smooth contour of a mask, resampled to the photo's size, drawn in place."""
    smooth = cv2.resize(mask.astype(np.float32), photo.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    contours, _ = cv2.findContours((smooth > 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.polylines(photo, contours, True, colour, 2, cv2.LINE_AA)


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """To (width, height), averaging when it shrinks."""
    shrinks = size[0] < image.shape[1]
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC))


def _panel(height: int) -> np.ndarray:
    return np.full((height, SHEET_WIDTH, 3), BACKGROUND, np.uint8)


def _text_width(words: str, scale: float) -> int:
    return int(cv2.getTextSize(words, FONT, scale, 1)[0][0])


def _write(panel: np.ndarray, words: str, at: tuple[int, int], scale: float, colour: tuple[int, int, int]) -> None:
    """Text with its baseline at ``at``, drawn in place; OpenCV's fonts know ASCII alone."""
    plain = words.encode("ascii", "replace").decode()
    cv2.putText(panel, plain, at, FONT, scale, colour, 1, cv2.LINE_AA)


def _write_label(photo: np.ndarray, words: str, colour: tuple[int, int, int]) -> None:
    """Text on a darkened tab in the top left corner, drawn in place."""
    tab = photo[:28, : _text_width(words, 0.5) + 20]
    tab[:] = tab // 4
    _write(photo, words, (10, 19), 0.5, colour)
