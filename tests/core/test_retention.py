"""What "kept" promises: nothing for a guess, everything for the teacher, and no number where none means anything."""

from __future__ import annotations

import math
from typing import Any

import pytest

from distill.core.retention import kept, kept_of, percent, ratio


def test_a_guess_keeps_nothing_and_a_teacher_everything() -> None:
    assert kept(0.5, 0.9, 0.5, metric="accuracy") == 0
    assert kept(0.9, 0.9, 0.5, metric="accuracy") == pytest.approx(100)
    assert kept(0.8, 0.9, 0.5, metric="accuracy") == pytest.approx(75)
    assert kept(0.4, 0.9, 0.5, metric="accuracy") == pytest.approx(-25)


def test_less_is_better_where_it_is() -> None:
    assert kept(2.0, 1.0, 5.0, metric="bits_per_byte", mode="min") == pytest.approx(75)


def test_a_perplexity_is_compared_in_nats() -> None:
    expected = 100 * (math.log(900) - math.log(828)) / (math.log(900) - math.log(17))
    assert kept(828, 17, 900, metric="perplexity", mode="min") == pytest.approx(expected)
    assert expected < 3
    assert ratio(40, 17, "min") == pytest.approx(42.5)  # the ratio that says nothing


@pytest.mark.parametrize(("teacher", "error"), [(0.5, 0.0), (0.4, 0.0), (0.51, 0.02), (math.nan, 0.0)])
def test_nothing_is_kept_of_a_teacher_that_does_not_beat_the_guess(teacher: float, error: float) -> None:
    assert kept(0.5, teacher, 0.5, metric="accuracy", error=error) is None


@pytest.mark.parametrize(("student", "teacher"), [(0.0, 1.0), (1.0, 0.0), (-0.5, 1.0), (math.nan, 1.0)])
def test_a_ratio_needs_numbers_above_nothing(student: float, teacher: float) -> None:
    assert ratio(student, teacher, "max") is None


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"monitor": [], "mode": "max", "scores": {}},
        {"monitor": "accuracy", "mode": "max", "scores": None},
        {"monitor": "accuracy", "mode": "max", "scores": {"teacher": {"accuracy": 0.9}, "student": {"accuracy": 0.8}}},
    ],
)
def test_a_result_without_a_guess_tells_nothing_of_what_was_kept(result: dict[str, Any]) -> None:
    assert kept_of(result) is None


def test_what_is_rounded_to_zero_has_no_sign() -> None:
    assert [percent(value) for value in (None, -0.04, 0.04, -0.06, 96.44)] == [
        "-",
        "0.0 %",
        "0.0 %",
        "-0.1 %",
        "96.4 %",
    ]
