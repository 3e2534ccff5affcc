"""One picture of what was found in a video: masks, keypoints and the fitted body over the frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from selfrecon_warp.capture.dataset import Capture
from selfrecon_warp.capture.overlap import body_vertices, sample_frames, silhouettes
from selfrecon_warp.model.body import BodyModel
from selfrecon_warp.prepare.capture_writer import encoded
from selfrecon_warp.prepare.observations import PersonObservations
from selfrecon_warp.prepare.quality import Quality

# RGB
BACKGROUND = (22, 24, 29)
TEXT, FAINT, CAUTION, GOOD = (232, 235, 240), (150, 157, 170), (240, 190, 70), (84, 200, 120)
MASK_COLOUR, BODY_COLOUR = (64, 214, 205), (255, 150, 60)
SIDES = {"left": (120, 200, 255), "right": (255, 120, 170), "": (240, 240, 240)}
BONES = (
    ("shoulder", "elbow"),
    ("elbow", "wrist"),
    ("shoulder", "hip"),
    ("hip", "knee"),
    ("knee", "ankle"),
    ("ankle", "heel"),
    ("heel", "foot_index"),
)
ACROSS = (("left_shoulder", "right_shoulder"), ("left_hip", "right_hip"))
LEAST_CONFIDENCE = 0.3

WIDTH, MARGIN, GAP = 1920, 28, 12
COLUMNS, TILES = 6, 12
LINE = 26
FONT = cv2.FONT_HERSHEY_DUPLEX


def draw_video_sheet(
    capture: Capture,
    body: BodyModel,
    observations: PersonObservations,
    quality: Quality,
    remarks: Sequence[str],
    path: Path,
    title: str,
) -> np.ndarray:
    """Draw frames spread over a capture and what is wrong with its video, and write them as a PNG.

    Args:
        capture: What was written.
        body: Its body model.
        observations: Its keypoints and masks.
        quality: Numbers about the video.
        remarks: What is wrong.
        path: PNG file to write.
        title: Name of the capture.

    Returns:
        The sheet, RGB, ``[H, W, 3]`` uint8.
    """
    frames = sample_frames(len(capture), TILES)
    width = (WIDTH - 2 * MARGIN - GAP * (COLUMNS - 1)) // COLUMNS
    rows = [_header(capture, quality, remarks, title)]
    for first in range(0, len(frames), COLUMNS):
        tiles = [_tile(capture, body, observations, frame, width) for frame in frames[first : first + COLUMNS]]
        row = np.full((tiles[0].shape[0] + GAP, WIDTH, 3), BACKGROUND, np.uint8)
        for column, tile in enumerate(tiles):
            left = MARGIN + column * (width + GAP)
            row[: tile.shape[0], left : left + width] = tile
        rows.append(row)
    rows.append(_words(remarks))
    sheet = np.concatenate(rows)
    path.write_bytes(encoded(sheet))
    return sheet


def _tile(capture: Capture, body: BodyModel, observations: PersonObservations, frame: int, width: int) -> np.ndarray:
    photo = capture.load_image(frame)
    scale = width / photo.shape[1]
    shrinks = scale < 1
    size = (width, round(photo.shape[0] * scale))
    tile = cv2.resize(photo, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    outline = silhouettes(body_vertices(capture, body, [frame]), body, capture.camera)[0]
    for mask, colour in ((outline, BODY_COLOUR), (observations.masks[frame], MASK_COLOUR)):
        soft = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
        contours, _ = cv2.findContours((soft > 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.polylines(tile, contours, True, colour, 1, cv2.LINE_AA)
    _draw_keypoints(tile, (observations.keypoints[frame] + 0.5) * scale - 0.5, observations, frame)
    tab = np.s_[:24, : _text_width(f"frame {frame}", 0.45) + 16]
    tile[tab] = tile[tab] // 4
    _write(tile, f"frame {frame}", (8, 17), 0.45, TEXT)
    return np.asarray(tile)


def _draw_keypoints(tile: np.ndarray, points: np.ndarray, observations: PersonObservations, frame: int) -> None:
    """Bones that are seen, in the colour of their side, in place."""
    seen = np.isfinite(points).all(-1) & (observations.confidence[frame] >= LEAST_CONFIDENCE)
    place = {
        name: (round(float(x)), round(float(y)))
        for name, (x, y), shown in zip(observations.names, points, seen, strict=True)
        if shown
    }
    pairs = [(f"{side}_{a}", f"{side}_{b}", SIDES[side]) for side in ("left", "right") for a, b in BONES]
    for first, second, colour in [*pairs, *((a, b, SIDES[""]) for a, b in ACROSS)]:
        if first in place and second in place:
            cv2.line(tile, place[first], place[second], colour, 2, cv2.LINE_AA)
    for name, at in place.items():
        cv2.circle(tile, at, 3, SIDES[name.partition("_")[0] if name.startswith(("left", "right")) else ""], -1)


def _header(capture: Capture, quality: Quality, remarks: Sequence[str], title: str) -> np.ndarray:
    panel = np.full((104, WIDTH, 3), BACKGROUND, np.uint8)
    height, width = capture.image_size
    turn = "turn unknown" if quality.turn_degrees is None else f"turn {quality.turn_degrees:.0f} degrees"
    facts = (
        f"{len(capture)} frames, {width} x {height} px, {turn}, person {quality.person_height_px:.0f} px tall in the "
        f"video, blur {quality.blur:.2f}, focal length {float(capture.camera.focal[0]):.0f} px"
    )
    _write(panel, title, (MARGIN, 48), 1.1, TEXT)
    _write(panel, facts, (MARGIN, 82), 0.52, FAINT)
    x = WIDTH - MARGIN
    keys = (("fitted body", BODY_COLOUR), ("mask", MASK_COLOUR), ("right", SIDES["right"]), ("left", SIDES["left"]))
    for words, colour in keys:
        x -= _text_width(words, 0.5)
        _write(panel, words, (x, 82), 0.5, FAINT)
        cv2.rectangle(panel, (x - 24, 72), (x - 10, 82), colour, -1)
        x -= 46
    words = f"remarks: {len(remarks)}" if remarks else "nothing to complain about"
    x = WIDTH - MARGIN - _text_width(words, 0.65)
    cv2.circle(panel, (x - 18, 40), 7, CAUTION if remarks else GOOD, -1, cv2.LINE_AA)
    _write(panel, words, (x, 47), 0.65, TEXT)
    return panel


def _words(remarks: Sequence[str]) -> np.ndarray:
    lines = []
    for remark in remarks:
        line = ""
        for word in remark.split(" "):
            if line and _text_width(f"{line} {word}", 0.52) > WIDTH - 2 * MARGIN:
                lines.append(line)
                line = f"    {word}"
            else:
                line = f"{line} {word}" if line else word
        lines.append(line)
    panel = np.full((len(lines) * LINE + GAP if lines else 0, WIDTH, 3), BACKGROUND, np.uint8)
    for row, line in enumerate(lines):
        _write(panel, line, (MARGIN, (row + 1) * LINE - 6), 0.52, CAUTION)
    return panel


def _text_width(words: str, scale: float) -> int:
    return int(cv2.getTextSize(words, FONT, scale, 1)[0][0])


def _write(panel: np.ndarray, words: str, at: tuple[int, int], scale: float, colour: tuple[int, int, int]) -> None:
    """Text with its baseline at ``at``, drawn in place; OpenCV's fonts know ASCII alone."""
    cv2.putText(panel, words.encode("ascii", "replace").decode(), at, FONT, scale, colour, 1, cv2.LINE_AA)
