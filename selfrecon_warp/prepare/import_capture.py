"""Pictures, masks and an estimator's file become a capture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from selfrecon_warp import __version__
from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.capture.overlap import sample_frames
from selfrecon_warp.errors import PrepareError
from selfrecon_warp.model.body import GENDERS, BodyModel, load_body
from selfrecon_warp.prepare.body_track import BodyTrack
from selfrecon_warp.prepare.camera_file import Intrinsics, read_camera_file
from selfrecon_warp.prepare.capture_writer import CaptureFolder, fingerprint
from selfrecon_warp.prepare.estimators import read_track
from selfrecon_warp.prepare.frames import Frame, FrameSource, Video, frame_number, open_frames
from selfrecon_warp.prepare.masks import THRESHOLD, MaskSource, mask_remarks
from selfrecon_warp.prepare.normal_maps import NormalSource, body_normals
from selfrecon_warp.prepare.placement import FRAMES_TRIED, Reading, best_reading, is_default_body
from selfrecon_warp.view.infer import progress_bars

POOR_OVERLAP = 0.6
FEWEST_FRAMES = 2


@dataclass(frozen=True)
class ImportSettings:
    """What to import and how; the command's options.

    Attributes:
        images: Folder of pictures or a video.
        body_file: The estimator's file or folder.
        source: ``auto`` or the estimator's name.
        track: Which person; the one seen longest when absent.
        masks: Folder or video of masks; the pictures' alpha when absent.
        mask_threshold: Share of white from which on a pixel is the person.
        normals: Folder of normal maps.
        normals_frame: Their axes, see :mod:`selfrecon_warp.prepare.normal_maps`.
        normals_crop: Which part of the picture they show.
        camera: Camera file.
        focal: Focal length [px], instead of a file.
        start: First frame taken.
        stop: Frame before which to stop.
        step: Take every so many.
        gender: Gender of the body model; the file's when absent.
        lossless: Store video frames as PNG instead of JPEG.
    """

    images: Path
    body_file: Path
    source: str = "auto"
    track: str | None = None
    masks: Path | None = None
    mask_threshold: float = THRESHOLD
    normals: Path | None = None
    normals_frame: str = "auto"
    normals_crop: str = "full"
    camera: Path | None = None
    focal: float | None = None
    start: int = 0
    stop: int | None = None
    step: int = 1
    gender: str | None = None
    lossless: bool = False


@dataclass(frozen=True)
class Imported:
    """What came of it.

    Attributes:
        frames: Frames written.
        source: The estimator.
        reading: How its numbers were read.
        tried: All readings, with their overlaps.
        remarks: What the user should know.
    """

    frames: int
    source: str
    reading: Reading
    tried: tuple[Reading, ...]
    remarks: tuple[str, ...]


def import_capture(
    settings: ImportSettings,
    out: Path,
    *,
    body_models: Path | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> Imported:
    """Write a capture from an estimator's file and the pictures it was made from.

    Args:
        settings: What to import.
        out: Capture folder to make.
        body_models: SMPL files; the CC0 body of the package when absent.
        overwrite: Replace what ``out`` holds.
        console: Where progress is shown; standard error when absent.

    Raises:
        SelfReconError: A file is missing, unsafe, damaged or not understood, or the parts do not fit together.
    """
    CaptureFolder.require_available(out, overwrite=overwrite)
    frames = open_frames(settings.images)
    first = next(iter(frames.read([0])))
    size = first.pixels.shape[0], first.pixels.shape[1]
    found = read_track(settings.body_file, size, settings.source, settings.track)
    indices, track, remarks = chosen_frames(settings, frames, found)
    gender = settings.gender or (track.gender if track.gender in GENDERS else "neutral")
    body = load_body(body_models, gender)
    camera, more = _camera(settings, track, size)
    masks = MaskSource(settings.masks, frames, settings.mask_threshold)
    normals = None
    if settings.normals is not None:
        normals = NormalSource(settings.normals, frames, settings.normals_frame, settings.normals_crop)
    sample = sample_frames(len(indices), FRAMES_TRIED)
    pairs = [_sized(frame, mask, size, frames) for frame, mask in masks.read([int(indices[row]) for row in sample])]
    reading, tried = best_reading(track, body, camera, sample, np.stack([mask for _, mask in pairs]))
    remarks += [*more, *mask_remarks([mask for _, mask in pairs]), *_told(track, body, reading)]
    if normals is not None:
        remarks += filter(None, [_settled(normals, track, reading, body, camera, sample[::3], pairs[::3])])
    recipe = {"settings": str(settings), "inputs": [fingerprint(path) for path in _inputs(settings)]}
    with CaptureFolder(out, overwrite=overwrite, recipe=recipe) as capture, progress_bars(console) as progress:
        task = progress.add_task("frames", total=len(indices))
        numbers = [number for number in range(len(indices)) if not capture.has("masks", number)]
        for number, (frame, mask) in zip(numbers, masks.read([int(indices[row]) for row in numbers]), strict=True):
            _sized(frame, mask, size, frames)
            _write_picture(capture, number, frame, lossless=settings.lossless or not isinstance(frames, Video))
            if normals is not None:
                capture.normals(number, *normals.read(frame, mask))
            capture.mask(number, mask)  # last: a frame with a mask is complete
            progress.update(task, completed=number + 1)
        capture.camera(camera)
        ends = [int((indices < end).sum()) for end in track.clip_ends]
        capture.body(track.poses, reading.trans, reading.betas, gender, ends)
        capture.note(_record(settings, track, reading, tried, remarks, indices))
    return Imported(len(indices), track.source, reading, tuple(tried), tuple(remarks))


def chosen_frames(
    settings: ImportSettings, frames: FrameSource, track: BodyTrack
) -> tuple[np.ndarray, BodyTrack, list[str]]:
    """Frame indices ``[N]`` that are wanted and tracked, the track of just these, and what the user should know.

    Raises:
        PrepareError: The options leave nothing, or the track does not cover the frames.
    """
    count = len(frames.names)
    if settings.step < 1 or settings.start < 0 or (settings.stop is not None and settings.stop <= settings.start):
        raise PrepareError(
            f"--start {settings.start}, --stop {settings.stop}, --step {settings.step}: expected 0 <= start < stop "
            "and step >= 1"
        )
    if settings.start >= count:
        raise PrepareError(f"--start {settings.start}: {frames.path} has only {count} frames")
    wanted = range(settings.start, min(settings.stop or count, count), settings.step)
    known = _known_frames(frames, track)
    remarks = [track.remark] if track.remark else []
    if track.indexed and known and max(known) >= count:
        raise PrepareError(
            f"{track.path} tells of frame {max(known)}, {frames.path} has {count} frames; they belong to different "
            "videos"
        )
    kept = [index for index in wanted if index in known]
    if not track.indexed and not track.names and len(kept) < len(wanted):
        raise PrepareError(
            f"{track.path} covers {len(track.poses)} frames, {frames.path} has {count}; run the estimator on all of "
            "them, or "
            f"take only the covered ones with --stop {len(track.poses)}"
        )
    if len(kept) < FEWEST_FRAMES:
        raise PrepareError(
            f"{track.path}: the person is tracked in {len(kept)} of the {len(wanted)} frames wanted from "
            f"{frames.path}; a "
            f"capture needs at least {FEWEST_FRAMES}"
        )
    if len(kept) < len(wanted):
        lost = sorted(set(wanted) - set(kept))
        remarks.append(
            f"{len(lost)} frames without a pose are left out, the first is {lost[0]}; the rest is renumbered"
        )
    if not track.indexed and not track.names and len(track.poses) > count:
        remarks.append(f"the file holds {len(track.poses)} poses, the last {len(track.poses) - count} have no picture")
    return np.array(kept), track.rows([known[index] for index in kept]), remarks


def _known_frames(frames: FrameSource, track: BodyTrack) -> dict[int, int]:
    """Row of the track by frame index: by picture names where these fit, else by the file's own indices."""
    if track.names and not isinstance(frames, Video):
        by_name = {name: row for row, name in enumerate(track.names)}
        known = {index: by_name[name] for index, name in enumerate(frames.names) if name in by_name}
        # Pictures counted from 1 by one program and from 0 by another have each other's names, off by one.
        shifted = track.indexed and all(abs(index - track.frames[row]) <= 1 for index, row in known.items())
        if len(known) == len(track.names) and not shifted:
            return known
    if track.names and not track.indexed and len(track.names) != len(frames.names):
        numbers = [frame_number(name) for name in track.names]
        if None not in numbers and len(set(numbers)) == len(numbers):
            return {number: row for row, number in enumerate(numbers) if number is not None}
    return {int(index): row for row, index in enumerate(track.frames)}


def _camera(settings: ImportSettings, track: BodyTrack, size: tuple[int, int]) -> tuple[Camera, list[str]]:
    """The capture's camera: as given, else beside a capture's body file, else what the estimator assumed."""
    if settings.camera is not None and settings.focal is not None:
        raise PrepareError("give --camera or --focal, not both")
    if settings.focal is not None:
        if not settings.focal > 0:
            raise PrepareError(f"--focal must be a positive number of pixels, got {settings.focal}")
        return Intrinsics.centred(settings.focal, size).camera(size), []
    beside = track.path.parent / "camera.npz"
    file = settings.camera or (beside if track.source == "selfrecon" and beside.is_file() else None)
    if file is not None:
        camera = read_camera_file(file, size)
        # Estimators' bodies are in camera axes: the pose of the camera in another world says nothing about them.
        return (camera if track.source == "selfrecon" else Intrinsics.of(camera).camera(size)), []
    assumed = track.paths[0].intrinsics
    if assumed is None:
        raise PrepareError(f"{track.path} tells no camera; give --camera FILE or --focal PX")
    remark = f"no --camera or --focal: took the {assumed.fx:.0f} px that {track.source} worked with"
    return assumed.camera(size), [remark]


def _settled(
    normals: NormalSource,
    track: BodyTrack,
    reading: Reading,
    body: BodyModel,
    camera: Camera,
    rows: Sequence[int],
    pairs: Sequence[tuple[Frame, np.ndarray]],
) -> str:
    poses = torch.from_numpy(track.poses[list(rows)]).float()
    trans = torch.from_numpy(reading.trans[list(rows)]).float()
    betas = torch.from_numpy(np.asarray(reading.betas[: body.shape_count])).float()
    with torch.no_grad():
        vertices = body.posed(betas, poses, trans)[0]
    return normals.settle(pairs, body_normals(vertices, body, camera))


def _sized(frame: Frame, mask: np.ndarray, size: tuple[int, int], frames: FrameSource) -> tuple[Frame, np.ndarray]:
    """The same, when they have the size of the first picture."""
    if frame.pixels.shape[:2] != size:
        height, width = frame.pixels.shape[:2]
        raise PrepareError(
            f"{frames.path}: frame {frame.name} is {width}x{height}, the first {size[1]}x{size[0]}; all must have one "
            "size"
        )
    return frame, mask


def _write_picture(capture: CaptureFolder, number: int, frame: Frame, *, lossless: bool) -> None:
    """A file that is already as captures have it is copied, everything else encoded."""
    if frame.file is not None:
        capture.image(number, frame.file.read_bytes(), frame.file.suffix.lower())
    else:
        capture.image(number, frame.pixels, ".png" if lossless else ".jpg")


def _told(track: BodyTrack, body: BodyModel, reading: Reading) -> list[str]:
    remarks = []
    foreign = track.model != "capture" and (is_default_body(body) or track.model == "SMPL-X")
    if foreign and len(reading.words.split("; ")) > 1:
        whose = "the CC0 body in use has" if is_default_body(body) else "the SMPL body in use has"
        remarks.append(
            f"the file's shape coefficients are {track.model}'s and {whose} others: {reading.words.split('; ')[-1]} "
            "fits the "
            "masks best and is kept"
            + ("; --body-models SMPL keeps the file's meaning" if is_default_body(body) else "")
        )
    if reading.overlap < POOR_OVERLAP:
        remarks.append(
            f"the body meets the masks by only {reading.overlap:.2f}; look at `selfrecon check`, and at whether "
            "camera and "
            "frames belong to this file"
        )
    return remarks


def _inputs(settings: ImportSettings) -> list[Path]:
    paths = (settings.images, settings.body_file, settings.masks, settings.normals, settings.camera)
    return [path for path in paths if path is not None]


def _record(
    settings: ImportSettings,
    track: BodyTrack,
    reading: Reading,
    tried: Sequence[Reading],
    remarks: Sequence[str],
    indices: np.ndarray,
) -> dict[str, Any]:
    """What ``prepared.json`` tells."""
    return {
        "made by": f"selfrecon prepare import, version {__version__}",
        "from": {name: value for name, value in asdict(settings).items() if value is not None},
        "format": track.source,
        "source frames": indices.tolist(),
        "reading": reading.words,
        "overlap of body and masks by reading": {other.words: round(other.overlap, 4) for other in tried},
        "remarks": list(remarks),
    }
