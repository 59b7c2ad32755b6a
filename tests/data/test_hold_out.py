"""Rows held out for validation: of each class its share, the same ones in every run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from distill.data import TextData
from distill.data.sources import hold_out


def held(counts: dict[int, int], fraction: float) -> tuple[Counter[int], Counter[int], list[Any]]:
    """Rows that stay, and that are taken, by class; and which are taken."""
    classes = np.random.default_rng(0).permutation([one for one, count in counts.items() for _ in range(count)])
    data = Dataset.from_dict({"row": list(range(len(classes))), "label": classes.tolist()})
    stay, taken = hold_out(data, fraction, classes.tolist())
    assert sorted([*stay["row"], *taken["row"]]) == list(range(len(classes)))
    return Counter(stay["label"]), Counter(taken["label"]), list(taken["row"])


@pytest.mark.parametrize(
    ("counts", "fraction", "taken"),
    [
        ({0: 50, 1: 50}, 0.1, {0: 5, 1: 5}),
        ({0: 80, 1: 20}, 0.1, {0: 8, 1: 2}),
        ({0: 95, 1: 3, 2: 2}, 0.05, {0: 3, 1: 1, 2: 1}),  # one of each at least
        ({0: 97, 1: 2, 2: 1}, 0.05, {0: 4, 1: 1}),  # but of a single row, which is trained on
        ({0: 10, 1: 2}, 0.8, {0: 9, 1: 1}),  # and one of each stays
        (dict.fromkeys(range(10), 10), 0.05, 5),  # where fewer are taken than there are classes, any of them
        ({0: 60, 1: 40, -100: 100}, 0.1, {0: 6, 1: 4, -100: 10}),  # rows without a label are one of the classes here
    ],
)
def test_each_class_gives_its_share(counts: dict[int, int], fraction: float, taken: Any) -> None:
    stay, gone, rows = held(counts, fraction)
    assert gone.total() == taken if isinstance(taken, int) else gone == taken
    assert stay + gone == Counter(counts)
    assert rows == held(counts, fraction)[2]


def test_rows_of_one_class_and_of_none_are_those_that_were_always_taken() -> None:
    data = Dataset.from_dict({"row": list(range(40))})
    plain = hold_out(data, 0.25)[1]["row"]
    assert list(hold_out(data, 0.25, [3] * 40)[1]["row"]) == list(plain)


def test_a_larger_share_holds_the_smaller() -> None:
    rows = [set(held({0: 60, 1: 30, 2: 10}, fraction)[2]) for fraction in (0.05, 0.1, 0.5)]
    assert rows[0] < rows[1] < rows[2]


def test_a_classifiers_rows_are_held_out_by_class_and_what_is_left_little_of_is_said(tmp_path: Path) -> None:
    labels = ["often"] * 72 + ["seldom"] * 8 + ["often"] * 20  # of these rows none is drawn regardless of class
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"text {i},{one}\n" for i, one in enumerate(labels)))
    files: dict[str, Any] = {"train": str(tmp_path / "a.csv")}
    data = TextData(files=files, tokenizer="distill:quickstart/tokenizer", validation_fraction=0.25, seed=3)
    data.setup("fit")
    assert Counter(data._rows.splits["validation"]["label"]) == {"often": 23, "seldom": 2}
    assert [line for line in data.account if "little" in line] == [
        "data: validation has little of 'seldom' (2 rows): scores of so few say nothing of a class"
    ]
    assert data.in_train("validation") == (0, 25)
    numbers = "".join(f"text {i},{i / 7}\n" for i in range(100))
    (tmp_path / "a.csv").write_text("text,label\n" + numbers)
    again = TextData(files=files, tokenizer="distill:quickstart/tokenizer", validation_fraction=0.25)
    texts = [f"text {i}" for i in hold_out(Dataset.from_dict({"row": list(range(100))}), 0.25)[1]["row"]]
    assert list(again._rows.splits["validation"]["text"]) == texts
