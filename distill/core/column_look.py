"""What a column of a data set looks like, from which a task tells whether the data is for it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

__all__ = ["USUAL_LABELS", "ColumnLook", "label_candidates", "longest_text"]

_FEW = 50  # classes that a column may hold whose name says nothing
_ROWS = 3  # and the fewest rows of each, on average
_LONG = 40  # characters of a class's name
USUAL_LABELS = (
    *("sentiment", "category", "topic", "intent", "rating", "stars", "emotion", "polarity"),
    *("tag", "tags", "topics"),
)
"""What columns of labels are often called."""


@dataclass(frozen=True)
class ColumnLook:
    """One column.

    Attributes:
        name: Its name.
        kind: Of its values, or of the elements of its lists: ``text``, ``integer``, ``boolean``, ``number``, ``other``.
        listed: Whether its values are lists.
        distinct: How many values, or elements, differ.
        rows: How many there are.
        length: Characters of a text, on average; 0 where it holds none.
    """

    name: str
    kind: str
    listed: bool
    distinct: int
    rows: int
    length: float


def longest_text(columns: Sequence[ColumnLook]) -> str | None:
    """The column whose texts are the longest; ``None`` without any."""
    return max(columns, key=lambda one: one.length).name if columns else None


def label_candidates(columns: Sequence[ColumnLook], listed: bool, taken: Collection[str | None]) -> list[str]:
    """Columns that may hold labels: of several values, each in several rows.

    Args:
        columns: Of the data.
        listed: Whether labels are lists.
        taken: Columns that are something else.
    """
    return [
        one.name
        for one in columns
        if one.name not in taken
        and one.listed == listed
        and one.kind in ("text", "integer", "boolean")
        and 2 <= one.distinct <= _FEW
        and (listed or one.distinct * _ROWS <= one.rows)
        and one.length <= _LONG
    ]
