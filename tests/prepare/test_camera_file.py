"""Cameras in every form give the same numbers; everything else is told."""

import json
import pickle

import numpy as np
import pytest

from selfrecon_warp.capture.camera import write_camera
from selfrecon_warp.errors import PrepareError
from selfrecon_warp.prepare.camera_file import Intrinsics, read_camera_file

SIZE = (480, 640)
FX, FY, CX, CY = 700.0, 710.0, 321.0, 238.0
K = np.array([[FX, 0, CX], [0, FY, CY], [0, 0, 1]])
SNAPSHOT = {"camera_f": np.array([FX, FY]), "camera_c": np.array([CX, CY]), "camera_k": np.zeros(5)}


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("c.npz", lambda path: write_camera(path, Intrinsics(FX, FY, CX, CY).camera(SIZE))),
        ("c.npz", lambda path: np.savez(path, K=K)),
        ("c.npy", lambda path: np.save(path, K)),
        ("c.npy", lambda path: np.save(path, np.tile(K, (4, 1, 1)))),
        ("c.json", lambda path: path.write_text(json.dumps({"fx": FX, "fy": FY, "cx": CX, "cy": CY}))),
        ("c.json", lambda path: path.write_text(json.dumps({"K": K.tolist()}))),
        ("c.json", lambda path: path.write_text(json.dumps(K.tolist()))),
        ("c.txt", lambda path: path.write_text(f"{FX} {FY} {CX} {CY}\n")),
        ("c.txt", lambda path: path.write_text(f"{FX}, {FY}, {CX}, {CY}, 0, 0, 0, 0\n")),
        ("c.txt", lambda path: np.savetxt(path, K)),
        ("c.pkl", lambda path: path.write_bytes(pickle.dumps(SNAPSHOT, 2))),
    ],
)
def test_every_form(name, write, tmp_path):
    write(tmp_path / name)
    camera = read_camera_file(tmp_path / name, SIZE)
    assert Intrinsics.of(camera) == Intrinsics(FX, FY, CX, CY)
    assert (camera.height, camera.width) == SIZE
    assert camera.quat.tolist() == [0, 0, 0, 1]


def test_one_focal_length_means_the_middle_of_the_picture(tmp_path):
    np.save(tmp_path / "camera.npy", {"img_focal": 600.0, "img_center": np.array([320.0, 240.0])})
    assert Intrinsics.of(read_camera_file(tmp_path / "camera.npy", SIZE)) == Intrinsics(600, 600, 320, 240)
    (tmp_path / "c.json").write_text('{"focal": 600}')
    assert Intrinsics.of(read_camera_file(tmp_path / "c.json", SIZE)) == Intrinsics(600, 600, 319.5, 239.5)
    (tmp_path / "c.txt").write_text("600")
    assert Intrinsics.of(read_camera_file(tmp_path / "c.txt", SIZE)) == Intrinsics(600, 600, 319.5, 239.5)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.json", '{"fov": 60}', "no camera in it; expected fx.*found fov"),
        ("c.json", "{", "no JSON file"),
        ("c.txt", "a b c d", "must hold numbers alone"),
        ("c.txt", "1 2", "expected fx fy cx cy or a matrix"),
        ("c.txt", "700 700 320 240 0.1 0 0 0", "lens distortion.*undistort the pictures first"),
        ("c.txt", "4.2 4.2 320 240", "no pixels of a 640x480 picture; millimetres"),
        ("c.txt", "700 700 960 540", "lies outside a 640x480 picture"),
        ("c.txt", "700 nan 320 240", "NaN"),
        ("c.yaml", "", "are read from .npz"),
    ],
)
def test_everything_else_is_told(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(PrepareError, match=message):
        read_camera_file(tmp_path / name, SIZE)


def test_a_missing_file(tmp_path):
    with pytest.raises(PrepareError, match="does not exist; give a camera file or --focal"):
        read_camera_file(tmp_path / "c.json", SIZE)
