"""The Markdown table and the plot of one benchmark result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

_FIRST = ("ours", "torch", "pytorch3d")
_UNITS = (("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))

Row = Mapping[str, Any]


def write_report(out: Path, environment: Mapping[str, Any], rows: Sequence[Row], console: Console) -> None:
    """Write the table and the plot beside a result file.

    Args:
        out: The result file; the table is ``.md``, the plot ``.svg`` of the same name.
        environment: Where it was measured.
        rows: Its rows.
        console: Says what was written, and why there is no plot.
    """
    picture = out.with_suffix(".svg")
    drawn = _draw(picture, rows, console)
    out.with_suffix(".md").write_text(table(environment, rows, picture.name if drawn else None), encoding="utf-8")
    console.print(
        f"wrote {out}, {out.with_suffix('.md').name}" + (f", {picture.name}" if drawn else ""), soft_wrap=True
    )


def table(environment: Mapping[str, Any], rows: Sequence[Row], picture: str | None = None) -> str:
    """One Markdown table an op, every case and direction a line; other times with their ratio to ours.

    Args:
        environment: Where it was measured.
        rows: Rows of the result.
        picture: File name of the plot, linked on top.
    """
    parts = [
        "# Kernels beside what one would otherwise use\n",
        "Written by `selfrecon bench`. " + "; ".join(f"{key} {value}" for key, value in environment.items()) + ".\n",
        "Each cell is the median [ms] with its quartiles, `3.1x` how many times as long as ours it takes, and the peak "
        "memory of the calls [MB]; `~` is extrapolated. The bound is the time that the memory traffic needs at the "
        "measured bandwidth, plus what the op cannot avoid, as said beside it.\n",
    ]
    if picture is not None:
        parts.append(f"![Speed-up over each peer, row by row]({picture})\n")
    for op in sorted({row["op"] for row in rows}):
        parts += _section(op, [row for row in rows if row["op"] == op])
    return "\n".join(parts)


def speedups(rows: Sequence[Row]) -> list[tuple[str, str, float]]:
    """Label of each case and direction, implementation, and its time over ours; in the rows' order."""
    result = []
    for (op, case, direction), group in _grouped(rows).items():
        ours = group.get("ours", {}).get("median_ms")
        for name in _ordered(group):
            if name != "ours" and ours and "median_ms" in group[name]:
                arrow = "" if direction == "forward" else ", grad"
                result.append((f"{op}: {case}{arrow}", name, group[name]["median_ms"] / ours))
    return result


def _section(op: str, rows: Sequence[Row]) -> list[str]:
    groups = _grouped(rows)
    names = _ordered({row["implementation"]: row for row in rows})
    lines = [f"## {op}\n", _line(["case", "direction", *names, "throughput of ours", "bound [ms]"])]
    lines.append(_line(["---", "---", *("---:" for _ in names), "---:", "---"]))
    notes = []
    for (_, case, direction), group in groups.items():
        ours = group.get("ours", {})
        cells = [_cell(group.get(name), None if name == "ours" else ours.get("median_ms")) for name in names]
        bound = f"{_number(ours['bound_ms'])}: {ours['bound']}" if "bound_ms" in ours else ""
        lines.append(_line([case, direction, *cells, _throughput(ours), bound]))
        notes += [(case, direction, name, group[name]["note"]) for name in names if group.get(name, {}).get("note")]
    lines.append("")
    merged: dict[tuple[str, str], list[str]] = {}
    for case, direction, name, note in notes:
        merged.setdefault((name, note), []).append(f"{case}, {direction}")
    everywhere = {name: sum(name in group for group in groups.values()) for name in names}
    for (name, note), places in merged.items():
        where = "" if len(places) == everywhere[name] else f" ({'; '.join(places)})"
        lines.append(f"- {name}{where}: {note}")
    return [*lines, ""] if merged else lines


def _grouped(rows: Sequence[Row]) -> dict[tuple[str, str, str], dict[str, Row]]:
    """Rows of each op, case and direction by implementation; ops by name, cases and directions as they first appear."""
    first: dict[tuple[str, str], int] = {}
    groups: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        first.setdefault((row["op"], row["case"]), len(first))
        groups.setdefault((row["op"], row["case"], row["direction"]), {})[row["implementation"]] = row
    return dict(sorted(groups.items(), key=lambda item: (item[0][0], first[item[0][:2]], len(item[0][2]))))


def _ordered(names: Mapping[str, Any]) -> list[str]:
    return sorted(names, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))


def _cell(row: Row | None, ours_ms: float | None) -> str:
    if row is None:
        return ""
    if "median_ms" not in row:
        return "not installed" if row.get("missing") else "failed"
    mark = "~" if row["repeats"] == 0 else ""
    spread = f" ({_number(row['low_ms'])}-{_number(row['high_ms'])})" if row["repeats"] > 1 else ""
    ratio = f", **{_number(row['median_ms'] / ours_ms)}x**" if ours_ms else ""
    memory = "" if row.get("peak_mb") is None else f", {row['peak_mb']:.{int(row['peak_mb'] < 10)}f} MB"
    return f"{mark}{_number(row['median_ms'])}{spread}{ratio}{memory}"


def _throughput(row: Row) -> str:
    if not row.get("throughput"):
        return ""
    value = float(row["throughput"])
    suffix, scale = next((unit for unit in _UNITS if value >= unit[1]), _UNITS[-1])
    return f"{value / scale:.3g}{suffix} {row['item']}/s"


def _number(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _draw(picture: Path, rows: Sequence[Row], console: Console) -> bool:
    """Draw the speed-ups as dots on a logarithmic axis, a line a case; whether it was possible."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        console.print("no plot: matplotlib is not installed (pip install 'selfrecon-warp[bench]')")
        return False
    found = speedups(rows)
    if not found:
        return False
    labels = list(dict.fromkeys(label for label, *_ in found))
    with mpl.rc_context({"svg.hashsalt": "selfrecon", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(9.0, 1.2 + 0.17 * len(labels)), layout="constrained")
        axes = figure.add_subplot()
        for name in _ordered({name: None for _, name, _ in found}):
            dots = [(ratio, labels.index(label)) for label, peer, ratio in found if peer == name]
            axes.plot(*zip(*dots, strict=True), "o", markersize=4, label=name)
        axes.axvline(1.0, color="black", linewidth=0.8)
        axes.set(xscale="log", xlabel="times as long as ours (right of 1: ours is faster)")
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.grid(axis="both", linewidth=0.3)
        figure.legend(loc="outside upper center", ncols=6, frameon=False)
        figure.savefig(picture, metadata={"Date": None})
    return True
