"""Copies of a capture with what real estimators and cameras get wrong, ground truth carried along.

A copy is a whole capture of its own: `selfrecon fit` and `selfrecon evaluate` take it as they take the original. What
is wrong with it is told in :data:`PERTURBATIONS`; the same capture, case and seed give the same copy.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from selfrecon_warp.capture.camera import read_arrays
from selfrecon_warp.capture.dataset import Capture, read_capture
from selfrecon_warp.capture.ground_truth import GroundTruth, read_ground_truth
from selfrecon_warp.capture.image_file import read_image, read_mask
from selfrecon_warp.errors import CaptureError, ConfigError, RunError
from selfrecon_warp.staging import replacing_folder

Array = NDArray[Any]

MASK_PX = 3
MASK_SHARE = 1 / 3
WRONG_POSE_SHARE = 0.1
WRONG_POSE_DEGREES = 40.0
LIMBS = (1, 2, 4, 5, 16, 17, 18, 19)
"""SMPL joints whose turn moves a limb: hips, knees, shoulders, elbows."""
FOCAL_FACTOR = 1.1
FEW_FRAMES = 40
PORTRAIT = (9, 16)
PORTRAIT_MARGIN = 0.02  # of the window's width, on each side of the person


@dataclass(frozen=True)
class Copy:
    """A copy that is being perturbed.

    Attributes:
        folder: The copy; files in it may be changed.
        capture: The original.
        truth: Of the original.
        rng: Source of what is drawn.
    """

    folder: Path
    capture: Capture
    truth: GroundTruth
    rng: np.random.Generator


@dataclass(frozen=True)
class Perturbation:
    """One thing that goes wrong.

    Attributes:
        title: For tables.
        apply: Changes a copy; ``None`` leaves it as it is.
        depth_known: Whether positions can still be compared in the world, without alignment.
    """

    title: str
    apply: Callable[[Copy], None] | None
    depth_known: bool = True


def perturbed_capture(capture: Path, out: Path, case: str, *, seed: int = 0, overwrite: bool = False) -> Path:
    """Write a perturbed copy of a capture.

    Args:
        capture: Capture with ground truth in the folder ``gt``.
        out: Folder to create; the folder it lies in is made where it is missing.
        case: A name in :data:`PERTURBATIONS`.
        seed: Draws which frames and how.
        overwrite: Replace ``out`` where it holds something already.

    Returns:
        ``out``.

    Raises:
        ConfigError: There is no such case.
        CaptureError: The capture or its ground truth is missing, damaged or not fit for the case.
        RunError: ``out`` is not empty or cannot be written. Nothing is left behind in either case.
    """
    if case not in PERTURBATIONS:
        raise ConfigError(f"case must be one of {', '.join(PERTURBATIONS)}, got {case!r}")
    capture, out = Path(capture), Path(out)
    if out.exists() and not (overwrite and out.is_dir()) and not (out.is_dir() and not any(out.iterdir())):
        raise RunError(f"{out} exists and is not empty; choose another folder")
    opened, truth = read_capture(capture), read_ground_truth(capture)
    if len(truth.poses) != len(opened):
        raise CaptureError(f"{truth.root}: holds {len(truth.poses)} frames but {capture} has {len(opened)}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{out.parent} cannot be made ({error.strerror}); choose another folder") from error
    with replacing_folder(out) as staging:
        shutil.copytree(capture, staging, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
        apply = PERTURBATIONS[case].apply
        if apply is not None:
            apply(Copy(staging, opened, truth, np.random.default_rng(seed)))
    return out


def _double_pose_error(copy: Copy) -> None:
    """Every error of the given body happens twice: each joint's turn, the translation, the shape.

    Doubling what is there keeps its character: how long an error lasts, which joints err, that depth errs most.
    """
    true, given = (
        Rotation.from_rotvec(poses.double().numpy().reshape(-1, 3)) for poses in (copy.truth.poses, copy.capture.poses)
    )
    error = true.inv() * given
    poses = (given * error).as_rotvec().reshape(copy.capture.poses.shape)
    trans, shape = 2 * copy.capture.trans - copy.truth.trans, 2 * copy.capture.betas - copy.truth.betas
    _change_arrays(copy.folder / "smpl_rec.npz", poses=_float(poses), trans=trans.numpy(), shape=shape.numpy())


def _ragged_masks(copy: Copy) -> None:
    """A third of the masks, drawn at random, are 3 px too small and too large in turn."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * MASK_PX + 1,) * 2)
    for number, frame in enumerate(_some(copy.rng, len(copy.capture), MASK_SHARE)):
        mask = copy.capture.load_mask(frame).astype(np.uint8)
        changed = (cv2.erode, cv2.dilate)[number % 2](mask, disc)
        if not changed.any():
            raise CaptureError(f"{copy.capture.mask_file(frame)}: nothing is left of it when eroded by {MASK_PX} px")
        _write_image(copy.folder / "masks" / f"{copy.capture.names[frame]}.png", changed * 255)


def _wrong_poses(copy: Copy) -> None:
    """In a tenth of the frames one hip, knee, shoulder or elbow is turned by 40 degrees about some axis."""
    poses = copy.capture.poses.double().numpy().copy()
    for frame in _some(copy.rng, len(copy.capture), WRONG_POSE_SHARE):
        joint = copy.rng.choice(LIMBS)
        axis = copy.rng.standard_normal(3)
        turn = Rotation.from_rotvec(math.radians(WRONG_POSE_DEGREES) * axis / np.linalg.norm(axis))
        poses[frame, joint] = (Rotation.from_rotvec(poses[frame, joint]) * turn).as_rotvec()
    _change_arrays(copy.folder / "smpl_rec.npz", poses=_float(poses))


def _no_normals(copy: Copy) -> None:
    """The normals are gone; those of the ground truth stay."""
    shutil.rmtree(copy.folder / "normals", ignore_errors=True)


def _wrong_focal_length(copy: Copy) -> None:
    """The camera's focal length is 10 % too long, and the person stands 10 % too far away.

    An estimator knows how large people are, not how far away they stand: told a focal length, it puts a body of the
    usual size where its picture is as large as the person's. So the pelvis keeps its place across the line of sight,
    its depth grows with the focal length, and the body keeps its size. What is left of the mistake is perspective:
    near limbs are drawn too small. Depths in the world are off by construction, so positions can be compared only
    after alignment; sizes cannot hide there, because alignment is rigid.
    """
    arrays = read_arrays(copy.folder / "camera.npz")
    _change_arrays(
        copy.folder / "camera.npz", **{name: np.float64(FOCAL_FACTOR) * arrays[name] for name in ("fx", "fy")}
    )
    rotation = copy.capture.camera.rotation().double().numpy()
    shift = copy.capture.camera.T.detach().double().numpy()
    pelvis_at_rest = (copy.truth.joints[:, 0] - copy.truth.trans).double().mean(0).numpy()
    pelvis = (copy.capture.trans.double().numpy() + pelvis_at_rest) @ rotation + shift
    pelvis[:, 2] *= FOCAL_FACTOR
    trans = (pelvis - shift) @ rotation.T - pelvis_at_rest
    _change_arrays(copy.folder / "smpl_rec.npz", trans=_float(trans))


def _few_frames(copy: Copy) -> None:
    """40 frames spread over the whole capture, or a third where that is less; true meshes among them."""
    chosen = _spread(len(copy.capture), copy.truth.meshes.frames)
    renamed = {copy.capture.names[frame]: f"{index:06d}" for index, frame in enumerate(chosen)}
    for name in ("imgs", "masks", "normals", "gt/normals"):
        if (copy.folder / name).is_dir():
            _keep_files(copy.folder / name, renamed)
    for path, names in (("smpl_rec.npz", ("poses", "trans")), ("gt/smpl_gt.npz", ("poses", "trans", "joints"))):
        arrays = read_arrays(copy.folder / path)
        kept = {name: arrays[name][: len(copy.capture)][chosen] for name in names}
        if "vid_seg_indices" in arrays:
            kept["vid_seg_indices"] = np.searchsorted(chosen, [end for _, end in copy.capture.clips])
        _change_arrays(copy.folder / path, **kept)
    arrays = read_arrays(copy.folder / "gt" / "meshes.npz")
    rows = [row for row, frame in enumerate(copy.truth.meshes.frames) if frame in set(chosen)]
    frames = np.array([chosen.index(copy.truth.meshes.frames[row]) for row in rows])
    _change_arrays(copy.folder / "gt" / "meshes.npz", frames=frames, verts_q=arrays["verts_q"][rows])


def _portrait(copy: Copy) -> None:
    """Upright pictures, 9 wide to 16 high, as phones take them: the narrowest window that holds the person.

    Cut where the frame is larger than that, widened by repeating its border where it is smaller.
    """
    masks = [copy.capture.load_mask(frame) for frame in range(len(copy.capture))]
    if copy.truth.novel is not None:
        masks += [copy.truth.novel.load_mask(frame) for frame in range(len(copy.truth.novel.names))]
    left, top, width, height = _window(np.any(np.stack(masks), axis=0))
    arrays = read_arrays(copy.folder / "camera.npz")
    _change_arrays(copy.folder / "camera.npz", cx=arrays["cx"] - left, cy=arrays["cy"] - top)

    def cut(picture: Array, border: int) -> Array:
        right, bottom = left + width - picture.shape[1], top + height - picture.shape[0]
        above, below, before, behind = (max(side, 0) for side in (-top, bottom, -left, right))
        padded = cv2.copyMakeBorder(picture, above, below, before, behind, border)
        row, column = max(top, 0), max(left, 0)
        return np.asarray(padded[row : row + height, column : column + width])

    for name in ("imgs", "masks", "normals", "gt/normals", "gt/novel/imgs", "gt/novel/masks", "gt/novel/normals"):
        for file in sorted((copy.folder / name).glob("[0-9]*.*")):
            if name.endswith("masks"):
                picture = cut(read_mask(file).astype(np.uint8) * 255, cv2.BORDER_CONSTANT)
            else:
                border = cv2.BORDER_REPLICATE if name.endswith("imgs") else cv2.BORDER_CONSTANT
                picture = cv2.cvtColor(cut(read_image(file), border), cv2.COLOR_RGB2BGR)
            file.unlink()
            _write_image(file.with_suffix(".png"), picture)  # lossless: cutting must not cost a JPEG generation


PERTURBATIONS: Mapping[str, Perturbation] = MappingProxyType(
    {
        "clean": Perturbation("as it is", None),
        "poses-doubled": Perturbation("pose errors doubled", _double_pose_error),
        "masks-ragged": Perturbation("a third of the masks 3 px too small or too large", _ragged_masks),
        "poses-wrong": Perturbation("a tenth of the poses with a limb off by 40 degrees", _wrong_poses),
        "no-normals": Perturbation("no normals", _no_normals),
        "focal-wrong": Perturbation("focal length 10 % too long", _wrong_focal_length, depth_known=False),
        "few-frames": Perturbation("40 frames", _few_frames),
        "portrait": Perturbation("9:16 pictures", _portrait),
    }
)
"""What can go wrong, the untouched capture first."""


def _some(rng: np.random.Generator, count: int, share: float) -> list[int]:
    """A share of the frames in random order, one at least."""
    return [int(frame) for frame in rng.permutation(count)[: max(1, round(share * count))]]


def _spread(count: int, wanted: tuple[int, ...]) -> list[int]:
    """Frames at even steps, the nearest ones moved onto those wanted; ascending."""
    kept = min(FEW_FRAMES, math.ceil(count / 3))
    chosen = [index * count // kept for index in range(kept)]
    for frame in wanted:
        nearest = min(range(kept), key=lambda index: abs(chosen[index] - frame))
        if chosen[nearest] not in wanted:
            chosen[nearest] = frame
    if not set(chosen) & set(wanted):
        raise CaptureError(f"none of the {kept} frames kept of {count} has a true mesh; take a longer capture")
    return sorted(set(chosen))


def _keep_files(folder: Path, renamed: Mapping[str, str]) -> None:
    """Remove the files whose stem is not named and give the others, in ascending order, their new stem."""
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.stem not in renamed:
            file.unlink()
    for old, new in renamed.items():  # a new number is never above the old one, so nothing is overwritten
        for file in list(folder.glob(f"{old}.*")):
            file.rename(file.with_name(new + file.suffix))


def _window(person: Array) -> tuple[int, int, int, int]:
    """Left, top, width and height of the smallest portrait window around a mask ``[H, W]``."""
    rows, columns = (np.flatnonzero(person.any(axis)) for axis in (1, 0))
    needed = [(1 + 2 * PORTRAIT_MARGIN) * (span[-1] + 1 - span[0]) for span in (columns, rows)]
    unit = math.ceil(max(size / share for size, share in zip(needed, PORTRAIT, strict=True)) / 2) * 2
    width, height = (share * unit for share in PORTRAIT)
    left, top = (round((span[0] + span[-1] + 1 - size) / 2) for span, size in ((columns, width), (rows, height)))
    return left, top, width, height


def _change_arrays(path: Path, **changed: Array) -> None:
    """Replace some arrays of an .npz file."""
    arrays: dict[str, Any] = {**read_arrays(path), **changed}
    np.savez_compressed(path, **arrays)


def _write_image(path: Path, picture: Array) -> None:
    """Store a mask or a BGR picture losslessly."""
    path.write_bytes(cv2.imencode(".png", np.ascontiguousarray(picture))[1].tobytes())


def _float(values: Array) -> Array:
    return values.astype(np.float32)
