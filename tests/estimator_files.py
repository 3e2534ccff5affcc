"""Files as human pose estimators write them, made from known bodies."""

import pickle
from pathlib import Path

import joblib
import numpy as np
import torch
from scipy.spatial.transform import Rotation

PHALP_FOCAL, ROMP_FOCAL = 5000 / 256, 443.4 / 512  # of the longer side
SMPL_PELVIS, SMPLX_PELVIS = np.array([-0.0018, -0.2233, 0.0282]), np.array([0.0031, -0.3514, 0.0120])


def matrices(poses: np.ndarray) -> np.ndarray:
    return Rotation.from_rotvec(poses.reshape(-1, 3)).as_matrix().reshape(*poses.shape, 3).astype(np.float32)


def moved_focal(points: np.ndarray, centre: float, focal: float, assumed: float, side: int) -> np.ndarray:
    """Where a camera with another focal length and a centred principal point sees the points as they are seen now."""
    u = focal * points[:, :2] / points[:, 2:] + centre
    depth = points[:, 2:] * assumed / focal
    return np.concatenate(((u - 0.5 * (side - 1)) * depth / assumed, depth), 1)


def gvhmr(path: Path, poses, trans, betas, K=None) -> Path:
    count = len(poses)
    incam = {
        "body_pose": torch.tensor(poses[:, 1:22].reshape(count, 63)),
        "betas": torch.tensor(betas).repeat(count, 1),
        "global_orient": torch.tensor(poses[:, 0]),
        "transl": torch.tensor(trans),
    }
    world = {name: torch.zeros_like(value) for name, value in incam.items()}
    more = {} if K is None else {"K_fullimg": torch.tensor(K, dtype=torch.float32).repeat(count, 1, 1)}
    torch.save(
        {"smpl_params_global": world, "smpl_params_incam": incam, "net_outputs": {"x": torch.ones(2)}, **more}, path
    )
    return path


def wham(path: Path, poses, trans, betas, compress=0) -> Path:
    count = len(poses)
    person = {
        "pose": poses.reshape(count, 72),
        "trans": trans,
        "pose_world": np.zeros((count, 72), np.float32),
        "trans_world": np.zeros((count, 3), np.float32),
        "betas": np.tile(betas, (count, 1)),
        "verts": np.zeros((count, 5, 3), np.float32),
        "frame_ids": np.arange(count),
    }
    passer_by = {name: value[:2] for name, value in person.items()}
    joblib.dump({1: passer_by, 3: person}, path, compress=compress)
    return path


def tram(folder: Path, poses, trans, betas, focal=None, centre=None) -> Path:
    """``hps/`` with one track, and ``camera.npy`` beside it."""
    (folder / "hps").mkdir(parents=True)
    count = len(poses)
    track = {
        "pred_cam": torch.ones(count, 3),
        "pred_rotmat": torch.tensor(matrices(poses)),
        "pred_shape": torch.tensor(betas).repeat(count, 1),
        "pred_trans": torch.tensor(trans)[:, None],
        "frame": torch.arange(count),
    }
    np.save(folder / "hps" / "hps_track_0.npy", track)
    if focal is not None:
        camera = {"img_focal": np.float64(focal), "img_center": np.array(centre), "pred_cam_R": np.eye(3)}
        np.save(folder / "camera.npy", camera)
    return folder


def phalp(path: Path, poses, trans, betas, names=None) -> Path:
    turned = matrices(poses)
    frames = {}
    for frame in range(len(poses)):
        smpl = {"global_orient": turned[frame, :1], "body_pose": turned[frame, 1:], "betas": np.asarray(betas)}
        ghost = {"global_orient": turned[0, :1], "body_pose": turned[0, 1:], "betas": np.zeros(10, np.float32)}
        name = f"_DEMO/video/img/{frame + 1:06d}.jpg" if names is None else f"somewhere/{names[frame]}.jpg"
        frames[name] = {
            "time": frame,
            "shot": 0,
            "tid": [7, 2],
            "tracked_ids": [2],
            "tracked_time": [3, 0],
            "smpl": [ghost, smpl],
            "camera": [np.zeros(3, np.float32), np.asarray(trans[frame], np.float32)],
            "mask": [{"size": [4, 4], "counts": b"abc"}],
        }
    joblib.dump(frames, path, compress=3)
    return path


def romp(folder: Path, poses, trans, betas, *, wrapped=True) -> Path:
    """One ``.npz`` a frame; a smaller passer-by comes second."""
    folder.mkdir(parents=True)
    for frame in range(len(poses)):
        person = {
            "smpl_thetas": np.stack((poses[frame].ravel(), np.zeros(72))).astype(np.float32),
            "smpl_betas": np.stack((betas, np.zeros(10))).astype(np.float32),
            "cam_trans": np.stack((trans[frame], [0.4, 0.1, 9.0])).astype(np.float32),
        }
        if wrapped:
            np.savez(folder / f"{frame:08d}.npz", results=person)
        else:
            np.savez(folder / f"{frame:08d}.npz", **{name: value[0] for name, value in person.items()})
    return folder


class Bomb:
    """Unpickled in the ordinary way it would create a file."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def hostile_pickle(path: Path, target: Path) -> Path:
    path.write_bytes(pickle.dumps({0: {"pose": np.zeros((3, 72)), "trans": Bomb(target), "betas": np.zeros((3, 10))}}))
    return path
