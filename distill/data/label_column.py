"""The labels of one split as they stand in the data: looked through, and refused by name and row."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from distill.core.task import TextTask
from distill.core.utils.errors import UserError
from distill.data import arrow
from distill.data.label_values import Value, all_absent, canonical, is_hot, shown
from distill.data.unknown_label import unknown_hint

__all__ = ["KEY", "LabelColumn"]

KEY = "data.columns.label"

_LONG = 60
"""Of a label that has more than twice as many signs, so many are shown."""


class LabelColumn:
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

    def known(
        self, lookup: Mapping[Value, int], names: list[str], absent: Collection[int], every: Sequence[Value] = ()
    ) -> dict[Any, int]:
        """Element -> id.

        Args:
            lookup: What a class may be written as -> id.
            names: Of the classes.
            absent: Numbers that stand for no label.
            every: What the labels of all splits stand for, for the message; -1 too, where it is among them.

        Raises:
            UserError: naming the first that is none of the classes.
        """
        ids: dict[Any, int] = {}
        for raw, value in self.labels(absent).items():
            own = self.names[value] if self.names and isinstance(value, int) and value < len(self.names) else value
            at = _found(raw, own, lookup)
            if at is None:
                rows = list(self.labels(absent).values())
                many = 2 * len(self.unique) > len(self.array)
                listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
                hint = unknown_hint(own, names, rows, every, many=many, counted=self.split == "train")
                raise self._error(raw, f"which is none of the {len(names)} classes ({listed})", hint)
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
        if self.kind != "other":
            self.refuse(lambda v: isinstance(v, float) and math.isinf(v), "which is no finite number", "correct it")

    def is_hot(self, absent: Collection[int]) -> bool:
        """Whether each row that is not empty gives a number from 0 to 1 for every class."""
        width = self.width(absent)
        rows = [row for row in self.array.to_pylist() if row and not all_absent(row)]
        return width > 1 and self.kind in ("integer", "float", "boolean") and all(is_hot(row, width) for row in rows)

    def width(self, absent: Collection[int]) -> int:
        """Elements of the first row that has any."""
        return next((len(row) for row in self.array.to_pylist() if row and not all_absent(row)), 0)

    def refuse_other(self, known: Mapping[Any, int], own: Mapping[Any, int], names: list[str]) -> None:
        """Refuse an element that stands for another class here than in the splits before, which are ``known``.

        So is a number of a class that another number stands for: one is its name, and one its id.
        """
        for raw, at in own.items():
            if known.get(raw, at) != at:
                problem = f"which is {names[at]!r} there and {names[known[raw]]!r} in another split"
                raise self._error(raw, problem, "number the classes of all splits alike, or write their names")
        numbers: dict[int, Any] = {}
        for raw, at in own.items() if self.names is None else ():
            number = canonical(raw)
            if isinstance(number, int | float) and canonical(numbers.setdefault(at, raw)) != number:
                problem = f"which is the class {names[at]!r}, and so is {numbers[at]!r}: by its name, and by its id"
                raise self._error(raw, problem, "write the names of the classes in every row, or their ids")

    def refuse(self, wrong: Callable[[Value | None], bool], problem: str, hint: str) -> None:
        """Refuse the first element whose meaning is ``wrong``."""
        for raw, value in self.unique.items():
            if wrong(value):
                raise self._error(raw, problem, hint)

    def refuse_raw(self, wrong: Collection[Any], problem: str, hint: str) -> None:
        """Refuse the first of the elements ``wrong``, if there are any."""
        for raw in wrong:
            raise self._error(raw, problem, hint)

    def refuse_constant(self, absent: Collection[int]) -> None:
        """Refuse numbers that are all the same, of which there is nothing to learn, and no correlation."""
        values = self.labels(absent)
        if len(set(values.values())) == 1:
            problem = "and so has every other row: there is nothing to learn, and no correlation with it"
            raise self._error(next(iter(values)), problem, "check the column")

    def refuse_outside(self, low: float, high: float, absent: Collection[int]) -> None:
        """Refuse the first number that is a label, and does not lie between two others."""
        values = self.labels(absent)
        most = max((value for value in values.values() if not isinstance(value, str)), default=high)
        hint = f"divide each by the highest grade ({most:g})" if most > high else "correct it"
        for raw, value in values.items():
            if not isinstance(value, str) and not low <= value <= high:
                raise self._error(raw, f"which does not lie between {low:g} and {high:g}", hint)

    def refuse_rows(self, wrong: Callable[[Any], bool], problem: str, hint: str) -> None:
        """Refuse the first row that is ``wrong``."""
        for number, row in enumerate(self.array.to_pylist(), start=1):
            if wrong(row):
                raise self._error(row, problem, hint, number)

    def _refuse_first(self, problem: str, hint: str) -> None:
        self.refuse_rows(lambda row: row is not None, problem, hint)

    def _error(self, raw: Any, problem: str, hint: str, row: int | None = None) -> UserError:
        if row is None:
            rows = enumerate(self.array.to_pylist(), start=1)
            row = next(number for number, v in rows if v == raw or (isinstance(v, list) and raw in v))
        label = f"{str(raw)[:_LONG]!r} ..." if len(str(raw)) > 2 * _LONG else repr(raw)
        text = f"the split {self.split} has the label {label}, {problem}, in row {row}"
        return UserError(text, key=KEY, value=self.column, hint=hint)


def _found(raw: Any, own: Value, lookup: Mapping[Value, int]) -> int | None:
    """The id of a label: by its name as it is written, or else by its number, unless that is a fraction ("1.10")."""
    if isinstance(raw, str) and shown(raw) in lookup:
        return lookup[shown(raw)]
    number = canonical(own)
    if isinstance(raw, str) and isinstance(number, float):
        return None
    return lookup.get(own, lookup.get(own if number is None else number))


def _class_names(feature: Any) -> list[str] | None:
    while hasattr(feature, "feature"):
        feature = feature.feature
    names = getattr(feature, "names", None)
    return list(names) if names else None
