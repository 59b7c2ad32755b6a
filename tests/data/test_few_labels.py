"""A class that validation has little of is said before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distill.data import TextData


def test_a_class_that_validation_has_little_of_is_said(tmp_path: Path) -> None:
    for split, seldom, often in (("train", 8, 92), ("validation", 2, 23)):
        labels = ["seldom"] * seldom + ["often"] * often
        rows = "".join(f"{split} {i},{one}\n" for i, one in enumerate(labels))
        (tmp_path / f"{split}.csv").write_text(f"text,label\n{rows}")
    files: dict[str, Any] = {split: str(tmp_path / f"{split}.csv") for split in ("train", "validation")}
    data = TextData(files=files, tokenizer="distill:quickstart/tokenizer")
    data.setup("fit")
    assert [line for line in data.account if "little" in line] == [
        "data: validation has little of 'seldom' (2 rows): scores of so few say nothing of a class"
    ]
    assert data.in_train["validation"] == (0, 25)


@pytest.mark.parametrize(
    ("scored", "said"),
    [
        ("aabbcc", []),
        ("aabb", ["data: validation has no row of 'c': no score will tell of it"]),
        ("bb", ["data: validation has rows of 'b' alone: no score will say anything"]),
    ],
)
@pytest.mark.parametrize("labels", [None, list("abcd")])  # of d there is no row at all, which is said of training
def test_a_class_that_is_trained_on_and_not_validated_is_said(
    scored: str, said: list[str], labels: list[str] | None, tmp_path: Path
) -> None:
    for split, rows in (("train", "abcabc"), ("validation", scored)):
        lines = "".join(f"{split} {i},{one}\n" for i, one in enumerate(rows))
        (tmp_path / f"{split}.csv").write_text(f"text,label\n{lines}")
    files: dict[str, Any] = {split: str(tmp_path / f"{split}.csv") for split in ("train", "validation")}
    data = TextData(files=files, tokenizer="distill:quickstart/tokenizer", labels=labels)
    data.setup("fit")
    assert [line for line in data.account if "no score will" in line] == said


@pytest.mark.parametrize(
    ("use", "scored", "said"),
    [
        ("test", [2.5] * 3, ["data: all labels of test are 2.5: no score by them will say anything"]),
        ("test", [2.5, 2.5, 3], []),
        ("validation", [], ["data: all labels of validation are 0.75: no score by them will say anything"]),
    ],
)
def test_numbers_that_are_all_the_same_are_said_before_they_are_scored(
    use: str, scored: list[float], said: list[str], tmp_path: Path
) -> None:
    numbers = {"train": [0.25, 0.5, 0.75] * 3, use: scored}
    for split, rows in numbers.items():
        lines = "".join(f"{split} {i},{one}\n" for i, one in enumerate(rows))
        (tmp_path / f"{split}.csv").write_text(f"text,label\n{lines}")
    files: dict[str, Any] = {split: str(tmp_path / f"{split}.csv") for split, rows in numbers.items() if rows}
    data = TextData(files=files, tokenizer="distill:quickstart/tokenizer", validation_fraction=0.1)
    data.setup()
    assert [line for line in data.account if f"of {use} are" in line] == said
