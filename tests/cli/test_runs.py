"""What ``distill runs`` promises."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.run.folder import Run

Distill = Callable[..., Any]

CONFIG = {"name": "mine", "seed": 0, "model": {"losses": [{"class_path": "HintonKL", "init_args": {"temperature": 2}}]}}
RESULT: dict[str, Any] = {
    "monitor": "accuracy",
    "mode": "max",
    "scores": {
        "teacher": {"accuracy": 0.9},
        "student": {"accuracy": 0.81, "f1": 0.5, "agreement": 0.7},
        "guess": {"accuracy": 0.6},
    },
    "parameters": {"student": 1000, "teacher": 2000},
    "steps": 40,
    "saved_step": 30,
    "train_seconds": 65.0,
}
METRICS = "step,train/loss,val/accuracy\n10,1.0,\n20,,0.5\n30,,0.75\n40,,0.625\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make(name: str, run_id: str, minute: int = 0, **files: Any) -> Run:
    """A run that was started in this minute, with these files: mappings as JSON, texts as they are."""
    run = Run.create("runs", name, CONFIG | {"name": name}, run_id)
    for stem, content in files.items():
        if stem == "metrics":
            (run.folder / "metrics.csv").write_text(content)
        else:
            text = content if isinstance(content, str) else json.dumps(content)
            (run.folder / f"{stem}.json").write_text(text)
    os.utime(run.config_file, (1e9 + 60 * minute,) * 2)
    return run


def listed(distill: Distill, *argv: str) -> list[dict[str, Any]]:
    code, out, err = distill("runs", *argv, "--json")
    assert (code, err) == (0, "")
    found: list[dict[str, Any]] = json.loads(out, parse_constant=pytest.fail)  # NaN is no JSON
    return found


def row(out: str, run: str) -> list[str]:
    """The cells of the line that begins with ``run``."""
    *_, line = [line for line in out.splitlines() if line.split()[:1] == [run]]  # headings name runs too
    return line.split()[1:]


# ---------------------------------------------------------------------- the list


def test_every_run_is_listed_from_the_oldest_on(distill: Distill) -> None:
    make("b", "first", 1)
    make("a", "last", 3)
    make("a", "second", 2)
    assert [run["folder"] for run in listed(distill)] == ["runs/b/first", "runs/a/second", "runs/a/last"]
    code, out, _ = distill("runs")
    assert code == 0
    assert out.index("runs/b/first") < out.index("runs/a/second") < out.index("runs/a/last")


@pytest.mark.parametrize(("folder", "count"), [("runs", 3), ("runs/a", 2), ("runs/a/one", 1), ("runs/", 3)])
def test_the_folder_may_hold_names_or_runs_or_be_one(distill: Distill, folder: str, count: int) -> None:
    for name, run_id in (("a", "one"), ("a", "two"), ("b", "one")):
        run = make(name, run_id)
        (run.folder / "sensitivity").mkdir()
        (run.folder / "sensitivity" / "config.yaml").write_text("x: 1\n")  # no run
    assert len(listed(distill, folder)) == count


def test_a_finished_run_shows_what_it_came_to(distill: Distill) -> None:
    make("a", "one", result=RESULT, metrics=METRICS)
    [run] = listed(distill)
    assert run == {
        "folder": "runs/a/one",
        "name": "a",
        "id": "one",
        "state": "finished",
        "step": 40,
        "total_steps": None,
        "monitor": "accuracy",
        "value": 0.81,
        "train_seconds": 65.0,
        "started": "2001-09-09T01:46:40Z",
        "note": "",
    }
    cells = row(distill("runs").out, "runs/a/one")
    assert cells[:8] == ["finished", "40", "accuracy", "0.81", "1", "min", "05", "s"]


def test_an_unfinished_run_shows_how_far_it_is(distill: Distill) -> None:
    plan = {"monitor": "accuracy", "mode": "max", "total_steps": 100}
    make("a", "one", metrics=METRICS, plan=plan)
    [run] = listed(distill)
    assert (run["state"], run["step"], run["total_steps"], run["value"]) == ("interrupted", 40, 100, 0.75)
    assert row(distill("runs").out, "runs/a/one")[:6] == ["interrupted", "40", "of", "100", "accuracy", "0.75"]


def test_an_interrupted_run_shows_what_it_resumes_from(distill: Distill) -> None:
    run = make("a", "one", metrics=METRICS)
    run.checkpoints.mkdir()
    for name in ("last-20.ckpt", "last-30.ckpt", "last-x.ckpt", "best-40.ckpt"):
        (run.checkpoints / name).touch()
    assert listed(distill)[0]["step"] == 30


def test_a_start_stays_when_the_run_resumes(distill: Distill) -> None:
    run = make("a", "one", 1)
    run.write_plan({"monitor": "accuracy"})
    plan = json.loads(run.plan_file.read_text())
    run.plan_file.write_text(json.dumps(plan | {"started": 10**9}))
    run.extend(CONFIG)
    run.write_plan({"monitor": "accuracy"})
    assert listed(distill)[0]["started"] == "2001-09-09T01:46:40Z"


def test_the_best_is_the_least_where_less_is_better(distill: Distill) -> None:
    make("a", "one", metrics=METRICS + "50,,nan\n", plan={"monitor": "accuracy", "mode": "min"})
    assert listed(distill)[0]["value"] == 0.5


def test_a_run_without_a_plan_shows_its_step_alone(distill: Distill) -> None:
    make("a", "one", metrics=METRICS)
    assert [listed(distill)[0][key] for key in ("step", "monitor", "value")] == [40, None, None]


def test_half_a_line_is_not_read(distill: Distill) -> None:
    make("a", "one", metrics=METRICS + "5000,")
    assert listed(distill)[0]["step"] == 40


def test_a_failed_run_says_why(distill: Distill) -> None:
    make("a", "one", failure={"message": "the loss [HintonKL] is not finite"})
    [run] = listed(distill)
    assert (run["state"], run["note"]) == ("failed", "the loss [HintonKL] is not finite")
    assert "the loss [HintonKL] is not finite" in distill("runs").out


def test_a_run_that_a_process_holds_is_running(distill: Distill) -> None:
    run = make("a", "one", failure={"message": "of the time before"})
    with run.lock_file.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        [found] = listed(distill)
    assert (found["state"], found["note"]) == ("running", "")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"result": '{"monitor": "acc'}, "result.json"),
        ({"result": "[]"}, "result.json"),
        ({"failure": "\x00"}, "failure.json"),
        ({"plan": "nonsense"}, "plan.json"),
        ({"metrics": "step,val/accuracy\nten,1\n"}, "metrics.csv"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_broken_file_hides_no_run(distill: Distill, files: dict[str, Any], told: str) -> None:
    make("a", "broken", 1, **files)
    make("a", "whole", 2, result=RESULT)
    broken, whole = listed(distill)
    assert told in broken["note"]
    assert (whole["value"], whole["note"]) == (0.81, "")
    assert told in distill("runs").out


@pytest.mark.parametrize(
    "result",
    [{"scores": None}, {"scores": {"student": []}, "monitor": "x"}, {"steps": "many"}, {**RESULT, "monitor": []}],
    ids=str,
)
def test_a_result_without_metrics_hides_no_run(distill: Distill, result: dict[str, Any]) -> None:
    make("a", "odd", 1, result=result, metrics=METRICS)
    make("a", "whole", 2, result=RESULT)
    assert [run["value"] for run in listed(distill)] == [None, 0.81]
    assert "runs/a/odd" in distill("runs").out


def test_a_metric_that_is_no_number_is_left_out(distill: Distill) -> None:
    nan = float("nan")
    make("a", "one", result={**RESULT, "scores": {"student": {"accuracy": nan}}, "train_seconds": nan, "steps": nan})
    assert [listed(distill)[0][key] for key in ("value", "train_seconds", "step")] == [None] * 3
    assert row(distill("runs").out, "runs/a/one")[0] == "finished"


def test_the_time_is_that_of_the_id_where_it_holds_one(distill: Distill) -> None:
    run = make("a", "20261121-103000-ab12")
    moment = time.strptime("20261121-103000", "%Y%m%d-%H%M%S")
    assert listed(distill)[0]["started"] == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.mktime(moment)))
    assert "2026-11-21 10:30" in distill("runs", str(run.folder)).out


def test_where_there_is_no_run_that_is_said(distill: Distill) -> None:
    code, _, err = distill("runs")
    assert code == 2
    assert "FOLDER = 'runs': no such folder" in err
    Path("runs").mkdir()
    assert distill("runs").out == "no runs below runs\n"
    assert listed(distill) == []


def test_a_finished_run_whose_student_is_of_no_use_is_listed_with_the_reason(distill: Distill) -> None:
    make("a", "one", result=RESULT)
    make("a", "two", result={**RESULT, "scores": {**RESULT["scores"], "student": {"accuracy": 0.6}}})
    one, two = listed(distill)
    assert one["note"] == ""
    assert "no better than a constant guess" in two["note"]


@pytest.mark.parametrize(
    "measured", [[], "x", {"most_predicted": 1, "most_labels": 2}, {"hurried": [3]}, {"batches": 1}]
)
def test_a_result_that_holds_other_things_hides_nothing_else(distill: Distill, measured: Any) -> None:
    make("a", "one", result={**RESULT, "measured": measured})
    assert listed(distill)[0]["value"] == 0.81


def test_what_may_not_be_read_hides_no_run(distill: Distill, monkeypatch: pytest.MonkeyPatch) -> None:
    make("a", "one")
    make("b", "two")
    real = os.stat

    def refused(path: Any, *more: Any, **how: Any) -> os.stat_result:
        if "runs/a/" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *more, **how)

    monkeypatch.setattr(os, "stat", refused)
    assert [found["id"] for found in listed(distill)] == ["two"]
    code, _, err = distill("validate", "runs/a/one")
    assert (code, err.count("\n")) == (2, 1)
    assert "runs/a/one': may not be read" in err


# ---------------------------------------------------------------------- side by side


def test_only_what_differs_is_shown(distill: Distill) -> None:
    make("a", "one", result=RESULT)
    other = make("a", "two", result={**RESULT, "scores": {**RESULT["scores"], "student": {"accuracy": 0.72}}})
    other.config_file.write_text(other.config_file.read_text().replace("temperature: 2", "temperature: 4"))
    code, out, err = distill("runs", "--compare", "runs/a/one", "runs/a/two")
    assert (code, err) == (0, "")
    assert row(out, "model.losses.0.temperature") == ["2", "4"]
    assert "seed" not in out
    assert row(out, "teacher") == ["0.9", "2,000"]
    assert row(out, "runs/a/one") == ["0.81", "0.5", "0.7", "70.0", "%", "1,000", "1", "min", "05", "s", "30"]
    assert row(out, "runs/a/two")[0] == "0.72"


def test_other_teachers_have_lines_of_their_own(distill: Distill) -> None:
    make("a", "one", result=RESULT)
    make("a", "two", result={**RESULT, "scores": {**RESULT["scores"], "teacher": {"accuracy": 0.8}}})
    out = distill("runs", "--compare", "runs/a/one", "runs/a/two").out
    assert "teacher of runs/a/one" in out
    assert "teacher of runs/a/two" in out
    assert "their configurations are the same" in out


def test_three_runs_are_compared_and_one_that_has_not_ended(distill: Distill) -> None:
    for run_id, seed in (("one", 1), ("two", 2)):
        run = make("a", run_id, result=RESULT)
        run.config_file.write_text(run.config_file.read_text().replace("seed: 0", f"seed: {seed}"))
    make("a", "three")
    out = distill("runs", "--compare", *(f"runs/a/{i}" for i in ("one", "two", "three"))).out
    assert row(out, "seed") == ["1", "2", "0"]
    assert row(out, "runs/a/three") == ["(interrupted)"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--compare"], "--compare: needs a value"),
        (["--compare", "runs/a/one"], "needs two runs or more"),
        (["--compare", "runs/a/one", "runs/a/none"], "runs/a/none"),
        (["--compare", "runs/a/one", "runs/a/broken"], "not valid YAML"),
        (["--json", "--compare", "runs/a/one", "runs/a/one"], "stands alone"),
        (["runs", "stray"], "distill runs = 'stray': belongs to no option"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_compared_is_refused(distill: Distill, argv: list[str], message: str) -> None:
    make("a", "one")
    make("a", "broken").config_file.write_text("a: [")
    code, _, err = distill("runs", *argv)
    assert code == 2
    assert message in err


@pytest.mark.parametrize("argv", [["runs"], ["--compare", "runs/a/one", "runs/a/two"]], ids=" ".join)
def test_nothing_heavy_is_imported(argv: list[str], heavy: Callable[..., tuple[str, set[str]]]) -> None:
    make("a", "one", result=RESULT)
    make("a", "two", metrics=METRICS)
    out, imported = heavy("runs", *argv)
    assert "runs/a/one" in out
    assert not imported
