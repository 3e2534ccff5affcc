"""The command line: help, and that every kind of bad input ends with one message, exit code 2 and nothing written."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import trimesh
from typer.testing import CliRunner, Result

from selfrecon_warp import __version__
from selfrecon_warp.capture.camera import Camera, write_camera
from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.capture.image_file import read_image
from selfrecon_warp.cli import app
from selfrecon_warp.config import load_config
from selfrecon_warp.kernels.rasterize import visible_faces
from selfrecon_warp.model.body import load_body
from selfrecon_warp.train import session
from selfrecon_warp.train.checkpoint import save_checkpoint
from selfrecon_warp.train.progress import FitInterrupted, FitProgress, StageProgress
from selfrecon_warp.train.run_folder import RunFolder

ROOT = Path(__file__).parent.parent
FRAMES, SIZE = 4, 96


def selfrecon(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def body():
    return load_body()


@pytest.fixture(scope="module")
def template(body, tmp_path_factory) -> Path:
    """A capture of the naked body standing before the camera, grey on black."""
    folder = tmp_path_factory.mktemp("template")
    poses = np.zeros((FRAMES, 24, 3), np.float32)
    poses[:, 0, 0] = np.pi  # the world is an OpenCV camera frame: y down
    parameters = {"poses": poses, "trans": np.tile(np.float32([0, 0.2, 3]), (FRAMES, 1)), "shape": np.zeros(10)}
    np.savez(folder / "smpl_rec.npz", gender="neutral", **parameters)
    camera = Camera((110, 110), (47.5, 47.5), height=SIZE, width=SIZE)
    write_camera(folder / "camera.npz", camera)
    for part in ("imgs", "masks"):
        (folder / part).mkdir()
        for frame in range(FRAMES):
            cv2.imwrite(str(folder / part / f"{frame:06d}.png"), np.full((SIZE, SIZE, 3), 255, np.uint8))
    capture = read_capture(folder)
    vertices = body.posed(capture.betas, capture.poses, capture.trans)[0].detach()
    masks = (visible_faces(camera.project(vertices), body.faces, SIZE, SIZE) >= 0).cpu().numpy()
    for frame in range(FRAMES):
        cv2.imwrite(str(folder / "masks" / f"{frame:06d}.png"), masks[frame] * np.uint8(255))
        cv2.imwrite(str(folder / "imgs" / f"{frame:06d}.png"), masks[frame] * np.uint8(128))
    return folder


@pytest.fixture
def capture(template, tmp_path, monkeypatch) -> Path:
    """A copy to spoil, in the folder the command is called from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SELFRECON_BODY_MODELS", raising=False)
    return Path(shutil.copytree(template, tmp_path / "capture"))


def files_below(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def require_refused(result: Result, *expected: str) -> None:
    assert result.exit_code == 2, result.output + repr(result.exception)
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("error: ") == 1
    assert "Traceback" not in result.output
    for text in expected:
        assert text in result.stderr


# ---- what a newcomer sees first -------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_command(flag):
    result = selfrecon(flag)
    assert result.exit_code == 0
    for command in ("check", "fit", "infer", "evaluate", "view", "report", "synthesize", "demo", "version"):
        assert f" {command} " in result.output


@pytest.mark.parametrize(
    "command", ["check", "fit", "infer", "evaluate", "view", "report", "synthesize", "demo", "version"]
)
def test_every_command_has_help(command):
    assert selfrecon(command, "-h").exit_code == 0


def test_version():
    assert selfrecon("--version").output.strip() == __version__
    assert "torch" in selfrecon("version").output


def test_help_comes_without_importing_torch():
    code = "import sys, selfrecon_warp.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_launcher_of_a_checkout_runs_from_anywhere(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "--version"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == __version__


# ---- check ----------------------------------------------------------------------------------------------------------


def test_check_of_a_good_capture_tells_the_overlap_and_draws_a_sheet(capture):
    result = selfrecon("check", capture)
    assert result.exit_code == 0, result.output
    assert f"{FRAMES} frames of {SIZE}x{SIZE}, CC0 body" in result.stdout
    assert "warning: " in result.stderr  # there are no normals
    assert read_image(Path("capture_check.png")).ndim == 3


# ---- bad captures ---------------------------------------------------------------------------------------------------


def change_arrays(path: Path, **changes: object) -> None:
    with np.load(path) as archive:
        arrays = dict(archive)
    for name, change in changes.items():
        if callable(change):
            arrays[name] = change(arrays[name])
        elif change is None:
            del arrays[name]
        else:
            arrays[name] = change
    np.savez(path, **arrays)


def with_nan(array: np.ndarray) -> np.ndarray:
    array[1] = np.nan
    return array


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_black_mask(path: Path) -> None:
    cv2.imwrite(str(path), np.zeros((SIZE, SIZE), np.uint8))


Spoil = Callable[[Path], object]
BAD_CAPTURES: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "no capture": (shutil.rmtree, ("imgs",)),
    "missing mask": (lambda c: (c / "masks/000002.png").unlink(), ("masks", "000002.png", "missing")),
    "missing image": (lambda c: (c / "imgs/000001.png").unlink(), ("imgs",)),
    "too few poses": (
        lambda c: change_arrays(c / "smpl_rec.npz", poses=lambda a: a[:2], trans=lambda a: a[:2]),
        ("smpl_rec.npz", str(FRAMES), "2"),
    ),
    "truncated image": (lambda c: truncate(c / "imgs/000001.png"), ("000001.png",)),
    "truncated mask": (lambda c: truncate(c / "masks/000001.png"), ("masks/000001.png",)),
    "unreadable image": (lambda c: (c / "imgs/000001.png").write_text("no image"), ("imgs/000001.png",)),
    "mask of another size": (
        lambda c: cv2.imwrite(str(c / "masks/000001.png"), np.full((SIZE, 50), 255, np.uint8)),
        ("masks/000001.png", "50"),
    ),
    "wrong array shape": (
        lambda c: change_arrays(c / "smpl_rec.npz", trans=lambda a: a[:, :2]),
        ("smpl_rec.npz", "trans", "(4, 2)"),
    ),
    "missing array": (lambda c: change_arrays(c / "smpl_rec.npz", shape=None), ("smpl_rec.npz", "shape")),
    "NaN pose": (lambda c: change_arrays(c / "smpl_rec.npz", poses=with_nan), ("smpl_rec.npz", "poses")),
    "NaN camera": (lambda c: change_arrays(c / "camera.npz", fx=np.nan), ("camera.npz", "fx")),
    "damaged parameters": (lambda c: truncate(c / "smpl_rec.npz"), ("smpl_rec.npz", "damaged")),
    "unknown gender": (lambda c: change_arrays(c / "smpl_rec.npz", gender="robot"), ("smpl_rec.npz", "robot")),
    "black mask": (lambda c: write_black_mask(c / "masks/000003.png"), ("masks", "000003")),
    "body outside the image": (
        lambda c: change_arrays(c / "smpl_rec.npz", trans=lambda a: a + np.float32([5, 0, 0])),
        ("smpl_rec.npz", "outside the image"),
    ),
}


@pytest.mark.parametrize("command", ["check", "fit"])
@pytest.mark.parametrize("name", BAD_CAPTURES)
def test_bad_capture_is_refused(capture, command, name):
    spoil, expected = BAD_CAPTURES[name]
    spoil(capture)
    before = files_below(Path.cwd())
    result = selfrecon(command, "capture", *(["--out", "runs/first"] if command == "fit" else []))
    require_refused(result, "capture", *expected)
    assert files_below(Path.cwd()) == before
    assert not Path("runs").exists()


def test_check_draws_a_faulty_capture_when_asked(capture):
    change_arrays(capture / "smpl_rec.npz", trans=lambda a: a + np.float32([5, 0, 0]))
    require_refused(selfrecon("check", "capture", "--sheet", "sheet.png"), "outside the image")
    assert Path("sheet.png").is_file()


# ---- bad settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--set", "sed=1"], ("--set sed=1", "did you mean 'seed'?")),
        (["--set", "seed=many"], ("--set seed=many", "valid integer")),
        (["--config", "fats"], ("--config", "did you mean 'fast'?")),
        (["--config", "mine.yaml"], ("mine.yaml:2", "'sed'", "did you mean 'seed'?")),
        (["--device", "gpu"], ("--device gpu", "cuda:N")),
        (["--device", "cuda:99"], ("--device cuda:99", "")),
        (["--body-models", "nowhere"], ("nowhere", "does not exist")),
        (["--body-models", "capture"], ("capture", "no neutral body model")),
        (["--resume"], ("runs/first", "not a run folder")),
        (["--resume", "--overwrite"], ("--resume", "exclude each other")),
    ],
)
def test_bad_setting_is_refused(capture, arguments, expected):
    Path("mine.yaml").write_text("extends: fast\nsed: 1\n")
    before = files_below(Path.cwd())
    require_refused(selfrecon("fit", capture, "--out", "runs/first", *arguments), *expected)
    assert files_below(Path.cwd()) == before
    assert not Path("runs").exists()


def test_gender_without_a_model_is_refused(capture):
    change_arrays(capture / "smpl_rec.npz", gender="female")
    Path("models").mkdir()
    shutil.copy(ROOT / "selfrecon_warp/data/body_cc0.npz", "models/SMPL_MALE.npz")
    result = selfrecon("fit", capture, "--out", "run", "--body-models", "models")
    require_refused(result, "models holds no female body model")
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "arguments", [["fit", "capture"], ["check", "capture", "extra"], ["fat"], ["fit", "--sed", "1"]]
)
def test_misspelt_command_line_is_refused(capture, arguments):
    assert selfrecon(*arguments).exit_code == 2
    assert [path.name for path in capture.parent.iterdir()] == ["capture"]


# ---- bad destinations -----------------------------------------------------------------------------------------------


@pytest.fixture
def run(capture, body) -> RunFolder:
    """A run that stopped after its first checkpoint."""
    opened = RunFolder.create(Path("run"), load_config("fast"), capture=read_capture(capture), body=body)
    save_checkpoint(opened.checkpoints, {}, iteration=0, stage="coarse")
    return opened


def test_existing_run_is_refused_untouched(capture, run):
    before = files_below(run.path)
    require_refused(selfrecon("fit", capture, "--out", run.path), str(run.path), "--overwrite", "--resume")
    assert files_below(run.path) == before


def test_resume_with_other_settings_is_refused_untouched(capture, run):
    before = files_below(run.path)
    result = selfrecon("fit", capture, "--out", run.path, "--resume", "--seed", "5")
    require_refused(result, str(run.path), "seed", "--overwrite")
    assert files_below(run.path) == before


def test_folder_that_is_no_run_is_refused_untouched(capture):
    before = files_below(capture)
    require_refused(selfrecon("fit", capture, "--out", capture, "--overwrite"), "is no run folder", "another --out")
    assert files_below(capture) == before


def test_destination_below_a_file_is_refused(capture):
    Path("file").touch()
    require_refused(selfrecon("fit", capture, "--out", "file/run"), "file/run", "is a file", "another --out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_destination_is_refused(capture):
    Path("locked").mkdir(mode=0o500)
    require_refused(selfrecon("fit", capture, "--out", "locked/run"), "locked", "not writable", "another --out")


# ---- stopping and resuming ------------------------------------------------------------------------------------------


def test_interrupted_fit_saves_and_tells_how_to_resume(capture, monkeypatch):
    def interrupted_fit(_capture, _body, run, config, *_, **__) -> None:
        stages = [StageProgress(stage.name, stage.iterations) for stage in config.stages]
        with FitProgress(stages, run.log_file) as progress:
            os.kill(os.getpid(), signal.SIGINT)
            assert progress.stop_requested
            save_checkpoint(run.checkpoints, {}, iteration=1, stage="coarse")
            raise FitInterrupted(run.path)

    monkeypatch.setattr(session, "fit_avatar", interrupted_fit)
    result = selfrecon("fit", capture.name, "--out", "my run", "--seed", "4")
    assert result.exit_code == 130
    assert "continue with: selfrecon fit capture --out 'my run' --device auto --resume" in result.stderr
    resumed = []
    monkeypatch.setattr(session, "fit_avatar", lambda *a, resume, **_: resumed.append((a[3].seed, resume)))
    assert selfrecon("fit", capture.name, "--out", "my run", "--resume").exit_code == 0
    assert resumed == [(4, True)]


def test_interrupt_outside_a_fit_ends_quietly(capture, monkeypatch):
    def interrupt(*_, **__) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "fit_avatar", interrupt)
    result = selfrecon("fit", capture, "--out", "run")
    assert result.exit_code == 130
    assert result.stderr.endswith("interrupted\n")


# ---- runs that cannot be read ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [["infer", "capture"], ["evaluate", "capture", "--ground-truth", "gt"], ["view", "capture"]]
)
def test_folder_that_is_no_run_cannot_be_read(capture, command):
    before = files_below(capture)
    require_refused(selfrecon(*command), "capture: not a run folder")
    assert files_below(capture) == before


def test_view_before_infer_is_refused(run):
    require_refused(selfrecon("view", run.path, "--screenshot", "view.png"), "selfrecon infer")
    assert not Path("view.png").exists()


def test_view_draws_the_meshes_without_a_window(run, body):
    shown = read_capture(run.capture_folder)
    canonical, posed = body.canonical(shown.betas), body.posed(shown.betas, shown.poses, shown.trans)[0].detach()
    trimesh.Trimesh(canonical.vertices, canonical.faces, process=False).export(run.canonical_mesh)
    (run.infer / "meshes").mkdir(parents=True)
    for frame in range(FRAMES):
        mesh = trimesh.Trimesh(posed[frame], body.faces, process=False)
        mesh.export(run.infer / "meshes" / f"{frame:06d}.ply")
    require_refused(selfrecon("view", run.path, "--frame", "9"), "frames 0 to 3")
    result = selfrecon("view", run.path, "--screenshot", "view.png")
    if result.exit_code == 2 and "no display could be opened" in result.stderr:
        pytest.skip("no EGL on this machine")
    assert result.exit_code == 0, result.output
    picture = read_image(Path("view.png")).astype(int)
    coloured = (picture.max(-1) - picture.min(-1)) > 40
    assert 0.02 < coloured.mean() < 0.5
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["capture", "run", "view.png"]
