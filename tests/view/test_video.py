import numpy as np
import pytest

from selfrecon_warp.errors import RunError
from selfrecon_warp.view import video
from selfrecon_warp.view.video import read_video, write_video


def frames(count: int = 5, height: int = 48, width: int = 64) -> list[np.ndarray]:
    ramp = np.linspace(0, 200, width).astype(np.uint8)
    return [
        np.dstack([np.tile(ramp, (height, 1)), np.full((height, width, 2), 40 * k, np.uint8)]) for k in range(count)
    ]


def test_frames_come_back_in_order_and_colour(tmp_path):
    seen: list[int] = []
    pictures = frames()
    encoder = write_video(tmp_path / "deep" / "a.mp4", iter(pictures), fps=10, progress=seen.append)
    back = read_video(tmp_path / "deep" / "a.mp4")
    assert encoder in dict(video.ENCODERS)
    assert seen == [1, 2, 3, 4, 5]
    assert len(back) == 5
    for picture, found in zip(pictures, back, strict=True):
        assert np.abs(picture.astype(int) - found).mean() < 6
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["a.mp4"]


def test_odd_sizes_are_padded(tmp_path):
    write_video(tmp_path / "a.mp4", frames(2, 47, 63))
    assert read_video(tmp_path / "a.mp4")[0].shape == (48, 64, 3)


@pytest.mark.parametrize("first", range(1, len(video.ENCODERS)))
def test_every_fallback_that_is_installed_works(tmp_path, monkeypatch, first):
    monkeypatch.setattr(video, "ENCODERS", video.ENCODERS[first:])
    write_video(tmp_path / "a.mp4", frames(3))
    assert len(read_video(tmp_path / "a.mp4")) == 3


def test_bad_input_leaves_nothing_behind(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="at least one picture"):
        write_video(tmp_path / "a.mp4", [])
    with pytest.raises(ValueError, match=r"uint8 of shape \[48, 64, 3\], got uint8 \[20, 64, 3\]"):
        write_video(tmp_path / "a.mp4", [*frames(1), *frames(1, 20)])
    with pytest.raises(ValueError, match="got float64"):
        write_video(tmp_path / "a.mp4", [np.zeros((4, 4, 3))])
    monkeypatch.setattr(video, "ENCODERS", (("no_such_encoder", {}),))
    with pytest.raises(RunError, match="no video encoder"):
        write_video(tmp_path / "a.mp4", frames(1))
    assert list(tmp_path.iterdir()) == []


def test_unreadable_files_and_folders_are_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RunError, match=r"a\.mp4: cannot be written"):
        write_video(tmp_path / "file" / "a.mp4", frames(1))
    for name in ("missing.mp4", "file"):
        with pytest.raises(RunError, match=f"{name} cannot be read as a video"):
            read_video(tmp_path / name)
