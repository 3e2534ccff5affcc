import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.capture.ground_truth import read_ground_truth
from selfrecon_warp.errors import ConfigError, RunError, SelfReconError
from selfrecon_warp.kernels.rasterize import rasterize
from selfrecon_warp.model.body import load_body
from selfrecon_warp.synthesis.synthesize import synthesize_capture
from selfrecon_warp.synthesis.writer import CaptureWriter

SETTINGS = {"seed": 3, "frames": 5, "size": 112, "outfit": "skirt", "hold_out_poses": 2}


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    calls: list[tuple[int, int]] = []
    out = tmp_path_factory.mktemp("synthetic") / "capture"
    folder = synthesize_capture(out, **SETTINGS, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 7) for done in range(1, 8)]
    return folder


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def world_vertices(stored: dict[str, np.ndarray]) -> np.ndarray:
    return stored["verts_q"] * stored["scale"] + stored["offset"]


def test_reader_takes_the_capture(capture: Path) -> None:
    read = read_capture(capture)
    assert len(read) == SETTINGS["frames"]
    truth = read_ground_truth(capture)
    assert truth.meshes.frames == (0, 1, 2, 3, 4)
    assert truth.novel is not None
    assert truth.novel.load_image(0).shape == (112, 112, 3)


def test_ground_truth_keeps_the_stated_names_and_types(capture: Path) -> None:
    camera = arrays(capture / "camera.npz")
    assert set(camera) == {"fx", "fy", "cx", "cy", "quat", "T"}
    np.testing.assert_array_equal(camera["quat"], [0, 0, 0, 1])
    np.testing.assert_array_equal(camera["T"], 0)
    canonical = arrays(capture / "gt/canonical.npz")
    kinds = {"faces": "int32", "face_part": "uint8", "face_exterior": "bool", "verts_tpose": "float32",
             "verts_apose": "float32", "apose": "float32", "weights_idx": "uint8", "weights_val": "float16",
             "joints_rest": "float32"}  # fmt: skip
    assert {name: str(canonical[name].dtype) for name in kinds} == kinds
    assert 0.5 < canonical["face_exterior"].mean() < 0.99
    np.testing.assert_allclose(canonical["weights_val"].astype(float).sum(1), 1, atol=5e-3)
    assert canonical["faces"].max() == len(canonical["verts_tpose"]) - 1
    assert {"skin", "clothes", "shoes", "hair"} <= set(canonical["part_names"][np.unique(canonical["face_part"])])
    assert arrays(capture / "gt/meshes.npz")["verts_q"].dtype == np.int16


def test_mesh_projects_onto_mask(capture: Path) -> None:
    camera, faces = arrays(capture / "camera.npz"), arrays(capture / "gt/canonical.npz")["faces"]
    for folder, stored in ((capture, "gt/meshes.npz"), (capture / "gt/novel", "gt/novel/gt.npz")):
        vertices = world_vertices(arrays(capture / stored))
        for frame, points in enumerate(vertices):
            u = camera["cx"] + camera["fx"] * points[:, 0] / points[:, 2]
            v = camera["cy"] + camera["fy"] * points[:, 1] / points[:, 2]
            screen = torch.from_numpy(np.stack((u, v, points[:, 2]), 1)[None]).float()
            drawn = rasterize(screen, torch.from_numpy(faces), 112, 112).face_index[0].numpy() >= 0
            mask = cv2.imread(str(folder / f"masks/{frame:06d}.png"), cv2.IMREAD_GRAYSCALE) > 0
            assert (drawn & mask).sum() / (drawn | mask).sum() > 0.98


def test_person_fills_the_frame(capture: Path) -> None:
    for frame in range(SETTINGS["frames"]):
        mask = cv2.imread(str(capture / f"masks/{frame:06d}.png"), cv2.IMREAD_GRAYSCALE) > 0
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert 0.8 < (rows[-1] - rows[0] + 1) / 112 < 0.97
        assert rows[0] > 0
        assert rows[-1] < 111
        assert columns[0] > 0
        assert columns[-1] < 111


def test_exact_body_parameters_give_the_stored_joints_inside_the_mesh(capture: Path) -> None:
    truth = arrays(capture / "gt/smpl_gt.npz")
    poses, trans, shape = (torch.from_numpy(truth[name]) for name in ("poses", "trans", "shape"))
    vertices, joints = load_body().posed(shape, poses, trans)
    np.testing.assert_allclose(joints.numpy(), truth["joints"], atol=1e-4)
    meshes = world_vertices(arrays(capture / "gt/meshes.npz"))
    canonical = arrays(capture / "gt/canonical.npz")
    skin = np.unique(canonical["faces"][canonical["face_part"] == 0])
    for body, mesh in zip(vertices.numpy(), meshes, strict=True):
        assert np.median(cKDTree(body).query(mesh[skin])[0]) < 0.006
        assert mesh[:, 1].max() == pytest.approx(meshes[0][:, 1].max(), abs=0.02)  # stands on one floor


def test_exact_normals_agree_with_the_mesh(capture: Path) -> None:
    truth = read_ground_truth(capture)
    encoded = truth.load_normals("000000").astype(float)
    mask = cv2.imread(str(capture / "masks/000000.png"), cv2.IMREAD_GRAYSCALE) > 0
    normals = 2 * encoded[mask] / 255 - 1
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=0.02)
    assert (normals[:, 2] > 0).mean() > 0.97  # towards the camera
    assert not encoded[~mask].any()
    columns = np.nonzero(mask)[1]
    assert np.corrcoef(columns, normals[:, 0])[0, 1] > 0.2  # right half of the person faces right


def test_requested_noise_is_what_is_written(capture: Path) -> None:
    meta = json.loads((capture / "meta.json").read_text())
    assert meta["pose_noise_deg_mean"] == pytest.approx(2.6, abs=0.05)
    assert meta["normal_noise_deg_mean"] == pytest.approx(9.0, abs=0.6)
    truth, given = arrays(capture / "gt/smpl_gt.npz"), arrays(capture / "smpl_rec.npz")
    error = np.linalg.norm(given["trans"] - truth["trans"], axis=1)
    assert 0.004 < error.mean() < 0.04
    assert 0 < np.abs(given["shape"] - truth["shape"]).mean() < 0.6


def test_same_seed_same_files(capture: Path, tmp_path: Path) -> None:
    again = synthesize_capture(tmp_path / "capture", **SETTINGS)
    files = sorted(path.relative_to(capture) for path in capture.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    for name in files:
        if name.suffix == ".npz":
            for key, value in arrays(capture / name).items():
                np.testing.assert_array_equal(arrays(again / name)[key], value)
        else:
            assert (again / name).read_bytes() == (capture / name).read_bytes(), name


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"outfit": "toga"}, r"outfit must be one of casual, .*got 'toga'"),
        ({"frames": 0}, "frames must be a whole number of at least 1, got 0"),
        ({"size": 8}, "size must be a whole number of at least 48"),
        ({"seed": -1}, "seed must be"),
        ({"hold_out_poses": -2}, "hold_out_poses must be"),
        ({"pose_noise_deg": float("nan")}, "pose_noise_deg must lie between 0 and 45"),
        ({"mask_noise_px": -1.0}, "mask_noise_px must lie between"),
        ({"normal_noise_deg": 90.0}, "normal_noise_deg must lie between"),
    ],
)
def test_bad_arguments_write_nothing(tmp_path: Path, wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        synthesize_capture(tmp_path / "capture", **wrong)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_keeps_what_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="--overwrite"):
        synthesize_capture(tmp_path, frames=1)
    with pytest.raises(RunError, match="is a file"):
        synthesize_capture(tmp_path / "notes.txt", frames=1)
    with pytest.raises(RunError, match="cannot be written"):
        synthesize_capture(tmp_path / "notes.txt" / "below", frames=1)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_interruption_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with CaptureWriter(tmp_path / "capture", False) as writer:
            writer.mask("masks/000000.png", np.zeros((8, 8), bool))
            raise SelfReconError("stopped")

    with pytest.raises(SelfReconError, match="stopped"):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_overwrite_replaces_the_whole_folder(tmp_path: Path) -> None:
    (tmp_path / "capture").mkdir()
    (tmp_path / "capture/old.txt").write_text("old")
    with CaptureWriter(tmp_path / "capture", True) as writer:
        writer.meta({"name": "new"})
    assert [path.name for path in tmp_path.iterdir()] == ["capture"]
    assert not (tmp_path / "capture/old.txt").exists()
    assert json.loads((tmp_path / "capture/meta.json").read_text()) == {"name": "new"}
