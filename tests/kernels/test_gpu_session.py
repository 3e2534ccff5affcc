import json
import sys
from pathlib import Path

from selfrecon_warp.benchmarks.gpu_session import Step, run_session, steps


def python(text):
    return [sys.executable, "-c", text]


def test_plan_names_files_and_commands_that_exist(tmp_path):
    plan = steps(tmp_path)
    assert len({step.name for step in plan}) == len(plan)
    files = [part for step in plan for command in step.commands for part in command if part.endswith(".py")]
    assert len(files) > 50
    assert not [file for file in files if not Path(file).exists()]
    measured = [step for step in plan if step.measured]
    assert all(str(tmp_path / step.measured) in step.commands[0] for step in measured)


def test_keeps_what_each_step_came_to_and_repeats_no_success(tmp_path):
    measure = f"open({str(tmp_path / 'm.json')!r}, 'w').write('[1]')"
    plan = [
        Step("good", 1.0, [python("print('yes')"), python(measure), python("raise SystemExit(5)")], "m.json"),
        Step("bad", 1.0, [python("print('no'); raise SystemExit(3)")]),
        Step("slow", 0.01, [python("import time; time.sleep(60)")]),
    ]
    good, bad, slow = run_session(plan, tmp_path, 60.0, "cpu")
    assert (good["code"], bad["code"], slow["code"]) == (0, 3, None)
    assert good["measured"] == [1]
    assert good["output"][0] == "yes\n"
    assert "cut off" in slow["note"]
    assert json.loads((tmp_path / "gpu_session.json").read_text())["steps"] == [good, bad, slow]
    plan = [Step("good", 1.0, [python("raise SystemExit(1)")]), Step("bad", 1.0, [python("")])]
    again = run_session(plan, tmp_path, 60.0, "cpu")
    assert [row["code"] for row in again] == [0, 0, None]


def test_tells_what_the_time_was_too_short_for(tmp_path):
    (row,) = run_session([Step("late", 1.0, [python("")])], tmp_path, 1.0, "cpu")
    assert (row["code"], row["note"]) == (None, "not started: time is up")
