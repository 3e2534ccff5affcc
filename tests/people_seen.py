"""What a perfect detector would see of the default body in a known motion."""

from dataclasses import dataclass

import numpy as np
import torch
from capture_files import body_motion, default_body
from scipy.spatial.transform import Rotation

from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.capture.overlap import silhouettes
from selfrecon_warp.prepare.body_fit_landmarks import landmarks_of
from selfrecon_warp.prepare.body_fit_solver import body_height
from selfrecon_warp.prepare.observations import BODY_33, PersonObservations

OPENCV = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Seen:
    """A motion and what is seen of it.

    Attributes:
        observations: Exact masks and keypoints.
        camera: The true one.
        joints: ``[N, 24, 3]`` [m].
        height_cm: Of the body.
        poses: ``[N, 24, 3]``.
        trans: ``[N, 3]``.
        betas: ``[10]``.
    """

    observations: PersonObservations
    camera: Camera
    joints: np.ndarray
    height_cm: float
    poses: np.ndarray
    trans: np.ndarray
    betas: np.ndarray


@torch.no_grad()
def person_seen(frames: int = 12, size: int = 130, quat=(0.0, 0.0, 0.0, 1.0), T=(0.0, 0.0, 0.0), field=1.3) -> Seen:
    """A full turn with swinging arms and legs before a camera of focal length ``field * size``."""
    body = default_body()
    poses, trans = body_motion(frames)
    trans[:, 2] = 1.9 * field
    phase = 2 * np.pi * np.arange(frames) / frames
    poses[:, 18, 1], poses[:, 19, 1] = -0.4 - 0.2 * np.sin(2 * phase), 0.4 + 0.2 * np.cos(2 * phase)
    poses[:, 1, 2], poses[:, 2, 2] = 0.1, -0.1
    poses[:, 4, 0] = 0.15 + 0.1 * np.sin(phase)
    camera = Camera((field * size,) * 2, (0.5 * size - 3, 0.5 * size + 2), quat, T, height=size, width=size)
    usual = Camera((1, 1), (0, 0), height=size, width=size)
    turn = (camera.rotation() @ usual.rotation().T).double().numpy()
    betas = torch.zeros(10)
    betas[0] = 0.5
    pelvis = body.shaped(betas)[1][0].double().numpy()
    poses[:, 0] = (Rotation.from_matrix(turn) * Rotation.from_rotvec(poses[:, 0])).as_rotvec()
    trans = ((trans + pelvis) @ turn.T - pelvis + camera.centre().double().numpy()).astype(np.float32)

    given = torch.from_numpy(poses), torch.from_numpy(trans)
    vertices, joints = body.posed(betas, *given)
    marks = landmarks_of(BODY_33)
    canonical = body.canonical(betas)
    bones = body.bones(*given, None, canonical)[:, marks.bones]
    at = marks.positions(canonical.joints, marks.offsets)
    world = torch.einsum("nkab,kb->nka", bones[..., :3, :3], at) + bones[..., :3, 3]
    keypoints = np.full((frames, len(BODY_33), 2), np.nan, np.float32)
    space = np.full((frames, len(BODY_33), 3), np.nan, np.float32)
    keypoints[:, marks.columns] = camera.project(world)[..., :2].numpy()
    space[:, marks.columns] = (world @ camera.rotation()).numpy() * OPENCV
    hips = [BODY_33.index("left_hip"), BODY_33.index("right_hip")]
    space -= space[:, hips].mean(1, keepdims=True)
    observations = PersonObservations(
        masks=silhouettes(vertices, body, camera),
        keypoints=keypoints,
        confidence=np.isfinite(keypoints).all(-1).astype(np.float32),
        keypoints3d=space,
        names=BODY_33,
        times=np.arange(frames) / 30.0,
    )
    height = 100 * float(body_height(body, betas))
    return Seen(observations, camera, joints.numpy(), height, poses, trans, betas.numpy())


@torch.no_grad()
def joint_error(fitted, seen: Seen) -> float:
    """Mean distance of joints after one rigid alignment a frame [m]."""
    parts = (torch.from_numpy(np.asarray(part)).float() for part in (fitted.betas, fitted.poses, fitted.trans))
    joints = default_body().posed(*parts)[1].numpy()
    errors = []
    for mine, true in zip(joints, seen.joints, strict=True):
        centred, target = mine - mine.mean(0), true - true.mean(0)
        turn, _ = Rotation.align_vectors(target, centred)
        errors.append(np.linalg.norm(turn.apply(centred) - target, axis=-1).mean())
    return float(np.mean(errors))
