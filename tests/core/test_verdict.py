"""What the verdict promises to say, and when."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from distill.core.verdict import Verdict, slower_integers, steps_to_prune, steps_to_quantize


def result(student: float = 0.86, teacher: float = 0.9, guess: float = 0.51, **more: Any) -> dict[str, Any]:
    """A run of which nothing has to be said: 872 sentences of two classes."""
    scores = {"student": {"accuracy": student}, "teacher": {"accuracy": teacher}, "guess": {"accuracy": guess}}
    if "alone" in more:
        scores["alone"] = {"accuracy": more.pop("alone")}
    measured = {
        "predictions": 872,
        "most_predicted": {"class": "class 'positive'", "share": 0.52},
        "most_labels": {"class": "class 'positive'", "share": 0.51},
        "standard_error": 0.012,
        "batches": [14, 14],
    }
    return {"monitor": "accuracy", "mode": "max", "scores": scores, "measured": measured | more}


def lines(found: dict[str, Any]) -> str:
    return "\n".join(Verdict.of(found).lines)


def test_of_a_good_outcome_nothing_is_said() -> None:
    assert Verdict.of(result()).lines == []
    assert Verdict.of(result(alone=0.8)).lines == []
    assert Verdict.of(result(in_train=[8, 872])).lines == []  # less than a hundredth
    assert Verdict.of(result(in_train=[0, 872])).lines == []
    assert Verdict.of({}).lines == []


@pytest.mark.parametrize(
    ("found", "said", "bad"),
    [
        (
            result(most_predicted={"class": "class 'positive'", "share": 1.0}),
            "predicts class 'positive' for every",
            True,
        ),
        (result(most_predicted={"class": "class 'positive'", "share": 0.994}), "for 99.4% of the inputs", True),
        (result(most_labels={"class": "class 'positive'", "share": 1.0}), "all labels are class 'positive'", True),
        (result(student=0.52), "student's accuracy is 0.52, no better than a constant guess (0.51 ± 0.012)", True),
        (result(student=0.3), "student's accuracy is 0.3, no better", True),
        (result(teacher=0.5), "teacher's accuracy is 0.5, no better than a constant guess (0.51):", True),
        (result(0.9, teacher=0.85, alone=0.87), "teacher's accuracy (0.85) is below that of the student without", True),
        (
            result(0.9, teacher=0.86, alone=0.87),
            "(0.87), by no more than one standard error of the difference ± 0.01933",
            False,
        ),
        (
            result(alone=0.855),
            "does not beat the same student without a teacher (0.855) by a standard error of the difference ± 0.0171",
            False,
        ),
        (
            result(student=0.895),
            "differ by no more than one standard error of the difference in accuracy ± 0.01679",
            False,
        ),
        (
            result(student=0.92),
            "better than its teacher's (0.9) by more than one standard error of the difference ± 0.01789",
            False,
        ),
        (result(empty_layers=["pooler.dense"]), "no weight is left of pooler.dense", True),
        (
            {"monitor": "accuracy", "scores": {"student": {}}, "measured": {"empty_layers": []}},
            "no validation was made: nothing is known of the student",
            True,
        ),
        (result(constant_layers=["a", "b", "c", "d"]), "outputs of a, b and 2 other layers are the same", True),
        (result(hurried=[{"what": "80% sparsity", "steps": 94, "needed": 200}]), "80% sparsity in 94 steps", False),
        (
            result(hurried=[{"what": "8 bits", "steps": 0, "needed": 50, "saved": 38, "of": 1076}]),
            "8 bits in 0 steps: fewer than 50 are seldom enough (saved is step 38 of 1,076)",
            False,
        ),
        (
            result(never_predicted={"class": "classes 'a' and 'b'", "labels": 3}),
            "never predicts classes 'a' and 'b' (3 labels of 872)",
            False,
        ),
        (
            result(few_labels={"class": "class 'b'", "labels": 1}),
            "there is little of class 'b' (1 label of 872)",
            False,
        ),
        (
            result(in_train=[9, 872]),
            "9 of 872 samples of the split that was scored are in the training data too",
            False,
        ),
        (result(batches=[1, 14]), "scored on 1 of 14 batches", False),
        (result(unsteady="random"), "the student gives other answers to the same inputs in evaluation", True),
        (result(unsteady="mixes"), "the student answers otherwise where a sample is alone in its batch", True),
        (result(student=float("nan")), "student's accuracy is not defined", True),
    ],
)
def test_a_doubtful_outcome_is_reported_in_one_line(found: dict[str, Any], said: str, bad: bool) -> None:
    verdict = Verdict.of(found)
    assert said in lines(found)
    assert len(verdict.lines) == 1
    assert bool(verdict.bad) is bad


def test_a_class_that_nearly_all_labels_have_may_be_predicted_as_often() -> None:
    rare = {"most_predicted": {"class": "class 0", "share": 0.995}, "most_labels": {"class": "class 0", "share": 0.995}}
    assert "inputs" not in lines(result(student=0.999, guess=0.98, **rare))


def test_a_layer_without_weights_is_not_told_of_twice() -> None:
    found = result(empty_layers=["a"], constant_layers=["a"])
    assert len(Verdict.of(found).lines) == 1


def test_a_constant_student_is_reported_once() -> None:
    found = result(student=0.51, most_predicted={"class": "class 1", "share": 1.0})
    assert lines(found) == "the student predicts class 1 for every input"


@pytest.mark.parametrize(
    "measured",
    [{"most_predicted": 1, "most_labels": 2}, {"hurried": [3]}, {"batches": 1}, {"unsteady": ["mixes"]}, ["x"]],
)
def test_of_a_file_that_holds_other_things_nothing_is_said(measured: Any) -> None:
    assert Verdict.of_file({**result(), "measured": measured}).lines == []


def test_less_is_better_for_a_language_model() -> None:
    found = result(student=3.1, teacher=1.2, guess=3.1) | {"mode": "min"}
    assert "no better than a constant guess" in lines(found)
    assert lines(result(student=2.0, teacher=1.2, guess=3.1) | {"mode": "min"}) == ""


def test_the_worst_comes_first() -> None:
    verdict = Verdict.of(result(student=0.5, batches=[1, 14]))
    assert verdict.lines[0] in verdict.bad


def test_more_sparsity_and_fewer_bits_take_more_steps() -> None:
    assert [steps_to_prune(sparsity) for sparsity in (0.3, 0.5, 0.8, 0.9)] == [0, 80, 200, 400]
    assert [steps_to_quantize(bits) for bits in (8, 4, 2)] == [50, 100, 200]


@pytest.mark.slow
def test_reading_a_verdict_takes_no_torch() -> None:
    modules = "sys, distill.core.verdict, distill.core.retention, distill.run.baseline"
    code = f"import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("share", "said"), [(0.989, False), (0.99, True), (0.999, True)])
def test_one_class_is_spoken_of_from_99_in_a_hundred_predictions_on(share: float, said: bool) -> None:
    found = result(most_predicted={"class": "class 1", "share": share})
    assert ("of the inputs" in lines(found)) is said


def test_integers_that_are_slower_than_the_same_floats_are_reported() -> None:
    both = {1: {"export": 3.0, "teacher": 9.0, "student": 2.0}, 32: {"export": 60.0, "student": 50.0}}
    first, second = slower_integers(both, "student")
    assert "batch 1: 3.00 ms against 2.00 ms" in first
    assert "batch 32: 60.00 ms against 50.00 ms" in second
    assert second.endswith("--to onnx writes that one")
    assert slower_integers({1: {"export": 2.0, "student": 2.0}, 32: None}, "student") == []
    assert slower_integers({1: {"export": 3.0, "teacher": 1.0}}, "student") == []


def pictures(student: int, teacher: int, same: int, **more: Any) -> str:
    """What is said of 60 pictures, so many of which each model knows, and both answer alike."""
    found = result(student / 60, teacher / 60, 0.34, predictions=60, standard_error=0.0, **more)
    found["scores"]["student"]["agreement"] = same / 60
    return lines(found)


def test_models_that_answer_alike_are_told_apart_by_what_they_answer_otherwise() -> None:
    # McNemar: of 60, n answered otherwise may lie sqrt(n) / 60 apart.
    assert pictures(60, 59, 59) == (
        "student and teacher differ by no more than one standard error of the difference in accuracy ± 0.01667"
    )
    assert "is better than its teacher's" in pictures(60, 58, 58)  # 2 > sqrt(2)
    assert "differ by no more" in pictures(54, 51, 51)  # 3 = sqrt(9)
    assert "is better than its teacher's (0.85) by more than one" in pictures(54, 51, 52)  # 3 > sqrt(8)
    assert pictures(51, 54, 52) == ""


def test_a_teacher_that_is_known_to_be_weak_is_said_to_be_so_once() -> None:
    assert "better than its teacher" not in lines(result(0.9, teacher=0.5))  # no better than a guess
    assert "better than its teacher" not in lines(result(0.9, teacher=0.85, alone=0.87))
    assert lines(result(0.95)).endswith("had little to teach: train it longer, or take a better one")
    assert lines(result(0.95, most_predicted={"class": "class 1", "share": 1.0})) == (
        "the student predicts class 1 for every input"
    )
    less = result(student=1.0, teacher=1.2, guess=3.1) | {"monitor": "perplexity", "mode": "min"}
    for scores in less["scores"].values():
        scores["perplexity"] = scores.pop("accuracy")
    assert "perplexity (1) is better than its teacher's (1.2) by more" in lines(less)
