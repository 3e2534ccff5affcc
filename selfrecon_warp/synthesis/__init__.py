"""Captures with exact ground truth, made from open parts alone."""

from selfrecon_warp.synthesis.synthesize import synthesize_capture

__all__ = ["synthesize_capture"]
