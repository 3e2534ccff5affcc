"""A mesh with skeleton, skin, colours and motion: what every exported file is made from.

Arrays are NumPy's. Canonical space: metres, y up, facing +z. Poses are axis-angle vectors of the joints' local
rotations, as the fit's: the root turns about its canonical position and is then moved by ``trans``, into the world of
the motion.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from selfrecon_warp.asset.cloth_weights import cloth_weights
from selfrecon_warp.capture.camera import read_arrays
from selfrecon_warp.capture.image_file import read_image
from selfrecon_warp.checks import require_shapes
from selfrecon_warp.errors import CaptureError, RunError
from selfrecon_warp.model.avatar import Avatar
from selfrecon_warp.model.rotation import rotation_from_axis_angle
from selfrecon_warp.motion.joints import JOINT_NAMES
from selfrecon_warp.staging import replacing_folder
from selfrecon_warp.surface.mesh import vertex_normals
from selfrecon_warp.train.run_folder import RunFolder
from selfrecon_warp.train.saved import load_fit
from selfrecon_warp.view.mesh_io import to_bytes
from selfrecon_warp.view.reconstruction import Reconstruction

FRAMES_PER_SECOND = 30.0
"""Captures do not tell their frame rate; this is what phones record."""
FRAMES_AT_ONCE = 8
AVATAR = "avatar"
"""Folder of a run that holds its textured mesh."""
MESH, TEXTURE, NORMAL_MAP = "mesh.npz", "texture.png", "normal_map.png"

_SHAPES = {
    "vertices": "V 3",
    "faces": "F 3",
    "normals": "V 3",
    "weights": "V J",
    "parents": "J",
    "bind": "J 4 4",
    "poses": "N J 3",
    "trans": "N 3",
    "texcoords": "T 2",
    "face_texcoords": "F 3",
    "vertex_colours": "V 3",
    "light": "9 3",
    "lamp": "2 3",
    "textured_light": "V 3",
}
_OPTIONAL = ("texcoords", "face_texcoords", "vertex_colours", "light", "lamp", "textured_light")
_INTEGERS = ("faces", "parents", "face_texcoords")


@dataclass(frozen=True)
class RiggedMesh:
    """A mesh in its canonical pose, what moves it and what it looks like.

    Attributes:
        vertices: Canonical positions [m], ``[V, 3]`` float32.
        faces: Outward oriented, ``[F, 3]`` int32.
        normals: Unit, ``[V, 3]`` float32.
        weights: Skinning weights, rows sum to one, ``[V, J]`` float32.
        parents: Parent of every joint, which comes before it; -1 for the root, which is joint 0; ``[J]`` int32.
        joint_names: One a joint.
        bind: World-from-joint transforms in the canonical pose [m], ``[J, 4, 4]`` float64.
        poses: Local rotations of every frame, axis-angle [rad], ``[N, J, 3]`` float32.
        trans: Translation of every frame [m], ``[N, 3]`` float32.
        frame_rate: Frames a second.
        texcoords: u to the right, v **down** from the texture's top left corner, in [0, 1], ``[T, 2]`` float32.
        face_texcoords: Texture coordinate of every face's corners, ``[F, 3]`` int32.
        texture: Base colour, sRGB, ``[S, S, 3]`` uint8.
        normal_map: Tangent space, x along u, y against v, z outward, rgb = 127.5 (n + 1), ``[S, S, 3]`` uint8.
        vertex_colours: sRGB, ``[V, 3]`` uint8.
        light: The light the texture's photographs were taken in, by the normal in the capture's world, for red, green
            and blue, as ``asset/lighting.py`` has it, ``[9, 3]`` float32.
        lamp: The lamp that casts shadows beside it: direction towards it, and its red, green and blue; zeros without
            one; ``[2, 3]`` float32.
        textured_light: How much of it the texture holds at the vertices, 1 where it was taken out, ``[V, 3]`` float32.

    Raises:
        ValueError: Shapes disagree or an index is out of range.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    weights: np.ndarray
    parents: np.ndarray
    joint_names: tuple[str, ...]
    bind: np.ndarray
    poses: np.ndarray
    trans: np.ndarray
    frame_rate: float = FRAMES_PER_SECOND
    texcoords: np.ndarray | None = None
    face_texcoords: np.ndarray | None = None
    texture: np.ndarray | None = None
    normal_map: np.ndarray | None = None
    vertex_colours: np.ndarray | None = None
    light: np.ndarray | None = None
    lamp: np.ndarray | None = None
    textured_light: np.ndarray | None = None

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in _SHAPES}
        sizes = require_shapes(**{name: (array, _SHAPES[name]) for name, array in given.items() if array is not None})
        if len(self.joint_names) != sizes["J"]:
            raise ValueError(f"joint_names must name {sizes['J']} joints, got {len(self.joint_names)}")
        if (self.texcoords is None) != (self.face_texcoords is None):
            raise ValueError("texcoords and face_texcoords must be given together")
        if self.texcoords is None and (self.texture is not None or self.normal_map is not None):
            raise ValueError("texture and normal_map need texcoords and face_texcoords")
        ranges = [("faces", self.faces, sizes["V"])]
        if self.face_texcoords is not None:
            ranges.append(("face_texcoords", self.face_texcoords, sizes["T"]))
        for name, index, count in ranges:
            if index.size and not (index.min() >= 0 and index.max() < count):
                raise ValueError(f"{name} must lie in 0 ... {count - 1}, got {index.min()} ... {index.max()}")
        parents = self.parents.tolist()
        if parents[:1] != [-1] or any(not 0 <= parent < joint for joint, parent in enumerate(parents[1:], 1)):
            raise ValueError(f"parents must begin with -1 and come before their children, got {parents}")

    @property
    def frame_count(self) -> int:
        """Number of frames N."""
        return len(self.poses)

    @property
    def offsets(self) -> np.ndarray:
        """Position of every joint in its parent's frame [m], the root's in the world, ``[J, 3]`` float64."""
        return self.bind_local[:, :3, 3]

    @property
    def bind_local(self) -> np.ndarray:
        """Parent-from-joint transforms in the canonical pose, ``[J, 4, 4]`` float64."""
        local = self.bind.astype(np.float64)
        local[1:] = np.linalg.inv(self.bind[self.parents[1:]]) @ self.bind[1:]
        return local

    def joint_frames(self, poses: np.ndarray, trans: np.ndarray) -> np.ndarray:
        """World-from-joint transforms, ``[B, J, 4, 4]`` float64.

        Args:
            poses: Axis-angle [rad], ``[B, J, 3]``.
            trans: Translation [m], ``[B, 3]``.
        """
        require_shapes(poses=(poses, f"B {len(self.parents)} 3"), trans=(trans, "B 3"))
        local = np.zeros((*poses.shape[:2], 4, 4))
        local[..., :3, :3] = rotation_from_axis_angle(torch.from_numpy(poses.astype(np.float64))).numpy()
        local[..., :3, 3] = self.offsets
        local[..., 3, 3] = 1.0
        local[:, 0, :3, 3] += trans
        for joint, parent in enumerate(self.parents[1:], 1):
            local[:, joint] = local[:, parent] @ local[:, joint]
        return local

    def bones(self, poses: np.ndarray, trans: np.ndarray) -> np.ndarray:
        """World-from-canonical transform of every joint, ``[B, J, 4, 4]`` float64; arguments as :meth:`posed`."""
        frames = self.joint_frames(poses, trans)
        return np.asarray(frames @ np.linalg.inv(self.bind.astype(np.float64)))

    def posed(self, poses: np.ndarray, trans: np.ndarray, vertices: np.ndarray | None = None) -> np.ndarray:
        """World positions [m] by linear blend skinning, ``[B, V, 3]`` float32.

        Args:
            poses: Axis-angle [rad], ``[B, J, 3]``.
            trans: Translation [m], ``[B, 3]``.
            vertices: Canonical positions in place of the mesh's own, ``[V, 3]`` or one set a frame, ``[B, V, 3]``.

        Source: SMPL (Loper et al. 2015), blend skinning.
        """
        bones = self.bones(poses, trans)
        points = self.vertices if vertices is None else vertices
        points = np.broadcast_to(points, (len(bones), *points.shape[-2:])).astype(np.float64)
        weights = self.weights.astype(np.float64)
        posed = np.zeros(points.shape, np.float32)
        for frame, bone in enumerate(bones):
            blended = (weights @ bone[:, :3].reshape(-1, 12)).reshape(-1, 3, 4)
            posed[frame] = np.einsum("vij,vj->vi", blended[..., :3], points[frame]) + blended[..., 3]
        return posed

    def posed_frames(self) -> Iterator[np.ndarray]:
        """World positions [m] in its own motion, frame by frame, ``[V, 3]``."""
        for start in range(0, self.frame_count, FRAMES_AT_ONCE):
            chunk = slice(start, start + FRAMES_AT_ONCE)
            yield from self.posed(self.poses[chunk], self.trans[chunk])

    def with_motion(self, poses: np.ndarray, trans: np.ndarray, frame_rate: float) -> RiggedMesh:
        """The same mesh in another motion; arguments as the attributes."""
        return replace(
            self, poses=poses.astype(np.float32), trans=trans.astype(np.float32), frame_rate=float(frame_rate)
        )

    def with_influences(self, count: int) -> RiggedMesh:
        """The same mesh with only the ``count`` strongest joints at every vertex, which share the whole weight."""
        if count >= self.weights.shape[1]:
            return self
        weakest = np.argsort(-self.weights, axis=1, kind="stable")[:, count:]
        weights = self.weights.astype(np.float64)
        np.put_along_axis(weights, weakest, 0.0, axis=1)
        return replace(self, weights=(weights / weights.sum(1, keepdims=True)).astype(np.float32))

    def save(self, folder: Path) -> None:
        """Write ``mesh.npz``, ``texture.png`` and ``normal_map.png``; they replace the folder as a whole.

        Args:
            folder: The folder, such as ``RUN/avatar``.

        Raises:
            RunError: The folder cannot be written.
        """
        images = ("texture", "normal_map")
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in images}
        arrays["joint_names"] = np.array(self.joint_names)
        with replacing_folder(folder) as staging:
            np.savez_compressed(staging / MESH, **{name: a for name, a in arrays.items() if a is not None})
            for file, image in ((TEXTURE, self.texture), (NORMAL_MAP, self.normal_map)):
                if image is not None:
                    (staging / file).write_bytes(encoded_image(image, ".png"))

    @classmethod
    def load(cls, folder: Path) -> RiggedMesh:
        """Read what :meth:`save` wrote.

        Raises:
            RunError: A file is missing, damaged or inconsistent.
        """
        try:
            arrays = read_arrays(folder / MESH, [name for name in _SHAPES if name not in _OPTIONAL])
            images = [read_image(folder / name) if (folder / name).exists() else None for name in (TEXTURE, NORMAL_MAP)]
        except CaptureError as error:
            raise RunError(
                f"{folder}: no readable avatar ({error}); write it again with `selfrecon texture`"
            ) from error
        try:
            return _from_arrays(arrays, *images)
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{folder / MESH}: {error}; write it again with `selfrecon texture`") from error


def rigged_from_run(run: RunFolder, device: torch.device, *, cell: float | None = None) -> RiggedMesh:
    """The run's canonical mesh at full resolution, untextured, in the capture's own motion and world.

    Colours are the appearance network's, each vertex seen from straight outside.

    Args:
        run: A fitted run.
        device: Where to compute.
        cell: Cell edge of the extraction lattice [m]; the configured one when absent.

    Raises:
        RunError: The run has no usable checkpoint, or its capture is gone or changed.
        CaptureError: The capture is damaged.
    """
    fit = load_fit(run, device)
    reconstruction = Reconstruction(fit.avatar, cell or fit.config.output_cell)
    return rigged_mesh(fit.avatar, reconstruction.vertices, reconstruction.faces, reconstruction.vertex_colours())


@torch.no_grad()
def rigged_mesh(
    avatar: Avatar, vertices: torch.Tensor, faces: torch.Tensor, colours: torch.Tensor | None = None
) -> RiggedMesh:
    """Rig a canonical mesh with an avatar's skeleton and motion, and with weights made for any pose.

    Args:
        avatar: A fitted avatar.
        vertices: Canonical positions [m], ``[V, 3]``.
        faces: Outward oriented, ``[F, 3]``.
        colours: sRGB of the vertices, ``[V, 3]``: uint8, or floats in [0, 1].
    """
    body = avatar.canonical_body()
    count = len(avatar.body.parents)
    return RiggedMesh(
        vertices=_array(vertices),
        faces=faces.cpu().numpy().astype(np.int32),
        normals=_array(vertex_normals(vertices, faces)),
        weights=_array(cloth_weights(avatar, vertices, faces)),
        parents=np.array(avatar.body.parents, np.int32),
        joint_names=JOINT_NAMES if count == len(JOINT_NAMES) else tuple(f"joint_{j}" for j in range(count)),
        bind=np.linalg.inv(body.bones_inverse.double().cpu().numpy()),
        poses=_array(avatar.poses),
        trans=_array(avatar.trans),
        vertex_colours=None if colours is None else to_bytes(colours).numpy(),
    )


def encoded_image(rgb: np.ndarray, suffix: str, quality: int = 95) -> bytes:
    """An RGB picture ``[H, W, 3]`` uint8 as the bytes of a ``.png`` or ``.jpg`` file."""
    full_colour = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, *full_colour] if suffix == ".jpg" else []
    encoded: bytes = cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)[1].tobytes()
    return encoded


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().astype(np.float32)


def _from_arrays(
    arrays: Mapping[str, np.ndarray], texture: np.ndarray | None, normal_map: np.ndarray | None
) -> RiggedMesh:
    kinds: dict[str, type] = {name: np.int32 if name in _INTEGERS else np.float32 for name in _SHAPES}
    kinds |= {"bind": np.float64, "vertex_colours": np.uint8}
    return RiggedMesh(
        **{name: arrays[name].astype(kind) for name, kind in kinds.items() if name in arrays},
        joint_names=tuple(str(name) for name in arrays["joint_names"]),
        frame_rate=float(arrays["frame_rate"]),
        texture=texture,
        normal_map=normal_map,
    )
