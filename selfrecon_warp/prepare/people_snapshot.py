"""PeopleSnapshot and VideoAvatars folders become captures, as the reference's preprocessing makes them.

A folder holds ``camera.pkl``, ``masks.hdf5``, ``reconstructed_poses.hdf5`` and one video. Nothing is resized or
cropped, and nothing undistorted unless asked for. The world is the video camera's OpenCV frame.

Source: SelfRecon's preprocessing; Alldieck et al. 2018 (the data).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console

from selfrecon_warp import __version__
from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.errors import PrepareError
from selfrecon_warp.prepare.body_track import full_pose, mean_betas, translations
from selfrecon_warp.prepare.capture_writer import CaptureFolder, fingerprint
from selfrecon_warp.prepare.frames import Video
from selfrecon_warp.prepare.rotations import finite
from selfrecon_warp.prepare.safe_pickle import read_pickle
from selfrecon_warp.view.infer import progress_bars

LARGEST_TURN = 1e-6
"""Rotation of ``camera.pkl`` [rad] above which the folder is refused: poses there are in camera axes."""
_CAMERA_KEYS = ("camera_c", "camera_f", "camera_k", "camera_t", "camera_rt", "width", "height")


@dataclass(frozen=True)
class SnapshotFolder:
    """What a folder says, pictures aside.

    Attributes:
        video: The video.
        masks: The file of the masks.
        camera: Focal length, principal point and translation; no rotation.
        distortion: OpenCV's k1, k2, p1, p2, k3.
        poses: Axis-angle [rad], ``[F, 24, 3]``.
        trans: Translation in the video camera's OpenCV frame [m], ``[F, 3]``.
        betas: Shape, ``[10]``.
        gender: ``female`` or ``male`` where the path says so, else ``neutral``.
        mask_count: Masks in the file.
    """

    video: Path
    masks: Path
    camera: Camera
    distortion: np.ndarray
    poses: np.ndarray
    trans: np.ndarray
    betas: np.ndarray
    gender: str
    mask_count: int


def import_people_snapshot(
    folder: Path,
    out: Path,
    *,
    start: int = 0,
    undistort: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> tuple[int, str]:
    """Write a capture from a PeopleSnapshot folder.

    Args:
        folder: With ``camera.pkl``, ``masks.hdf5``, ``reconstructed_poses.hdf5`` and one video.
        out: Capture folder to make.
        start: First frame taken; those before it are dropped and the rest renumbered.
        undistort: Remove the lens distortion ``camera_k`` from pictures and masks; the camera stays.
        overwrite: Replace what ``out`` holds.
        console: Where progress is shown; standard error when absent.

    Returns:
        Frames written, and what the user should know, or nothing.

    Raises:
        PrepareError: A file is missing, unsafe, damaged or does not fit the others.
    """
    CaptureFolder.require_available(out, overwrite=overwrite)
    read = read_snapshot_folder(folder)
    video = Video(read.video)
    counts = {"video": len(video.names), "masks": read.mask_count, "poses": len(read.poses)}
    count = min(counts.values()) - start
    if start < 0 or count < 2:
        told = ", ".join(f"{name} {number}" for name, number in counts.items())
        raise PrepareError(
            f"{folder}: from frame {start} on fewer than two frames are left of {told}; choose another --start"
        )
    remark = ""
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{number} of {name}" for name, number in counts.items())
        remark = f"frames: {told}; taken are the first {count + start}, which all have"
    size = read.camera.height, read.camera.width
    straighten = _undistorter(read) if undistort else _as_is
    recipe = {"folder": fingerprint(folder), "start": start, "undistort": undistort, "kind": "people-snapshot"}
    with (
        _hdf5(read.masks) as masks,
        CaptureFolder(out, overwrite=overwrite, recipe=recipe) as capture,
        progress_bars(console) as progress,
    ):
        task = progress.add_task("frames", total=count)
        numbers = [number for number in range(count) if not capture.has("masks", number)]
        for number, frame in zip(numbers, video.read([start + number for number in numbers]), strict=True):
            mask = _mask(read.masks, masks, start + number)
            picture = _turned(frame.pixels, size, read.video)
            if mask.shape != size:
                raise PrepareError(
                    f"{read.masks}: masks are {mask.shape[1]}x{mask.shape[0]}, camera.pkl tells {size[1]}x{size[0]}"
                )
            if not mask.any():
                raise PrepareError(f"{read.masks}: mask {start + number} is empty; choose another --start")
            capture.image(number, straighten(picture, cv2.INTER_LINEAR), ".png")
            capture.mask(number, straighten(mask.astype(np.uint8), cv2.INTER_NEAREST) > 0)
            progress.update(task, completed=number + 1)
        capture.camera(read.camera)
        capture.body(read.poses[start : start + count], read.trans[start : start + count], read.betas, read.gender)
        made_by = f"selfrecon prepare people-snapshot, version {__version__}"
        capture.note({"made by": made_by, "from": folder, "start": start, "undistort": undistort, "remark": remark})
    return count, remark


def read_snapshot_folder(folder: Path) -> SnapshotFolder:
    """Read everything but pictures and masks.

    Raises:
        PrepareError: A file is missing, unsafe, damaged or of a wrong shape.
    """
    if not folder.is_dir():
        raise PrepareError(f"{folder} is no folder; give a PeopleSnapshot folder")
    camera_file, mask_file, pose_file = (
        folder / name for name in ("camera.pkl", "masks.hdf5", "reconstructed_poses.hdf5")
    )
    videos = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in (".mp4", ".mov", ".avi", ".mkv")]
    missing = [file.name for file in (camera_file, mask_file, pose_file) if not file.is_file()]
    if missing or len(videos) != 1:
        found = ", ".join(sorted(file.name for file in folder.iterdir())) or "nothing"
        raise PrepareError(
            f"{folder}: expected camera.pkl, masks.hdf5, reconstructed_poses.hdf5 and one video, found {found}"
        )
    camera, distortion = _read_camera(camera_file)
    with _hdf5(pose_file) as stored:
        arrays = {name: _dataset(pose_file, stored, name) for name in ("betas", "pose", "trans")}
    with _hdf5(mask_file) as stored:
        masks = stored.get("masks")
        if masks is None or len(masks.shape) != 3:
            raise PrepareError(f"{mask_file} must hold masks of shape (frames, height, width), found {list(stored)}")
        mask_count = int(masks.shape[0])
    poses = full_pose([("pose", arrays["pose"])], pose_file)
    trans = translations(arrays["trans"], f"{pose_file}: trans")
    if len(trans) != len(poses):
        raise PrepareError(f"{pose_file}: pose covers {len(poses)} frames, trans {len(trans)}")
    name = str(folder.resolve()).lower()
    gender = "female" if "female" in name else "male" if "male" in name else "neutral"
    betas = mean_betas(arrays["betas"], f"{pose_file}: betas")
    return SnapshotFolder(videos[0], mask_file, camera, distortion, poses, trans, betas, gender, mask_count)


def _read_camera(path: Path) -> tuple[Camera, np.ndarray]:
    content = read_pickle(path)
    missing = [key for key in _CAMERA_KEYS if not isinstance(content, Mapping) or key not in content]
    if missing and missing != ["camera_k"]:
        raise PrepareError(
            f"{path} lacks {', '.join(missing)}; a PeopleSnapshot camera holds {', '.join(_CAMERA_KEYS)}"
        )
    numbers = {key: finite(np.asarray(content.get(key, 0.0)), f"{path}: {key}").ravel() for key in _CAMERA_KEYS}
    if np.abs(numbers["camera_rt"]).max() > LARGEST_TURN:
        raise PrepareError(
            f"{path}: camera_rt is {numbers['camera_rt'].tolist()}; only a camera that is not turned is understood"
        )
    height, width = int(numbers["height"][0]), int(numbers["width"][0])
    focal, centre = np.broadcast_to(numbers["camera_f"], 2), np.broadcast_to(numbers["camera_c"], 2)
    if min(height, width) < 1 or focal.min() <= 0 or numbers["camera_t"].shape != (3,):
        raise PrepareError(f"{path}: width, height and camera_f must be positive and camera_t three numbers")
    x, y, z = numbers["camera_t"]
    camera = Camera(focal.tolist(), centre.tolist(), T=(-x, -y, z), height=height, width=width)
    distortion = np.zeros(5)
    distortion[: min(5, numbers["camera_k"].size)] = numbers["camera_k"][:5]
    return camera, distortion


def _hdf5(path: Path) -> Any:
    """An open HDF5 file."""
    try:
        import h5py
    except ImportError as error:
        raise PrepareError("reading HDF5 files needs h5py: pip install 'selfrecon-warp[prepare]'") from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise PrepareError(f"{path} is damaged or no HDF5 file: {error}") from error


def _mask(path: Path, stored: Any, frame: int) -> np.ndarray:
    try:
        return np.asarray(stored["masks"][frame]) > 0
    except (OSError, RuntimeError) as error:  # h5py raises either for a damaged chunk
        raise PrepareError(f"{path}: mask {frame} is damaged ({error}); get the file anew") from error


def _dataset(path: Path, stored: Any, name: str) -> np.ndarray:
    if name not in stored:
        raise PrepareError(f"{path} lacks {name}; it holds {', '.join(stored) or 'nothing'}")
    return np.asarray(stored[name])


def _turned(picture: np.ndarray, size: tuple[int, int], path: Path) -> np.ndarray:
    """A picture of the camera's size; one that lies on its side is turned clockwise, as the data is stored."""
    if picture.shape[:2] == size:
        return picture
    if picture.shape[:2] == size[::-1]:
        return np.ascontiguousarray(np.rot90(picture, -1))
    height, width = picture.shape[:2]
    raise PrepareError(
        f"{path} is {width}x{height}, camera.pkl tells {size[1]}x{size[0]}; they belong to different videos"
    )


def _undistorter(read: SnapshotFolder) -> Callable[[np.ndarray, int], np.ndarray]:
    """Maps pictures to what a lens without distortion would have taken with the same camera."""
    (fx, fy), (cx, cy) = read.camera.focal.tolist(), read.camera.principal.tolist()
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    size = read.camera.width, read.camera.height
    maps = cv2.initUndistortRectifyMap(matrix, read.distortion, None, matrix, size, cv2.CV_32FC1)
    return lambda picture, interpolation: np.asarray(cv2.remap(picture, *maps, interpolation))


def _as_is(picture: np.ndarray, _: int) -> np.ndarray:
    return picture
