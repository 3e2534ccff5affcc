"""A capture appears whole or not at all, and killed work is continued."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.errors import CaptureError, PrepareError
from selfrecon_warp.prepare.camera_file import Intrinsics
from selfrecon_warp.prepare.capture_writer import CaptureFolder, encode_normals

SIZE = (20, 30)


def fill(capture: CaptureFolder, frames: int = 2) -> None:
    mask = np.zeros(SIZE, bool)
    mask[5:15, 10:20] = True
    for frame in range(frames):
        capture.image(frame, np.full((*SIZE, 3), 100, np.uint8))
        capture.normals(frame, np.broadcast_to([0.0, 0.6, 0.8], (*SIZE, 3)), mask)
        capture.mask(frame, mask)
    capture.camera(Intrinsics(30, 30, 14.5, 9.5).camera(SIZE))
    capture.body(np.zeros((frames, 24, 3)), np.full((frames, 3), 2.0), np.ones(4), "male", [1, frames])


def write(out: Path, then, **options) -> None:
    with CaptureFolder(out, **options) as capture:
        fill(capture)
        then(capture)


def left_over(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir() if path != out)


def test_what_is_written_is_read_back(out):
    with CaptureFolder(out) as capture:
        fill(capture)
    read = read_capture(out)
    assert (len(read), read.gender, read.clips) == (2, "male", ((0, 1), (1, 2)))
    assert read.betas.tolist() == [1] * 4 + [0] * 6
    loaded = read.load_all()
    assert loaded.normals_valid.sum() == loaded.masks.sum() == 200
    assert loaded.normals[0][10, 15].tolist() == [128, 204, 230]
    assert left_over(out) == []


def test_a_capture_without_normals_has_no_folder_for_them(out):
    with CaptureFolder(out) as capture:
        fill(capture)
        for file in (capture.folder / "normals").iterdir():
            file.unlink()
    assert not (out / "normals").exists()


def test_failing_work_leaves_nothing(out):
    with pytest.raises(ZeroDivisionError):
        write(out, recipe={"a": 1}, then=lambda _: 1 / 0)
    with pytest.raises(CaptureError, match=r"out/masks"):
        write(out, then=lambda capture: next((capture.folder / "masks").iterdir()).unlink())
    assert not out.exists()
    assert left_over(out) == []


def test_what_is_there_is_kept_until_the_end(out):
    out.mkdir()
    (out / "keep").write_text("me")
    with pytest.raises(PrepareError, match="exists and is not empty; choose another folder or pass --overwrite"):
        CaptureFolder(out)
    with pytest.raises(ZeroDivisionError):
        write(out, overwrite=True, then=lambda _: 1 / 0)
    assert (out / "keep").read_text() == "me"
    with CaptureFolder(out, overwrite=True) as capture:
        fill(capture)
    assert not (out / "keep").exists()
    with pytest.raises(PrepareError, match="is a file; give a folder"):
        CaptureFolder(out / "camera.npz")


def test_two_processes_do_not_write_one_capture(out):
    with CaptureFolder(out) as capture:
        fill(capture)
        with pytest.raises(PrepareError, match="is being written by another process"), CaptureFolder(out):
            pass
    assert len(read_capture(out)) == 2


@pytest.mark.parametrize("recipe", [{"frames": 40}, {"frames": 41}])
def test_a_killed_process_leaves_no_capture_and_is_continued(recipe, out):
    code = (
        "import sys, time, numpy as np; from pathlib import Path\n"
        "from selfrecon_warp.prepare.capture_writer import CaptureFolder\n"
        "with CaptureFolder(Path(sys.argv[1]), recipe={'frames': 40}) as capture:\n"
        "    for frame in range(2):\n"
        "        capture.image(frame, np.full((20, 30, 3), 7, np.uint8), '.png')\n"
        "        capture.mask(frame, np.ones((20, 30), bool))\n"
        "    print('ready', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(out)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    assert not out.exists()
    time.sleep(0.05)
    with CaptureFolder(out, recipe=recipe) as capture:
        assert capture.continued == (recipe == {"frames": 40})
        assert capture.has("masks", 1) == capture.continued
        assert not capture.has("masks", 2)
        fill(capture)
        for file in (capture.folder / "imgs").glob("*.png"):
            file.unlink()
    assert len(read_capture(out)) == 2
    assert left_over(out) == []


def test_invalid_normals_are_black_and_lengths_do_not_matter():
    normals = np.array([[[0, 0, 5.0], [0, 0, 0.01], [0, 0, 0], [1, 0, 0]]])
    valid = np.array([[True, True, False, False]])
    assert encode_normals(normals, valid).tolist() == [[[128, 128, 255], [128, 128, 255], [0, 0, 0], [0, 0, 0]]]


def test_pictures_of_two_sizes_are_a_mistake(out):
    with pytest.raises(ValueError, match="must be 30x20 like the first"):
        write(out, then=lambda capture: capture.mask(1, np.ones((5, 5), bool)))
