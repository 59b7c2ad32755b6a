"""Rows that are pieces of one text, put together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from distill.core.idle_settings import idle
from distill.core.internals.datasets import fingerprint
from distill.core.task import TextTask
from distill.core.utils.errors import UserError
from distill.core.utils.words import amount
from distill.data import arrow
from distill.data.columns import check_text

__all__ = ["join_rows", "joined_text"]

_BETWEEN = "\n"


def join_rows(
    task: TextTask,
    splits: dict[str, Any],
    columns: dict[str, str],
    between: str | None,
    validation_fraction: float | None,
) -> dict[str, Any]:
    """The splits with their rows joined, if that is asked for; ``columns`` then lacks the role ``document``.

    Args:
        task: The task.
        splits: Use -> rows.
        columns: Role -> column.
        between: What stands between two rows; a line break if only a column ``document`` is given.
        validation_fraction: Share of rows that is to be held out.

    Raises:
        UserError: if rows are no texts, or no part of one text can be held out.
    """
    document = columns.pop("document", None)
    if between is None and document is None:
        return splits
    if "text" not in columns or not task.packs:
        key, value = ("data.join", between) if between is not None else ("data.columns.document", document)
        raise idle(key, value, "rows that are no plain texts", "name a column of texts: data.columns.text")
    if document is None and validation_fraction is not None:
        problem = "all rows are one text, of which no part can be held out"
        hint = "name a split for validation, or the column that says what belongs together: data.columns.document"
        raise UserError(problem, key="data.validation_fraction", value=validation_fraction, hint=hint)
    made = {}
    for use, rows in splits.items():
        if len(rows):
            check_text(task, f"the split {use}", rows, "text", columns["text"])
        made[use] = _joined(rows, columns["text"], document, _BETWEEN if between is None else between)
    return made


def _joined(rows: Any, column: str, document: str | None, between: str) -> Any:
    from datasets import Dataset
    from datasets.fingerprint import Hasher

    texts = arrow.column(rows, column).to_pylist()
    if document is None:
        parts = [texts] if texts else []
    elif document not in rows.column_names:
        problem, hint = f"some rows lack this column (there are {rows.column_names})", "name another column"
        raise UserError(problem, key="data.columns.document", value=document, hint=hint)
    else:
        parts = _together(texts, arrow.column(rows, document).to_pylist())
    table = pa.table({column: pa.array([between.join(part) for part in parts], pa.large_string())})
    how = [fingerprint(rows), column, document, between]
    return Dataset(table, fingerprint=Hasher.hash([repr(one) for one in how]))


def _together(texts: Sequence[str], documents: Sequence[Any]) -> list[list[str]]:
    """Texts next to each other that are of one document."""
    pairs = zip(documents, texts, strict=True)
    return [[text for _, text in group] for _, group in groupby(pairs, key=lambda pair: pair[0])]


def joined_text(rows: int, texts: int, use: str) -> str:
    """What is said of joined rows."""
    return f"the {rows:,} rows of {use} are joined into {amount(texts, 'text')} (data.join)"
