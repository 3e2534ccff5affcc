"""Normals from other programs' maps and from ONNX networks."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.capture.ground_truth import read_ground_truth
from selfrecon_warp.errors import PrepareError
from selfrecon_warp.prepare.import_capture import ImportSettings, import_capture
from selfrecon_warp.prepare.normal_network import numbered, predict_normals, write_squares
from selfrecon_warp.prepare.person_square import (
    Square,
    cut,
    put_back,
    read_squares,
    square_from_joints,
    square_from_mask,
)

onnx = pytest.importorskip("onnx")


def exact_normals(known) -> np.ndarray:
    """Viewer-frame normals, NaN beside the person, ``[N, H, W, 3]``."""
    truth = read_ground_truth(known.root)
    stored = np.stack([truth.load_normals(f"{frame:06d}") for frame in range(6)])
    return np.where(stored.any(-1, keepdims=True), stored / 127.5 - 1, np.nan)


def write_maps(folder: Path, vectors: np.ndarray, form: str) -> Path:
    folder.mkdir()
    for frame, one in enumerate(vectors):
        stem = folder / f"{frame:06d}"
        if form.startswith("npy"):
            np.save(
                stem.with_suffix(".npy"),
                (one.transpose(2, 0, 1) if form == "npy channels first" else one).astype(np.float32),
            )
            continue
        shares = np.nan_to_num((one + 1) / 2)
        full = 65535 if form == "16 bits" else 255
        picture = np.rint(shares * full).astype(np.uint16 if form == "16 bits" else np.uint8)[..., ::-1]
        if form == "alpha":
            picture[np.isnan(one).any(-1)] = (255, 128, 128)
            picture = np.dstack((picture, np.where(np.isnan(one).any(-1), 0, 255).astype(np.uint8)))
        cv2.imwrite(str(stem.with_suffix(".png")), picture)
    return folder


def imported(known, out, maps, **options):
    settings = {"masks": known.root / "masks", "normals": maps, **options}
    result = import_capture(ImportSettings(known.root / "imgs", known.root / "smpl_rec.npz", **settings), out)
    return result, read_capture(out).load_all()


def error_degrees(known, tensors) -> float:
    """Median angle to the exact normals: the mean is that of the few pixels along the outline."""
    exact = exact_normals(known)
    exact /= np.linalg.norm(exact, axis=-1, keepdims=True)
    valid = tensors.normals_valid.numpy() & ~np.isnan(exact).any(-1)
    found = tensors.normals.numpy()[valid] / 127.5 - 1
    cosines = (found * exact[valid]).sum(-1) / np.linalg.norm(found, axis=-1)
    return float(np.median(np.degrees(np.arccos(np.clip(cosines, -1, 1)))))


@pytest.mark.parametrize(
    ("form", "axes"),
    [
        *((form, axes) for form in ("png", "npy") for axes in ("viewer", "camera", "viewer-bgr", "camera-bgr")),
        *((form, "camera") for form in ("16 bits", "alpha", "npy channels first")),
    ],
)
def test_every_form_and_frame_gives_the_exact_normals(form, axes, known, tmp_path, out):
    vectors = exact_normals(known)
    vectors = vectors * (1, -1, -1) if axes.startswith("camera") else vectors
    vectors = vectors[..., ::-1] if axes.endswith("bgr") else vectors
    result, tensors = imported(known, out, write_maps(tmp_path / "maps", vectors, form))
    assert any(f"{axes} axes agree with the body best" in remark for remark in result.remarks)
    assert error_degrees(known, tensors) < 0.6
    assert tensors.normals_valid.sum() > 0.97 * tensors.masks.sum()


def test_wrongly_stated_axes_are_refused_and_the_right_ones_named(known, tmp_path, out):
    maps = write_maps(tmp_path / "maps", exact_normals(known) * (1, -1, -1), "png")
    with pytest.raises(PrepareError, match=r"disagree with the body read as viewer.*pass --normals-frame camera"):
        imported(known, out, maps, normals_frame="viewer")
    result, _ = imported(known, out, maps, normals_frame="camera")
    assert result.remarks == ()


def test_pixels_without_a_normal_stay_invalid(known, tmp_path, out):
    vectors = exact_normals(known)
    vectors[:, :64] = np.nan
    vectors[:, 64:70] = 0.01
    _, tensors = imported(known, out, write_maps(tmp_path / "maps", vectors, "npy"))
    assert not tensors.normals_valid[:, :69].any()
    assert tensors.normals_valid[:, 71:].sum() > 0.95 * tensors.masks[:, 71:].sum()
    assert (tensors.normals[~tensors.normals_valid] == 0).all()


def test_maps_of_half_resolution_and_missing_frames(known, tmp_path, out):
    small = np.stack([cv2.resize(np.nan_to_num(one), (64, 64)) for one in exact_normals(known)])
    maps = write_maps(tmp_path / "maps", np.where(small.any(-1, keepdims=True), small, np.nan), "npy")
    (maps / "000002.npy").unlink()
    _, tensors = imported(known, out, maps)
    assert error_degrees(known, tensors) < 6
    assert not tensors.normals_valid[2].any()


def test_maps_of_the_persons_square(known, tmp_path, out):
    vectors, maps = exact_normals(known), []
    for frame in range(6):
        square = square_from_mask(read_capture(known.root).load_mask(frame))
        maps.append(cut(np.nan_to_num(vectors[frame]), square, (160, 160)))
    folder = write_maps(tmp_path / "maps", np.stack(maps), "npy")
    _, tensors = imported(known, out, folder, normals_crop="square")
    assert error_degrees(known, tensors) < 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normals_frame": "opengl"}, "--normals-frame must be auto or one of viewer, camera"),
        ({"normals_crop": "box"}, "--normals-crop must be one of full, square"),
    ],
)
def test_unknown_options(options, message, known, tmp_path, out):
    with pytest.raises(PrepareError, match=message):
        imported(known, out, write_maps(tmp_path / "maps", exact_normals(known), "png"), **options)


def test_maps_that_are_none(known, tmp_path, out):
    noise = np.random.default_rng(0).normal(size=(6, 128, 128, 3))
    noise /= np.linalg.norm(noise, axis=-1, keepdims=True)
    with pytest.raises(PrepareError, match="no known axes agree with the body's normals"):
        imported(known, out, write_maps(tmp_path / "noise", noise, "npy"))
    with pytest.raises(PrepareError, match="does not show the whole picture; pass --normals-crop square"):
        imported(known, out, write_maps(tmp_path / "crop", exact_normals(known)[:, :, 30:90], "npy"))
    with pytest.raises(PrepareError, match=r"must hold normals of shape \(h, w, 3\)"):
        imported(known, out, write_maps(tmp_path / "four", np.zeros((6, 128, 128, 4)), "npy"))
    with pytest.raises(PrepareError, match="is no folder"):
        imported(known, out, tmp_path / "none")
    assert not out.exists()


# ---- squares --------------------------------------------------------------------------------------------------------


def test_the_three_rules_of_the_square():
    joints, seen = np.full((24, 2), 50.0), np.zeros(24, bool)
    joints[7], joints[15] = (40, 190), (60, 10)
    seen[[7, 15]] = True
    assert square_from_joints(joints, seen, (200, 100)) == Square(50 - 117, 100 - 117, 234, 234)
    seen[7], seen[[1, 2]] = False, True
    joints[1], joints[2] = (45, 110), (55, 110)
    reach = 1.45 * np.hypot(10, 100)
    expected = (50 - reach, 110 + 0.05 * reach - reach, 2 * reach)
    square = square_from_joints(joints, seen, (200, 100))
    np.testing.assert_allclose((square.left, square.top, square.width), expected)
    seen[1] = False
    assert square_from_joints(joints, seen, (200, 100)) == Square(49.5 - 100, 99.5 - 100, 200, 200)


def test_what_is_cut_out_is_put_back_in_its_place():
    v, u = np.mgrid[0:90, 0:120]
    picture = np.stack((u / 120, v / 90, (u + v) / 210), -1).astype(np.float32)
    square = Square(20, 10, 61, 61)
    for side in (61, 121):
        back = put_back(cut(picture, square, (side, side)), square, (90, 120))
        np.testing.assert_allclose(back[11:70, 21:80], picture[11:70, 21:80], atol=1e-4)
        assert not back[:9].any()
    beyond = cut(picture, Square(-30, -30, 61, 61), (61, 61))
    assert not beyond[:29].any()
    np.testing.assert_allclose(beyond[30:, 30:], picture[:31, :31], atol=1e-6)


def test_the_largest_square_of_a_file_counts(tmp_path):
    (tmp_path / "a.txt").write_text("0 0 10 10\n5 6 70 80\n\n")
    assert read_squares(tmp_path / "a.txt") == Square(5, 6, 70, 80)
    (tmp_path / "a.txt").write_text("1 2 3\n")
    with pytest.raises(PrepareError, match="holds no person squares"):
        read_squares(tmp_path / "a.txt")


# ---- networks -------------------------------------------------------------------------------------------------------


def network(path: Path, weights=None, side=32, bias=(0.0, 0.0, 0.0)) -> Path:
    """A 1x1 convolution: every output channel is a mix of the input's."""
    from onnx import TensorProto, helper, numpy_helper

    kernel = np.eye(3) if weights is None else np.asarray(weights)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["picture", "kernel", "bias"], ["normals"], kernel_shape=[1, 1])],
        "tiny",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info("normals", TensorProto.FLOAT, [1, 3, side, side])],
        [
            numpy_helper.from_array(kernel.reshape(3, 3, 1, 1).astype(np.float32), "kernel"),
            numpy_helper.from_array(np.float32(bias), "bias"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.fixture
def painted(known, tmp_path) -> Path:
    """A capture whose pictures show its own normals, so that the identity is a perfect network."""
    folder = Path(shutil.copytree(known.root, tmp_path / "painted", ignore=shutil.ignore_patterns("gt", "normals")))
    truth = read_ground_truth(known.root)
    for frame in range(6):
        (folder / "imgs" / f"{frame:06d}.jpg").unlink()
        encoded = truth.load_normals(f"{frame:06d}")
        encoded[~encoded.any(-1)] = 77
        cv2.imwrite(str(folder / "imgs" / f"{frame:06d}.png"), encoded[..., ::-1])
    return folder


def test_a_network_sees_the_square_and_answers_in_the_picture(known, painted, tmp_path):
    (written,) = predict_normals(painted, network(tmp_path / "n.onnx", side=128))
    assert written == painted / "normals"
    tensors = read_capture(painted).load_all()
    assert error_degrees(known, tensors) < 4
    assert tensors.normals_valid.sum() > 0.97 * tensors.masks.sum()
    assert (tensors.normals[~tensors.masks] == 0).all()
    assert (written / "video.mp4").is_file()
    assert not (painted / ".normals.partial").exists()


def test_scaling_and_axes_of_a_network(known, painted, tmp_path):
    doubled = network(tmp_path / "n.onnx", 2 * np.diag((1, -1, -1)), 128, bias=(-1, 1, 1))
    predict_normals(painted, doubled, scaling="unit", axes="camera")
    assert error_degrees(known, read_capture(painted).load_all()) < 4


def test_vectors_of_no_length_are_invalid(painted, tmp_path):
    predict_normals(painted, network(tmp_path / "n.onnx", np.zeros((3, 3))))
    assert not read_capture(painted).load_all().normals_valid.any()


def test_normals_are_replaced_only_on_demand(painted, tmp_path):
    model = network(tmp_path / "n.onnx")
    predict_normals(painted, model)
    with pytest.raises(PrepareError, match="exists; pass --overwrite"):
        predict_normals(painted, model)
    predict_normals(painted, model, overwrite=True)


def test_killed_predictions_are_continued(painted, tmp_path, monkeypatch):
    from selfrecon_warp.prepare import normal_network

    model, calls = network(tmp_path / "n.onnx"), []
    real = normal_network._predict

    def interrupted(capture, frame, *rest):
        calls.append(frame)
        if calls == [0, 1, 2, 3]:
            raise KeyboardInterrupt
        return real(capture, frame, *rest)

    monkeypatch.setattr(normal_network, "_predict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict_normals(painted, model)
    assert not (painted / "normals").exists()
    predict_normals(painted, model)
    assert calls == [0, 1, 2, 3, 3, 4, 5]


def test_numbered_folders_are_done_one_after_the_other(painted, tmp_path):
    (tmp_path / "root").mkdir()
    for number in (0, 1):
        shutil.copytree(painted, tmp_path / "root" / str(number))
    assert numbered(tmp_path / "root") == [tmp_path / "root" / "0", tmp_path / "root" / "1"]
    written = predict_normals(tmp_path / "root", network(tmp_path / "n.onnx"))
    assert [path.parent.name for path in written] == ["0", "1"]


def test_square_files_are_written_and_heeded(painted, tmp_path):
    assert write_squares(painted) == 6
    square = read_squares(painted / "imgs" / "000000_rect.txt")
    mask = read_capture(painted).load_mask(0)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert square.left < columns[0]
    assert square.left + square.width > columns[-1]
    assert square.top < rows[0]
    assert square.top + square.height > rows[-1]
    for frame in range(6):
        (painted / "imgs" / f"{frame:06d}_rect.txt").write_text("40 40 20 20\n")
    predict_normals(painted, network(tmp_path / "n.onnx"))
    valid = read_capture(painted).load_all().normals_valid
    assert valid.any()
    assert not valid[:, :39].any()
    assert not valid[:, :, 61:].any()


def test_networks_of_another_kind(painted, tmp_path):
    from onnx import TensorProto, helper

    with pytest.raises(PrepareError, match="does not exist; give a normal network"):
        predict_normals(painted, tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(PrepareError, match="is damaged or no ONNX network"):
        predict_normals(painted, tmp_path / "bad.onnx")
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in ("a", "b", "c")]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "two", infos[:2], infos[2:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "two.onnx"
    )
    with pytest.raises(PrepareError, match=r"expected one picture \[1, 3, h, w\] as input, the network takes a"):
        predict_normals(painted, tmp_path / "two.onnx")
    with pytest.raises(PrepareError, match="--input must be one of signed"):
        predict_normals(painted, network(tmp_path / "n.onnx"), scaling="rgb")
    assert not (painted / "normals").exists()
