"""Fixtures of the tests of what is shown."""

from pathlib import Path

import numpy as np
import pytest
from rigged_meshes import FRAMES, make_rigged
from sphere_run import sphere

from selfrecon_warp.view.report import FrameRow, Picture, ReportContent, write_report
from selfrecon_warp.view.report_viewer import ContactSheet, viewer_content

__all__ = ["sphere"]


@pytest.fixture(scope="session")
def file(tmp_path_factory) -> Path:
    """A report about a ball, half red in one picture and all blue in the other."""
    red, blue = (np.full((70, 50, 3), colour, np.uint8) for colour in ((200, 30, 30), (30, 30, 200)))
    frames = [FrameRow(frame, [Picture("Input", red, "red"), Picture("Colours", blue, "blue")]) for frame in (0, 3)]
    sheet = ContactSheet(
        np.hstack([np.full((60, 40, 3), 30 * k, np.uint8) for k in range(FRAMES)]), FRAMES, 1, 1, 2 / 3
    )
    viewer = viewer_content(make_rigged(textured=True, spread=0.05), sheet)
    path = tmp_path_factory.mktemp("page") / "a report.html"
    write_report(path, ReportContent("ball", viewer=viewer, frames=frames, fit={"silhouette_iou": 0.9}, problems=["x"]))
    return path
