"""What is promised before a run: the line on a teacher says which case one is in, and no more than is known."""

from __future__ import annotations

from typing import Any

import pytest

from distill.core.expectation import expectation


def known(
    labelled: int = 3000, teacher: int | None = None, same: bool = False, score: float = 0.8, **scores: float
) -> dict[str, Any]:
    """A run of 3,000 rows whose teacher scores 0.8, and a constant guess 0.5."""
    everyone = {"teacher": score, "guess": 0.5} | scores
    return {
        "monitor": "accuracy",
        "mode": "max",
        "scores": {who: {"accuracy": value} for who, value in everyone.items()},
        "measured": {"standard_error": 0.02},
        "learned_from": {"rows": 3000, "labelled": labelled},
        "teacher_learned_from": {"labelled": teacher, "same_rows": same},
    }


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (
            known(teacher=3000, same=True),
            "all 3,000 training rows are labelled, and the teacher was trained on the same rows: expect little beyond "
            "the labels alone (docs/when-it-helps.md); train the baseline too",
        ),
        (known(same=True), "the teacher was trained on the same rows: expect little"),
        (
            known(teacher=20000),
            "was trained on 20,000 labelled ones: expect little of its answers, and much of",
        ),
        (known(teacher=4000), "the teacher was trained on no more of them (4,000): expect little"),
        (known(), "what the teacher was trained on is not known: expect little beyond the labels alone, unless it saw"),
        (
            known(30, teacher=3000, same=True),
            "30 of 3,000 training rows (1%) are labelled, and the teacher was trained",
        ),
        (known(30, teacher=3000, same=True), "on 3,000 labelled ones: expect much ("),
        (known(2, same=True), "2 of 3,000 training rows (0.07%) are labelled, and the teacher was trained on the same"),
        (known(600, teacher=3000), "on 3,000 labelled ones: expect some ("),
        (
            known(30, teacher=30, same=True),
            "the teacher was trained on the same rows: what that gains was not measured",
        ),
        (known(30), "is not known: expect a gain if it saw more labels than these"),
        (known(score=0.51, teacher=20000), "and the teacher is no better than a constant guess: expect nothing of it"),
    ],
)
def test_the_line_says_which_case_one_is_in(found: dict[str, Any], line: str) -> None:
    assert line in expectation(found)


def test_the_baseline_is_asked_for_where_it_is_not_beside_the_run() -> None:
    assert expectation(known(300)).endswith("; train the baseline too")
    assert "baseline" not in expectation(known(300, alone=0.7))
    assert "baseline" not in expectation(known(0))  # nothing to train it on


@pytest.mark.parametrize("missing", ["learned_from", "teacher_learned_from"])
def test_where_too_little_is_known_nothing_is_said(missing: str) -> None:
    assert expectation({key: value for key, value in known().items() if key != missing}) == ""


def test_a_teacher_that_was_not_scored_is_not_said_to_be_bad() -> None:
    found = known(teacher=20000)
    del found["scores"]
    assert "expect little of its answers" in expectation(found)
    perplexity = known(teacher=20000) | {"monitor": "loss", "mode": "min"}
    perplexity["scores"] = {"teacher": {"loss": 1.0}, "guess": {"loss": 2.0}}
    assert "expect little of its answers" in expectation(perplexity)


def test_what_the_teacher_scored_before_a_run_holds_where_no_validation_was_made() -> None:
    unvalidated = known() | {"scores": {"student": {}}, "measured": {}}
    nothing = "and the teacher is no better than a constant guess: expect nothing of it"
    assert nothing not in expectation(unvalidated | {"teacher_check": known()})
    assert nothing in expectation(unvalidated | {"teacher_check": known(score=0.51)})
    assert nothing not in expectation(known() | {"teacher_check": known(score=0.51)})  # the later score counts
    assert expectation(unvalidated | {"teacher_check": "spoilt"}) == expectation(unvalidated)
