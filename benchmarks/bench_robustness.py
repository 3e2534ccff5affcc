"""How much a fit loses to what real estimators get wrong.

``python -m benchmarks.bench_robustness CAPTURE --out FOLDER [--case NAME ...] [--config fast] [--set KEY=VALUE ...]``
makes perturbed copies of a capture with ground truth (:mod:`selfrecon_warp.synthesis.perturbations`), fits and
scores each, and writes ``FOLDER/robustness.md`` and ``.json``. Without a capture one is synthesized. Cases that are
done are not done again; a fit that was interrupted goes on where it stopped. The exit code is 1 when a case fails or
scores worse than twice the clean capture.

A score is compared by what it lacks: distances as they are, normal consistency and overlap by their distance to one,
PSNR by the colours' root mean square error. Positions in the world are not compared where a case hides the depth.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from selfrecon_warp.benchmarks.runner import environment
from selfrecon_warp.capture.dataset import read_capture
from selfrecon_warp.capture.ground_truth import read_ground_truth
from selfrecon_warp.config import load_config
from selfrecon_warp.devices import select_device
from selfrecon_warp.errors import SelfReconError
from selfrecon_warp.staging import replacing_file
from selfrecon_warp.synthesis import synthesize_capture
from selfrecon_warp.synthesis.perturbations import PERTURBATIONS, perturbed_capture
from selfrecon_warp.train.progress import FitInterrupted
from selfrecon_warp.train.session import fit_capture
from selfrecon_warp.view.evaluate import evaluate_run

CLEAN = "clean"
LIMIT = 2.0
"""A score is flagged when it lacks more than this many times what the clean one lacks."""
NOTHING = "-"
SCORE, CAPTURE, RUN = "score.json", "capture", "run"


@dataclass(frozen=True)
class Measure:
    """A score and how much of it is missing to perfection."""

    title: str
    decimals: int
    lacking: Callable[[float], float]
    in_world: bool = False


MEASURES: Mapping[str, Measure] = {
    "chamfer_aligned_cm": Measure("chamfer, aligned [cm]", 2, lambda value: value),
    "normal_consistency_aligned": Measure("normal consistency", 3, lambda value: 1 - value),
    "silhouette_iou": Measure("silhouette IoU", 3, lambda value: 1 - value),
    "joint_error_cm": Measure("joints [cm]", 2, lambda value: value, in_world=True),
    "joint_error_procrustes_cm": Measure("joints, Procrustes [cm]", 2, lambda value: value),
    "psnr_db": Measure("PSNR [dB]", 1, lambda value: 10 ** (-value / 20)),
}


@dataclass(frozen=True)
class Result:
    """What became of one case.

    Attributes:
        case: Name in ``PERTURBATIONS``.
        settings: What it was measured with; another value makes it be done again.
        scores: Of the fit, by name in ``metrics.json``.
        initial: Of the given body.
        novel: In poses unlike the capture, where the ground truth has them.
        fit_s: Time of the fit; ``None`` when it was interrupted in between.
        environment: Hardware, versions and commit.
        error: Why there are no scores.
    """

    case: str
    settings: Mapping[str, Any]
    scores: Mapping[str, float] = field(default_factory=dict)
    initial: Mapping[str, float] = field(default_factory=dict)
    novel: Mapping[str, Any] = field(default_factory=dict)
    fit_s: float | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


def run_case(
    case: str, capture: Path, folder: Path, settings: Mapping[str, Any], device: str, again: bool, console: Console
) -> Result:
    """Perturb, fit and score; what an earlier call with the same settings did is taken over unless told otherwise."""
    done = None if again else _earlier(folder / SCORE, settings)
    if done is not None:
        console.print(f"{case}: done before")
        return done
    console.print(f"{case}: {PERTURBATIONS[case].title}")
    if again or not (folder / CAPTURE).is_dir() or _text(folder / "settings.json") != json.dumps(settings):
        perturbed_capture(capture, folder / CAPTURE, case, seed=settings["perturbation_seed"], overwrite=True)
        (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        resume = False
    else:
        resume = (folder / RUN / "checkpoints" / "latest.pt").is_file()
    started = time.perf_counter()
    run = fit_capture(
        folder / CAPTURE,
        folder / RUN,
        config=None if resume else settings["config"],
        overrides=() if resume else settings["overrides"],
        device=device,
        overwrite=not resume,
        resume=resume,
        console=console,
    )
    seconds = None if resume else round(time.perf_counter() - started, 1)
    evaluate_run(run, folder / CAPTURE, select_device(device), console=console)
    metrics = json.loads(run.metrics_file.read_text(encoding="utf-8"))
    result = Result(
        case,
        settings,
        scores=_plain(metrics["fit"]),
        initial=_plain(metrics["initial"]),
        novel=_without_frames(metrics.get("novel", {})),
        fit_s=seconds,
        environment=environment(select_device(device)),
    )
    with replacing_file(folder / SCORE) as path:
        path.write_text(json.dumps(asdict(result), indent=1), encoding="utf-8")
    return result


def ratios(result: Result, clean: Result) -> dict[str, float]:
    """How many times as much each score lacks as the clean one; only what both have and the case lets compare."""
    found = {}
    for name, measure in MEASURES.items():
        comparable = PERTURBATIONS[result.case].depth_known or not measure.in_world
        if comparable and name in result.scores and name in clean.scores:
            least = max(measure.lacking(clean.scores[name]), 1e-9)
            found[name] = round(measure.lacking(result.scores[name]) / least, 3)
    return found


def markdown(results: Sequence[Result], facts: Mapping[str, Any]) -> str:
    """The table, what it was measured on beneath it."""
    clean = next((result for result in results if result.case == CLEAN and result.error is None), None)
    titles = [measure.title for measure in MEASURES.values()]
    lines = [
        "# Robustness",
        "",
        f"`{facts['config']}` {' '.join(facts['overrides'])}".rstrip() + f", {facts['capture']}",
    ]
    lines += ["", "| case | " + " | ".join(titles) + " | fit [s] |", "|---|" + "---:|" * (len(titles) + 1)]
    for result in results:
        title = PERTURBATIONS[result.case].title
        if result.error is not None:
            lines.append(f"| {title} | **failed**: {result.error.replace('|', '/')} |" + " |" * len(titles))
            continue
        against = {} if clean is None or result is clean else ratios(result, clean)
        cells = [_cell(name, result, against.get(name)) for name in MEASURES]
        seconds = NOTHING if result.fit_s is None else f"{result.fit_s:.0f}"
        lines.append(f"| {title} | " + " | ".join(cells) + f" | {seconds} |")
    lines += [
        "",
        f"In brackets: how many times as much a score lacks as on the clean capture; **bold** above {LIMIT:g}.",
        "Distances as they are, normal consistency and overlap by their distance to one, PSNR by the colours' error.",
        "",
        *sorted({_described(result.environment) for result in results if result.environment}),
        "",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases and write what came of them; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "capture", nargs="?", type=Path, help="with ground truth in gt/; one is synthesized when absent"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for captures, runs and the table")
    parser.add_argument("--case", action="append", choices=list(PERTURBATIONS), help="only this one; may be repeated")
    parser.add_argument("--config", default="fast")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seed", type=int, default=0, help="of the perturbations")
    parser.add_argument("--again", action="store_true", help="do cases again that are done")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    try:
        return _run(options, console)
    except FitInterrupted as stop:
        console.print(f"{stop}; the same command goes on from there")
        return 130
    except SelfReconError as error:
        console.print(f"error: {error}")
        return 2


def _run(options: argparse.Namespace, console: Console) -> int:
    config = load_config(options.config, options.overrides)
    capture = options.capture or _synthesized(options.out / "synthesized", console)
    truth = read_ground_truth(capture)
    settings = {
        "capture": read_capture(capture).fingerprint(),
        "config": options.config,
        "resolved": config.model_dump(mode="json"),
        "overrides": options.overrides,
        "perturbation_seed": options.seed,
    }
    settings = json.loads(json.dumps(settings))
    facts = {"capture": capture.resolve().name, "config": options.config, "overrides": options.overrides}
    facts |= {"seed": options.seed, "limit": LIMIT, "true_meshes": len(truth.meshes.frames)}
    wanted = [case for case in PERTURBATIONS if not options.case or case in {CLEAN, *options.case}]
    results: list[Result] = []
    for number, case in enumerate(wanted, 1):
        console.rule(f"{number} of {len(wanted)}: {case}", align="left")
        try:
            result = run_case(case, capture, options.out / case, settings, options.device, options.again, console)
        except FitInterrupted:
            raise
        except Exception as error:  # a case that breaks the fit is a result; the other cases are still wanted
            if not isinstance(error, SelfReconError):
                console.print(traceback.format_exc())
            result = Result(case, settings, error=f"{type(error).__name__}: {error}")
        results.append(result)
        _write(options.out, results, facts)
    print(markdown(results, facts))
    return int(any(result.error is not None for result in results) or bool(_flagged(results)))


def _write(out: Path, results: Sequence[Result], facts: Mapping[str, Any]) -> None:
    """Table and numbers so far."""
    clean = next((result for result in results if result.case == CLEAN and result.error is None), None)
    rows = []
    for result in results:
        row = {name: value for name, value in asdict(result).items() if name != "settings"}
        against = {} if clean is None else ratios(result, clean)
        worse = [name for name, ratio in against.items() if ratio > LIMIT]
        rows.append({**row, "title": PERTURBATIONS[result.case].title, "ratios": against, "worse": worse})
    content = json.dumps({"benchmark": "robustness", **facts, "results": rows}, indent=1, ensure_ascii=False)
    for name, text in (("robustness.json", content + "\n"), ("robustness.md", markdown(results, facts))):
        with replacing_file(out / name) as path:
            path.write_text(text, encoding="utf-8")


def _flagged(results: Sequence[Result]) -> list[str]:
    """Cases with a score that lacks too much."""
    clean = next((result for result in results if result.case == CLEAN and result.error is None), None)
    if clean is None:
        return []
    return [r.case for r in results if r.error is None and max(ratios(r, clean).values(), default=0.0) > LIMIT]


def _described(where: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in where.items() if name != "time")


def _cell(name: str, result: Result, ratio: float | None) -> str:
    if name not in result.scores:
        return NOTHING
    value = f"{result.scores[name]:.{MEASURES[name].decimals}f}"
    if ratio is None:
        return value
    text = f"{value} ({ratio:.2f})"
    return f"**{text}**" if ratio > LIMIT else text


def _earlier(path: Path, settings: Mapping[str, Any]) -> Result | None:
    """The result of an earlier call with the same settings."""
    try:
        stored = Result(**json.loads(_text(path) or "null"))
    except (TypeError, ValueError):
        return None
    return stored if stored.settings == settings else None


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _plain(scores: Mapping[str, Any]) -> dict[str, float]:
    """The means, without the single frames."""
    return {name: value for name, value in scores.items() if isinstance(value, (int, float))}


def _without_frames(novel: Mapping[str, Any]) -> dict[str, Any]:
    return _plain(novel) | ({"calibrated": _plain(novel["calibrated"])} if "calibrated" in novel else {})


def _synthesized(folder: Path, console: Console) -> Path:
    if not (folder / "gt").is_dir():
        console.print("no capture given: synthesizing one")
        synthesize_capture(folder, hold_out_poses=10, overwrite=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
