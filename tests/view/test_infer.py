import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from selfrecon_warp.capture.dataset import decode_normals
from selfrecon_warp.capture.image_file import read_image
from selfrecon_warp.cli import app
from selfrecon_warp.errors import ConfigError, RunError
from selfrecon_warp.train.checkpoint import save_checkpoint
from selfrecon_warp.train.run_folder import RunFolder
from selfrecon_warp.train.saved import load_avatar
from selfrecon_warp.view import infer
from selfrecon_warp.view.infer import Wanted, infer_run, parse_frames
from selfrecon_warp.view.mesh_io import read_ply
from selfrecon_warp.view.video import read_video

FRAMES, HEIGHT, WIDTH = 3, 90, 71
COLOUR = (0.25, 0.5, 0.75)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def short_turntable(monkeypatch):
    monkeypatch.setattr(infer, "TURNTABLE_VIEWS", 3)


@pytest.fixture(scope="module")
def inferred(sphere, tmp_path_factory):
    """A copy of the run that inference has been through, and the overlaps it returned."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(infer, "TURNTABLE_VIEWS", 3)
        run = RunFolder(shutil.copytree(sphere.run.path, tmp_path_factory.mktemp("infer") / "run"))
        return run, infer_run(run, CPU)


@pytest.fixture
def run(sphere, tmp_path) -> RunFolder:
    """A copy to spoil; its capture is a copy too."""
    shutil.copytree(sphere.run.path.parent, tmp_path / "all")
    run = RunFolder(tmp_path / "all" / "run")
    content = yaml.safe_load(run.config_file.read_text())
    content["provenance"]["capture"]["path"] = str(tmp_path / "all" / "capture")
    run.config_file.write_text(yaml.safe_dump(content))
    return run


def files_below(folder):
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def pictures(run: RunFolder, name: str) -> list[np.ndarray]:
    return [read_image(run.infer / name / f"{frame:06d}.png") for frame in range(FRAMES)]


# ---- results --------------------------------------------------------------------------------------------------------


def test_avatar_comes_back_as_it_was_saved(sphere):
    loaded = load_avatar(sphere.run, CPU)
    for name, tensor in sphere.avatar.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, msg=name)
    assert loaded.deformation.offset.progress == pytest.approx(0.5 + 0.5 * 19 / 300)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_canonical_mesh_is_coloured(inferred, sphere):
    mesh = read_ply(inferred[0].canonical_mesh)
    distance = (mesh.vertices - sphere.centre).norm(dim=-1)
    torch.testing.assert_close(distance, torch.full_like(distance, 0.25), atol=2e-3, rtol=0)
    assert (mesh.colours.float() / 255 - torch.tensor(COLOUR)).abs().max() < 0.005


def test_meshes_are_in_the_world_with_one_topology(inferred, sphere):
    canonical = read_ply(inferred[0].canonical_mesh)
    files = sorted((inferred[0].infer / "meshes").iterdir())
    assert [file.name for file in files] == [f"{frame:06d}.ply" for frame in range(FRAMES)]
    for frame, file in enumerate(files):
        mesh = read_ply(file)
        assert torch.equal(mesh.faces, canonical.faces)
        expected = (canonical.vertices - sphere.centre) @ sphere.rotations[frame].T + sphere.centres[frame]
        torch.testing.assert_close(mesh.vertices, expected, atol=1e-5, rtol=0)


def test_colours_are_the_networks_on_white(inferred, sphere):
    for frame, picture in enumerate(pictures(inferred[0], "colour")):
        assert picture.shape == (HEIGHT, WIDTH, 3)
        middle = np.argwhere(sphere.meets(frame)[0].numpy()).mean(0)
        distance = np.hypot(*(np.indices((HEIGHT, WIDTH)) - middle[:, None, None]))
        assert np.abs(picture[distance < 10] / 255.0 - COLOUR).max() < 0.005
        assert (picture[distance > 16] == 255).all()


def test_normals_are_encoded_as_captures_store_them(inferred, sphere):
    for frame, picture in enumerate(pictures(inferred[0], "normals")):
        hit, points = sphere.meets(frame)
        world = (points - sphere.centre) @ sphere.rotations[frame].T / 0.25
        found = decode_normals(torch.from_numpy(picture), sphere.avatar.camera.rotation())
        middle = hit & (-world[..., 2] > 0.6)
        assert ((found * world).sum(-1)[middle] > 0.98).all()
        assert (picture[0, 0] == 0).all()


def test_shaded_pictures_show_the_sphere(inferred, sphere):
    for frame, picture in enumerate(pictures(inferred[0], "shaded")):
        shown = (picture < 250).any(-1)
        assert abs(int(shown.sum()) - int(sphere.meets(frame)[0].sum())) < 60


@pytest.mark.parametrize("name", ["shaded", "normals", "colour"])
def test_videos_show_the_input_beside_the_picture(inferred, name):
    frames = read_video(inferred[0].infer / f"{name}.mp4")
    assert [frame.shape for frame in frames] == [(HEIGHT, 2 * WIDTH, 3)] * FRAMES
    right = pictures(inferred[0], name)[1].astype(float)
    assert np.abs(frames[1][:, WIDTH:] - right).mean() < 12
    assert abs(frames[1][:5, : WIDTH - 2].mean() - 90) < 5  # the backdrop


def test_turntable_turns(inferred):
    assert len(read_video(inferred[0].infer / "turntable.mp4")) == 3


def test_overlaps_are_told_worst_first(inferred):
    record = json.loads((inferred[0].infer / "overlap.json").read_text())
    assert list(record["frames"]) == ["000000", "000001", "000002"]
    assert list(record["frames"].values()) == pytest.approx(list(inferred[1].values()), abs=1e-5)
    assert min(record["frames"].values()) > 0.95
    assert list(record["worst"].values()) == sorted(record["frames"].values())
    assert record["mean"] == pytest.approx(np.mean(list(record["frames"].values())), abs=1e-5)


def test_devices_agree(inferred, run, device):
    overlaps = infer_run(run, device)
    assert list(overlaps.values()) == pytest.approx(list(inferred[1].values()), abs=0.01)
    for name in ("shaded", "normals", "colour"):
        for found, expected in zip(pictures(run, name), pictures(inferred[0], name), strict=True):
            assert np.abs(found.astype(float) - expected).mean() < 0.5


# ---- what is asked for -----------------------------------------------------------------------------------------------


def written(run: RunFolder) -> set[str]:
    return {str(path.relative_to(run.infer)) for path in run.infer.rglob("*") if path.is_file()}


def test_only_frames_asked_for_are_written(run):
    overlaps = infer_run(run, CPU, wanted=Wanted(frames=[0, 2], videos=False))
    assert list(overlaps) == [0, 2]
    names = ("meshes/{}.ply", "shaded/{}.png", "normals/{}.png", "colour/{}.png")
    each = {name.format(frame) for frame in ("000000", "000002") for name in names}
    assert written(run) == each | {"overlap.json"}


def test_pictures_videos_and_colours_can_be_left_out(run, inferred):
    infer_run(run, CPU, wanted=Wanted(images=False, colour=False))
    meshes = {f"meshes/{frame:06d}.ply" for frame in range(FRAMES)}
    assert written(run) == meshes | {"overlap.json", "shaded.mp4", "normals.mp4", "turntable.mp4"}
    assert len(read_video(run.infer / "shaded.mp4")) == FRAMES
    infer_run(run, CPU, wanted=Wanted(images=False, videos=False))
    assert written(run) == meshes | {"overlap.json"}
    assert json.loads((run.infer / "overlap.json").read_text()) == json.loads(
        (inferred[0].infer / "overlap.json").read_text()
    )


def test_pictures_over_the_photograph_keep_what_the_mesh_leaves_free(run, inferred, sphere):
    infer_run(run, CPU, wanted=Wanted(videos=False, over_photo=True))
    for name in ("shaded", "colour"):
        for frame, (over, alone) in enumerate(zip(pictures(run, name), pictures(inferred[0], name), strict=True)):
            photo = read_image(run.capture_folder / "imgs" / f"{frame:06d}.png")
            free = (alone == 255).all(-1)
            assert np.array_equal(over[free], photo[free])
            middle = np.argwhere(sphere.meets(frame)[0].numpy()).mean(0).round().astype(int)
            assert np.array_equal(over[tuple(middle)], alone[tuple(middle)])
    assert all((picture[0, 0] == 0).all() for picture in pictures(run, "normals"))


def test_the_offset_alone_is_shown_from_the_front(run):
    checkpoint = torch.load(run.checkpoints / "latest.pt", weights_only=True)
    checkpoint["state"]["avatar"]["codes"][1] = 30.0
    torch.save(checkpoint, run.checkpoints / "latest.pt")
    infer_run(run, CPU, wanted=Wanted(offset=True))
    first, second, third = pictures(run, "offset")
    assert np.array_equal(first, third)  # their codes are zero
    assert not np.array_equal(first, second)
    assert len(read_video(run.infer / "offset.mp4")) == FRAMES


@pytest.mark.parametrize(
    ("text", "frames"),
    [(":2", [0, 1]), ("::4", [0, 4, 8]), ("5,0,5", [0, 5]), ("-1, 2:4", [2, 3, 9]), ("7:", [7, 8, 9])],
)
def test_frames_are_numbers_and_ranges(text, frames):
    assert parse_frames(text, 10) == frames


@pytest.mark.parametrize("text", ["", "ten", "10", "-11", "1:2:3:4", "1:2:0", "5:5"])
def test_frames_that_are_none_are_refused(text):
    with pytest.raises(ConfigError, match=f"--frames {text}"):
        parse_frames(text, 10)


def test_options_reach_from_the_command_line(run):
    arguments = ["--frames", "1:", "--no-video", "--no-images", "--no-colour", "--over-photo", "--device", "cpu"]
    assert CliRunner().invoke(app, ["infer", str(run.path), *arguments]).exit_code == 0
    assert written(run) == {"meshes/000001.ply", "meshes/000002.ply", "overlap.json"}


def test_frames_out_of_range_are_refused_before_any_work(run):
    require_refused(run, "is neither a frame from 0 to 2", "--frames", "3")


# ---- bad input ------------------------------------------------------------------------------------------------------


def require_refused(run: RunFolder, expected: str, *options: str) -> None:
    before = files_below(run.path.parent)
    result = CliRunner().invoke(app, ["infer", str(run.path), "--device", "cpu", *options])
    assert result.exit_code == 2, result.output + repr(result.exception)
    assert expected in result.stderr
    assert files_below(run.path.parent) == before


def test_run_without_checkpoint_is_refused(run):
    (run.checkpoints / "latest.pt").unlink()
    require_refused(run, "latest.pt")


def test_run_whose_capture_is_gone_is_refused(run):
    shutil.rmtree(run.path.parent / "capture")
    require_refused(run, f"the capture of {run.path} is gone")


def test_run_whose_capture_has_changed_is_refused(run):
    shutil.copyfile(run.capture_folder / "masks" / "000000.png", run.capture_folder / "masks" / "000001.png")
    require_refused(run, "has changed since")


def test_checkpoint_of_other_settings_is_refused(run):
    run.config_file.write_text(run.config_file.read_text().replace("code_length: 16", "code_length: 5"))
    require_refused(run, "does not fit the settings")


def test_checkpoint_without_avatar_is_refused(run):
    save_checkpoint(run.checkpoints, {}, iteration=1, stage="fine")
    require_refused(run, "does not fit the settings")


def test_run_whose_body_model_is_gone_is_refused(run, tmp_path):
    content = yaml.safe_load(run.config_file.read_text())
    content["provenance"]["body"]["models"] = str(tmp_path / "nowhere")
    run.config_file.write_text(yaml.safe_dump(content))
    require_refused(run, "nowhere does not exist")


def test_run_whose_body_model_has_changed_is_refused(run):
    content = yaml.safe_load(run.config_file.read_text())
    content["provenance"]["body"]["fingerprint"] = "another"
    run.config_file.write_text(yaml.safe_dump(content))
    require_refused(run, "another version of the body model")


def test_failure_leaves_earlier_results_alone(run, monkeypatch):
    run.infer.mkdir()
    (run.infer / "overlap.json").write_text("earlier")
    before = files_below(run.path)

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(infer, "write_video", full_disk)
    with pytest.raises(RunError, match="No space left on device"):
        infer_run(run, CPU)
    assert files_below(run.path) == before
    assert not [entry for entry in run.path.iterdir() if entry.name.startswith(".")]


def test_results_replace_earlier_ones(run):
    run.infer.mkdir()
    (run.infer / "stale").touch()
    infer_run(run, CPU)
    assert not (run.infer / "stale").exists()
    assert (run.infer / "overlap.json").is_file()
