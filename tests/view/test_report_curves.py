import json
from xml.etree import ElementTree

import numpy as np
import pytest

from selfrecon_warp.errors import RunError
from selfrecon_warp.view.report_curves import LOSSES, Curve, FitLog, chart, chosen_curves, read_log


def test_log_is_read_flat_and_nested_past_damage(tmp_path):
    records = [
        {"event": "step", "elapsed_s": 1.0, "stage": "coarse", "iteration": 10, "mask": 0.5, "iou": None},
        {"event": "extraction", "elapsed_s": 1.5, "iteration": 10, "vertices": 9000},
        {"event": "step", "elapsed_s": 2.0, "stage": "coarse", "iteration": 20, "mask": 0.4, "resumed": True},
        {"seconds": 3.0, "elapsed_s": 3.0, "stage": "fine", "iteration": 30, "losses": {"mask": 0.3}},
    ]
    lines = [*map(json.dumps, records), '{"cut": ', "[1]"]
    (tmp_path / "log.jsonl").write_text("\n".join(lines), encoding="utf-8")
    log = read_log(tmp_path / "log.jsonl")
    assert [(c.name, list(c.positions), list(c.values)) for c in log.curves] == [
        ("mask", [10, 20, 30], [0.5, 0.4, 0.3])
    ]
    assert list(log.stages) == [("coarse", 10, 20), ("fine", 30, 30)]
    assert log.seconds == 3.0
    with pytest.raises(RunError, match=r"missing\.jsonl"):
        read_log(tmp_path / "missing.jsonl")


@pytest.mark.parametrize(
    "values",
    [[1.0, 0.1, 0.01], [5.0, 5.0, 5.0], [0.0, -1.0, 2.0], [1e-9, 3e-9, 1e-7], list(np.linspace(1, 9, 3000))],
)
def test_charts_stay_inside_their_frame(values):
    drawn = chart(Curve("a<b", list(range(len(values))), values), [("x", 0, 1), ("y", 1, 2)])
    svg = ElementTree.fromstring(drawn)
    points = np.array([p.split(",") for p in svg.find("polyline").get("points").split()], float)
    assert 2 <= len(points) <= 400
    assert (points[:, 0] >= 51).all()
    assert (points[:, 0] <= 349).all()
    assert (points[:, 1] >= 9.9).all()
    assert (points[:, 1] <= 128.1).all()
    assert 1 <= len(svg.findall("line")) <= 6
    assert svg.get("aria-label").startswith("a<b: ")


def test_damaged_logs_are_named(tmp_path):
    (tmp_path / "log.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(RunError, match=r"log\.jsonl: cannot be read"):
        read_log(tmp_path / "log.jsonl")


def test_known_losses_are_drawn_in_their_order():
    names = ["unheard of", "pull", "iou"]
    log = FitLog([Curve(name, [1, 2], [0.0, 1.0]) for name in names], seconds=3725.0)
    assert [curve.name for curve in chosen_curves(log).curves] == ["iou", "pull"]
    assert next(iter(LOSSES)) == "iou"
    assert chosen_curves(log).duration == "1 h 02 min"
    assert FitLog(seconds=12.4).duration == "12 s"
    assert FitLog().duration == ""


def test_a_chart_tells_what_it_shows_without_being_seen():
    drawn = ElementTree.fromstring(chart(Curve("overlap", [0, 5, 9], [0.9, 0.8, 0.95], along="frames")))
    assert drawn.get("aria-label") == "overlap: from 0.9 to 0.95, 0.8 at least, over 9 frames"
