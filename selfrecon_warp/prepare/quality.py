"""What is wrong with a video, in words, and when it cannot work."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selfrecon_warp.errors import PrepareError
from selfrecon_warp.prepare.frame_choice import FULL_TURN
from selfrecon_warp.prepare.survey import Survey

FEWEST_FRAMES = 10
LEAST_HEIGHT, GOOD_HEIGHT = 100, 300
"""Person's height [px]."""
SEVERAL_AT_MOST = 0.2
"""Share of the frames with a person that may show somebody else too."""
SEEN_AT_LEAST = 0.5
BLURRED = 0.55
DARK = 60
ARMS_APART = np.radians(18)
MOVED = 0.012
"""Motion of the background over the person's height from which on the camera moves."""
OFTEN = 0.1
"""Share of the frames from which on a fault is told."""


@dataclass(frozen=True)
class Quality:
    """Numbers about a video and the frames taken from it.

    Attributes:
        frames_looked_at: In the video.
        frames_with_a_person: Of these.
        frames_with_several_people: Of these.
        frames_usable: One person, whole enough, large enough.
        frames_taken: In the capture.
        turn_degrees: How far the person turns, 360 for a full turn; ``None`` when it cannot be told.
        person_height_px: In the video, median.
        blur: 0 sharp to 1, median of the frames taken.
        brightness: Of the person's brighter parts, 0 to 255, median.
        feet_cut: Share of the frames taken in which the picture ends at the feet.
        head_cut: Same at the head.
        side_cut: Same at the sides.
        arms_degrees: Between arms and torso where they show best; ``None`` without 3D keypoints.
        camera_motion_px: Of the background, 90th percentile; ``None`` when it shows no corners.
    """

    frames_looked_at: int
    frames_with_a_person: int
    frames_with_several_people: int
    frames_usable: int
    frames_taken: int
    turn_degrees: float | None
    person_height_px: float
    blur: float
    brightness: float
    feet_cut: float
    head_cut: float
    side_cut: float
    arms_degrees: float | None
    camera_motion_px: float | None

    def record(self) -> dict[str, Any]:
        """For ``prepared.json``."""
        return {
            name.replace("_", " "): round(value, 3) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


def usable_rows(survey: Survey, names: tuple[str, ...], size: tuple[int, int]) -> np.ndarray:
    """Frames that show one person, the trunk within the picture, large enough, ``[M]`` bool."""
    trunk = [names.index(f"{side}_{part}") for side in ("left", "right") for part in ("shoulder", "hip")]
    u, v = survey.keypoints[:, trunk, 0], survey.keypoints[:, trunk, 1]
    with np.errstate(invalid="ignore"):
        within = ((u >= 0) & (u <= size[1] - 1) & (v >= 0) & (v <= size[0] - 1)).all(-1)
        large = _heights(survey) >= LEAST_HEIGHT
    return np.asarray((survey.people == 1) & within & large)


def require_usable(survey: Survey, usable: np.ndarray, path: Path) -> None:
    """Refuse a video that cannot become a capture.

    Raises:
        PrepareError: Nobody, several people, seldom seen, too small, or too few frames.
    """
    looked, seen = len(survey.frames), int(survey.found.sum())
    if seen == 0:
        raise PrepareError(
            f"{path}: no person found in any of the {looked} frames looked at; the whole person must be in the "
            "picture, upright and well lit"
        )
    several = int((survey.people > 1).sum())
    if several > SEVERAL_AT_MOST * seen:
        raise PrepareError(
            f"{path}: more than one person in {several} of {seen} frames; record one person alone, mirrors and posters "
            "of people covered"
        )
    if seen < SEEN_AT_LEAST * looked:
        raise PrepareError(
            f"{path}: the person is found in only {seen} of {looked} frames; keep the whole person in the picture all "
            "the time, or cut the video to where that is so"
        )
    height = float(np.nanmedian(_heights(survey)))
    if height < LEAST_HEIGHT:
        raise PrepareError(
            f"{path}: the person is only {height:.0f} px tall; {LEAST_HEIGHT} are the least, {GOOD_HEIGHT} or more "
            "good: go nearer or record in a higher resolution"
        )
    if usable.sum() < SEEN_AT_LEAST * seen:
        raise PrepareError(
            f"{path}: shoulders and hips are within the picture in only {int(usable.sum())} of {seen} frames; keep the "
            "whole person in it"
        )
    if usable.sum() < FEWEST_FRAMES:
        raise PrepareError(
            f"{path}: only {int(usable.sum())} frames show one person well enough, {FEWEST_FRAMES} are the least; "
            "record a slow full turn of ten seconds or more"
        )


def judge(
    survey: Survey,
    usable: np.ndarray,
    taken: np.ndarray,
    angle: float,
    names: tuple[str, ...],
    size: tuple[int, int],
) -> Quality:
    """Measure a video.

    Args:
        survey: Frames looked at.
        usable: Rows that could be taken, ``[M]`` bool.
        taken: Rows that were taken.
        angle: How far the person turns [rad], NaN if unknown.
        names: Of the keypoints.
        size: (height, width) of the video's pictures [px].
    """
    chosen = survey.rows(taken)
    edge = 1.5
    left, top, right, bottom = chosen.boxes.T
    feet = [names.index(name) for name in names if name.endswith(("ankle", "heel", "foot_index"))]
    lowest = chosen.keypoints[:, feet, 1].max(-1) if feet else bottom
    shift = survey.shift[np.isfinite(survey.shift)]
    arms = arm_angles(chosen, names)
    return Quality(
        frames_looked_at=len(survey.frames),
        frames_with_a_person=int(survey.found.sum()),
        frames_with_several_people=int((survey.people > 1).sum()),
        frames_usable=int(usable.sum()),
        frames_taken=len(taken),
        turn_degrees=float(np.degrees(angle)) if np.isfinite(angle) else None,
        person_height_px=float(np.median(bottom - top)),
        blur=float(np.median(chosen.blur)),
        brightness=float(np.median(chosen.brightness)),
        feet_cut=float(((bottom >= size[0] - edge) | (lowest > size[0])).mean()),
        head_cut=float((top <= edge - 1).mean()),
        side_cut=float(((left <= edge - 1) | (right >= size[1] - edge)).mean()),
        arms_degrees=None if arms is None else float(np.degrees(np.percentile(arms, 90))),
        camera_motion_px=float(np.percentile(shift, 90)) if len(shift) > 1 else None,
    )


def remarks_on(quality: Quality, wanted: int) -> list[str]:
    """What should be better, most important first, and what to do about it."""
    remarks = []
    if quality.turn_degrees is None:
        remarks.append("how far the person turns cannot be told without 3D keypoints; frames are spread over the time")
    elif np.radians(quality.turn_degrees) < FULL_TURN:
        remarks.append(
            f"no full turn: the person turns by about {quality.turn_degrees:.0f} degrees; what was never seen is "
            "guessed. Turn once all the way around"
        )
    for share, part, advice in (
        (quality.feet_cut, "the feet are cut off by the lower edge", "go back or tilt the camera"),
        (quality.head_cut, "the head is cut off by the upper edge", "go back or tilt the camera"),
        (quality.side_cut, "the person is cut off at the side", "stay in the middle of the picture"),
    ):
        if share > OFTEN:
            remarks.append(f"{part} in {share:.0%} of the frames; what is cut is not learned: {advice}")
    if quality.blur > BLURRED:
        remarks.append(
            f"the frames are blurred ({quality.blur:.2f} of 1, sharp ones are below {BLURRED}): turn more slowly, give "
            "more light, focus on the person"
        )
    if quality.brightness < DARK:
        remarks.append(f"the person is too dark (brightness {quality.brightness:.0f} of 255): give more light")
    if quality.person_height_px < GOOD_HEIGHT:
        remarks.append(
            f"the person is only {quality.person_height_px:.0f} px tall, {GOOD_HEIGHT} or more are good: go nearer or "
            "record in a higher resolution"
        )
    if quality.arms_degrees is not None and np.radians(quality.arms_degrees) < ARMS_APART:
        remarks.append(
            f"the arms are at the body (about {quality.arms_degrees:.0f} degrees from it): arms and trunk may grow "
            "together. Hold them some 30 degrees away"
        )
    if quality.camera_motion_px is not None and quality.camera_motion_px > MOVED * quality.person_height_px:
        remarks.append(
            f"the camera moves: the background shifts by {quality.camera_motion_px:.0f} px; put it on something firm"
        )
    if quality.frames_with_several_people:
        remarks.append(f"somebody else is in {quality.frames_with_several_people} frames; these are left out")
    unseen = quality.frames_looked_at - quality.frames_with_a_person
    if unseen > OFTEN * quality.frames_looked_at:
        remarks.append(f"nobody is found in {unseen} of {quality.frames_looked_at} frames; these are left out")
    if quality.frames_taken < wanted:
        remarks.append(f"{quality.frames_taken} frames instead of {wanted}: the turn has no more that can be used")
    return remarks


def arm_angles(survey: Survey, names: tuple[str, ...]) -> np.ndarray | None:
    """Angle between shoulder-wrist and shoulder-hip of the arm that is farther away, ``[M]`` [rad]."""
    if "left_wrist" not in names or "right_wrist" not in names or not np.isfinite(survey.keypoints3d).all():
        return None
    angles = []
    for side in ("left", "right"):
        shoulder, wrist, hip = (survey.keypoints3d[:, names.index(f"{side}_{p}")] for p in ("shoulder", "wrist", "hip"))
        arm, trunk = wrist - shoulder, hip - shoulder
        length = np.linalg.norm(arm, axis=-1) * np.linalg.norm(trunk, axis=-1)
        angles.append(np.arccos(np.clip((arm * trunk).sum(-1) / np.maximum(length, 1e-9), -1, 1)))
    return np.maximum(*angles)


def _heights(survey: Survey) -> np.ndarray:
    return np.asarray(survey.boxes[:, 3] - survey.boxes[:, 1])
