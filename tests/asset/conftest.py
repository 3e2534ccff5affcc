"""Fixtures of the tests of what is taken away."""

from sphere_run import sphere

__all__ = ["sphere"]
