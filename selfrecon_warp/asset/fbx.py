"""FBX by way of Blender: the GLB file goes in, Blender's exporter writes what comes out."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from selfrecon_warp.errors import ExportError

SCRIPT = Path(__file__).with_name("blender_to_fbx.py")
TIME_LIMIT_S = 600


def find_blender(blender: Path | None = None) -> Path:
    """The Blender to run: the given one, or the one on PATH.

    Raises:
        ExportError: There is none.
    """
    found = shutil.which("blender" if blender is None else blender)
    if found is None:
        where = "no blender on PATH" if blender is None else f"--blender {blender}: is no program"
        raise ExportError(
            f"{where}; FBX is written by Blender 3 or later (blender.org): install it or name it by --blender"
        )
    return Path(found)


def write_fbx(path: Path, glb: bytes, frame_count: int, frame_rate: float, blender: Path) -> None:
    """Let Blender turn a GLB file into FBX, textures embedded.

    Args:
        path: What to write.
        glb: The GLB file's content.
        frame_count: Frames of its motion.
        frame_rate: Frames a second.
        blender: What :func:`find_blender` found.

    Raises:
        ExportError: Blender failed; the message ends with what it said last.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "avatar.glb"
        source.write_bytes(glb)
        options = ["--background", "--factory-startup", "--python-exit-code", "1", "--python", str(SCRIPT)]
        command = [str(blender), *options, "--", str(source), str(path), str(frame_count), repr(frame_rate)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT_S)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ExportError(f"{blender}: could not be run ({error}); try --format glb") from error
    if done.returncode or not path.is_file():
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if "Error" in line]
        reason = said[-1] if said else f"exit code {done.returncode}"
        hint = "; Debian's Blender needs the package python3-numpy" if "numpy" in reason else ""
        raise ExportError(f"{blender}: failed to write FBX ({reason}){hint}; --format glb needs no Blender")
