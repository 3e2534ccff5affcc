"""Files of human pose estimators, recognised and read without running code in them.

All of them put the body into camera axes x right, y down, z forward (OpenCV's), in which the root rotation already
holds the half turn from the body's y up. They differ in where they keep it and in the camera they assume; see
``docs/prepare.md``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from selfrecon_warp.errors import PrepareError
from selfrecon_warp.prepare.body_track import (
    BodyTrack,
    Path3D,
    described,
    full_pose,
    mean_betas,
    translations,
)
from selfrecon_warp.prepare.camera_file import Intrinsics, read_camera_file
from selfrecon_warp.prepare.frames import natural_key
from selfrecon_warp.prepare.rotations import finite
from selfrecon_warp.prepare.safe_pickle import read_numpy, read_pickle

PHALP_FOCAL = 5000.0 / 256  # of the longer side
ROMP_FOCAL = 443.4 / 512  # of the longer side: 60 degrees
KNOWN_FILES = ("hmr4d_results.pt", "wham_output.pkl", "smpl_rec.npz", "video_results.npz")
Size = tuple[int, int]


def read_track(path: Path, size: Size, source: str = "auto", track: str | None = None) -> BodyTrack:
    """Read one person's track.

    Args:
        path: The estimator's file, or a folder of one file a frame (ROMP) or a track (TRAM) or with a known result
            file.
        size: (height, width) of the pictures [px].
        source: ``auto`` or one of :data:`FORMATS`.
        track: Which person, as the file names them; the one seen longest when absent.

    Raises:
        PrepareError: Missing, damaged, unsafe, of another format, or of shapes that do not fit.
    """
    if source != "auto" and source not in FORMATS:
        raise PrepareError(f"--format must be auto or one of {', '.join(FORMATS)}, got {source!r}")
    path = _inside_folder(path)
    content = _load(path)
    seen = recognised(content)
    if seen is None:
        known = "; ".join(f"{name} ({keys})" for name, (keys, _, _) in FORMATS.items())
        expected = f"{source} writes {FORMATS[source][0]}" if source != "auto" else f"known are {known}"
        raise PrepareError(f"{path}: no known estimator wrote this: found {described(content)}; {expected}")
    if source not in ("auto", seen):
        raise PrepareError(f"{path}: --format {source}, but this is a file of {seen}: {described(content)}")
    keys, _, reader = FORMATS[seen]
    try:
        return reader(path, content, size, track)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise PrepareError(
            f"{path} is not as {seen} writes it ({type(error).__name__}: {error}): expected {keys}, found "
            f"{described(content)}"
        ) from error


def recognised(content: Any) -> str | None:
    """The format of a loaded file, ``None`` when no estimator known here writes such keys."""
    for name, (_, is_it, _) in FORMATS.items():
        if isinstance(content, Mapping) and content and is_it(content):
            return name
    return None


def _inside_folder(path: Path) -> Path:
    """The file a known program leaves in its output folder."""
    if path.is_dir():
        for name in KNOWN_FILES:
            if (path / name).is_file():
                return path / name
        if (path / "hps").is_dir():
            return path / "hps"
    elif not path.is_file():
        raise PrepareError(f"{path} does not exist; give the estimator's file or folder")
    return path


def _load(path: Path) -> Any:
    if path.is_dir():
        files = sorted(
            (file for file in path.iterdir() if file.suffix in (".npz", ".npy")),
            key=lambda file: natural_key(file.stem),
        )
        if not files:
            raise PrepareError(f"{path} holds no .npz or .npy files; give the estimator's file or folder")
        return {file.stem: read_numpy(file) for file in files}
    suffix = path.suffix.lower()
    if suffix in (".npz", ".npy"):
        return read_numpy(path)
    if suffix in (".pkl", ".pickle", ".joblib", ".p"):
        return read_pickle(path)
    if suffix in (".pt", ".pth"):
        return _read_torch(path)
    raise PrepareError(f"{path}: estimators' files end in .pt, .pth, .pkl, .joblib, .npz or .npy")


def _read_torch(path: Path) -> Any:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises many kinds: zip, pickle, runtime, end of file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PrepareError(
            f"{path} is damaged, or holds more than tensors, which is never loaded ({reason})"
        ) from error

    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.detach().float().numpy() if value.is_floating_point() else value.numpy()
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return plain(content)


# ---- one reader a format --------------------------------------------------------------------------------------------


def _gvhmr(path: Path, content: Mapping[str, Any], size: Size, _: str | None) -> BodyTrack:
    body = content["smpl_params_incam"]
    poses = full_pose([("global_orient", body["global_orient"]), ("body_pose", body["body_pose"])], path)
    intrinsics = Intrinsics.diagonal(size)
    if "K_fullimg" in content:
        K = finite(content["K_fullimg"], f"{path}: K_fullimg").reshape(-1, 3, 3)[0]
        intrinsics = Intrinsics(float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]))
    trans = Path3D("transl", translations(body["transl"], f"{path}: transl"), intrinsics)
    betas = mean_betas(body["betas"], f"{path}: betas")
    return BodyTrack(path, "gvhmr", "SMPL-X", poses, betas, (trans,), np.arange(len(poses)))


def _wham(path: Path, content: Mapping[Any, Any], size: Size, track: str | None) -> BodyTrack:
    people = {str(key): value for key, value in content.items() if _has(value, "pose", "trans", "betas")}
    chosen = _longest(path, {key: len(value["pose"]) for key, value in people.items()}, track)
    person = people[chosen]
    poses = full_pose([("pose", person["pose"])], path)
    indexed = "frame_ids" in person
    frames = _indices(person["frame_ids"], f"{path}: frame_ids") if indexed else np.arange(len(poses))
    trans = Path3D("trans", translations(person["trans"], f"{path}: trans"), Intrinsics.diagonal(size))
    betas = mean_betas(person["betas"], f"{path}: betas")
    return _ordered(
        BodyTrack(path, "wham", "SMPL", poses, betas, (trans,), frames, indexed, remark=_others(people, chosen))
    )


def _tram(path: Path, content: Mapping[str, Any], size: Size, track: str | None) -> BodyTrack:
    tracks = (
        {"": content} if _has(content, "pred_shape") else {k: v for k, v in content.items() if _has(v, "pred_shape")}
    )
    chosen = _longest(path, {key: len(value["pred_shape"]) for key, value in tracks.items()}, track)
    person = tracks[chosen]
    key = "pred_rotmat" if "pred_rotmat" in person else "pred_pose"
    poses = full_pose([(key, person[key])], path)
    if "pred_trans" not in person:
        raise PrepareError(
            f"{path}: it lacks pred_trans, without which the body has no place; found {described(person)}"
        )
    indexed = "frame" in person
    frames = _indices(person["frame"], f"{path}: frame") if indexed else np.arange(len(poses))
    trans = Path3D("pred_trans", translations(person["pred_trans"], f"{path}: pred_trans"), _tram_camera(path, size))
    betas = mean_betas(person["pred_shape"], f"{path}: pred_shape")
    return _ordered(
        BodyTrack(path, "tram", "SMPL", poses, betas, (trans,), frames, indexed, remark=_others(tracks, chosen))
    )


def _tram_camera(path: Path, size: Size) -> Intrinsics | None:
    """``camera.npy`` beside the folder of the tracks."""
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "camera.npy").is_file():
            return Intrinsics.of(read_camera_file(folder / "camera.npy", size))
    return None


def _phalp(path: Path, content: Mapping[str, Any], size: Size, track: str | None) -> BodyTrack:
    """4D-Humans: a dictionary of frames, each with parallel lists over the people in it."""
    rows: dict[str, list[tuple[int, str, Mapping[str, Any], Any]]] = defaultdict(list)
    for order, (name, frame) in enumerate(content.items()):
        ages = frame.get("tracked_time", [0] * len(frame["tid"]))
        index = int(np.asarray(frame.get("time", order)))
        for person, age, smpl, camera in zip(frame["tid"], ages, frame["smpl"], frame["camera"], strict=False):
            if int(np.asarray(age)) == 0:  # older ones are guesses for frames in which the person was not seen
                rows[str(person)].append((index, Path(str(name)).stem, smpl, camera))
    chosen = _longest(path, {person: len(seen) for person, seen in rows.items()}, track)
    seen = sorted(rows[chosen], key=lambda row: row[0])
    parts = [(part, np.stack([row[2][part] for row in seen])) for part in ("global_orient", "body_pose")]
    values = translations(np.stack([np.asarray(camera).reshape(3) for *_, camera in seen]), f"{path}: camera")
    trans = Path3D("camera", values, Intrinsics.centred(PHALP_FOCAL * max(size), size))
    betas = mean_betas(np.stack([np.asarray(smpl["betas"]).reshape(-1) for _, _, smpl, _ in seen]), f"{path}: betas")
    frames, names = np.array([row[0] for row in seen]), tuple(row[1] for row in seen)
    poses = full_pose(parts, path)
    remark = _others(rows, chosen)
    return _ordered(BodyTrack(path, "4dhumans", "SMPL", poses, betas, (trans,), frames, True, names, remark=remark))


def _romp(path: Path, content: Mapping[str, Any], size: Size, track: str | None) -> BodyTrack:
    """One dictionary a frame with an axis of people, or arrays over frames of one person."""
    content = _romp_results(content)
    if "smpl_thetas" in content:
        stacked = path.is_file() and _people(content) > 1 and "track_ids" not in content and track is None
        content = (
            {path.stem: content} if not stacked else {str(k): _person(content, k) for k in range(_people(content))}
        )
    rows, names, previous = [], [], None
    for name, stored in content.items():
        frame = _romp_results(stored)
        if not _has(frame, "smpl_thetas"):
            continue
        person = _same_person(frame, previous, track)
        if person is not None:
            previous = _person(frame, person)
            rows.append(previous)
            names.append(Path(str(name)).stem)
    if not rows:
        raise PrepareError(f"{path}: nobody in it" + (f" is track {track}" if track else ""))
    poses = full_pose([("smpl_thetas", np.stack([row["smpl_thetas"] for row in rows]))], path)
    betas = mean_betas(np.stack([row["smpl_betas"] for row in rows]), f"{path}: smpl_betas")
    intrinsics = Intrinsics.centred(ROMP_FOCAL * max(size), size)
    paths = []
    if all("cam_trans" in row for row in rows):
        values = translations(np.stack([row["cam_trans"] for row in rows]), f"{path}: cam_trans")
        paths.append(Path3D("cam_trans", values, intrinsics))
    if all("cam" in row for row in rows):
        cams = translations(np.stack([row["cam"] for row in rows]), f"{path}: cam")
        paths.append(Path3D("cam", weak_perspective(cams, float(max(size)), intrinsics.fx), intrinsics))
    if not paths:
        raise PrepareError(f"{path}: neither cam_trans nor cam in it, without which the body has no place")
    frames = np.arange(len(poses))
    return BodyTrack(path, "romp", "SMPL", poses, betas, tuple(paths), frames, False, tuple(names))


def weak_perspective(cameras: np.ndarray, side: float, focal: float) -> np.ndarray:
    """Translations [m], ``[N, 3]``, of weak-perspective cameras (scale, x, y) of a square about the picture's middle.

    Args:
        cameras: ``[N, 3]``; a point X of the body falls on (scale X + x) half sides from the crop's middle.
        side: Side of the square [px].
        focal: Focal length [px].

    Source: Kanazawa et al. 2018 (HMR), with the depth at which a focal length gives this scale.
    """
    scale = np.maximum(cameras[:, 0], 1e-6)
    return np.stack((cameras[:, 1] / scale, cameras[:, 2] / scale, 2 * focal / (scale * side)), -1)


def _romp_results(content: Any) -> Any:
    """The dictionary behind ``results``, as ROMP saves it."""
    while isinstance(content, Mapping) and "results" in content and isinstance(content["results"], Mapping):
        content = content["results"]
    return content


def _people(frame: Mapping[str, Any]) -> int:
    thetas = np.asarray(frame["smpl_thetas"])
    return 1 if thetas.ndim == 1 else len(thetas)


def _person(frame: Mapping[str, Any], person: int) -> dict[str, Any]:
    keys = ("smpl_thetas", "smpl_betas", "cam_trans", "cam")
    single = np.asarray(frame["smpl_thetas"]).ndim == 1
    return {key: np.asarray(frame[key]) if single else np.asarray(frame[key])[person] for key in keys if key in frame}


def _same_person(frame: Mapping[str, Any], previous: Mapping[str, Any] | None, track: str | None) -> int | None:
    """Whom to follow: the named track, else the person nearest to where the last one was, at first the largest."""
    if track is not None and "track_ids" in frame:
        ids = [str(number) for number in np.asarray(frame["track_ids"]).ravel()]
        return ids.index(track) if track in ids else None
    count = _people(frame)
    people = [_person(frame, person) for person in range(count)]
    if count <= 1:
        return 0 if count else None
    key = "cam_trans" if "cam_trans" in frame else "cam"
    if previous is not None:
        return int(np.argmin([np.linalg.norm(person[key] - previous[key]) for person in people]))
    nearness = [-person[key][2] if key == "cam_trans" else person[key][0] for person in people]
    return int(np.argmax(nearness))


def _selfrecon(path: Path, content: Mapping[str, Any], _: Size, __: str | None) -> BodyTrack:
    poses = full_pose([("poses", content["poses"])], path)
    trans = Path3D("trans", translations(content["trans"], f"{path}: trans")[: len(poses)], None)
    betas = mean_betas(content["shape"], f"{path}: shape")
    gender = str(np.asarray(content.get("gender", "neutral")).ravel()[0]).strip().lower()
    ends = np.asarray(content.get("vid_seg_indices", ())).ravel()
    clips = (*(int(end) for end in ends[:-1]), len(poses)) if len(ends) > 1 else ()
    return BodyTrack(
        path, "selfrecon", "capture", poses, betas, (trans,), np.arange(len(poses)), gender=gender, clip_ends=clips
    )


# ---- helpers --------------------------------------------------------------------------------------------------------


def _has(value: Any, *keys: str) -> bool:
    return isinstance(value, Mapping) and all(key in value for key in keys)


def _any_has(content: Mapping[Any, Any], *keys: str) -> bool:
    return any(_has(value, *keys) for value in content.values())


def _longest(path: Path, lengths: Mapping[str, int], track: str | None) -> str:
    if not lengths:
        raise PrepareError(f"{path}: nobody in it; was a person found in the video?")
    if track is not None and track not in lengths:
        raise PrepareError(f"{path}: no track {track}; there are " + ", ".join(sorted(lengths)))
    return track if track is not None else max(lengths, key=lambda key: lengths[key])


def _others(tracks: Mapping[str, Any], chosen: str) -> str:
    if len(tracks) < 2:
        return ""
    return f"{len(tracks)} people are tracked ({', '.join(sorted(tracks))}); taken is {chosen}, --track names another"


def _indices(stored: Any, name: str) -> np.ndarray:
    numbers = finite(np.asarray(stored), name).ravel()
    if (numbers != np.rint(numbers)).any() or (numbers < 0).any():
        raise PrepareError(f"{name} must hold frame indices from 0")
    return numbers.astype(np.int64)


def _ordered(track: BodyTrack) -> BodyTrack:
    """The track with increasing frames."""
    if len(track.frames) != len(track.poses):
        raise PrepareError(f"{track.path}: {len(track.frames)} frame indices for {len(track.poses)} poses")
    order = np.argsort(track.frames, kind="stable")
    frames = track.frames[order]
    if len(frames) > 1 and (np.diff(frames) == 0).any():
        raise PrepareError(f"{track.path}: frame {int(frames[:-1][np.diff(frames) == 0][0])} is in it twice")
    return track.rows(order.tolist())


Reader = Callable[[Path, Any, Size, str | None], BodyTrack]
Recogniser = Callable[[Mapping[Any, Any]], bool]

FORMATS: dict[str, tuple[str, Recogniser, Reader]] = {
    "gvhmr": ("smpl_params_incam", lambda content: "smpl_params_incam" in content, _gvhmr),
    "tram": (
        "pred_rotmat, pred_shape, pred_trans",
        lambda content: _has(content, "pred_shape") or _any_has(content, "pred_shape"),
        _tram,
    ),
    "4dhumans": ("per frame: tid, smpl, camera", lambda content: _any_has(content, "tid", "smpl", "camera"), _phalp),
    "wham": ("per person: pose, trans, betas", lambda content: _any_has(content, "pose", "trans", "betas"), _wham),
    "romp": (
        "smpl_thetas, smpl_betas, cam_trans",
        lambda content: (
            _has(_romp_results(content), "smpl_thetas")
            or any(_has(_romp_results(value), "smpl_thetas") for value in _romp_results(content).values())
        ),
        _romp,
    ),
    "selfrecon": ("poses, trans, shape", lambda content: _has(content, "poses", "trans", "shape"), _selfrecon),
}
"""Name, keys by which a file is known, its recogniser and reader."""
