"""The guide to the suite: its example runs, and its table names every operation."""

import re
from pathlib import Path

import pytest
import torch

from selfrecon_warp.kernels import OPERATIONS

GUIDE = Path(__file__).parents[2] / "docs" / "kernels.md"


@pytest.fixture(scope="module")
def guide() -> str:
    return GUIDE.read_text()


def test_the_example_runs(guide):
    (example,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    names = {}
    exec(example, names)
    middle = names["height"] // 2, names["width"] // 2
    assert names["fragments"].face_index[0][middle] == 0
    assert names["fragments"].face_index[0, 0, 0] == -1
    assert names["mask"][0][middle] > 0.99
    torch.testing.assert_close(names["shading"][0][middle].norm(), torch.tensor(1.0))
    assert names["verts"].grad.isfinite().all()
    assert names["verts"].grad.any(-1).all()


def test_the_table_names_every_operation(guide):
    rows = {}
    for line in guide.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6 and cells[0].startswith("`"):
            rows[cells[0].strip("`")] = tuple(re.findall(r"`(\w+)`", cells[1]))
    assert {module: set(names) for module, names in rows.items()} == {
        module: set(names) for module, names in OPERATIONS.items()
    }
