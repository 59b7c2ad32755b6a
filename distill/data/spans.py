"""The gate for answers: each stands in its context, or the first that does not is refused by its row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.core.utils.errors import UserError
from distill.core.utils.words import amount
from distill.data import arrow
from distill.data.labels import Labels
from distill.tasks.answer_windows import places

__all__ = ["read_spans"]

_START = "answer_start"


def read_spans(splits: Mapping[str, Any], columns: Mapping[str, str]) -> Labels:
    """Judge the answers of every row of every split.

    Args:
        splits: Use -> data set.
        columns: Role -> column; ``label`` has the answers, ``text_pair`` what they stand in.

    Raises:
        UserError: naming the first that does not stand there, and its row.
    """
    counts = {"moved": 0, "rows": 0, "none": 0}
    first = ""
    for split, data in splits.items():
        if columns["label"] not in data.column_names or columns["text_pair"] not in data.column_names:
            continue
        for number, (context, value, start) in enumerate(_rows(data, columns), start=1):
            try:
                found = places(context or "", value, start)
            except ValueError as error:
                raise _refused(split, number, value, str(error), columns["label"]) from None
            counts["rows"] += found is not None
            counts["none"] += found == []
            if found and any(one.moved for one in found) and not first:
                first = f"row {number} of {split}: {found[0].text[:40]!r} at {found[0].start}"
            counts["moved"] += sum(one.moved for one in found or ())
    says = f"{counts['none']:,} of {counts['rows']:,} questions have no answer"
    moved = f"{amount(counts['moved'], 'answer')} stand elsewhere than said, and are taken where they stand once"
    notes = (f"{moved} ({first})",) if counts["moved"] and _START in columns else ()
    return Labels("spans", columns["label"], None, {}, says=says, notes=notes, some_without=counts["none"] > 0)


def _rows(data: Any, columns: Mapping[str, str]) -> Any:
    """Context, answers and places of each row."""
    taken = [columns[role] for role in ("text_pair", "label")]
    lists = [arrow.column(data, name).to_pylist() for name in taken]
    known = columns.get(_START) in data.column_names
    starts = arrow.column(data, columns[_START]).to_pylist() if known else [None] * len(lists[0])
    return zip(*lists, starts, strict=True)


def _refused(split: str, row: int, value: Any, why: str, column: str) -> UserError:
    hint = "correct it, write an empty list where there is no answer, or null where it is not known"
    shown = repr(value) if len(repr(value)) <= 120 else f"{repr(value)[:120]} ..."
    problem = f"the split {split} has the answer {shown}, {_sentence(why)}, in row {row}"
    return UserError(problem, key="data.columns.label", value=column, hint=hint)


def _sentence(why: str) -> str:
    return why if why.startswith("which") else f"which {why}"
