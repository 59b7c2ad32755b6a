"""Labels as they stand in the data, and as class ids: checked before a model sees one."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import Any

from distill.data import arrow
from distill.errors import UserError

__all__ = ["Labels", "read_labels"]

UNLABELLED = -1
"""The hub's label for the rows of a test split that keeps its labels to itself."""


@dataclass(frozen=True)
class Labels:
    """How labels become ids.

    Attributes:
        names: Classes in the order of their ids; ``None`` where labels are numbers to regress on.
        known: Label -> id where labels are no ids yet.
        splits: The splits that have labels.
    """

    names: list[str] | None
    known: dict[Any, int] | None
    splits: frozenset[str]

    def ids(self, values: list[Any]) -> list[Any]:
        """Ids of labels, or of each word's labels where rows are lists."""
        if self.known is None:
            return values
        return [[self.known[v] for v in value] if isinstance(value, list) else self.known[value] for value in values]

    def shared(self, split: str, other: str) -> Labels:
        """The same where ``other`` consists of rows of ``split``."""
        splits = self.splits - {other} | ({other} if split in self.splits else set())
        return replace(self, splits=splits)


def read_labels(splits: Mapping[str, Any], column: str) -> Labels:
    """Find the classes, and check every label of every split.

    Classes are the names of a ``ClassLabel`` column, the numbers 0 to C - 1, or the sorted values of a column
    of text or booleans. A column of floats is for regression. A split of which every label is -1 or null has none.

    Args:
        splits: ``train``, ``validation`` and ``test`` -> data set; training decides which classes there are.
        column: The labels' column; splits without it have no labels.

    Raises:
        UserError: if a label is missing, not a number, or outside the classes.
    """
    columns = {name: arrow.column(data, column) for name, data in splits.items() if column in data.column_names}
    values = {name: array for name, array in columns.items() if array.null_count < len(array)}
    for split, array in values.items():
        _check_present(split, column, array)
    if any(arrow.kind(array) == "float" for array in values.values()):
        return Labels(None, None, frozenset(values))
    unique = {name: arrow.unique(array) for name, array in values.items()}
    unique = {name: found for name, found in unique.items() if found != [UNLABELLED]}
    if not unique:
        return Labels(None, None, frozenset())
    first = next(iter(unique))
    names = _class_names(splits[first].features[column])
    if names is None and arrow.kind(values[first]) != "integer":
        classes = sorted(unique[first], key=str)
        known = {c: i for i, c in enumerate(classes)}
        names = [str(c) for c in classes]
    else:
        known = None
        names = names or [str(i) for i in range(len(unique[first]))]
    for split, found in unique.items():
        _check_known(split, column, found, range(len(names)) if known is None else known, names)
    return Labels(names, known, frozenset(unique))


def _class_names(feature: Any) -> list[str] | None:
    while hasattr(feature, "feature"):
        feature = feature.feature
    names = getattr(feature, "names", None)
    return list(names) if names else None


def _check_present(split: str, column: str, values: Any) -> None:
    missing = arrow.count_missing(values)
    if missing:
        raise UserError(
            f"{missing} labels of the split {split} are missing or no finite number",
            key="data.columns.label",
            value=column,
            mend="fill them in or leave these rows out",
        )


def _check_known(split: str, column: str, found: list[Any], known: Container[Any], names: list[str]) -> None:
    strange = [label for label in found if label not in known]
    if strange:
        listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        raise UserError(
            f"the split {split} has the label {strange[0]!r}, which is none of the {len(names)} classes ({listed})",
            key="data.columns.label",
            value=column,
            mend="number classes from 0 without a gap, give them names as text, or numbers to regress on as floats",
        )
