"""Ground truth of rendered captures: the folder ``gt`` beside the images.

``smpl_gt.npz`` (poses, trans, shape, joints), ``canonical.npz`` (the clothed mesh at rest), ``meshes.npz`` (posed
vertices of some frames, quantised), ``normals/<stem>.png`` and ``novel/`` (poses that the capture does not show). The
body file must exist; each other part is optional until it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from selfrecon_warp.capture.camera import read_arrays
from selfrecon_warp.capture.dataset import IMAGE_SUFFIXES
from selfrecon_warp.capture.image_file import read_image, read_mask
from selfrecon_warp.errors import CaptureError


@dataclass(frozen=True)
class ClothedMesh:
    """The clothed person at rest; open layers, not watertight.

    Attributes:
        faces: ``[F, 3]`` int64.
        face_part: Index into ``part_names`` of every face, ``[F]`` int64.
        part_names: Skin, clothes, hair and so on.
        face_exterior: True on faces seen from outside, the only ones to score against, ``[F]`` bool.
        vertices_tpose: [m], ``[V, 3]`` float32.
        vertices_apose: [m], ``[V, 3]`` float32.
        apose: The pose of ``vertices_apose``, axis-angle [rad], ``[24, 3]`` float32.
        joints_rest: Rest joints of the body inside [m], ``[24, 3]`` float32.
    """

    faces: Tensor
    face_part: Tensor
    part_names: tuple[str, ...]
    face_exterior: Tensor
    vertices_tpose: Tensor
    vertices_apose: Tensor
    apose: Tensor
    joints_rest: Tensor


@dataclass(frozen=True)
class PosedMeshes:
    """Ground-truth vertices of some frames, kept quantised.

    Attributes:
        frames: Frame index of every entry, ascending.
        quantised: ``[M, V, 3]`` int16.
        scale: Metres per step.
        offset: World position of zero [m], ``[3]`` float32.
    """

    frames: tuple[int, ...]
    quantised: np.ndarray
    scale: float
    offset: np.ndarray

    def vertices(self, frame: int) -> Tensor:
        """World positions of one frame [m], ``[V, 3]`` float32.

        Raises:
            CaptureError: The frame has no ground-truth mesh.
        """
        if frame not in self.frames:
            raise CaptureError(f"frame {frame} has no ground-truth mesh; frames {list(self.frames)} have")
        return torch.from_numpy(self.quantised[self.frames.index(frame)] * np.float32(self.scale) + self.offset)


@dataclass(frozen=True)
class NovelPoses:
    """Frames in poses unlike the capture, seen by the same camera.

    Attributes:
        root: The folder, with ``imgs``, ``masks`` and exact ``normals``.
        names: File stem of every frame.
        poses: Axis-angle [rad], ``[N, 24, 3]`` float32.
        trans: World translation [m], ``[N, 3]`` float32.
        meshes: The clothed mesh in every frame.
    """

    root: Path
    names: tuple[str, ...]
    poses: Tensor
    trans: Tensor
    meshes: PosedMeshes

    def load_image(self, frame: int) -> np.ndarray:
        """RGB, ``[H, W, 3]`` uint8."""
        return read_image(_image_file(self.root / "imgs", self.names[frame]))

    def load_mask(self, frame: int) -> np.ndarray:
        """True on the person, ``[H, W]`` bool."""
        return read_mask(self.root / "masks" / f"{self.names[frame]}.png")

    def load_normals(self, frame: int) -> np.ndarray:
        """Encoded viewer-frame normals, RGB, ``[H, W, 3]`` uint8."""
        return read_image(self.root / "normals" / f"{self.names[frame]}.png")


@dataclass(frozen=True)
class GroundTruth:
    """Exact body of every frame, and the parts that are read when first used.

    Attributes:
        root: The ``gt`` folder.
        poses: Axis-angle [rad], ``[N, 24, 3]`` float32.
        trans: World translation [m], ``[N, 3]`` float32.
        betas: Body shape, ``[10]`` float32.
        joints: World joint positions [m], ``[N, 24, 3]`` float32.
        joint_names: Names of the joints.
    """

    root: Path
    poses: Tensor
    trans: Tensor
    betas: Tensor
    joints: Tensor
    joint_names: tuple[str, ...]

    @cached_property
    def canonical(self) -> ClothedMesh:
        """The clothed mesh at rest.

        Raises:
            CaptureError: ``canonical.npz`` is missing, damaged or incomplete.
        """
        path = self.root / "canonical.npz"
        names = ("faces", "face_part", "part_names", "face_exterior", "verts_tpose", "verts_apose", "apose")
        arrays = read_arrays(path, required=(*names, "joints_rest"))
        vertex_count, face_count = len(arrays["verts_tpose"]), len(arrays["faces"])
        _require(path, arrays, "faces", (face_count, 3))
        _require(path, arrays, "face_part", (face_count,))
        _require(path, arrays, "face_exterior", (face_count,))
        for name in ("verts_tpose", "verts_apose"):
            _require(path, arrays, name, (vertex_count, 3))
        for name in ("apose", "joints_rest"):
            _require(path, arrays, name, (24, 3))
        return ClothedMesh(
            faces=torch.from_numpy(arrays["faces"].astype(np.int64)),
            face_part=torch.from_numpy(arrays["face_part"].astype(np.int64)),
            part_names=tuple(str(name) for name in arrays["part_names"]),
            face_exterior=torch.from_numpy(arrays["face_exterior"].astype(bool)),
            vertices_tpose=_float(arrays["verts_tpose"]),
            vertices_apose=_float(arrays["verts_apose"]),
            apose=_float(arrays["apose"]),
            joints_rest=_float(arrays["joints_rest"]),
        )

    @cached_property
    def meshes(self) -> PosedMeshes:
        """The clothed mesh in some frames of the capture; its faces are the canonical mesh's.

        Raises:
            CaptureError: ``meshes.npz`` is missing, damaged or incomplete.
        """
        path = self.root / "meshes.npz"
        arrays = read_arrays(path, required=("frames", "verts_q", "scale", "offset"))
        return _posed_meshes(path, arrays, [int(frame) for frame in arrays["frames"].reshape(-1)])

    @cached_property
    def novel(self) -> NovelPoses | None:
        """Held-out poses, ``None`` where the capture has none.

        Raises:
            CaptureError: ``novel/gt.npz`` is damaged or incomplete, or counts disagree.
        """
        folder = self.root / "novel"
        if not folder.is_dir():
            return None
        path = folder / "gt.npz"
        arrays = read_arrays(path, required=("poses", "trans", "verts_q", "scale", "offset"))
        names = tuple(sorted((file.stem for file in (folder / "masks").glob("*.png")), key=int))
        _require(path, arrays, "poses", (len(names), 24, 3))
        _require(path, arrays, "trans", (len(names), 3))
        meshes = _posed_meshes(path, arrays, list(range(len(names))))
        return NovelPoses(folder, names, _float(arrays["poses"]), _float(arrays["trans"]), meshes)

    def load_normals(self, name: str) -> np.ndarray:
        """Exact viewer-frame normals of the frame with file stem ``name``, encoded, RGB, ``[H, W, 3]`` uint8.

        Raises:
            CaptureError: The file is missing or damaged.
        """
        return read_image(self.root / "normals" / f"{name}.png")


def read_ground_truth(folder: Path) -> GroundTruth:
    """Open the ground truth of a rendered capture.

    Args:
        folder: The capture folder, or its ``gt`` folder.

    Raises:
        CaptureError: No ground truth there, or ``smpl_gt.npz`` is damaged or incomplete.
    """
    folder = Path(folder)
    root = folder / "gt" if (folder / "gt").is_dir() else folder
    path = root / "smpl_gt.npz"
    if not path.is_file():
        raise CaptureError(f"{folder} holds no ground truth; expected {path} (rendered captures alone have it)")
    arrays = read_arrays(path, required=("poses", "trans", "shape", "joints"))
    count = len(arrays["poses"]) if arrays["poses"].ndim else 0
    for name, shape in (("poses", (count, 24, 3)), ("trans", (count, 3)), ("shape", (10,)), ("joints", (count, 24, 3))):
        _require(path, arrays, name, shape)
    names = arrays.get("joint_names", np.arange(24))
    return GroundTruth(
        root=root,
        poses=_float(arrays["poses"]),
        trans=_float(arrays["trans"]),
        betas=_float(arrays["shape"]),
        joints=_float(arrays["joints"]),
        joint_names=tuple(str(name) for name in names),
    )


def _posed_meshes(path: Path, arrays: dict[str, np.ndarray], frames: list[int]) -> PosedMeshes:
    quantised = arrays["verts_q"]
    if quantised.ndim != 3 or quantised.shape[0] != len(frames) or quantised.shape[2] != 3:
        raise CaptureError(f"{path}: verts_q must have shape ({len(frames)}, vertices, 3), got {quantised.shape}")
    _require(path, arrays, "offset", (3,))
    return PosedMeshes(tuple(frames), quantised, float(arrays["scale"]), arrays["offset"].astype(np.float32))


def _require(path: Path, arrays: dict[str, np.ndarray], name: str, shape: tuple[int, ...]) -> None:
    if arrays[name].shape != shape:
        raise CaptureError(f"{path}: {name} must have shape {shape}, got {arrays[name].shape}")
    if arrays[name].dtype.kind == "f" and not np.isfinite(arrays[name]).all():
        raise CaptureError(f"{path}: {name} holds NaN or infinity")


def _float(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))


def _image_file(folder: Path, name: str) -> Path:
    """The image with this stem, whatever its suffix."""
    for suffix in IMAGE_SUFFIXES:
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    raise CaptureError(f"{folder} holds no image {name}.jpg or .png")
