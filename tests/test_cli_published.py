"""The commands for the reference's files and for ablations: good input, and bad input with one message and code 2."""

import json
from pathlib import Path

import pytest
import torch
from capture_files import default_body, write_capture
from typer.testing import CliRunner, Result

from selfrecon_warp.cli import app
from selfrecon_warp.config import load_config
from selfrecon_warp.train.run_folder import RunFolder
from selfrecon_warp.train.saved import load_avatar
from selfrecon_warp.view import ablation

CPU = torch.device("cpu")
FRAMES = 2


def selfrecon(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def files_below(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def require_refused(result: Result, *expected: str) -> None:
    assert result.exit_code == 2, result.output + repr(result.exception)
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("error: ") == 1
    assert "Traceback" not in result.output
    for text in expected:
        assert text in result.stderr


@pytest.fixture
def capture(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SELFRECON_BODY_MODELS", raising=False)
    monkeypatch.setattr(
        "selfrecon_warp.model.avatar.build_weight_field", lambda *_: torch.full((2, 2, 2, 24), 1.0 / 24.0)
    )
    return write_capture(tmp_path / "capture", FRAMES, (60, 50))


# ---- import-run -----------------------------------------------------------------------------------------------------


def checkpoint(**changes: object) -> dict:
    generator = torch.Generator().manual_seed(0)
    state = {
        "sdf.lin8.bias": torch.randn(257, generator=generator),
        "netRender.lin4.bias": torch.tensor([0.1, 0.2, 0.3]),
        "deformer.defs.0.lin4.bias": torch.tensor([0.01, 0.02, 0.03]),
    }
    return {"epoch": 3, "model_state_dict": state, "trans": torch.full((FRAMES, 3), 2.0), **changes}


@pytest.fixture
def trained(capture) -> Path:
    folder = capture.parent / "result"
    folder.mkdir()
    torch.save(checkpoint(), folder / "latest.pth")
    return folder


def test_a_trained_model_becomes_a_run(capture, trained):
    result = selfrecon("import-run", trained, capture, "--out", "run")
    assert result.exit_code == 0, result.output
    avatar = load_avatar(RunFolder.open(Path("run")), CPU)
    assert avatar.trans.tolist() == [[2.0] * 3] * FRAMES
    assert torch.equal(avatar.sdf.layers[8].bias, checkpoint()["model_state_dict"]["sdf.lin8.bias"])
    assert avatar.appearance.network.last.bias.tolist() == pytest.approx([0.3, 0.2, 0.1])
    require_refused(selfrecon("import-run", trained, capture, "--out", "run"), "run", "--overwrite")
    assert selfrecon("import-run", trained, capture, "--out", "run", "--overwrite").exit_code == 0


def test_its_options_choose_what_is_taken_over(capture, trained):
    other = checkpoint()
    other["model_state_dict"]["sdf.lin8.bias"] += 5.0
    torch.save(other, trained / "coarse.pth")
    torch.save({"lin8.bias": torch.full((257,), 7.0)}, "initial_sdf_idr_6_1.pth")
    canonical = default_body().canonical(torch.zeros(10))
    torch.save(
        {
            "ws": torch.full((1, 24, 2, 3, 4), 1.0 / 24.0),
            "bmins": torch.tensor([[-2.0, -2.0, -2.0]]),
            "bmaxs": torch.tensor([[2.0, 2.0, 2.0]]),
            "Js": canonical.joints_rest,
            "parents": torch.tensor(default_body().parents),
            "init_pose": canonical.bones_inverse,
        },
        "skinner.pth",
    )
    options = ["--checkpoint", "coarse.pth", "--sdf-model", "initial_sdf_idr_6_1.pth", "--skinner", "skinner.pth"]
    prefixes = ["--model-rm-prefix", "netRender", "--model-rm-prefix", "deformer.defs.0.lin4"]
    result = selfrecon("import-run", trained, capture, "--out", "run", *options, *prefixes)
    assert result.exit_code == 0, result.output
    run = RunFolder.open(Path("run"))
    avatar = load_avatar(run, CPU)
    assert avatar.sdf.layers[8].bias.tolist() == [7.0] * 257
    assert not avatar.deformation.offset.network.last.bias.any()
    assert avatar.appearance.network.last.bias.tolist() != pytest.approx([0.3, 0.2, 0.1])
    assert run.config.model.skinning_resolution == (4, 3, 2)


BAD_MODELS = {
    "no folder": (["nowhere", "capture"], ["nowhere/latest.pth: no such file"]),
    "no checkpoint": (["result", "capture", "--checkpoint", "fine.pth"], ["fine.pth: no such file", "latest.pth"]),
    "no capture": (["result", "elsewhere"], ["elsewhere"]),
    "no field": (["result", "capture", "--sdf-model", "capture/camera.npz"], ["camera.npz"]),
    "no skinner": (["result", "capture", "--skinner", "result/latest.pth"], ["no skinning cache", "ws"]),
    "too few frames": (["short", "capture"], ["trained on 1 frames", "has 2"]),
    "no model": (["other", "capture"], ["holds no sdf.lin0"]),
    "bad conf": (["conf", "capture"], ["config.conf", "train.nepochs", "did you mean train.nepoch"]),
}


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_model_that_cannot_be_imported_is_refused(name):
    for folder in ("short", "other", "conf"):
        Path(folder).mkdir()
    torch.save(checkpoint(poses=torch.zeros(1, 24, 3)), "short/latest.pth")
    torch.save({"weights": torch.zeros(3)}, "other/latest.pth")
    torch.save(checkpoint(), "conf/latest.pth")
    Path("conf/config.conf").write_text("train { nepochs = 3 }")
    before = files_below(Path.cwd())
    arguments, expected = BAD_MODELS[name]
    require_refused(selfrecon("import-run", *arguments, "--out", "runs/imported"), *expected)
    assert files_below(Path.cwd()) == before
    assert not Path("runs").exists()


def test_a_folder_that_is_no_run_is_not_replaced(capture, trained):
    before = files_below(capture)
    require_refused(selfrecon("import-run", trained, capture, "--out", capture, "--overwrite"), "is no run folder")
    assert files_below(capture) == before


# ---- import-config --------------------------------------------------------------------------------------------------


def test_a_configuration_is_translated(tmp_path):
    pytest.importorskip("pyhocon")
    conf, out = tmp_path / "config.conf", tmp_path / "mine.yaml"
    conf.write_text("train { nepoch = 30, opt_trans = False, medium.start_epoch = -1 }")
    assert selfrecon("import-config", conf, "--out", out).exit_code == 0
    config = load_config(out)
    assert [(stage.name, stage.epochs) for stage in config.stages] == [("coarse", 12), ("fine", 18)]
    assert config.optimiser.trans == 0.0
    assert config.method == load_config("selfrecon").method


@pytest.mark.parametrize(
    ("text", "out", "expected"),
    [
        (None, "mine.yaml", ["config.conf: no such file"]),
        ("train { nepochs = 3 }", "mine.yaml", ["train.nepochs", "did you mean train.nepoch"]),
        ("train {", "mine.yaml", ["not HOCON"]),
        ("train { nepoch = 3 }", "nowhere/mine.yaml", ["nowhere/mine.yaml: cannot be written", "--out"]),
    ],
)
def test_a_configuration_that_cannot_be_translated_is_refused(tmp_path, monkeypatch, text, out, expected):
    pytest.importorskip("pyhocon")
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("config.conf").write_text(text)
    before = files_below(tmp_path)
    require_refused(selfrecon("import-config", "config.conf", "--out", out), *expected)
    assert files_below(tmp_path) == before


# ---- ablate ---------------------------------------------------------------------------------------------------------


QUICK = [
    *(
        "--config",
        "smoke",
        "--set",
        "registration.body_sweeps=0",
        "--set",
        "init.cell=0.03",
        "--set",
        "init.shape=body",
    ),
    *("--set", "stages.coarse.iterations=1", "--set", "stages.fine.iterations=1", "--device", "cpu"),
    *("--set", "stages.coarse.cell=0.04", "--set", "stages.fine.cell=0.04"),
]


@pytest.fixture
def scored(capture, monkeypatch) -> Path:
    """A capture whose scores are made up: evaluation has its own tests."""

    def score(run, *_, **__) -> None:
        normals = run.config.stages[0].losses.normal
        run.metrics_file.write_text(json.dumps({"fit": {"chamfer_aligned_cm": 1.0 if normals else 1.25}}))

    monkeypatch.setattr(ablation, "read_ground_truth", lambda _: None)
    monkeypatch.setattr(ablation, "evaluate_run", score)
    return capture


def test_an_ablation_tabulates_every_part_and_goes_on_where_it_was(scored, monkeypatch):
    arguments = ["ablate", scored, "--out", "study", *QUICK, "--part", "normals", "--part", "implicit gradient"]
    result = selfrecon(*arguments)
    assert result.exit_code == 0, result.output
    record = json.loads(Path("study/ablation.json").read_text())
    names = ["everything", "normals", "implicit gradient"]
    assert [(row["without"], row["scores"]["chamfer_aligned_cm"]) for row in record] == [
        *zip(names, (1.0, 1.25, 1.0), strict=True)
    ]
    lines = [line.split("|")[1:3] for line in Path("study/ablation.md").read_text().splitlines()]
    assert [line[0].strip() for line in lines] == ["without", "---", "nothing", "normals", "implicit gradient"]
    assert lines[3][1].strip() == "1.25 (+0.25)"
    switched = RunFolder.open(Path("study/normals")).config
    assert all(stage.losses.normal == 0 for stage in switched.stages)
    assert switched.registration.normal_count == 0
    assert not RunFolder.open(Path("study/implicit_gradient")).config.method.implicit_gradient
    monkeypatch.setattr(ablation, "fit_capture", None)  # nothing may be fitted again
    assert selfrecon(*arguments).exit_code == 0
    assert json.loads(Path("study/ablation.json").read_text()) == record


def test_every_part_can_be_switched_off(scored, monkeypatch):
    fitted = []

    def pretend(_, folder: Path, **options: object) -> None:
        fitted.append((folder.name, options))
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text('{"fit": {"chamfer_aligned_cm": 2.0}}')

    monkeypatch.setattr(ablation, "fit_capture", pretend)
    monkeypatch.setattr(ablation, "evaluate_run", lambda *_, **__: None)
    monkeypatch.setattr(RunFolder, "open", classmethod(lambda cls, path: cls(path)))
    result = selfrecon("ablate", scored, "--out", "study")
    assert result.exit_code == 0, result.output
    assert [name.replace("_", " ") for name, _ in fitted] == [ablation.WHOLE, *ablation.PARTS]
    whole = load_config("fast")
    for name, options in fitted[1:]:
        assert load_config("fast", options["overrides"]) != whole, name


@pytest.mark.usefixtures("capture")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["capture", "--part", "colour"], ["--part", "no part 'colour'", "colours"]),
        (["capture", "--set", "sed=1"], ["--set sed=1", "did you mean 'seed'?"]),
        (["capture", "--config", "smok"], ["did you mean 'smoke'?"]),
        (["capture"], ["gt"]),
        (["nowhere"], ["nowhere"]),
        (["capture", "--device", "gpu"], ["--device gpu"]),
    ],
)
def test_an_ablation_that_cannot_begin_is_refused(arguments, expected):
    before = files_below(Path.cwd())
    require_refused(selfrecon("ablate", *arguments, "--out", "study"), *expected)
    assert files_below(Path.cwd()) == before
    assert not Path("study").exists()


def test_an_ablation_below_a_file_is_refused(scored):
    Path("file").touch()
    require_refused(selfrecon("ablate", scored, "--out", "file/study", *QUICK), "file/study")
