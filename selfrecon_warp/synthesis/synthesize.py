"""Captures with exact ground truth, unlimited and from open parts alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from selfrecon_warp.errors import ConfigError
from selfrecon_warp.synthesis.estimators import BlurryNormals, RaggedMask, estimated
from selfrecon_warp.synthesis.figure import Figure, Timeline
from selfrecon_warp.synthesis.mesh_tools import Array
from selfrecon_warp.synthesis.person import JOINT_NAMES, Motion, held_out_motion, turn_motion
from selfrecon_warp.synthesis.scene import Camera, Studio
from selfrecon_warp.synthesis.wardrobe import OUTFITS, dressed
from selfrecon_warp.synthesis.writer import CaptureWriter, quantised

MESH_FRAMES = 12
FILL = 0.87  # share of the image's height the standing person takes

Progress = Callable[[int, int], None]


def synthesize_capture(
    out: Path,
    *,
    seed: int = 0,
    frames: int = 120,
    size: int = 540,
    outfit: str = "casual",
    pose_noise_deg: float = 2.6,
    mask_noise_px: float = 0.0,
    normal_noise_deg: float = 9.0,
    hold_out_poses: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write a capture of a random dressed person turning once, in the reference's processed layout, with ``gt/``.

    The same arguments give the same capture. Everything comes from the CC0 body and procedures in this package.

    Args:
        out: Folder to create.
        seed: Draws body, clothes, colours, light and motion.
        frames: Pictures of the turn.
        size: Side of the square pictures [pixel].
        outfit: One of :data:`~selfrecon_warp.synthesis.wardrobe.OUTFITS`.
        pose_noise_deg: Mean rotation error a joint of ``smpl_rec.npz`` [degrees]; translation and shape err along.
        mask_noise_px: Mean displacement of the masks' outline [pixel].
        normal_noise_deg: Mean error of ``normals/`` [degrees].
        hold_out_poses: Frames in unusual poses to write under ``gt/novel/``.
        overwrite: Replace ``out`` where it holds something already.
        progress: Called with (frames done, frames in all).

    Returns:
        ``out``.

    Raises:
        ConfigError: An argument is out of range.
        RunError: ``out`` cannot be written. Nothing is left behind in either case.
    """
    out = Path(out)
    _check(seed, frames, size, outfit, pose_noise_deg, mask_noise_px, normal_noise_deg, hold_out_poses)
    with CaptureWriter(out, overwrite) as writer:
        body_rng, motion_rng, noise_rng, picture_rng = np.random.default_rng(seed).spawn(4)
        figure, noise = dressed(body_rng, outfit)
        turn, standing = turn_motion(motion_rng, frames), held_out_motion(motion_rng, hold_out_poses)
        depth = float(motion_rng.uniform(2.9, 3.4))
        height = _height(figure)
        focal = FILL * size * depth / height
        middle = 0.5 * (size - 1)
        camera = Camera(size, focal, middle + 0.005 * size, middle - 0.008 * size)
        floor = 0.5 * height + 0.012
        studio = Studio(picture_rng, camera, floor, depth, noise)
        timeline = _stand(figure, turn, floor, depth, motion_rng)
        novel = _stand(figure, standing, floor, depth, motion_rng) if hold_out_poses else None

        total = frames + hold_out_poses
        masks = RaggedMask(noise_rng, frames, size, mask_noise_px)
        blurry = BlurryNormals(noise_rng, frames, size, normal_noise_deg)
        kept = np.arange(0, frames, max(1, math.ceil(frames / MESH_FRAMES)))
        stored, angles = [], []
        for frame in range(frames):
            posed = figure.pose(timeline, frame)
            shot = studio.photograph(figure, posed, picture_rng)
            if frame in kept:
                stored.append(posed.vertices)
            mask = masks(shot.mask, frame)
            predicted = blurry(shot.normals, shot.mask, frame)
            writer.image(f"imgs/{frame:06d}.jpg", shot.image)
            writer.mask(f"masks/{frame:06d}.png", mask)
            writer.normals(f"normals/{frame:06d}.png", predicted, mask)
            writer.normals(f"gt/normals/{frame:06d}.png", shot.normals, shot.mask)
            cosine = np.clip((predicted[shot.mask] * shot.normals[shot.mask]).sum(1), -1, 1)
            angles.append(float(np.degrees(np.arccos(cosine)).mean()))
            if progress is not None:
                progress(frame + 1, total)
        writer.camera(camera)
        writer.canonical(figure)
        writer.arrays("gt/meshes.npz", frames=kept.astype(np.int64), **quantised(np.stack(stored), depth))
        betas = figure.person.betas
        writer.body("gt/smpl_gt.npz", timeline.motion, betas, joints=timeline.joints, joint_names=np.array(JOINT_NAMES))
        given, shape = estimated(noise_rng, timeline.motion, betas, pose_noise_deg)
        writer.body("smpl_rec.npz", given, shape)
        if novel is not None:
            _write_novel(
                writer,
                figure,
                studio,
                novel,
                depth,
                picture_rng,
                lambda done: progress and progress(frames + done, total),
            )
        meta = {"name": out.name, "frames": frames, "resolution": [size, size], "outfit": outfit, "seed": seed}
        meta |= _noise_report(figure, timeline, given, shape) | {"normal_noise_deg_mean": float(np.mean(angles))}
        meta |= {
            "mask_noise_px": mask_noise_px,
            "license": "generated by selfrecon-warp from CC0 parts; released as CC0",
        }
        writer.meta(meta)
    return out


def _check(
    seed: int, frames: int, size: int, outfit: str, pose: float, mask: float, normal: float, hold_out: int
) -> None:
    if outfit not in OUTFITS:
        raise ConfigError(f"outfit must be one of {', '.join(OUTFITS)}, got {outfit!r}")
    for name, value, least in (
        ("seed", seed, 0),
        ("frames", frames, 1),
        ("size", size, 48),
        ("hold_out_poses", hold_out, 0),
    ):
        if not isinstance(value, int | np.integer) or value < least:
            raise ConfigError(f"{name} must be a whole number of at least {least}, got {value!r}")
    for name, noise, most in (
        ("pose_noise_deg", pose, 45.0),
        ("mask_noise_px", mask, size / 8),
        ("normal_noise_deg", normal, 45.0),
    ):
        if not (math.isfinite(noise) and 0 <= noise <= most):
            raise ConfigError(f"{name} must lie between 0 and {most:g}, got {noise!r}")


def _height(figure: Figure) -> float:
    """From sole to hair in the A-pose [m]."""
    return float(np.ptp(figure.apose_vertices[:, 1]))


def _stand(figure: Figure, motion: Motion, floor: float, depth: float, rng: np.random.Generator) -> Timeline:
    """Put the person on the floor: the lowest point of the body, plus the sole, touches it in every frame."""
    naked = figure.person.pose(motion.poses, np.zeros_like(motion.trans))[0]
    sole = float(figure.person.rest.vertices[:, 1].min() - figure.rest[:, 1].min())
    trans = motion.trans.copy()
    trans[:, 2] += depth
    trans[:, 1] = floor - sole - naked[:, :, 1].max(1)
    return figure.timeline(rng, Motion(motion.poses, trans.astype(np.float32)))


def _write_novel(
    writer: CaptureWriter,
    figure: Figure,
    studio: Studio,
    timeline: Timeline,
    depth: float,
    rng: np.random.Generator,
    progress: Callable[[int], Any],
) -> None:
    """Held-out poses under ``gt/novel/``."""
    vertices: list[Array] = []
    for frame in range(len(timeline.motion.poses)):
        posed = figure.pose(timeline, frame)
        writer.photograph("gt/novel", frame, studio.photograph(figure, posed, rng))
        vertices.append(posed.vertices)
        progress(frame + 1)
    motion = timeline.motion
    writer.arrays("gt/novel/gt.npz", poses=motion.poses, trans=motion.trans, **quantised(np.stack(vertices), depth))


def _noise_report(figure: Figure, timeline: Timeline, given: Motion, shape: Array) -> dict[str, float]:
    """The disturbance that was in fact applied."""
    exact = timeline.motion
    turned = Rotation.from_rotvec(exact.poses.reshape(-1, 3)).inv() * Rotation.from_rotvec(given.poses.reshape(-1, 3))
    joints = figure.person.pose(given.poses, given.trans)[1]
    return {
        "pose_noise_deg_mean": float(np.degrees(turned.magnitude()).mean()),
        "trans_noise_m_rms": float(np.sqrt(((given.trans - exact.trans) ** 2).sum(1).mean())),
        "beta_noise": float(np.std(shape - figure.person.betas)),
        "mpjpe_init_m": float(np.linalg.norm(joints - timeline.joints, axis=-1).mean()),
    }
