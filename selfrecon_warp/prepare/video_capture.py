"""A video of a turning person becomes a capture: frames, masks, keypoints, body."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from selfrecon_warp import __version__
from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.errors import PrepareError
from selfrecon_warp.model.body import BodyModel, load_body
from selfrecon_warp.prepare.blaze_pose import BlazePose
from selfrecon_warp.prepare.body_fit import FittedBody, fit_body, require_height, typical_camera
from selfrecon_warp.prepare.camera_file import Intrinsics
from selfrecon_warp.prepare.capture_writer import CaptureFolder, fingerprint
from selfrecon_warp.prepare.frame_choice import choose_frames, find_turn
from selfrecon_warp.prepare.frames import USUAL_RATE, FrameSource, Video, open_frames, read_picture
from selfrecon_warp.prepare.framing import Framing
from selfrecon_warp.prepare.mask_edges import person_mask, sharpened
from selfrecon_warp.prepare.observations import KEYPOINTS, PersonObservations, write_keypoints
from selfrecon_warp.prepare.person import PersonFinder
from selfrecon_warp.prepare.quality import Quality, judge, remarks_on, require_usable, usable_rows
from selfrecon_warp.prepare.survey import Survey, Surveyor, main_person, reduced
from selfrecon_warp.prepare.video_sheet import draw_video_sheet
from selfrecon_warp.view.infer import progress_bars

DEFAULT_FRAMES = 120
DEFAULT_RESOLUTION = 720
FIRST_LOOKS = 240
"""Frames looked at to find the turn."""
LOOKS_A_FRAME = 3
"""Frames looked at within the turn for each one taken."""
LEAST_FOV, MOST_FOV = 5.0, 150.0
SHEET = "contact_sheet.png"
_SURVEY = ".survey"


@dataclass(frozen=True)
class VideoSettings:
    """What to make of a video; the command's options.

    Attributes:
        video: The file, or a folder of its frames.
        frames: How many frames the capture shall have; :data:`DEFAULT_FRAMES` when this and ``fps`` are absent.
        fps: Frames a second of the turn, instead.
        resolution: Longer side of the pictures at most [px].
        focal: Focal length of the whole, upright picture [px].
        fov: Angle that the picture's longer side takes in [degrees], instead.
        height: The person's height [cm].
    """

    video: Path
    frames: int | None = None
    fps: float | None = None
    resolution: int = DEFAULT_RESOLUTION
    focal: float | None = None
    fov: float | None = None
    height: float | None = None


@dataclass(frozen=True)
class PreparedVideo:
    """What came of it.

    Attributes:
        frames: Frames written.
        quality: Numbers about the video.
        focal: Focal length of the capture's pictures [px].
        remarks: What the user should know.
    """

    frames: int
    quality: Quality
    focal: float
    remarks: tuple[str, ...]


def prepare_video(
    settings: VideoSettings,
    out: Path,
    *,
    finder: PersonFinder | None = None,
    body_models: Path | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> PreparedVideo:
    """Write a capture from a video alone.

    Args:
        settings: What to make.
        out: Capture folder to make.
        finder: What finds people; the installed networks when absent.
        body_models: SMPL files; the CC0 body of the package when absent.
        overwrite: Replace what ``out`` holds.
        console: Where progress is shown; standard error when absent.

    Raises:
        SelfReconError: The video cannot be read or cannot work, the networks are not installed, or an option is
            impossible.
    """
    _require_plausible(settings)
    CaptureFolder.require_available(out, overwrite=overwrite)
    finder = finder or BlazePose()
    body = load_body(body_models, "neutral")
    source = open_frames(settings.video)
    times = source.times if isinstance(source, Video) else np.arange(len(source.names)) / USUAL_RATE
    first = next(iter(source.read([0])))
    size = first.pixels.shape[0], first.pixels.shape[1]
    recipe = {"settings": str(settings), "finder": finder.name, "inputs": [fingerprint(settings.video)]}
    with CaptureFolder(out, overwrite=overwrite, recipe=recipe) as capture, progress_bars(console) as progress:
        survey, rows, quality, wanted = _chosen(settings, capture, source, finder, times, size, progress)
        taken = survey.rows(rows)
        framing = Framing.around(taken.boxes, size, settings.resolution)
        masks = _write_frames(capture, source, finder, taken, framing, progress)
        observations = PersonObservations(
            masks=masks,
            keypoints=framing.points(taken.keypoints).astype(np.float32),
            confidence=taken.confidence.astype(np.float32),
            keypoints3d=None if np.isnan(taken.keypoints3d).all() else taken.keypoints3d.astype(np.float32),
            names=finder.names,
            times=times[taken.frames],
        )
        fitted, camera = _fit(settings, observations, framing, size, body, progress)
        remarks = (*remarks_on(quality, wanted), *fitted.remarks)
        capture.camera(camera)
        capture.body(fitted.poses, fitted.trans, fitted.betas)
        write_keypoints(capture.folder / KEYPOINTS, observations)
        capture.note(_record(settings, finder, framing, taken, times, quality, fitted, remarks))
        draw_video_sheet(capture.read(), body, observations, quality, remarks, capture.folder / SHEET, out.name)
        shutil.rmtree(capture.folder / _SURVEY)
    return PreparedVideo(len(taken.frames), quality, float(camera.focal[0]), remarks)


def _require_plausible(settings: VideoSettings) -> None:
    if settings.focal is not None and settings.fov is not None:
        raise PrepareError("give --focal or --fov, not both")
    if settings.frames is not None and settings.fps is not None:
        raise PrepareError("give --frames or --fps, not both")
    if settings.focal is not None and not settings.focal > 0:
        raise PrepareError(f"--focal must be a positive number of pixels, got {settings.focal:g}")
    if settings.fov is not None and not LEAST_FOV <= settings.fov <= MOST_FOV:
        raise PrepareError(f"--fov must lie between {LEAST_FOV:g} and {MOST_FOV:g} degrees, got {settings.fov:g}")
    if settings.fps is not None and not settings.fps > 0:
        raise PrepareError(f"--fps must be a positive number of frames a second, got {settings.fps:g}")
    require_height(settings.height)


def _chosen(
    settings: VideoSettings,
    capture: CaptureFolder,
    source: FrameSource,
    finder: PersonFinder,
    times: np.ndarray,
    size: tuple[int, int],
    progress: Progress,
) -> tuple[Survey, np.ndarray, Quality, int]:
    """What the video shows, which rows of that are taken, how good it is, and how many frames were wanted."""
    surveyor, names = Surveyor(source, finder), finder.names
    store = capture.folder / _SURVEY
    store.mkdir(exist_ok=True)
    everywhere = _spread(0, len(times) - 1, FIRST_LOOKS)
    survey = _looked(surveyor, everywhere, store / "whole.npz", "looking", progress)
    usable = usable_rows(survey, names, size)
    require_usable(survey, usable, source.path)
    turn = find_turn(survey, usable, names, times[survey.frames])
    first, last = (int(survey.frames[turn.rows[place]]) for place in (0, -1))
    wanted = settings.frames or DEFAULT_FRAMES
    if settings.fps is not None:
        wanted = max(round(settings.fps * float(times[last] - times[first])), 1)
    nearer = np.setdiff1d(_spread(first, last, LOOKS_A_FRAME * wanted), survey.frames)
    if len(nearer):
        survey = survey.joined(_looked(surveyor, nearer, store / "turn.npz", "looking closer", progress))
        usable = usable_rows(survey, names, size)
        within = usable & (survey.frames >= first) & (survey.frames <= last)
        angle = turn.angle
        turn = find_turn(survey, within, names, times[survey.frames])
    else:
        angle = turn.angle
    rows = choose_frames(turn, survey, wanted)
    return survey, rows, judge(survey, usable, rows, angle, names, size), wanted


def _looked(surveyor: Surveyor, indices: np.ndarray, file: Path, words: str, progress: Progress) -> Survey:
    """The survey of some frames, read back where a killed process had made it."""
    if file.is_file():
        return Survey.load(file)
    task = progress.add_task(words, total=len(indices))
    survey = surveyor.look(indices.tolist(), lambda: progress.advance(task))
    survey.save(file)
    return survey


def _write_frames(
    capture: CaptureFolder,
    source: FrameSource,
    finder: PersonFinder,
    taken: Survey,
    framing: Framing,
    progress: Progress,
) -> np.ndarray:
    """Write pictures and masks of the frames taken; returns the masks, ``[N, H, W]`` bool."""
    task = progress.add_task("masks", total=len(taken.frames))
    numbers = [number for number in range(len(taken.frames)) if not capture.has("masks", number)]
    progress.advance(task, len(taken.frames) - len(numbers))
    for number, frame in zip(numbers, source.read(taken.frames[numbers].tolist()), strict=True):
        small, scale = reduced(frame.pixels)
        box = (taken.boxes[number] + 0.5) * np.tile(scale, 2) - 0.5
        person = main_person(finder.find(small), box)
        picture = framing.cut(frame.pixels)
        capture.image(number, picture)
        height = (taken.boxes[number, 3] - taken.boxes[number, 1]) * framing.scale[1]
        coarse = framing.sampled(person.probability, scale)
        mask = person_mask(sharpened(coarse, picture, float(height)))
        capture.mask(number, mask if mask.any() else person_mask(coarse))  # last: a frame with a mask is complete
        progress.advance(task)
    files = [capture.folder / "masks" / f"{number:06d}.png" for number in range(len(taken.frames))]
    return np.stack([read_picture(file) > 0 for file in files])


def _fit(
    settings: VideoSettings,
    observations: PersonObservations,
    framing: Framing,
    size: tuple[int, int],
    body: BodyModel,
    progress: Progress,
) -> tuple[FittedBody, Camera]:
    """The body in every frame, and the camera of the capture."""
    focal = settings.focal
    if settings.fov is not None:
        focal = 0.5 * max(size) / float(np.tan(np.radians(settings.fov) / 2))
    start = typical_camera(size).focal[0].item() if focal is None else focal
    intrinsics = framing.intrinsics(Intrinsics.centred(start, size))
    task = progress.add_task("body", total=None)
    fitted = fit_body(
        observations,
        intrinsics.camera(framing.size),
        body,
        height_cm=settings.height,
        focal_free=focal is None,
        progress=lambda done, total: progress.update(task, completed=done, total=total),
    )
    if focal is None:
        found = fitted.focal / intrinsics.fx
        intrinsics = replace(intrinsics, fx=fitted.focal, fy=intrinsics.fy * found)
    return fitted, intrinsics.camera(framing.size)


def _spread(first: int, last: int, most: int) -> np.ndarray:
    """At most so many indices from ``first`` to ``last``, both included, evenly spread."""
    return np.unique(np.linspace(first, last, min(most, last - first + 1)).round().astype(int))


def _record(
    settings: VideoSettings,
    finder: PersonFinder,
    framing: Framing,
    taken: Survey,
    times: np.ndarray,
    quality: Quality,
    fitted: FittedBody,
    remarks: Sequence[str],
) -> dict[str, Any]:
    """What ``prepared.json`` tells."""
    return {
        "made by": f"selfrecon prepare video, version {__version__}",
        "from": {name: value for name, value in asdict(settings).items() if value is not None},
        "people found by": finder.name,
        "source frames": taken.frames.tolist(),
        "seconds": [round(float(time), 3) for time in times[taken.frames]],
        "window of the picture": {name: int(getattr(framing, name)) for name in ("left", "top", "width", "height")},
        "quality": quality.record(),
        "body": {
            "overlap with the masks": round(fitted.overlap, 4),
            "distance to the keypoints [px]": round(fitted.joint_error_px, 2),
        },
        "remarks": list(remarks),
    }
