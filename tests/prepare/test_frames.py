"""Frames come upright, in 8 bits, in order, whatever they were stored as."""

import cv2
import numpy as np
import pytest
from picture_files import gradient, jpeg_with_orientation, write_clip

from selfrecon_warp.errors import PrepareError
from selfrecon_warp.prepare.frames import open_frames

PICTURES = [gradient(index) for index in range(5)]


def read(path, indices=None):
    source = open_frames(path)
    return list(source.read(range(len(source.names)) if indices is None else indices))


def test_video_frames_in_order(tmp_path):
    frames = read(write_clip(tmp_path / "a.mp4", PICTURES), [1, 3])
    assert [frame.index for frame in frames] == [1, 3]
    for frame in frames:
        np.testing.assert_allclose(frame.pixels, PICTURES[frame.index], atol=6)


@pytest.mark.parametrize(("turn", "quarters"), [(90, -1), (180, 2), (270, 1)])
def test_rotated_metadata_turns_the_video_upright(turn, quarters, tmp_path):
    frame = read(write_clip(tmp_path / "a.mp4", PICTURES, turn=turn), [2])[0]
    np.testing.assert_allclose(frame.pixels, np.rot90(PICTURES[2], quarters), atol=6)


def test_variable_frame_rate_keeps_every_frame_once(tmp_path):
    frames = read(write_clip(tmp_path / "a.mp4", PICTURES, times=[0, 33, 200, 210, 900]))
    assert [round((int(frame.pixels[..., 2].mean()) - 20) / 20) for frame in frames] == [0, 1, 2, 3, 4]


def test_files_that_are_no_videos(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video at all" * 100)
    with pytest.raises(PrepareError, match=r"a\.mp4 cannot be read as a video"):
        open_frames(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes(b"")
    with pytest.raises(PrepareError, match=r"b\.mp4 cannot be read as a video"):
        open_frames(tmp_path / "b.mp4")
    with pytest.raises(PrepareError, match="does not exist"):
        open_frames(tmp_path / "c.mp4")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PrepareError, match="holds no pictures"):
        open_frames(tmp_path / "empty")


def test_a_video_without_frames(tmp_path):
    whole = write_clip(tmp_path / "a.mp4", PICTURES).read_bytes()
    start = whole.index(b"mdat")
    (tmp_path / "a.mp4").write_bytes(whole[: start + 4] + bytes(len(whole) - start - 4))
    with pytest.raises(PrepareError, match=r"a\.mp4"):
        open_frames(tmp_path / "a.mp4")


def test_sound_is_no_video(tmp_path):
    import av

    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        for packet in stream.encode(frame):
            container.mux(packet)
    with pytest.raises(PrepareError, match="no picture track"):
        open_frames(tmp_path / "a.wav")


def test_pictures_are_ordered_by_number(tmp_path):
    for index in (10, 9, 2):
        cv2.imwrite(str(tmp_path / f"frame_{index}.png"), PICTURES[index % 5][..., ::-1])
    assert list(open_frames(tmp_path).names) == ["frame_2", "frame_9", "frame_10"]


def test_exif_turns_pictures_upright(tmp_path):
    (tmp_path / "0.jpg").write_bytes(jpeg_with_orientation(PICTURES[0], 6))
    frame = read(tmp_path)[0]
    np.testing.assert_allclose(frame.pixels, np.rot90(PICTURES[0], -1), atol=4)
    assert frame.file is None  # the file itself would lie on its side for readers that ignore EXIF


def test_sixteen_bits_become_eight(tmp_path):
    cv2.imwrite(str(tmp_path / "0.png"), PICTURES[0][..., ::-1].astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "1.png"), PICTURES[1][..., ::-1].astype(np.uint16))
    first, second = read(tmp_path)
    np.testing.assert_array_equal(first.pixels, PICTURES[0])
    np.testing.assert_array_equal(second.pixels, PICTURES[1])
    assert first.file is None


def test_alpha_is_kept_apart(tmp_path):
    alpha = np.zeros((48, 64), np.uint8)
    alpha[10:20] = 255
    cv2.imwrite(str(tmp_path / "0.png"), np.dstack((PICTURES[0][..., ::-1], alpha)))
    cv2.imwrite(str(tmp_path / "1.png"), np.dstack((PICTURES[1][..., ::-1], np.full_like(alpha, 255))))
    first, second = read(tmp_path)
    np.testing.assert_array_equal(first.pixels, PICTURES[0])
    np.testing.assert_array_equal(first.alpha, alpha)
    assert second.alpha is None


def test_grey_pictures_get_three_channels(tmp_path):
    cv2.imwrite(str(tmp_path / "0.png"), PICTURES[0][..., 0])
    np.testing.assert_array_equal(read(tmp_path)[0].pixels, np.repeat(PICTURES[0][..., :1], 3, 2))


def test_damaged_pictures_are_named(tmp_path):
    data = cv2.imencode(".png", PICTURES[0])[1].tobytes()
    (tmp_path / "0.png").write_bytes(data[:-30])
    with pytest.raises(PrepareError, match=r"0\.png"):
        read(tmp_path)


def test_two_pictures_of_one_name(tmp_path):
    for suffix in (".png", ".jpg"):
        cv2.imwrite(str(tmp_path / f"0{suffix}"), PICTURES[0])
    with pytest.raises(PrepareError, match="are both frame 0"):
        open_frames(tmp_path)
