"""How the labels of a split are reported."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from distill.data.balance import balance
from distill.data.features import Ragged, Samples
from distill.data.labels import Labels

IGNORE, UNLABELLED = -100, -101


def samples(**features: Any) -> Samples:
    made = {
        name: Ragged(np.concatenate([np.asarray(row) for row in rows]), np.cumsum([0, *map(len, rows)]))
        if isinstance(rows[0], list)
        else np.asarray(rows)
        for name, rows in features.items()
    }
    return Samples(made, 0)


NAMES = ["a", "b", "c"]
MANY = [f"c{i}" for i in range(10)]


@pytest.mark.parametrize(
    ("labels", "given", "said"),
    [
        (
            Labels("class", "l", NAMES, {}),
            samples(label=[0, 0, 1, IGNORE]),
            "a 67 %, b 33 %, c 0 %; 1 of them in no row",
        ),
        (
            Labels("tags", "l", NAMES, {}),
            samples(labels=[[IGNORE, 0, 1], [2, UNLABELLED, 2]]),
            "a 25 %, b 25 %, c 50 %",
        ),
        (
            Labels("set", "l", NAMES, {}),
            samples(label=[[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [math.nan] * 3]),
            "a 50 %, b 100 %, c 50 %",
        ),
    ],
)
def test_each_class_has_its_share_of_what_has_a_label(labels: Labels, given: Samples, said: str) -> None:
    assert balance(labels, given) == f"3 classes: {said}"


def test_of_many_classes_the_most_frequent_are_reported_and_the_rarest() -> None:
    counts = [30, 5, 200, 1, 50, 2, 3, 4, 100, 0]
    given = samples(label=np.repeat(np.arange(10), counts))
    said = "10 classes: c2 51 %, c8 25 %, c4 13 %, c0 8 %, ... c3 0.25 %; 1 of them in no row"
    assert balance(Labels("class", "l", MANY, {}), given) == said


def test_numbers_are_told_by_their_range() -> None:
    given = samples(label=np.array([0.0, 5.0, 1.0, np.nan], np.float32))
    assert balance(Labels("number", "l", None, {}), given) == "numbers from 0 to 5, 2 on average"


def test_without_samples_nothing_is_counted() -> None:
    assert balance(Labels("class", "l", NAMES, {}), None) == "3 classes: a, b, c"
    assert balance(Labels("class", "l", MANY, {}), None) == "10 classes: c0, c1, c2, c3, c4, c5, ..."
