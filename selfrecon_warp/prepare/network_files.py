"""The files of the person networks: where they are, and how they come there.

MediaPipe 0.10.14's wheel is the last one that carries its networks. Only its archive is of use: the package itself pins
other versions of what this project needs, brings a second OpenCV, and there is none for Python 3.13. pip fetches the
archive without installing it, two files are taken out and checked.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfrecon_warp.errors import PrepareError

RUNTIME = "ai-edge-litert>=2.1"
WHEEL = "mediapipe==0.10.14"
WHEEL_OPTIONS = ("--no-deps", "--only-binary=:all:", "--python-version=312", "--platform=manylinux2014_x86_64")
DIGESTS = {
    "pose_detection.tflite": "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
    "pose_landmark_full.tflite": "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
}
"""SHA-256 of the files that are taken."""
INSTALL = "selfrecon prepare networks"


def network_folder() -> Path:
    """``SELFRECON_NETWORKS``, or a folder in the user's cache."""
    chosen = os.environ.get("SELFRECON_NETWORKS")
    if chosen:
        return Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "selfrecon-warp" / "networks"


def network_file(name: str, folder: Path | None = None) -> Path:
    """A network's file.

    Raises:
        PrepareError: It is not there; the message says the command that brings it.
    """
    path = (folder or network_folder()) / name
    if not path.is_file():
        raise PrepareError(f"{path} is missing: the networks that find people are not installed; run `{INSTALL}` once")
    return path


def require_runtime() -> Any:
    """LiteRT's interpreter class.

    Raises:
        PrepareError: It is not installed; the message says the command that brings it.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise PrepareError(f"LiteRT, which runs the person networks, is not installed; run `{INSTALL}`") from error
    return Interpreter


def install_networks(folder: Path | None = None, *, wheel: Path | None = None) -> Path:
    """Fetch the wheel through pip, take the networks out, check them, and install LiteRT if it is absent.

    Args:
        folder: Where the files shall be; :func:`network_folder` when absent.
        wheel: The wheel's file, where pip reaches no index.

    Returns:
        The folder.

    Raises:
        PrepareError: pip fails, the file is no such wheel, or the folder cannot be written.
    """
    place = folder or network_folder()
    if importlib.util.find_spec("ai_edge_litert") is None:
        _pip("install", RUNTIME)
    with tempfile.TemporaryDirectory() as temporary:
        if wheel is None:
            _pip("download", *WHEEL_OPTIONS, f"--dest={temporary}", WHEEL)
            wheel = next(Path(temporary).glob("*.whl"))
        contents = _taken(wheel)
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            partial = place / f".{name}"
            partial.write_bytes(content)
            partial.replace(place / name)
    except OSError as error:
        raise PrepareError(
            f"{place} cannot be written ({error.strerror}); set SELFRECON_NETWORKS to another folder"
        ) from error
    return place


def _taken(wheel: Path) -> dict[str, bytes]:
    """The networks in a wheel, checked."""
    contents = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                name = member.rpartition("/")[2]
                if name in DIGESTS:
                    contents[name] = archive.read(member)
    except (OSError, zipfile.BadZipFile) as error:
        raise PrepareError(f"{wheel} cannot be read as a wheel ({error}); expected that of {WHEEL}") from error
    for name, digest in DIGESTS.items():
        if name not in contents or hashlib.sha256(contents[name]).hexdigest() != digest:
            raise PrepareError(f"{wheel} does not hold the {name} of {WHEEL}; fetch that wheel again")
    return contents


def _pip(command: str, *arguments: str) -> None:
    call: Sequence[str] = (sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check", *arguments)
    done = subprocess.run(call, capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise PrepareError(
            f"`pip {command} {arguments[-1]}` failed: {reason}; needs pip and its index. Elsewhere: "
            f"`pip download {' '.join(WHEEL_OPTIONS)} {WHEEL}`, then `{INSTALL} --wheel FILE`"
        )
