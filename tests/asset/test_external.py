"""What programs that nobody here wrote make of the files. Each test skips aloud where its program is missing.

``make external`` installs the validator and three.js and runs these; Blender and Chromium are the system's. A run that
``SELFRECON_EXTERNAL_RUN`` names is tested beside the small mesh.
"""

import dataclasses
import functools
import json
import logging
import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from rigged_meshes import make_rigged
from scipy.ndimage import map_coordinates
from three_js import draw

from selfrecon_warp.asset.fbx import write_fbx
from selfrecon_warp.asset.gltf import glb_bytes
from selfrecon_warp.asset.morphs import Morphs, principal_morphs
from selfrecon_warp.asset.rigged import AVATAR, RiggedMesh, rigged_from_run
from selfrecon_warp.asset.seams import split_at_seams
from selfrecon_warp.asset.upright import upright
from selfrecon_warp.capture.camera import Camera
from selfrecon_warp.train.run_folder import RunFolder
from selfrecon_warp.view.render import Canvas

HERE = Path(__file__).parent / "external"
MODULES = Path(os.environ.get("SELFRECON_NODE_MODULES", Path(__file__).parents[2] / ".venv" / "node" / "node_modules"))
RUN = os.environ.get("SELFRECON_EXTERNAL_RUN")
MESHES = ["plain", "textured", *(["run"] if RUN else [])]
LOG = logging.getLogger(__name__)

pytestmark = pytest.mark.slow


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} on PATH")
    return found


def module(name: str) -> Path:
    if not (MODULES / name).is_dir():
        pytest.skip(f"no {name} in {MODULES}: make external, or set SELFRECON_NODE_MODULES")
    return MODULES


@functools.cache
def mesh(kind: str) -> RiggedMesh:
    """The mesh, upright, with as many influences as its file holds."""
    if kind == "run":
        assert RUN is not None
        run = RunFolder.open(Path(RUN))
        avatar = run.path / AVATAR
        fitted = RiggedMesh.load(avatar) if avatar.is_dir() else rigged_from_run(run, torch.device("cpu"))
    else:
        fitted = make_rigged(textured=kind == "textured", subdivisions=4)
    return upright(fitted)[0].with_influences(4)


def waves(rigged: RiggedMesh) -> Morphs:
    """Offsets of 2 cm that run over the surface."""
    phase = np.linspace(0, 6, rigged.frame_count)[:, None] + 9 * rigged.vertices[:, 1]
    return principal_morphs(0.02 * np.sin(phase)[..., None] * rigged.normals, 8)


def posed(rigged: RiggedMesh, frame: int, morphs: Morphs | None = None) -> np.ndarray:
    vertices = None if morphs is None else rigged.vertices + morphs.displacement(frame)
    return rigged.posed(rigged.poses[[frame]], rigged.trans[[frame]], vertices)[0]


# ---- the Khronos validator ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MESHES)
@pytest.mark.parametrize("choices", [{}, {"influences": 8, "unlit": True, "image": "png"}], ids=["default", "all"])
def test_the_validator_has_nothing_to_say(kind, choices, tmp_path):
    node, modules = program("node"), module("gltf-validator")
    rigged = mesh(kind)
    morphs = waves(rigged) if choices else None
    (tmp_path / "avatar.glb").write_bytes(glb_bytes(rigged, morphs=morphs, **choices))
    command = [node, HERE / "validate.cjs", modules, tmp_path / "avatar.glb"]
    issues = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert issues["messages"] == []
    assert (issues["numErrors"], issues["numWarnings"]) == (0, 0)


# ---- Blender --------------------------------------------------------------------------------------------------------


def in_blender(file: Path, frames: list[int], rate: float, folder: Path) -> dict[str, np.ndarray]:
    """World positions that Blender gives the vertices in some frames."""
    command = [program("blender"), "--background", "--factory-startup", "--python-exit-code", "1"]
    command += ["--python", HERE / "blender_positions.py", "--", file, folder / "found.npz", str(rate)]
    command += [str(frame) for frame in frames]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if "No module named 'numpy'" in done.stdout + done.stderr:
        pytest.skip("Blender has no NumPy: install python3-numpy")
    assert done.returncode == 0, done.stdout + done.stderr
    with np.load(folder / "found.npz") as archive:
        return dict(archive)


@pytest.mark.parametrize("kind", MESHES[1:])
@pytest.mark.parametrize("morphed", [False, True])
def test_blender_poses_the_glb_file_as_we_do(kind, morphed, tmp_path):
    program("blender")
    rigged = mesh(kind)
    morphs = waves(rigged) if morphed else None
    (tmp_path / "avatar.glb").write_bytes(glb_bytes(rigged, morphs=morphs))
    frames = [0, rigged.frame_count // 2, rigged.frame_count - 1]
    found = in_blender(tmp_path / "avatar.glb", frames, rigged.frame_rate, tmp_path)
    assert set(found["bones"]) == set(rigged.joint_names)
    source = split_at_seams(rigged).source
    for frame in frames:
        distance = np.linalg.norm(found[str(frame)] - posed(rigged, frame, morphs)[source], axis=1)
        LOG.info("Blender, %s, frame %d: %.5f mm", kind, frame, 1000 * distance.max())
        assert distance.max() < 1e-4


def test_blenders_fbx_comes_back_as_we_pose_it(tmp_path):
    blender = Path(program("blender"))
    rigged = mesh("textured")
    write_fbx(tmp_path / "avatar.fbx", glb_bytes(rigged), rigged.frame_count, rigged.frame_rate, blender)
    content = (tmp_path / "avatar.fbx").read_bytes()
    assert (content.count(b"\xff\xd8\xff"), content.count(b"\x89PNG")) == (1, 1)
    found = in_blender(tmp_path / "avatar.fbx", [0, 3], rigged.frame_rate, tmp_path)
    assert sorted(map(tuple, found["images"].tolist())) == [(32, 32), (64, 64)]
    source = split_at_seams(rigged).source
    for frame in (0, 3):
        distance = np.linalg.norm(found[str(frame)] - posed(rigged, frame)[source], axis=1)
        assert distance.max() < 1e-4


# ---- three.js -------------------------------------------------------------------------------------------------------

SIZE, FIELD_OF_VIEW = 540, 40.0


def our_picture(rigged: RiggedMesh, frame: int, eye: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mesh in its own colours on black, RGB ``[S, S, 3]``, and where it is, from a camera that looks along -z."""
    focal = SIZE / 2 / np.tan(np.radians(FIELD_OF_VIEW) / 2)
    camera = Camera((focal, focal), (0.5 * (SIZE - 1), 0.5 * (SIZE - 1)), height=SIZE, width=SIZE)
    split = split_at_seams(rigged)
    points = ((posed(rigged, frame)[split.source] - eye) * (1, -1, -1)).astype(np.float32)
    canvas = Canvas(torch.from_numpy(points), torch.from_numpy(split.faces), camera, 2)
    if split.texcoords is None:
        values = canvas.interpolate(torch.from_numpy(rigged.vertex_colours[split.source] / np.float32(255)))
    else:
        height, width = rigged.texture.shape[:2]
        texture = (rigged.texture / 255).transpose(2, 0, 1)
        places = canvas.interpolate(torch.from_numpy(split.texcoords)).numpy() * np.float32((width, height)) - 0.5
        rows_columns = [places[:, 1], places[:, 0]]
        looked_up = [map_coordinates(channel, rows_columns, order=1, mode="nearest") for channel in texture]
        values = torch.from_numpy(np.stack(looked_up, 1).astype(np.float32))
    return canvas.picture(values, (0, 0, 0)), (canvas.centre_faces >= 0).numpy()


@pytest.mark.parametrize("kind", MESHES)
def test_three_js_shows_what_we_show(kind, tmp_path):
    chromium, modules = program("chromium"), module("three")
    rigged = mesh(kind)
    rigged = dataclasses.replace(rigged, normal_map=None)
    frame = rigged.frame_count // 3
    points = posed(rigged, frame)
    middle = (points.min(0) + points.max(0)) / 2
    extent = np.ptp(points, axis=0).max()
    eye = middle + np.array([0, 0, 0.6 * extent / np.tan(np.radians(FIELD_OF_VIEW) / 2) + extent / 4])
    glb = glb_bytes(rigged, unlit=True, image="png")
    options = {"size": SIZE, "fov": FIELD_OF_VIEW, "eye": eye.tolist(), "time": frame / rigged.frame_rate}
    theirs = draw(chromium, modules, glb, **options)
    ours, mask = our_picture(rigged, frame, eye)
    cv2.imwrite(str(tmp_path / "both.png"), cv2.cvtColor(np.hstack((theirs, ours)), cv2.COLOR_RGB2BGR))
    shown = theirs.any(-1)
    overlap = (shown & mask).sum() / (shown | mask).sum()
    error = np.square(theirs[mask].astype(float) - ours[mask]).mean()
    score = 10 * np.log10(255**2 / max(error, 1e-9))
    picture = tmp_path / "both.png"
    LOG.info("three.js, %s: PSNR %.1f dB on %d pixels, overlap %.4f, %s", kind, score, mask.sum(), overlap, picture)
    assert mask.sum() > 10000
    assert overlap > 0.97  # theirs counts every pixel of the smoothed outline
    assert score > 30
