"""The gate for labels: what stands in the data, judged once by what the task takes, and turned into ids or numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill.core.signals import IGNORE
from distill.core.task import LabelForm, TextTask
from distill.core.utils.errors import UserError
from distill.core.utils.words import amount
from distill.data import arrow
from distill.data.label_column import KEY, LabelColumn
from distill.data.label_values import (
    ABSENT,
    Value,
    all_absent,
    canonical,
    elsewhere_a_number,
    half_absent,
    integral_float,
    is_hot,
    may_be_missing,
    natural,
    nearly_hot,
)
from distill.data.unknown_label import QUOTE

__all__ = ["Labels", "Outputs", "read_labels"]

_NEAR = -50
"""Where a number to regress on is lower, -100 may be one too."""

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
        absent: Of form ``number``: those that stand for no label.
        classes_too: Of it too: whether the task would take classes instead.
        says: Of form ``spans``: how the labels are spread, in words.
        notes: Of it too: what was decided when they were read.
        some_without: Of it too: whether a row says that it has no answer.
        listed: Whether the user has listed the classes.
    """

    form: LabelForm
    column: str
    names: list[str] | None
    known: Mapping[Any, int]
    hot: bool = False
    absent: Collection[int] = ()
    classes_too: bool = False
    says: str = ""
    notes: Sequence[str] = ()
    some_without: bool = False
    listed: bool = False

    def ids(self, values: Sequence[Any]) -> list[Any]:
        """What :attr:`~distill.core.task.TextTask.takes` says a task is given for each row."""
        return [self._one(value) for value in values]

    def _one(self, value: Any) -> Any:
        if self.form == "spans":  # the task knows their context
            return None if isinstance(value, str) and not value.strip() else value
        if self.form == "tags":
            ids = [self.known.get(tag, IGNORE) for tag in value or ()]
            return None if all(i == IGNORE for i in ids) else ids
        if self.form == "set":
            return self._vector(value)
        value = _single(value)
        if self.form == "class":
            return self.known.get(value, IGNORE)
        number = canonical(value)
        return math.nan if number is None or number in self.absent else float(number)

    def _vector(self, value: Sequence[Any] | None) -> list[float]:
        count = len(self.names or ())
        if value is None or all_absent(value):
            return [math.nan] * count
        if self.hot:
            return [float(v) for v in value]
        chosen = {self.known[v] for v in value if v in self.known}
        return [float(i in chosen) for i in range(count)]

    def has(self, value: Any) -> bool:
        """Whether ``value`` is a label."""
        made = self._one(value)
        if self.form == "set":
            return bool(made) and not math.isnan(made[0])
        if self.form == "number":
            return not math.isnan(made)
        return made is not None and made != IGNORE

    def missing(self, dataset: Any) -> int:
        """Rows without a label."""
        if self.column not in dataset.column_names:
            return len(dataset)
        values = arrow.column(dataset, self.column)
        if arrow.is_list(values) or self.form == "spans":
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
    which one is no integer are for regression where the task takes it, and so are integers written as floats, but
    beside a classifier; beside a model of one output all numbers are. Null, NaN, an empty text, -1 and -100 are no
    label. Among numbers -1 is one, unless a split has nothing else, and so is -100 where another is below -50.

    Args:
        task: Says what a row's label may be.
        splits: ``train``, ``validation`` and ``test`` -> data set; the first that has labels decides which there are.
        column: The labels' column; splits without it have no labels.
        given: Names of the classes in the order of their ids, as the user has them.
        outputs: Finds the classifier that the labels are for, if there is one.

    Raises:
        UserError: naming the first label that cannot be understood, and its row.
    """
    read = {name: LabelColumn(name, column, data) for name, data in splits.items() if column in data.column_names}
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
    if not task.takes - {"number"} or (
        "number" in task.takes and names is None and _are_numbers(first, absent, outputs)
    ):
        return _numbers(task, column, names, found, absent)
    _refuse_truths(given or (), found.values())
    form = next(f for f in ("class", "tags", "set") if f in task.takes)
    if names is None and first.names is None:
        _refuse_half_numbers(first, absent)
    listed = names is not None
    names, lookup = _classes(first, absent, names)
    if form == "class" and len(names) < 2:
        only = next(iter(first.labels(absent)))
        problem = f"every label of the split {first.split} is {only!r}, and a classifier needs two classes"
        hint = "check the column, or name all classes in data.labels"
        if taken := [raw for raw in first.unique if canonical(raw) in absent]:
            every = sorted({v for raw in (*taken, only) if (v := canonical(raw)) is not None}, key=natural)
            problem += f"; {taken[0]!r} is taken for no label"
            hint = f"if it is a class, say so: data.labels: [{', '.join(map(str, every))}]"
        raise UserError(problem, key=KEY, value=column, hint=hint)
    every = [v for split in found.values() for v in split.labels(absent - {-1}).values()]
    known: dict[Any, int] = {}
    for split in found.values():
        if form == "set":
            split.refuse_rows(half_absent, "of which a part is no class", "correct the row, or leave it empty")
            hint = "give each row a number for every class, or name a class once"
            split.refuse_rows(nearly_hot, "which seems to be 0 or 1 for every class, as other rows are not", hint)
        own = split.known(lookup, names, absent, every)
        split.refuse_other(known, own, names)
        known |= own
    return Labels(form, column, names, known, listed=listed)


def _numbers(
    task: TextTask,
    column: str,
    names: list[str] | None,
    found: Mapping[str, LabelColumn],
    absent: Collection[int],
) -> Labels:
    """Numbers to regress on.

    Raises:
        UserError: naming the first that is none, or that the task does not take.
    """
    if names is not None:
        problem = f"names classes, and {task.name} takes numbers"
        raise UserError(problem, key="data.labels", value=names, hint="leave it out, or name another task")
    names_too = ", or names in every row" if "class" in task.takes else ""
    for split in found.values():
        split.refuse(lambda v: isinstance(v, str), "which is no number", f"give numbers{names_too}")
        if task.between is not None:
            split.refuse_outside(*task.between, absent)
        if split.split != "test":
            split.refuse_constant(absent)
    no_label = absent if task.between is not None else _no_numbers(found.values())
    return Labels("number", column, None, {}, absent=no_label, classes_too="class" in task.takes)


def _checked_names(given: Sequence[Any]) -> list[str]:
    names = [str(name) for name in given]
    if len(names) < 2 or len(set(names)) < len(names):
        problem = "must name each class once, and at least two"
        raise UserError(
            problem, key="data.labels", value=list(given), hint="list the classes in the order of their ids"
        )
    return names


def _refuse_truths(given: Sequence[Any], found: Iterable[LabelColumn]) -> None:
    """Refuse truth values as names of classes where no row has one: ``[no, yes]`` that YAML has read.

    Raises:
        UserError: saying how they are written.
    """
    truths = [name for name in given if isinstance(name, bool)]
    if truths and not any(str(raw).strip().casefold() in ("true", "false") for one in found for raw in one.unique):
        problem = f"has a class called {truths[0]}, and no row has such a label"
        raise UserError(problem, key="data.labels", value=list(given), hint=QUOTE)


def _are_numbers(first: LabelColumn, absent: Collection[int], outputs: Callable[[], Outputs | None]) -> bool:
    """Whether the labels are for regression.

    Raises:
        UserError: if they are, beside a classifier.
    """
    values = first.labels(absent)
    if first.names is not None or any(isinstance(value, str) for value in values.values()):
        return False
    fractions = any(isinstance(value, float) for value in values.values())
    if not fractions and not any(map(integral_float, values)):
        beside = outputs() if all(isinstance(value, int) for value in values.values()) else None
        return beside is not None and beside[1] == 1
    where, count = outputs() or ("", 1)
    if fractions and count > 1:
        first.refuse(
            lambda value: isinstance(value, float),
            f"and {where} is a classifier of {amount(count, 'class')}",
            "give a class to each row, or a model of one output",
        )
    return fractions or count == 1


def _no_numbers(found: Iterable[LabelColumn]) -> frozenset[int]:
    """-100, where it is no label among numbers: none of the others comes near it."""
    numbers = [value for split in found for value in split.labels({-100}).values()]
    return frozenset() if any(isinstance(n, int | float) and n < _NEAR for n in numbers) else frozenset({-100})


def _refuse_half_numbers(first: LabelColumn, absent: Collection[int]) -> None:
    """Refuse names among which are numbers that are no class's, and names that would be numbers elsewhere.

    Raises:
        UserError: for "n/a" beside "0.25", "0,25" beside "1", and "25%".
    """
    raws = list(first.labels(absent))
    names = [raw for raw in raws if isinstance(canonical(raw), str) and not isinstance(raw, bool)]
    if any(isinstance(canonical(raw), float) for raw in raws):
        hint = "correct it, or name such words in data.reader.na_values; names of classes stand in data.labels"
        first.refuse_raw(names, "which is no number, and others are such as 0.25", hint)
    if names and len(names) < len(raws) and all(map(may_be_missing, names)):
        hint = "name such words in data.reader.na_values (or write null); if it is a class, list all in data.labels"
        first.refuse_raw(names, "and all others are numbers: it is a class, or no label", hint)
    if all(map(elsewhere_a_number, names)):
        hint = "write a point before the fraction, nothing between thousands and no %; classes stand in data.labels"
        first.refuse_raw(names, "which is no number as it is written", hint)


def _classes(
    first: LabelColumn, absent: Collection[int], names: list[str] | None
) -> tuple[list[str], dict[Value, int]]:
    """Names of the classes, and what each may be written as (see :func:`canonical`) -> id."""
    if names is None:
        hint = "number the classes from 0, or name them in text"
        first.refuse(lambda value: isinstance(value, float), "which is no class", hint)
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
    numbers = [canonical(name) for name in names]
    ids = {*range(len(names))}
    if stands_for_ids and all(number not in ids - {i} for i, number in enumerate(numbers)):
        lookup |= {i: i for i in ids}
    # "7" is 7; of "1" and "1.0" each is meant by its own name alone.
    lookup |= {n: i for i, n in enumerate(numbers) if isinstance(n, int | float) and numbers.count(n) == 1}
    return names, lookup


def _hot(column: str, names: list[str] | None, found: Mapping[str, LabelColumn], absent: Collection[int]) -> Labels:
    """Rows that have 0 or 1, or a probability, for every class."""
    width = next(iter(found.values())).width(absent)
    names = names or [str(i) for i in range(width)]
    count = len(names)
    for split in found.values():
        split.refuse_rows(
            lambda row: not all_absent(row) and not is_hot(row, count),
            f"which are not {count} numbers from 0 to 1, one for each class",
            "correct the row, or give lists of names",
        )
    return Labels("set", column, names, {}, hot=True)


def _single(value: Any) -> Any:
    """The one element of a label in brackets (labels of shape [N, 1])."""
    if isinstance(value, list):
        return value[0] if value else None
    return value
