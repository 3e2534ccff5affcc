"""Fixtures shared by the tests of the kernel suite."""

from collections.abc import Callable, Iterator

import pytest
import torch

pytest.register_assert_rewrite("mesh_operations")


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads, which is restored afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of ``mesh_operations.py`` for each operation that a subclass names."""
    if "operation" in metafunc.fixturenames:
        operations = metafunc.cls.operations
        metafunc.parametrize("operation", operations.values(), ids=operations)
