"""Labels that are another kind of thing than the rest are named, with their rows and the key that takes them out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill.core.utils.errors import UserError
from distill.core.verdict import Verdict
from distill.data import TextData
from distill.data.odd_labels import odd_lines, stands_apart

DIGITS = [str(i % 10) for i in range(30)]
NAMES = ["neg", "pos"] * 15


def read(folder: Path, train: list[Any], validation: list[Any], ending: str = "csv", **options: Any) -> TextData:
    files = {}
    for split, labels in (("train", train), ("validation", validation)):
        path = folder / f"{split}.{ending}"
        rows = [(f"{split} {i}", label) for i, label in enumerate(labels)]
        if ending == "csv":
            path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
        else:
            path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
        files[split] = str(path)
    return TextData(files=files, tokenizer="distill:quickstart/tokenizer", **options)  # type: ignore[arg-type]


def said(data: TextData, about: str) -> list[str]:
    return [line for line in data.account if about in line]


@pytest.mark.parametrize(
    ("odd", "line"),
    [
        ("255", "255 (2 rows) is a class far from the others"),
        ("-99", "-99 (2 rows) is a class far from the others"),
        ("unlabeled", "'unlabeled' (2 rows) is a class among numbers"),
    ],
)
def test_an_odd_one_among_numbers_is_named_with_its_rows_and_the_key_that_takes_it_out(
    tmp_path: Path, odd: str, line: str
) -> None:
    train = [*DIGITS, odd, odd]
    told = f"data: {line}; if it stands for no label, say so: data.reader.na_values: ['{odd}'] (csv, tsv), or null"
    assert [one.startswith(told) for one in said(read(tmp_path, train, DIGITS), "no label")] == [True]
    done = read(tmp_path, train, DIGITS, reader={"na_values": [odd]})
    assert done.labels == [str(i) for i in range(10)]
    assert said(done, "stands for") == []
    assert done._rows.without_label["train"] == 2
    listed = [*(str(i) for i in range(10)), odd]
    assert said(read(tmp_path, train, DIGITS, labels=listed), "no label") == []


def test_words_for_nothing_among_names_are_named(tmp_path: Path) -> None:
    (line,) = said(read(tmp_path, [*NAMES, "unlabeled", "?"], NAMES), "among names")
    assert line.startswith("data: '?' (1 row), 'unlabeled' (1 row) are classes among names; if they stand for no label")
    assert said(read(tmp_path, ["none", *NAMES], NAMES), "among names") == []


def test_ids_among_the_names_of_one_split_are_named_and_understood_once_the_names_are_listed(tmp_path: Path) -> None:
    mixed = ["neg", "0", "1", "pos", "0"]
    (line,) = said(read(tmp_path, mixed, ["neg"]), "among the names")
    assert "0 (2 rows), 1 (1 row) beside 'neg', 'pos', which are classes of their own" in line
    assert line.endswith("data.labels: [the 2 names, in the order of the ids]")  # sorted, they would be taken for it
    data = read(tmp_path, mixed, ["neg", "1"], labels=["pos", "neg"])
    data.setup("fit")
    assert [int(data.samples("train").features["label"][i]) for i in range(5)] == [1, 0, 1, 0, 0]
    assert said(data, "among the names") == []


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_splits_of_which_one_has_names_and_one_their_ids_are_refused_until_the_names_are_listed(
    tmp_path: Path, ending: str
) -> None:
    ids: list[Any] = [1, 0, 1]
    with pytest.raises(
        UserError,
        match=r"validation has the label '?1'?, .* in row 1\. .*data\.labels: \[the 2 names, in the order of the ids\]",
    ):
        read(tmp_path, NAMES, ids, ending).setup("fit")
    with pytest.raises(
        UserError, match=r"validation has the label 'neg', .* in row 1\. if the numbers are ids of names"
    ):
        read(tmp_path, ids, NAMES, ending).setup("fit")
    for train, validation in ((NAMES, ids), (ids, NAMES)):
        data = read(tmp_path, train, validation, ending, labels=["neg", "pos"])
        data.setup("fit")
        use = "validation" if validation is ids else "train"
        assert [int(data.samples(use).features["label"][i]) for i in range(3)] == ids


@pytest.mark.parametrize(("odd", "said"), [("255", True), ("unknown", True), ("other", False), ("10", False)])
def test_an_odd_one_of_validation_alone_is_refused_with_the_way_out(tmp_path: Path, odd: str, said: bool) -> None:
    with pytest.raises(UserError, match=f"validation has the label '{odd}'.* in row 31") as caught:
        read(tmp_path, DIGITS, [*DIGITS, odd]).setup("fit")
    assert ("data.reader.na_values" in str(caught.value)) == said


def test_classes_of_one_kind_are_passed_over() -> None:
    plain: list[list[Any]] = [[0, 1], [1, 2, 3, 4, 5], [0, 1, 2, 5], [10, 20, 30], [0, 100], [-2, -1, 0, 1]]
    plain += [["a", "b", "3d", 7], [1, 2, 5], [0, 1, 4], [2019, 2020, 2021, 2025], [1, 2, 3, 4, "5+"], [-5, 0, 1, 2]]
    plain += [[1997, 1998, 9999], [0, 1, 100], [*range(98), 99], [*range(200), 255]]
    for values in plain:
        assert odd_lines(dict.fromkeys(values, 3)) == []


@pytest.mark.parametrize(
    ("numbers", "odd"),
    [
        ([0, 1, 9], None),
        ([0, 1, 99], 99),
        ([*range(25), 99], 99),  # a gap of 75
        ([*range(26), 99], None),
        ([-100, 1, 2], -100),
        ([-1, 0, 1], None),
        ([-9, 1], None),
        ([0, 2, 99], None),
        ([5, 6, 99], None),
    ],
)
def test_a_number_for_nothing_is_a_known_code_far_from_classes_that_are_counted_through(
    numbers: list[int], odd: int | None
) -> None:
    assert stands_apart(numbers) == odd


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\u202eleft", r"\u202eleft"),
        ("a\u2028b", r"a\u2028b"),
        ("two\nlines", r"two\nlines"),
        ("tab\tbed", r"tab\tbed"),
    ],
)
def test_no_name_of_a_class_commands_the_terminal_or_ends_a_line(tmp_path: Path, name: str, shown: str) -> None:
    data = read(tmp_path, [name, "plain", f"{name}."], [name], "jsonl")
    data.setup("fit")
    assert all(line.isprintable() for line in data.account)
    assert f" {shown} 33 %" in "".join(data.account)


def test_no_name_of_a_class_commands_the_terminal_in_what_is_made_of_a_result() -> None:
    classes = {"most_predicted": {"class": "class \x1b[31m", "share": 1.0}, "predictions": 9}
    lines = Verdict.of({"measured": classes}).lines
    assert any(r"\x1b[31m" in line for line in lines)
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["a|b", "a", "b"], "'a', 'b'"),
        (["b", "a, b", "a"], "'a', 'b'"),
        (["a|b", "a"], None),
        (["a/c", "a", "b"], None),
    ],
)
def test_a_class_that_is_several_others_is_named(tmp_path: Path, names: list[str], parts: str | None) -> None:
    found = said(read(tmp_path, names, names, "jsonl"), "several classes")
    assert len(found) == (parts is not None)
    assert all(f"is of its own, beside {parts}; if a row has" in line for line in found)
    assert said(read(tmp_path, names, names, "jsonl", labels=sorted(names)), "several classes") == []
