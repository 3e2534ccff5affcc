"""The run folder: what a fit leaves behind and everything later reads.

``config.yaml``
    The resolved configuration and, under ``provenance``, versions, commit, seed, capture and body. Can be given to
    ``--config`` again.
``log.jsonl``
    One JSON object a line: losses and events in order.
``checkpoints/``
    ``latest.pt`` and one file for each finished stage.
``canonical.ply``, ``infer/``
    The mesh in the canonical pose; meshes, images and videos of every frame.
``metrics.json``, ``report.html``
    Scores against ground truth; the illustrated report.
"""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import yaml

import selfrecon_warp
from selfrecon_warp.config import Config, load_config
from selfrecon_warp.config_io import PROVENANCE_KEY, differing_keys, dump_section
from selfrecon_warp.errors import RunError

RECORDED_PACKAGES = ("torch", "warp-lang", "numpy", "smplx")


class IdentifiedBody(Protocol):
    """What a run records of its body model."""

    name: str
    fingerprint: str


class IdentifiedCapture(Protocol):
    """What a run records of its capture."""

    @property
    def root(self) -> Path:
        """The folder."""

    def fingerprint(self) -> str:
        """Hash of every file that belongs to the capture."""


@dataclass(frozen=True)
class RunFolder:
    """Paths inside one run; a value of this type is a folder that holds a readable ``config.yaml``."""

    path: Path

    @property
    def config_file(self) -> Path:
        """Resolved configuration and provenance."""
        return self.path / "config.yaml"

    @property
    def log_file(self) -> Path:
        """Losses and events, one JSON object a line."""
        return self.path / "log.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def canonical_mesh(self) -> Path:
        """Mesh in the canonical pose, metres."""
        return self.path / "canonical.ply"

    @property
    def infer(self) -> Path:
        """Folder of per-frame results."""
        return self.path / "infer"

    @property
    def metrics_file(self) -> Path:
        """Scores against ground truth."""
        return self.path / "metrics.json"

    @property
    def report_file(self) -> Path:
        """Illustrated report."""
        return self.path / "report.html"

    @property
    def config(self) -> Config:
        """The configuration the run was fitted with."""
        return load_config(self.config_file)

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the run came from: ``versions``, ``commit``, ``seed``, ``capture`` and ``body``."""
        return dict(yaml.safe_load(self.config_file.read_text(encoding="utf-8"))[PROVENANCE_KEY])

    @property
    def capture_folder(self) -> Path:
        """The capture the run was fitted to.

        Raises:
            RunError: The capture is no longer where it was.
        """
        folder = Path(self.provenance["capture"]["path"])
        if not folder.is_dir():
            raise RunError(f"{folder}: the capture of {self.path} is gone; put it back or edit {self.config_file}")
        return folder

    @property
    def body_models(self) -> Path | None:
        """Body model file or folder the run was fitted with; ``None`` for the body that comes with the package."""
        models = self.provenance["body"]["models"]
        return None if models is None else Path(models)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run.

        Raises:
            RunError: There is no run at ``path``.
        """
        if not _is_run(path):
            raise RunError(
                f"{path}: not a run folder (no config.yaml of a fit in it); give what `selfrecon fit --out` made"
            )
        return cls(path)

    @classmethod
    def require_available(cls, path: Path, *, overwrite: bool = False, resume: bool = False) -> None:
        """Refuse early, before any work, what :meth:`create` would refuse; writes nothing.

        Raises:
            RunError: ``path`` cannot be written, holds a run that neither flag allows to touch, or something else.
        """
        if overwrite and resume:
            raise RunError(f"{path}: --overwrite and --resume exclude each other; give one")
        if resume:
            run = cls.open(path)
            if not any(run.checkpoints.glob("*.pt")):
                raise RunError(f"{path}: has no checkpoint to resume from; start anew with --overwrite")
        elif _is_run(path) and not overwrite:
            raise RunError(f"{path}: already holds a run; continue it with --resume, replace it with --overwrite")
        elif path.exists() and not _is_run(path) and not (path.is_dir() and _is_empty(path)):
            raise RunError(f"{path}: exists and is no run folder, so it will not be replaced; choose another --out")
        _require_writable(path)

    @classmethod
    def create(
        cls,
        path: Path,
        config: Config,
        *,
        capture: IdentifiedCapture,
        body: IdentifiedBody,
        body_models: Path | None = None,
        overwrite: bool = False,
        resume: bool = False,
    ) -> RunFolder:
        """Make a run folder, or reopen one to resume; appears whole or not at all.

        Args:
            path: The folder.
            config: Resolved configuration.
            capture: The opened capture.
            body: The body model to be recorded.
            body_models: Where it was loaded from; ``None`` for the body that comes with the package.
            overwrite: Replace a run that is there.
            resume: Continue the run that is there; configuration, capture and body must be those it began with.

        Raises:
            RunError: As :meth:`require_available`, or the run to resume began with something else.
        """
        path = path.absolute()
        cls.require_available(path, overwrite=overwrite, resume=resume)
        inputs: dict[str, dict[str, Any]] = {
            "capture": {"path": str(capture.root.resolve()), "fingerprint": capture.fingerprint()},
            "body": {
                "name": body.name,
                "fingerprint": body.fingerprint,
                "models": None if body_models is None else str(body_models.resolve()),
            },
        }
        if resume:
            run = cls(path)
            run._require_same(config, inputs)
            return run
        text = dump_section(config, _origin() | {"seed": config.seed} | inputs)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            try:
                (staging / "checkpoints").mkdir()
                (staging / "config.yaml").write_text(text, encoding="utf-8")
                (staging / "log.jsonl").touch()
                staging.chmod(0o777 & ~_umask())
                _put_in_place(staging, path)
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise
        except OSError as error:
            raise _unwritable(path, error) from error
        return cls(path)

    def _require_same(self, config: Config, inputs: dict[str, dict[str, Any]]) -> None:
        changed = differing_keys(self.config, config)
        if changed:
            raise RunError(
                f"{self.path}: began with other settings ({', '.join(changed[:5])}); resume with --resume alone, "
                "without --config, --set and --seed, or start anew with --overwrite"
            )
        began = self.provenance
        for what, found in inputs.items():
            if began[what]["fingerprint"] != found["fingerprint"]:
                names = [record.get("path") or record["name"] for record in (began[what], found)]
                raise RunError(
                    f"{self.path}: began with the {what} {names[0]}, which differs from {names[1]}; "
                    "give the one it began with or start anew with --overwrite"
                )


def _is_run(path: Path) -> bool:
    try:
        content = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and PROVENANCE_KEY in content


def _is_empty(folder: Path) -> bool:
    return next(folder.iterdir(), None) is None


def _require_writable(path: Path) -> None:
    ancestor = path.absolute()
    while not ancestor.exists() and ancestor != ancestor.parent:
        ancestor = ancestor.parent
    if not ancestor.is_dir():
        raise RunError(f"{path}: cannot be created because {ancestor} is a file; choose another --out")
    for folder in {ancestor, ancestor.parent if ancestor == path.absolute() else ancestor}:
        if not os.access(folder, os.W_OK | os.X_OK):
            raise RunError(f"{path}: {folder} is not writable; change its permissions or choose another --out")


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(f"{path}: cannot be written ({error.strerror or error}); choose another --out")


def _put_in_place(staging: Path, path: Path) -> None:
    """Rename ``staging`` to ``path``; what was there goes only once the new folder stands."""
    if not path.exists():
        staging.rename(path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    path.replace(old)
    try:
        staging.replace(path)
    except OSError:
        old.replace(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _origin() -> dict[str, Any]:
    versions = {"selfrecon_warp": selfrecon_warp.__version__, "python": platform.python_version()}
    versions |= {name: metadata.version(name) for name in RECORDED_PACKAGES}
    created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {"created": created, "versions": versions, "commit": _commit(), "machine": platform.platform()}


def _commit() -> str | None:
    """Commit of the checkout the package runs from; ``None`` when installed. Uncommitted changes are marked."""
    checkout = Path(selfrecon_warp.__file__).resolve().parent.parent
    if not (checkout / ".git").exists():
        return None
    commit = _git(checkout, ["rev-parse", "HEAD"])
    changed = _git(checkout, ["status", "--porcelain", "--untracked-files=no"])
    return f"{commit}+changes" if commit and changed else commit


def _git(checkout: Path, arguments: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(checkout), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
