import json

import cv2
import numpy as np
import pytest
import torch
from capture_files import default_body, shared_capture

from selfrecon_warp.capture.dataset import decode_normals, read_capture, valid_normals
from selfrecon_warp.capture.ground_truth import read_ground_truth
from selfrecon_warp.capture.overlap import intersection_over_union
from selfrecon_warp.errors import CaptureError
from selfrecon_warp.kernels.rasterize import visible_faces


@pytest.fixture
def folder(tmp_path):
    """Ground truth of a two-frame capture whose person is one triangle."""
    root = tmp_path / "capture" / "gt"
    (root / "novel" / "masks").mkdir(parents=True)
    (root / "novel" / "imgs").mkdir()
    names = np.array([f"joint{i}" for i in range(24)])
    motion = {"poses": np.ones((2, 24, 3)), "trans": np.ones((2, 3))}
    np.savez(root / "smpl_gt.npz", **motion, shape=np.zeros(10), joints=np.zeros((2, 24, 3)), joint_names=names)
    meshes = {"verts_q": np.int16([[[0, 0, 0], [100, 0, 0], [0, 200, 0]]]), "scale": 0.01, "offset": [0.0, 0, 3]}
    np.savez(root / "meshes.npz", frames=np.array([1]), **meshes)
    np.savez(root / "novel" / "gt.npz", poses=np.ones((1, 24, 3)), trans=np.ones((1, 3)), **meshes)
    cv2.imwrite(str(root / "novel" / "masks" / "000000.png"), np.full((4, 5), 255, np.uint8))
    cv2.imwrite(str(root / "novel" / "imgs" / "000000.jpg"), np.full((4, 5, 3), 99, np.uint8))
    rest = np.zeros((3, 3), np.float32)
    np.savez(
        root / "canonical.npz",
        faces=np.int32([[0, 1, 2]]),
        face_part=np.uint8([1]),
        part_names=np.array(["skin", "clothes"]),
        face_exterior=np.array([True]),
        verts_tpose=rest,
        verts_apose=rest,
        apose=np.zeros((24, 3)),
        joints_rest=np.zeros((24, 3)),
    )
    return root.parent


def test_reads_every_part(folder):
    truth = read_ground_truth(folder)
    assert read_ground_truth(folder / "gt").root == truth.root
    assert truth.poses.shape == truth.joints.shape == (2, 24, 3)
    assert truth.joint_names[23] == "joint23"
    assert truth.canonical.part_names == ("skin", "clothes")
    assert truth.canonical.faces.dtype == torch.int64
    assert truth.meshes.frames == (1,)
    torch.testing.assert_close(truth.meshes.vertices(1), torch.tensor([[0.0, 0, 3], [1, 0, 3], [0, 2, 3]]))
    assert truth.novel.load_mask(0).all()
    assert truth.novel.load_image(0).shape == (4, 5, 3)
    assert truth.novel.meshes.vertices(0).dtype == torch.float32


def test_frames_without_a_mesh_are_named(folder):
    with pytest.raises(CaptureError, match=r"frame 0 has no ground-truth mesh; frames \[1\] have"):
        read_ground_truth(folder).meshes.vertices(0)


def test_no_ground_truth(tmp_path):
    (tmp_path / "meta.json").write_text(json.dumps({}))
    with pytest.raises(CaptureError, match="holds no ground truth"):
        read_ground_truth(tmp_path)


def test_parts_are_optional_until_asked_for(folder):
    for part in ("canonical.npz", "meshes.npz"):
        (folder / "gt" / part).unlink()
    truth = read_ground_truth(folder)
    with pytest.raises(CaptureError, match=r"meshes\.npz is missing"):
        _ = truth.meshes
    with pytest.raises(CaptureError, match=r"canonical\.npz is missing"):
        _ = truth.canonical
    (folder / "gt" / "novel").rename(folder / "elsewhere")
    assert truth.novel is None


def read_all(folder):
    truth = read_ground_truth(folder)
    return truth.meshes, truth.canonical, truth.novel


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("smpl_gt.npz", {"trans": np.zeros((3, 3))}, r"trans must have shape \(2, 3\), got \(3, 3\)"),
        ("smpl_gt.npz", {"joints": np.full((2, 24, 3), np.nan)}, "joints holds NaN"),
        ("meshes.npz", {"verts_q": np.zeros((2, 3, 3))}, r"verts_q must have shape \(1, vertices, 3\)"),
        ("canonical.npz", {"face_part": np.zeros(2)}, r"face_part must have shape \(1,\)"),
        ("novel/gt.npz", {"poses": np.zeros((2, 24, 3))}, r"poses must have shape \(1, 24, 3\)"),
    ],
)
def test_wrong_shapes_are_named(folder, part, changes, message):
    path = folder / "gt" / part
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez(path, **(arrays | changes))
    with pytest.raises(CaptureError, match=message) as caught:
        read_all(folder)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["male_casual", "female_skirt"])
def test_rendered_meshes_lie_on_masks_and_normals(name):
    capture, truth = read_capture(shared_capture(name)), read_ground_truth(shared_capture(name))
    faces, frame = truth.canonical.faces, truth.meshes.frames[3]
    vertices, camera = truth.meshes.vertices(frame), capture.camera
    seen = visible_faces(camera.project(vertices)[None], faces, *capture.image_size)[0].long()
    mask = capture.load_mask(frame)
    assert intersection_over_union((seen >= 0).numpy()[None], mask[None])[0] > 0.999
    corners = vertices[faces]
    facing = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    encoded = torch.from_numpy(truth.load_normals(capture.names[frame]))
    both = valid_normals(encoded, torch.from_numpy(mask)) & (seen >= 0)
    facing = torch.nn.functional.normalize(facing[seen[both]], dim=-1)
    assert (facing * decode_normals(encoded[both], camera.rotation())).sum(-1).median() > 0.995


@pytest.mark.parametrize("name", ["male_casual", "female_skirt"])
def test_rendered_skeleton_is_the_default_bodys(name):
    truth, body = read_ground_truth(shared_capture(name)), default_body()
    exact = body.posed_joints(truth.poses, truth.trans, truth.canonical.joints_rest)
    assert (exact - truth.joints).norm(dim=-1).max() < 1e-5
    own = body.posed_joints(truth.poses, truth.trans, body.shaped(truth.betas)[1])
    assert (own - truth.joints).norm(dim=-1).mean() < 0.003
