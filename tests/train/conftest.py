"""Fixtures of the tests of the fit."""

from sphere_run import sphere

__all__ = ["sphere"]
