"""The one shape checker: named arguments against letter patterns."""

from __future__ import annotations

from typing import Any


def require_shapes(**arguments: tuple[Any, str]) -> dict[str, int]:
    """Check arrays against shape patterns whose letters must agree across arguments.

    Args:
        arguments: ``name=(array, pattern)``; a pattern is a space-separated list of letters (bound at first use, equal
            afterwards) and integers, e.g. ``points=(points, "B P 3")``.

    Returns:
        The size bound to each letter.

    Raises:
        ValueError: A shape disagrees; the message gives the argument, the pattern with known sizes and the shape found.
    """
    sizes: dict[str, int] = {}
    for name, (array, pattern) in arguments.items():
        shape = tuple(array.shape)
        tokens = pattern.split()
        fits = len(shape) == len(tokens)
        bound = dict(sizes)
        for token, size in zip(tokens, shape, strict=True) if fits else ():
            wanted = int(token) if token.isdigit() else bound.setdefault(token, size)
            fits = fits and wanted == size
        if not fits:
            expected = ", ".join(f"{t}={sizes[t]}" if t in sizes else t for t in tokens)
            raise ValueError(f"{name} must have shape [{expected}], got {list(shape)}")
        sizes = bound
    return sizes
