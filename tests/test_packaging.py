"""What is listed in pyproject.toml is what there is."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text()


def test_every_package_is_listed():
    listed = set(re.findall(r'^    "(selfrecon_warp[a-z_.]*)",$', PYPROJECT, re.MULTILINE))
    package = ROOT / "selfrecon_warp"
    present = {".".join(file.parent.relative_to(ROOT).parts) for file in package.rglob("__init__.py")}
    files = {"selfrecon_warp.configs", "selfrecon_warp.data", "selfrecon_warp.view.page"}
    assert listed == present | files | {"selfrecon_warp.benchmarks"}


def test_the_benchmarks_are_part_of_the_package():
    assert (ROOT / "selfrecon_warp" / "benchmarks").resolve() == ROOT / "benchmarks"


def test_every_dependency_is_documented():
    table = (ROOT / "docs" / "dependencies.md").read_text()
    required = PYPROJECT.partition("\ndependencies = [")[2].partition("\n]")[0]
    compared = PYPROJECT.partition("\nbench = [")[2].partition("\n]")[0]
    names = re.findall(r'^    "([a-z-]+)>', required + compared, re.MULTILINE)
    assert {"torch", "embreex"} <= set(names)
    assert [name for name in names if f"| {name} |" not in table] == []
