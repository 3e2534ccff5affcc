"""A small capture on disk, fresh for every test that spoils it."""

import shutil
from pathlib import Path

import pytest
from capture_files import write_capture


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    return write_capture(tmp_path_factory.mktemp("captures") / "template")


@pytest.fixture
def folder(template, tmp_path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "capture"))
