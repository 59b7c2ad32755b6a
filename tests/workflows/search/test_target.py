"""What a student must reach."""

from __future__ import annotations

import math

import pytest

from distill.core.utils.errors import UserError
from distill.workflows.search.target import bound, check_rule, margin, read_target, said


@pytest.mark.parametrize(
    ("text", "value", "meets"),
    [
        ("accuracy >= 0.99 * teacher", 0.891, True),
        ("accuracy >= 0.99 * teacher", 0.8909, False),
        ("accuracy > 0.9", 0.9, False),
        ("accuracy >= 0.9", 0.9, True),
        ("perplexity <= 1.1 * teacher", 0.99, True),
        ("perplexity <= 1.1 * teacher", 0.9901, False),
        ("perplexity < 2", 2.0, False),
        ("accuracy >= teacher", 0.9, True),
    ],
)
def test_the_margin_is_on_the_side_that_the_rule_asks_for(text: str, value: float, meets: bool) -> None:
    assert (margin(read_target(text), value, 0.9) >= 0) is meets


def test_the_margin_is_the_distance_from_the_bound() -> None:
    assert margin(read_target("accuracy >= 0.5 * teacher"), 0.7, 0.8) == pytest.approx(0.3)
    assert margin(read_target("perplexity <= 2 * teacher"), 25.0, 10.0) == pytest.approx(-5.0)
    assert bound(read_target("accuracy >= 0.5"), math.nan) == 0.5
    assert said(read_target("accuracy >= 0.5 * teacher"), 0.8) == "accuracy >= 0.5 * teacher = 0.4"


def test_what_the_task_does_not_measure_is_refused_with_what_it_does() -> None:
    with pytest.raises(UserError, match=r"--target = 'bytes': the task has no such metric.*accuracy, f1"):
        check_rule(read_target("bytes <= 9e6"), ["accuracy", "f1"], "accuracy", "max")
    with pytest.raises(UserError, match="of perplexity, less is better"):
        check_rule(read_target("perplexity >= 3"), ["perplexity"], "perplexity", "min")
    check_rule(read_target("f1 >= 0.3"), ["accuracy", "f1"], "accuracy", "max")
