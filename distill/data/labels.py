"""The gate for labels: what stands in the data, judged once by what the task takes, and turned into ids or numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill.data import arrow
from distill.data.label_values import ABSENT, Value, canonical, natural, shown, whole_float
from distill.errors import UserError
from distill.signals import IGNORE
from distill.tasks.base import LabelForm, TextTask

__all__ = ["Labels", "Outputs", "read_labels"]

KEY = "data.columns.label"

Outputs = tuple[str, int]
"""A classifier that the labels are for: where the configuration names it, and how many outputs it has."""


@dataclass(frozen=True)
class Labels:
    """How labels become ids or numbers.

    Attributes:
        form: What a row's label is.
        column: Where labels stand.
        names: Classes in the order of their ids; ``None`` where labels are numbers to regress on.
        known: What stands in the data -> id. What does not stand here is no label.
        hot: Of form ``set``: rows give 0 or 1 (or a probability) for every class.
    """

    form: LabelForm
    column: str
    names: list[str] | None
    known: Mapping[Any, int]
    hot: bool = False

    def ids(self, values: Sequence[Any]) -> list[Any]:
        """What :attr:`~distill.tasks.base.TextTask.takes` says a task is given for each row."""
        return [self._one(value) for value in values]

    def _one(self, value: Any) -> Any:
        if self.form == "tags":
            ids = [self.known.get(tag, IGNORE) for tag in value or ()]
            return None if all(i == IGNORE for i in ids) else ids
        if self.form == "set":
            return self._vector(value)
        value = _single(value)
        if self.form == "class":
            return self.known.get(value, IGNORE)
        number = canonical(value)
        return math.nan if number is None else float(number)

    def _vector(self, value: Sequence[Any] | None) -> list[float]:
        count = len(self.names or ())
        if value is None or _all_absent(value):
            return [math.nan] * count
        if self.hot:
            return [float(v) for v in value]
        chosen = {self.known[v] for v in value if v in self.known}
        return [float(i in chosen) for i in range(count)]

    def has(self, value: Any) -> bool:
        """Whether ``value`` is a label."""
        made = self._one(value)
        if self.form == "set":
            return not math.isnan(made[0])
        return made is not None and made != IGNORE and made == made  # NaN is not itself

    def missing(self, dataset: Any) -> int:
        """Rows without a label."""
        if self.column not in dataset.column_names:
            return len(dataset)
        values = arrow.column(dataset, self.column)
        if arrow.is_list(values):
            return sum(not self.has(value) for value in values.to_pylist())
        return sum(count for value, count in arrow.counts(values) if not self.has(value))


def read_labels(
    task: TextTask,
    splits: Mapping[str, Any],
    column: str,
    given: Sequence[Any] | None = None,
    outputs: Callable[[], Outputs | None] = lambda: None,
) -> Labels:
    """Find the classes, and judge every label of every split.

    Classes are ``given``; else the names of a ``ClassLabel`` column; else the integers 0 to C - 1; else the names
    in a column of text or booleans, in natural order ("2" before "10", "class 2" before "class 10"). Numbers of
    which one is not whole are for regression where the task takes it, and so are whole ones written as floats, but
    beside a classifier; beside a model of one output all numbers are. Null, NaN, an empty text, -1 and -100 are no
    label (-1 and -100 are numbers where labels are, unless a split has nothing else).

    Args:
        task: Says what a row's label may be.
        splits: ``train``, ``validation`` and ``test`` -> data set; the first that has labels decides which there are.
        column: The labels' column; splits without it have no labels.
        given: Names of the classes in the order of their ids, as the user has them.
        outputs: Finds the classifier that the labels are for, if there is one.

    Raises:
        UserError: naming the first label that cannot be understood, and its row.
    """
    read = {name: _Column(name, column, data) for name, data in splits.items() if column in data.column_names}
    names = None if given is None else _checked_names(given)
    for split in read.values():
        split.check_shape(task)
    # A name that the user gives is a class, whatever it looks like.
    absent = ABSENT - {int(name) for name in names or () if canonical(name) in ABSENT}
    found = {name: one for name, one in read.items() if one.labels(absent)}
    if not found:
        form: LabelForm = "class" if "class" in task.takes else next(iter(task.takes))
        return Labels(form, column, names, {})
    first = next(iter(found.values()))
    if "set" in task.takes and first.is_hot(absent):
        return _hot(column, names, found, absent)
    if "number" in task.takes and names is None and _are_numbers(first, absent, outputs):
        for split in found.values():
            split.refuse(lambda v: isinstance(v, str), "which is no number", "give numbers, or names in every row")
        return Labels("number", column, None, {})
    form = next(f for f in ("class", "tags", "set") if f in task.takes)
    names, lookup = _classes(first, absent, names)
    if form == "class" and len(names) < 2:
        only = next(iter(first.labels(absent)))
        raise UserError(
            f"every label of the split {first.split} is {only!r}, and a classifier needs two classes",
            key=KEY,
            value=column,
            mend="check the column, or name all classes in data.labels",
        )
    known: dict[Any, int] = {}
    for split in found.values():
        if form == "set":
            split.refuse_rows(_half_absent, "of which a part is no class", "correct the row, or leave it empty")
        known |= split.known(lookup, names, absent)
    return Labels(form, column, names, known)


def _checked_names(given: Sequence[Any]) -> list[str]:
    names = [str(name) for name in given]
    if len(names) < 2 or len(set(names)) < len(names):
        rule = "must name each class once, and at least two"
        raise UserError(rule, key="data.labels", value=list(given), mend="list the classes in the order of their ids")
    return names


def _are_numbers(first: _Column, absent: Collection[int], outputs: Callable[[], Outputs | None]) -> bool:
    """Whether the labels are for regression.

    Raises:
        UserError: if they are, beside a classifier.
    """
    values = first.labels(absent)
    if first.names is not None or any(isinstance(value, str) for value in values.values()):
        return False
    fractions = any(isinstance(value, float) for value in values.values())
    if not fractions and not any(map(whole_float, values)):
        beside = outputs() if all(isinstance(value, int) for value in values.values()) else None
        return beside is not None and beside[1] == 1
    where, count = outputs() or ("", 1)
    if fractions and count > 1:
        first.refuse(
            lambda value: isinstance(value, float),
            f"and {where} is a classifier of {count} classes",
            "give a class to each row, or a model of one output",
        )
    return fractions or count == 1


def _classes(first: _Column, absent: Collection[int], names: list[str] | None) -> tuple[list[str], dict[Value, int]]:
    """Names of the classes, and what each may be written as (see :func:`canonical`) -> id."""
    if names is None:
        mend = "number the classes from 0, or name them in text"
        first.refuse(lambda value: isinstance(value, float), "which is no class", mend)
    labels = first.labels(absent)
    values = set(labels.values())
    numbered = all(isinstance(value, int) for value in values)
    names = names or first.names
    stands_for_ids = names is not None and any(not isinstance(canonical(name), int) for name in names)
    if names is None and numbered and not any(isinstance(raw, str) for raw in labels):
        names = [str(i) for i in range(len(values))]
    if names is None:
        names = [str(value) for value in sorted(values, key=natural)]
    lookup: dict[Value, int] = {name: i for i, name in enumerate(names)}
    if stands_for_ids:
        lookup |= {i: i for i in range(len(names))}
    for i, name in enumerate(names):
        value = canonical(name)
        if isinstance(value, (int, float)):  # "7" is 7; a number as name goes before an id
            lookup[value] = i
    return names, lookup


def _hot(column: str, names: list[str] | None, found: Mapping[str, _Column], absent: Collection[int]) -> Labels:
    """Rows that have 0 or 1, or a probability, for every class."""
    width = next(iter(found.values())).width(absent)
    names = names or [str(i) for i in range(width)]
    count = len(names)
    for split in found.values():
        split.refuse_rows(
            lambda row: not _all_absent(row) and not _is_hot(row, count),
            f"which are not {count} numbers from 0 to 1, one for each class",
            "correct the row, or give lists of names",
        )
    return Labels("set", column, names, {}, hot=True)


def _is_hot(row: Sequence[Any], width: int) -> bool:
    numbers = [int(value) if isinstance(value, bool) else canonical(value) for value in row]
    return len(row) == width and all(isinstance(v, (int, float)) and 0 <= v <= 1 for v in numbers)


def _all_absent(row: Sequence[Any] | None) -> bool:
    """An empty list has no class, and says so; null, or nothing but stand-ins for a label, says nothing."""
    return row is None or (len(row) > 0 and all(canonical(value) in (None, *ABSENT) for value in row))


def _half_absent(row: Sequence[Any] | None) -> bool:
    return not _all_absent(row) and any(canonical(value) in (None, *ABSENT) for value in row or ())


def _single(value: Any) -> Any:
    """The one element of a label in brackets (labels of shape [N, 1])."""
    if isinstance(value, list):
        return value[0] if value else None
    return value


class _Column:
    """The labels of one split as they stand in the data.

    Attributes:
        names: Of a ``ClassLabel`` column.
    """

    def __init__(self, split: str, column: str, dataset: Any) -> None:
        self.split, self.column = split, column
        self.array = arrow.column(dataset, column)
        self.names = _class_names(dataset.features[column])
        self.kind = arrow.kind(self.array)
        self._unique: dict[Any, Value | None] | None = None

    @property
    def unique(self) -> dict[Any, Value | None]:
        """The different elements, in the order in which they come -> what they stand for."""
        if self._unique is None:
            raw = arrow.unique(self.array)
            values = {v: canonical(v) for v in raw}
            if any(isinstance(v, str) for v in values.values()):  # names; digits among them are names too
                values = {v: shown(v) if isinstance(v, str) and canonical(v) is not None else values[v] for v in raw}
            self._unique = values
        return self._unique

    def labels(self, absent: Collection[int]) -> dict[Any, Value]:
        """The elements that are labels."""
        return {raw: v for raw, v in self.unique.items() if v is not None and canonical(v) not in absent}

    def known(self, lookup: Mapping[Value, int], names: list[str], absent: Collection[int]) -> dict[Any, int]:
        """Element -> id.

        Raises:
            UserError: naming the first that is none of the classes.
        """
        listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        ids: dict[Any, int] = {}
        for raw, value in self.labels(absent).items():
            own = self.names[value] if self.names and isinstance(value, int) and value < len(self.names) else value
            at = lookup.get(own, lookup.get(canonical(own) or own))
            if at is None:
                raise self._error(
                    raw,
                    f"which is none of the {len(names)} classes ({listed})",
                    "number classes from 0 without a gap, give them names as text, numbers to regress on as floats, "
                    "or list them in data.labels",
                )
            ids[raw] = at
        return ids

    def check_shape(self, task: TextTask) -> None:
        """Refuse what no task could read, and what is no label of this one."""
        if self.kind == "other":
            self._refuse_first(f"which is no label that {task.name} takes", "give a name or a number in each row")
        lists = arrow.is_list(self.array)
        if task.takes & {"tags", "set"} and not lists and self.kind != "null":
            each = "a class for each word" if "tags" in task.takes else "any number of classes"
            self._refuse_first(f"and {task.name} takes {each}", "give a list in each row (jsonl or parquet)")
        if task.takes & {"class", "number"} and lists:
            self.refuse_rows(
                lambda row: row is not None and len(row) > 1,
                f"and {task.name} takes one class a row",
                "give one, or take the task multi-label-classification",
            )
        if self.kind == "float":
            self.refuse(lambda v: isinstance(v, float) and math.isinf(v), "which is no finite number", "correct it")

    def is_hot(self, absent: Collection[int]) -> bool:
        """Whether each row gives a number from 0 to 1 for every class."""
        width = self.width(absent)
        rows = [row for row in self.array.to_pylist() if not _all_absent(row)]
        return width > 1 and self.kind in ("integer", "float", "boolean") and all(_is_hot(row, width) for row in rows)

    def width(self, absent: Collection[int]) -> int:
        """Elements of the first row that has a label."""
        return next((len(row) for row in self.array.to_pylist() if not _all_absent(row)), 0)

    def refuse(self, wrong: Callable[[Value | None], bool], rule: str, mend: str) -> None:
        """Refuse the first element whose meaning is ``wrong``."""
        for raw, value in self.unique.items():
            if wrong(value):
                raise self._error(raw, rule, mend)

    def refuse_rows(self, wrong: Callable[[Any], bool], rule: str, mend: str) -> None:
        """Refuse the first row that is ``wrong``."""
        for number, row in enumerate(self.array.to_pylist(), start=1):
            if wrong(row):
                raise self._error(row, rule, mend, number)

    def _refuse_first(self, rule: str, mend: str) -> None:
        self.refuse_rows(lambda row: row is not None, rule, mend)

    def _error(self, raw: Any, rule: str, mend: str, row: int | None = None) -> UserError:
        if row is None:
            rows = enumerate(self.array.to_pylist(), start=1)
            row = next(number for number, v in rows if v == raw or (isinstance(v, list) and raw in v))
        text = f"the split {self.split} has the label {raw!r}, {rule}, in row {row}"
        return UserError(text, key=KEY, value=self.column, mend=mend)


def _class_names(feature: Any) -> list[str] | None:
    while hasattr(feature, "feature"):
        feature = feature.feature
    names = getattr(feature, "names", None)
    return list(names) if names else None
