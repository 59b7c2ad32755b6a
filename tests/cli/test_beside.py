"""What is promised of the baseline: the same student without a teacher stands beside the distilled one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.run.baseline import learns_alone

Distill = Callable[..., Any]
Fitted = Callable[..., Path]

ALONE = ("--model.losses", "[CrossEntropy]")


def result(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "result.json").read_text())
    return found


def row(out: str, name: str) -> str:
    [line] = [line for line in out.splitlines() if line.strip().startswith(name) and ":" not in line]
    return line


def test_the_baseline_is_found_among_the_runs_of_the_same_student_and_data(fitted: Fitted, distill: Distill) -> None:
    assert result(fitted(run_id="first"))["beside"] == ""  # there is none yet, and that is told
    alone = fitted(*ALONE, run_id="alone")
    assert "beside" not in result(alone)
    fitted(*ALONE, "--data.max_length", "16", run_id="other-data")
    fitted(*ALONE, "--model.student.num_layers", "1", run_id="other-student")
    taught = result(fitted(run_id="taught"))
    assert Path(taught["beside"]).name == "alone"
    assert taught["scores"]["alone"] == {
        name: value for name, value in result(alone)["scores"]["student"].items() if value == value
    }


def test_validation_scores_the_baseline_on_the_same_data(fitted: Fitted, distill: Distill) -> None:
    taught, alone = fitted(run_id="taught"), fitted(*ALONE, run_id="alone")
    code, out, err = distill(
        "validate", str(taught), "--beside", str(alone), "--data.splits.validation", "train", "--data.max_length", "16"
    )
    assert code == 0, err
    assert "without a teacher: runs/base/alone" in out
    expected = distill("validate", str(alone), "--data.splits.validation", "train", "--data.max_length", "16").out
    assert row(out, "without a teacher").split()[3] == row(expected, "student").split()[1]


def test_what_is_no_baseline_is_refused_before_anything_is_trained(fitted: Fitted, distill: Distill) -> None:
    taught = fitted(run_id="taught")
    small = fitted(*ALONE, "--data.validation_fraction", "0.5", "--data.splits", "{train: train}", run_id="small")
    for run, message in (
        (taught, "trained with a teacher's signals"),
        (small, "scored on other data"),
        (Path("runs/base/none"), "no such folder"),
    ):
        code, _, err = distill("fit", "-c", "base.yaml", "--id", "new", "--beside", str(run))
        assert code == 2
        assert message in err
    assert not Path("runs/base/new").exists()


@pytest.mark.parametrize(("loss", "alone"), [("CrossEntropy", True), ("BinaryCrossEntropy", True), ("BinaryKL", False)])
def test_a_run_that_names_a_teacher_and_reads_labels_alone_is_a_baseline(loss: str, alone: bool) -> None:
    losses = [{"class_path": f"distill.losses.{loss}"}]
    assert learns_alone({"model": {"teacher": {"path": "teacher"}, "losses": losses}}) is alone


def test_a_run_records_the_labels_that_it_and_its_teacher_were_trained_on(fitted: Fitted, distill: Distill) -> None:
    teacher = fitted(*ALONE, "--data.train_samples", "100", run_id="teacher")
    assert result(teacher)["learned_from"] == {"rows": 100, "labelled": 100}
    assert "teacher_learned_from" not in result(teacher)
    taught = result(fitted("--model.teacher", str(teacher), "--model.student.num_layers", "1", run_id="taught"))
    assert taught["learned_from"] == {"rows": 150, "labelled": 150}
    assert taught["teacher_learned_from"] == {"labelled": 100, "same_rows": False}
