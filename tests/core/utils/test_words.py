"""A number agrees with what it counts."""

from __future__ import annotations

import pytest

from distill.core.utils.words import amount
from distill.core.verdict import Verdict


@pytest.mark.parametrize(
    ("count", "noun", "said"),
    [
        (1, "step", "1 step"),
        (0, "step", "0 steps"),
        (1200, "step", "1,200 steps"),
        (1, "batch", "1 batch"),
        (2, "batch", "2 batches"),
        (3, "class", "3 classes"),
        (2, "entry", "2 entries"),
        (2, "key", "2 keys"),
        (1, "more key", "1 more key"),
    ],
)
def test_one_is_one_and_others_are_many(count: int, noun: str, said: str) -> None:
    assert amount(count, noun) == said


def test_one_step_is_no_steps_in_a_verdict() -> None:
    hurried = [{"what": "8 bits", "steps": 1, "needed": 200}]
    assert Verdict.of({"measured": {"hurried": hurried}}).lines == [
        "8 bits in 1 step: fewer than 200 are seldom enough"
    ]
