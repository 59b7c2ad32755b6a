"""Each task says which data looks as if it were for it."""

from __future__ import annotations

import pytest

from distill.core.column_look import ColumnLook
from distill.tasks import GUESSED


@pytest.mark.parametrize(
    ("column", "label", "task"),
    [
        (
            ColumnLook("genres", "text", listed=True, distinct=3, rows=9, length=5.0),
            "genres",
            "multi-label-classification",
        ),
        (ColumnLook("topics", "text", listed=True, distinct=3, rows=9, length=5.0), None, "multi-label-classification"),
        (ColumnLook("genres", "text", listed=True, distinct=3, rows=9, length=5.0), None, "causal-lm"),
        (ColumnLook("genre", "text", listed=False, distinct=3, rows=9, length=5.0), None, "text-classification"),
    ],
)
def test_data_is_for_the_first_task_that_it_suits(column: ColumnLook, label: str | None, task: str) -> None:
    text = ColumnLook("plot", "text", listed=False, distinct=9, rows=9, length=80.0)
    asked = [kind() for kind in GUESSED]
    assert next((one.name for one in asked if one.suits([text, column], label)), asked[-1].name) == task


@pytest.mark.parametrize(
    ("names", "label", "task"),
    [
        ("question context answers id", None, "question-answering"),
        ("Query Passage label", None, "reranking"),
        ("query document grade", "grade", "reranking"),
        ("query passage", None, "causal-lm"),  # how relevant it is, no column says
        ("anchor positive", None, "sentence-embeddings"),
        ("query positive negative", None, "sentence-embeddings"),
        ("anchor positive label", "label", "text-classification"),
    ],
)
def test_columns_that_say_together_what_they_are_are_known(names: str, label: str | None, task: str) -> None:
    kinds = {"label": "integer", "grade": "number", "answers": "other"}
    columns = [
        ColumnLook(one, kinds.get(one, "text"), listed=False, distinct=2 if one == "label" else 9, rows=9, length=50.0)
        for one in names.split()
    ]
    asked = [kind() for kind in GUESSED]
    assert next((one.name for one in asked if one.suits(columns, label)), asked[-1].name) == task
