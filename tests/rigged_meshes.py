"""A small rigged mesh with every feature: a textured ball on a crooked skeleton that moves."""

import numpy as np
import trimesh
from scipy.spatial.transform import Rotation

from selfrecon_warp.asset.rigged import RiggedMesh

PARENTS = (-1, 0, 1, 2, 0, 4)
FRAMES = 7


def make_rigged(
    *, textured: bool = False, subdivisions: int = 2, frames: int = FRAMES, spread: float = 0.4
) -> RiggedMesh:
    """A ball of radius 0.3 m above the floor; every vertex follows all six joints.

    The texture has two charts, left half and right half, for faces that look to +z and to -z; both are mirror images
    of what they cover as seen from outside once each, so that tangents of both signs occur.
    """
    random = np.random.default_rng(5)
    ball = trimesh.creation.icosphere(subdivisions=subdivisions, radius=1.0)
    normals = np.asarray(ball.vertices, np.float32)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    vertices = (0.3 * normals + (0.0, 1.0, 0.1)).astype(np.float32)
    faces = np.asarray(ball.faces, np.int32)
    pull = np.exp(1.5 * normals @ random.normal(size=(3, len(PARENTS))))
    bind = np.zeros((len(PARENTS), 4, 4))
    for joint, parent in enumerate(PARENTS):
        local = np.eye(4)
        local[:3, :3] = Rotation.from_rotvec(random.normal(0, 0.3, 3) if joint else np.zeros(3)).as_matrix()
        local[:3, 3] = random.normal(0, 0.2, 3) if joint else (0.02, 1.0, 0.05)
        bind[joint] = local if parent < 0 else bind[parent] @ local
    poses = random.normal(0, spread, (frames, len(PARENTS), 3)).astype(np.float32)
    poses[:, 0] = Rotation.from_euler("y", 60 * np.arange(frames)[:, None], degrees=True).as_rotvec()
    texcoords = face_texcoords = texture = normal_map = None
    if textured:
        front = vertices[faces].mean(1)[:, 2] > 0.1
        u = 0.05 + 0.4 * (0.5 + 0.5 * normals[:, 0])
        v = 0.9 - 0.8 * (0.5 + 0.5 * normals[:, 1])
        texcoords = np.concatenate((np.stack((u, v), 1), np.stack((u + 0.5, v), 1))).astype(np.float32)
        face_texcoords = np.where(front[:, None], faces, faces + len(vertices)).astype(np.int32)
        row, column = np.mgrid[:64, :64]
        texture = np.stack((4 * column, 4 * row, 128 + 0 * row), 2).astype(np.uint8)
        normal_map = np.full((32, 32, 3), (128, 128, 255), np.uint8)
    return RiggedMesh(
        vertices=vertices,
        faces=faces,
        normals=normals,
        weights=(pull / pull.sum(1, keepdims=True)).astype(np.float32),
        parents=np.array(PARENTS, np.int32),
        joint_names=("pelvis", "spine", "head", "crown", "thigh", "knee"),
        bind=bind,
        poses=poses,
        trans=random.normal(0, 0.1, (frames, 3)).astype(np.float32),
        frame_rate=25.0,
        texcoords=texcoords,
        face_texcoords=face_texcoords,
        texture=texture,
        normal_map=normal_map,
        vertex_colours=np.rint(127.5 * (normals + 1)).astype(np.uint8),
    )
