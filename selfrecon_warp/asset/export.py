"""From a run to one file of a chosen format, standing upright on the floor; see ``docs/export.md``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from selfrecon_warp.asset.fbx import find_blender, write_fbx
from selfrecon_warp.asset.gltf import IMAGES, INFLUENCES, glb_bytes
from selfrecon_warp.asset.morphs import Morphs, morphs_from_avatar
from selfrecon_warp.asset.rigged import AVATAR, RiggedMesh, rigged_from_run
from selfrecon_warp.asset.static import write_coloured_ply, write_obj
from selfrecon_warp.asset.upright import upright
from selfrecon_warp.asset.usd import SUFFIXES as USD_SUFFIXES
from selfrecon_warp.asset.usd import require_usd, write_usd
from selfrecon_warp.errors import ExportError
from selfrecon_warp.staging import replacing_file
from selfrecon_warp.train.run_folder import RunFolder
from selfrecon_warp.train.saved import load_avatar

SUFFIXES = {
    "glb": (".glb",),
    "obj": (".obj",),
    "ply": (".ply",),
    "usd": USD_SUFFIXES,
    "npz": (".npz",),
    "fbx-via-blender": (".fbx",),
}
"""Formats and the suffixes their files may have; the first is the default."""
STATIC = ("obj", "ply")
FOLDER = "export"


@dataclass(frozen=True)
class ExportChoices:
    """What to write, apart from where.

    Attributes:
        format: A key of ``SUFFIXES``.
        influences: Joints a vertex follows, 4 or 8; obj and ply have none.
        morphs: Shapes that stand for the pose-dependent offsets; 0 leaves the offsets out.
        frame: Pose of obj and ply; the canonical one when absent.
        untextured: Take the full-resolution mesh with vertex colours even if there is a textured one.
        unlit: Show colours as they are, without light, where the program can; glb only.
        image: ``jpeg`` or ``png``, for the base colour inside a GLB file.
        blender: The program that writes FBX; the one on PATH when absent.
    """

    format: str = "glb"
    influences: int = 4
    morphs: int = 0
    frame: int | None = None
    untextured: bool = False
    unlit: bool = False
    image: str = "jpeg"
    blender: Path | None = None


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        path: The file.
        rigged: The mesh in it, in the file's world.
        morphs: The offsets in it.
    """

    path: Path
    rigged: RiggedMesh
    morphs: Morphs | None


def export_run(
    run: RunFolder, device: torch.device, out: Path | None = None, choices: ExportChoices | None = None
) -> Exported:
    """Write a run's avatar to a file, which appears whole or not at all.

    The mesh is the textured one that `selfrecon texture` left in the run, or else the run's canonical mesh with vertex
    colours. World: metres, y up, floor at y = 0, facing +z in the first frame.

    Args:
        run: A fitted run.
        device: Where to compute.
        out: The file; ``RUN/export/avatar`` with the format's suffix when absent.
        choices: What to write; a GLB file when absent.

    Raises:
        ExportError: A choice cannot be met, or a program or package the format needs is missing.
        RunError: The run or its avatar is unusable, or the file cannot be written.
        CaptureError: The run's capture is damaged.
    """
    choices = choices or ExportChoices()
    if choices.format not in SUFFIXES:
        raise ExportError(f"--format {choices.format}: must be one of {', '.join(SUFFIXES)}")
    suffixes = SUFFIXES[choices.format]
    path = run.path / FOLDER / f"avatar{suffixes[0]}" if out is None else out
    if path.suffix.lower() not in suffixes or path.is_dir():
        raise ExportError(f"--out {path}: must be a file with suffix {' or '.join(suffixes)} for {choices.format}")
    _require_sensible(choices)
    blender = find_blender(choices.blender) if choices.format == "fbx-via-blender" else Path()
    if choices.format == "usd":
        require_usd()
    fitted = _fitted_mesh(run, device, choices.untextured)
    if choices.frame is not None and choices.frame >= fitted.frame_count:
        raise ExportError(f"--frame {choices.frame}: the motion has frames 0 to {fitted.frame_count - 1}")
    morphs = None
    if choices.morphs:
        morphs = morphs_from_avatar(load_avatar(run, device), fitted.vertices, choices.morphs)
    rigged, capture_from_asset = upright(fitted)
    with replacing_file(path) as staged:
        _write(staged, rigged, morphs, capture_from_asset, choices, blender)
    return Exported(path, rigged, morphs)


def write_arrays(path: Path, rigged: RiggedMesh, morphs: Morphs | None, capture_from_asset: np.ndarray) -> None:
    """Write every array under the name of its attribute, with ``inverse_bind`` and ``capture_from_asset``.

    Args:
        path: The ``.npz`` file.
        rigged: The mesh.
        morphs: Offsets that go along with the motion, as ``morph_offsets`` and ``morph_weights``.
        capture_from_asset: Transform of the motion into the capture's world, ``[4, 4]``.
    """
    arrays = {name: value for name, value in vars(rigged).items() if value is not None}
    arrays |= {
        "joint_names": np.array(rigged.joint_names),
        "inverse_bind": np.linalg.inv(rigged.bind),
        "capture_from_asset": capture_from_asset,
    }
    if morphs is not None:
        arrays |= {"morph_offsets": morphs.offsets, "morph_weights": morphs.weights}
    np.savez_compressed(path, **arrays)


def _require_sensible(choices: ExportChoices) -> None:
    given = choices.format
    if choices.influences not in INFLUENCES:
        raise ExportError(f"--influences {choices.influences}: must be 4 or 8")
    if choices.image not in IMAGES:
        raise ExportError(f"--image {choices.image}: must be jpeg or png")
    if choices.frame is not None and given not in STATIC:
        raise ExportError(f"--frame belongs to {' and '.join(STATIC)}; {given} holds the whole motion")
    if choices.morphs and given in STATIC:
        raise ExportError(f"--morphs: {given} holds one pose and no shapes; choose another --format")
    if choices.unlit and given != "glb":
        raise ExportError(f"--unlit belongs to glb; {given} cannot tell")


def _fitted_mesh(run: RunFolder, device: torch.device, untextured: bool) -> RiggedMesh:
    folder = run.path / AVATAR
    return RiggedMesh.load(folder) if folder.is_dir() and not untextured else rigged_from_run(run, device)


def _write(
    path: Path,
    rigged: RiggedMesh,
    morphs: Morphs | None,
    capture_from_asset: np.ndarray,
    choices: ExportChoices,
    blender: Path,
) -> None:
    if choices.format in STATIC:
        vertices = rigged.vertices
        if choices.frame is not None:
            vertices = rigged.posed(rigged.poses[[choices.frame]], rigged.trans[[choices.frame]])[0]
        (write_obj if choices.format == "obj" else write_coloured_ply)(path, rigged, vertices)
    elif choices.format == "usd":
        write_usd(path, rigged, influences=choices.influences, morphs=morphs)
    elif choices.format == "npz":
        write_arrays(path, rigged, morphs, capture_from_asset)
    else:
        glb = glb_bytes(
            rigged,
            influences=choices.influences,
            morphs=morphs,
            unlit=choices.unlit,
            image=choices.image,
            extras={"capture_from_asset": capture_from_asset.tolist()},
        )
        if choices.format == "glb":
            path.write_bytes(glb)
        else:
            write_fbx(path, glb, rigged.frame_count, rigged.frame_rate, blender)
