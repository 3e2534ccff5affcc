"""A run's avatar in another motion: a GLB file that plays it, and a video."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from selfrecon_warp.asset.gltf import glb_bytes
from selfrecon_warp.asset.rigged import RiggedMesh, rigged_from_run
from selfrecon_warp.asset.upright import upright
from selfrecon_warp.errors import RunError
from selfrecon_warp.kernels.skinning import skin_points
from selfrecon_warp.motion.joints import JOINT_NAMES
from selfrecon_warp.motion.library import load_motion
from selfrecon_warp.motion.placing import Placed, place
from selfrecon_warp.motion.rotations import Floats
from selfrecon_warp.motion.skeleton import Skeleton
from selfrecon_warp.staging import replacing_folder
from selfrecon_warp.train.run_folder import RunFolder
from selfrecon_warp.view.infer import progress_bars
from selfrecon_warp.view.painter import Painter, over, soft_shadow
from selfrecon_warp.view.render import PAPER
from selfrecon_warp.view.shots import ORBIT_SECONDS, Shot, fixed_shot, following_shot, read_view, smooth_path
from selfrecon_warp.view.video import write_video

AVATAR = "avatar"
"""Folder of a run that holds its textured mesh."""
FRAMES_AT_ONCE = 8
BOX_SAMPLES = 24
FOLLOW_SECONDS = 0.4
NEAR_GROUND_M = 0.2
MOST_FRAMES = 20_000


@dataclass(frozen=True)
class Animation:
    """What was written.

    Attributes:
        glb: The avatar with the motion in it.
        video: The motion as pictures.
        motion: ``poses [N, 24, 3]``, ``trans [N, 3]`` and ``frame_rate``, world with y up, floor at 0.
        frames: How many.
        floor_error: How far the lowest point of the body is from the floor, the mean over the frames [m].
    """

    glb: Path
    video: Path
    motion: Path
    frames: int
    floor_error: float


def animate_run(
    run: RunFolder,
    source: str,
    device: torch.device,
    *,
    out: Path | None = None,
    frame_rate: float = 30.0,
    up: str | None = None,
    source_rate: float | None = None,
    path_scale: float | None = None,
    in_place: bool = False,
    orbit: bool = False,
    camera: Path | None = None,
    size: int = 720,
    console: Console | None = None,
) -> Animation:
    """Let a run's avatar move; earlier results in the same folder go only once the new ones are complete.

    Args:
        run: A fitted run; its textured avatar is taken where there is one, else the mesh with coloured vertices.
        source: See :func:`~selfrecon_warp.motion.library.load_motion`.
        device: Where to compute.
        out: Folder to write; ``RUN/animations/NAME`` when absent.
        frame_rate: Frames a second of animation and video.
        up: Vertical axis of a file of SMPL poses.
        source_rate: Frames a second of the file, instead of what it tells.
        path_scale: Metres a unit of the file's path, instead of the legs' ratio.
        in_place: Stay at the origin, as on a treadmill.
        orbit: The camera goes around once every few seconds.
        camera: Camera file; a camera that follows when absent. Its world has y up, the floor at 0, metres.
        size: Height and width of the video without a camera file [px].
        console: Where progress is shown; standard error when absent.

    Raises:
        MotionError: The motion is not understood.
        RunError: The run has no usable avatar, ``out`` holds other things, or cannot be written.
    """
    if orbit and camera is not None:
        raise RunError("--orbit and --camera exclude each other; leave one out")
    view = None if camera is None else read_view(camera, size, size)
    avatar = _avatar(run, device)
    skeleton = Skeleton.of_mesh(avatar.bind, avatar.vertices, avatar.weights)
    motion = load_motion(source, skeleton, frame_rate, up=up, source_rate=source_rate)
    if len(motion) > MOST_FRAMES:
        raise RunError(f"--motion {source}: {len(motion)} frames at {frame_rate:g} a second; {MOST_FRAMES} at most")
    if in_place:
        motion = replace(motion, pelvis=_without_path(motion.pelvis))
    poser = _Poser(avatar, device)
    placed = place(motion, skeleton, poser.lowest, path_scale=path_scale)
    folder = out or run.path / "animations" / motion.name
    suffixes = {"glb": ".glb", "video": ".mp4", "motion": ".npz"}
    names = {part: f"{motion.name}{suffix}" for part, suffix in suffixes.items()}
    require_own(folder, names.values())
    shot = fixed_shot(view, len(motion)) if view else _following(poser, placed, skeleton, size, orbit)
    heights: list[float] = []
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(folder) as staging, progress_bars(console) as progress:
        moved = avatar.with_motion(placed.poses, placed.trans, frame_rate)
        (staging / names["glb"]).write_bytes(glb_bytes(moved, motion_name=motion.name))
        np.savez(staging / names["motion"], poses=placed.poses, trans=placed.trans, frame_rate=frame_rate)
        task = progress.add_task(motion.name, total=len(motion))
        write_video(
            staging / names["video"],
            _pictures(poser, placed, shot, heights),
            round(frame_rate),
            progress=lambda done: progress.update(task, completed=done),
        )
    paths = {kind: folder / name for kind, name in names.items()}
    return Animation(**paths, frames=len(motion), floor_error=float(np.abs(heights).mean()))


def painter_of(avatar: RiggedMesh, device: torch.device) -> Painter:
    """What draws a rigged mesh: by its texture, or by its vertices' colours.

    Raises:
        RunError: It has neither.
    """
    parts = [avatar.faces, avatar.vertex_colours, avatar.texture, avatar.texcoords, avatar.face_texcoords]
    faces, colours, texture, texcoords, face_texcoords = (
        None if part is None else torch.from_numpy(part).to(device) for part in parts
    )
    if faces is None or (texture is None and colours is None):
        raise RunError("the avatar has neither texture nor colours; write it again with `selfrecon texture`")
    return Painter(faces, colours, texture=texture, texcoords=texcoords, face_texcoords=face_texcoords)


def require_own(folder: Path, names: Iterable[str]) -> None:
    """Refuse to replace a folder that holds anything but files of the given names.

    Raises:
        RunError: It does, or is a file.
    """
    wanted = set(names)
    if folder.exists() and not folder.is_dir():
        raise RunError(f"--out {folder}: is a file; give a folder")
    others = sorted(path.name for path in folder.iterdir() if path.name not in wanted) if folder.is_dir() else []
    if others:
        raise RunError(f"--out {folder}: holds {others[0]}, which would be lost; give an empty or a new folder")


class _Poser:
    """Poses an avatar's vertices on a device, some frames at a time."""

    def __init__(self, avatar: RiggedMesh, device: torch.device) -> None:
        self.avatar, self.device = avatar, device
        self.vertices, self.weights, self.faces = (
            torch.from_numpy(array).to(device) for array in (avatar.vertices, avatar.weights, avatar.faces)
        )

    @torch.no_grad()
    def posed(self, poses: Floats, trans: Floats) -> Iterator[Tensor]:
        """World positions frame by frame [m], ``[V, 3]``."""
        for start in range(0, len(poses), FRAMES_AT_ONCE):
            chunk = slice(start, start + FRAMES_AT_ONCE)
            bones = torch.from_numpy(self.avatar.bones(poses[chunk], trans[chunk])).float().to(self.device)
            yield from skin_points(self.vertices, self.weights, bones)

    def lowest(self, poses: Floats, trans: Floats) -> Floats:
        """Height of the lowest vertex [m], ``[N]``."""
        return np.array([float(vertices[:, 1].min()) for vertices in self.posed(poses, trans)])


def _avatar(run: RunFolder, device: torch.device) -> RiggedMesh:
    """The run's avatar, standing on the floor in the canonical pose."""
    folder = run.path / AVATAR
    avatar = RiggedMesh.load(folder) if folder.is_dir() else rigged_from_run(run, device)
    if avatar.joint_names != JOINT_NAMES:
        raise RunError(f"{run.path}: motions are made for SMPL's {len(JOINT_NAMES)} joints, the run's body has others")
    return upright(avatar)[0]


def _without_path(pelvis: Floats) -> Floats:
    """The path without its straight part along the ground."""
    along = np.linspace(0, 1, len(pelvis))[:, None] * (pelvis[-1] - pelvis[0])
    return pelvis - along * [1.0, 0.0, 1.0]


def _following(poser: _Poser, placed: Placed, skeleton: Skeleton, size: int, orbit: bool) -> Shot:
    pelvis = placed.trans + skeleton.joints[0]
    ground = smooth_path(pelvis * [1.0, 0.0, 1.0], FOLLOW_SECONDS, placed.frame_rate)
    some = np.unique(np.linspace(0, len(pelvis) - 1, BOX_SAMPLES).astype(int))
    boxes = []
    for frame, vertices in zip(some, poser.posed(placed.poses[some], placed.trans[some]), strict=True):
        relative = vertices.cpu() - torch.from_numpy(ground[frame]).float()
        boxes.append(torch.stack((relative.amin(0), relative.amax(0))))
    low, high = torch.stack(boxes)[:, 0].amin(0), torch.stack(boxes)[:, 1].amax(0)
    turn = round(ORBIT_SECONDS * placed.frame_rate) if orbit else None
    return following_shot(low, high, torch.from_numpy(ground), size, size, orbit_pictures=turn)


def _pictures(poser: _Poser, placed: Placed, shot: Shot, heights: list[float]) -> Iterator[np.ndarray]:
    """The avatar in every frame over a ground that takes its shadow; heights of the lowest vertex are added."""
    painter = painter_of(poser.avatar, poser.device)
    for frame, vertices in enumerate(poser.posed(placed.poses, placed.trans)):
        heights.append(float(vertices[:, 1].min()))
        flattened = vertices * vertices.new_tensor([1.0, 0.0, 1.0])
        near = poser.faces[(vertices[:, 1] < NEAR_GROUND_M)[poser.faces.long()].all(1)]
        light = soft_shadow(shot.place(flattened, frame), poser.faces, near, shot.camera)
        yield over(painter.paint(shot.place(vertices, frame), shot.camera), light * np.asarray(PAPER, np.float32))
