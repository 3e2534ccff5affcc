import cv2
import numpy as np
import pytest

from selfrecon_warp.capture.image_file import probe_image, read_image, read_mask
from selfrecon_warp.errors import CaptureError

PROGRESSIVE = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
RESTARTS = [cv2.IMWRITE_JPEG_RST_INTERVAL, 1]


def picture(height=40, width=56) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def write(path, image, options=()):
    assert cv2.imwrite(str(path), image, list(options))
    return path


@pytest.mark.parametrize("options", [(), PROGRESSIVE, RESTARTS], ids=["baseline", "progressive", "restarts"])
def test_jpeg_is_whole_or_refused_at_every_length(tmp_path, options):
    path = write(tmp_path / "0.jpg", picture(), options)
    assert probe_image(path) == (40, 56)
    data = path.read_bytes()
    path.write_bytes(data + b"\0\0trailing")
    assert probe_image(path) == (40, 56)
    for length in (*range(0, len(data), 37), len(data) - 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(CaptureError, match=r"0\.jpg is (truncated|neither)"):
            read_image(path)


def test_png_is_whole_or_refused_at_every_length(tmp_path):
    path = write(tmp_path / "0.png", picture())
    assert probe_image(path) == (40, 56)
    data = path.read_bytes()
    for length in (*range(0, len(data), 97), len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(CaptureError, match=r"0\.png is (truncated|neither)"):
            read_image(path)


def test_png_with_a_flipped_bit_is_refused(tmp_path):
    path = write(tmp_path / "0.png", picture())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CaptureError, match="truncated or damaged"):
        probe_image(path)


def test_other_content_is_refused(tmp_path):
    (tmp_path / "0.png").write_text("not an image")
    with pytest.raises(CaptureError, match="neither a JPEG nor a PNG"):
        probe_image(tmp_path / "0.png")
    with pytest.raises(CaptureError, match=r"1\.png is missing"):
        probe_image(tmp_path / "1.png")
    (tmp_path / "2.png").mkdir()
    with pytest.raises(CaptureError, match=r"2\.png cannot be read"):
        probe_image(tmp_path / "2.png")


def test_images_are_rgb(tmp_path):
    bgr = picture()
    assert (read_image(write(tmp_path / "0.png", bgr)) == bgr[..., ::-1]).all()


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_any_channel_makes_foreground(tmp_path, channel):
    image = np.zeros((8, 9, 3), np.uint8)
    image[2, 3, channel] = 1
    mask = read_mask(write(tmp_path / "0.png", image))
    assert mask.dtype == bool
    assert mask.sum() == 1
    assert mask[2, 3]


def test_masks_may_be_grey_deep_or_have_alpha(tmp_path):
    grey = np.zeros((8, 9), np.uint8)
    grey[2, 3] = 255
    deep = np.zeros((8, 9), np.uint16)
    deep[2, 3] = 1
    opaque = np.zeros((8, 9, 4), np.uint8)
    opaque[..., 3], opaque[2, 3, 0] = 255, 7
    for image in (grey, deep, opaque):
        mask = read_mask(write(tmp_path / "0.png", image))
        assert mask.sum() == 1
        assert mask[2, 3]
