"""Outputs that appear whole or not at all: written beside their place, then renamed into it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selfrecon_warp.errors import RunError


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A hidden sibling that takes the folder's place when the block ends well and vanishes otherwise.

    Raises:
        RunError: The folder cannot be written.
    """
    with _explained(folder):
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            staging.chmod(folder.parent.stat().st_mode)
            yield staging
            shutil.rmtree(folder, ignore_errors=True)
            staging.replace(folder)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise


@contextmanager
def replacing_file(file: Path) -> Iterator[Path]:
    """A path of the same name in a hidden folder; what the block writes there moves beside ``file`` when it ends well.

    The block may write companions next to that path; they move first, so that ``file`` never lacks one. The folder of
    ``file`` is made where it is missing.

    Raises:
        RunError: The file cannot be written.
    """
    with _explained(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{file.name}.", dir=file.parent))
        try:
            yield staging / file.name
            for written in sorted(staging.iterdir(), key=lambda entry: entry.name == file.name):
                written.replace(file.with_name(written.name))
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"{path}: cannot be written ({reason}); free some space or check permissions") from error
