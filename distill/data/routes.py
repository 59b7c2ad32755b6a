"""Which teacher each row is for, as a column of the data says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.core.utils.errors import UserError, nearest
from distill.data import arrow

__all__ = ["ROLE", "read_routes", "refuse_blocks", "route"]

ROLE = "teacher"
"""Among ``data.columns``."""


def route(value: Any) -> str:
    """A value of the column as it is named in the configuration."""
    return "" if value is None else str(value)


def read_routes(splits: Mapping[str, Any], column: str) -> dict[str, str]:
    """What the column says, in alphabetical order -> the first row that says so, in words.

    Args:
        splits: Use -> rows.
        column: Its name.

    Raises:
        UserError: if a split has no such column.
    """
    first: dict[str, str] = {}
    for use, rows in splits.items():
        if column not in rows.column_names:
            problem, hint = f"the split {use} has no such column", nearest(column, rows.column_names)
            raise UserError(problem, key=f"data.columns.{ROLE}", value=column, hint=hint)
        for row, value in enumerate(arrow.column(rows, column).to_pylist()):
            first.setdefault(route(value), f"row {row + 1} of the split {use}")
    return dict(sorted(first.items()))


def refuse_blocks(columns: Mapping[str, str]) -> None:
    """Refuse to pack rows of several teachers: one that reads a block reads it whole.

    Raises:
        UserError: saying how not to.
    """
    problem, hint = "rows of several teachers cannot share a block", "make each row a sample: data.pack_length: 0"
    raise UserError(problem, key=f"data.columns.{ROLE}", value=columns[ROLE], hint=hint)
