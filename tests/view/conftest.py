"""Fixtures of the tests of what is shown."""

from sphere_run import sphere

__all__ = ["sphere"]
