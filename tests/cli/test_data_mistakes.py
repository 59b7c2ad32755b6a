"""Mistakes with data on the command line: one message, nothing written; and what is no mistake works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROWS = "".join(f"a good film {i},{i % 2}\n" for i in range(16))


def lines(*labels: str) -> str:
    return "".join(f'{{"text": "a good film", "label": {label}}}\n' for label in labels)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (
            "t.jsonl",
            lines("0", '"1"'),
            ["data.columns.label", "numbers (0 in row 1) and text ('1' in row 2)"],
        ),
        ("t.jsonl", lines("0.5", "1"), ["data.columns.label = 'label'", "0.5", "model.teacher is a classifier of 2"]),
        ("t.csv", "PK\x03\x04", ["data.files.train = ", "a zip archive", "save the sheet as csv"]),
        ("t.csv", "phrase,mark\na,0\n", ["data.columns.text", "['phrase', 'mark']", "name it"]),
        ("t.csv", "a good film,0\ndull,1\n", ["data.columns.text", "data.reader.names"]),
    ],
)
def test_files_that_cannot_be_used_are_one_message(
    base: dict[str, Any], refused: Callable[..., str], file: str, content: str, said: list[str]
) -> None:
    Path(file).write_text(content)
    message = refused("--data.path", "null", "--data.files", f"{{train: {file}, validation: {file}}}")
    for words in said:
        assert words in message


def test_a_file_as_path_and_a_folder_with_a_script_lead_to_what_works(
    base: dict[str, Any], refused: Callable[..., str]
) -> None:
    Path("t.csv").write_text("text,label\n" + ROWS)
    Path("d").mkdir()
    Path("d/d.py").write_text("")
    assert "data.files: {train: ./t.csv}" in refused("--data.path", "./t.csv")
    assert "move the Python file away" in refused("--data.path", "./d")
    said = refused("--data.path", "null", "--data.files", "{train: t.csv, validation: t.csv}", "--data.reader.spe", ";")
    assert "data.reader.spe = ';': readers have no such option. did you mean 'sep'?" in said


def test_rows_without_a_label_teach_by_the_teacher_and_are_refused_where_nothing_reads_it(
    base: dict[str, Any], distill: Callable[..., Any], refused: Callable[..., str]
) -> None:
    Path("t.csv").write_text("Text;Label\n" + "".join(f"a good film {i};\n" for i in range(16)))
    Path("v.csv").write_text("Text;Label\n" + ROWS.replace(",", ";"))
    files = ["--data.path", "null", "--data.files", "{train: t.csv, validation: v.csv}", "--data.reader.sep", ";"]
    names = ["--data.labels", "[negative, positive]"]
    code, out, err = distill("fit", "-c", "base.yaml", *files, *names)
    assert code == 0, err
    assert "data: 16 of 16 rows of train have no label: a teacher alone says what to learn there\n" in out
    assert "data: text is the column 'Text', label is the column 'Label' (2 classes: negative, positive)\n" in out
    only = ["--model.losses", "[{class_path: CrossEntropy}]"]
    assert "no row of the split train has a label" in refused(*files, *names, *only)


def test_a_split_without_any_label_is_not_scored(
    base: dict[str, Any], fitted: Callable[..., Path], distill: Callable[..., Any]
) -> None:
    Path("t.csv").write_text("text,label\n" + ROWS)
    Path("test.csv").write_text("text,label\na good film,\n")
    files = ["--data.path", "null", "--data.files", "{train: t.csv, validation: t.csv, test: test.csv}"]
    run = fitted(*files, "--data.labels", "[negative, positive]")
    code, _, err = distill("test", str(run))
    assert code == 2
    assert "data.columns.label = 'label': no row of the split test has a label, to score it by" in err
