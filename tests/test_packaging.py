"""What is listed in pyproject.toml is what there is."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text()


def test_every_package_is_listed():
    listed = set(re.findall(r'^    "(selfrecon_warp[a-z_.]*)",$', PYPROJECT, re.MULTILINE))
    package = ROOT / "selfrecon_warp"
    present = {".".join(file.parent.relative_to(ROOT).parts) for file in package.rglob("__init__.py")}
    assert listed == present | {"selfrecon_warp.configs", "selfrecon_warp.data"}


def test_every_dependency_is_documented():
    table = (ROOT / "docs" / "dependencies.md").read_text()
    required = PYPROJECT.partition("\ndependencies = [")[2].partition("\n]")[0]
    names = re.findall(r'^    "([a-z-]+)>', required, re.MULTILINE)
    assert len(names) > 10
    assert [name for name in names if f"| {name} |" not in table] == []
