"""The data before it is tokenized: splits chosen, columns understood, labels and texts checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from distill.core.idle_settings import idle
from distill.core.task import TextTask
from distill.core.utils.errors import UserError
from distill.data import arrow
from distill.data.columns import check_rows, check_tags, find_columns
from distill.data.joining import join_rows
from distill.data.labels import Labels, Outputs, read_labels
from distill.data.repeats import repeats
from distill.data.routes import ROLE, read_routes
from distill.data.sources import find_splits, hold_out, sample
from distill.data.spans import read_spans

__all__ = ["RawData", "read_raw_data"]


@dataclass(frozen=True)
class RawData:
    """What is trained and judged on, as it was read.

    Attributes:
        splits: Use (``train``, ``validation``, ``test``) -> ``datasets.Dataset``.
        columns: Use -> role -> column.
        labels: How labels become ids; ``None`` where the data has none.
        joined: Use -> rows that were joined, where they were; :attr:`splits` then has the texts made of them.
        routes: What the column of teachers says -> the first row that says so (:func:`read_routes`); empty without.
        prose: Whether rows are documents or lines that a language model reads on.
    """

    splits: dict[str, Any]
    columns: dict[str, dict[str, str]]
    labels: Labels | None
    joined: Mapping[str, int] = field(default_factory=dict)
    routes: Mapping[str, str] = field(default_factory=dict)
    prose: bool = False

    @cached_property
    def in_train(self) -> Mapping[str, tuple[int, int]]:
        """Use -> rows whose texts are trained on too, and all of them; of splits that can be compared."""
        return repeats(self.splits, self.columns, prose=self.prose)

    @property
    def without_label(self) -> dict[str, int]:
        """Use -> rows that have no label; empty where the task has none."""
        return {} if self.labels is None else {use: self.labels.missing(rows) for use, rows in self.splits.items()}

    @property
    def learned_from(self) -> dict[str, int] | None:
        """Training ``rows``, and those that are ``labelled``; ``None`` where the data has no labels."""
        if self.labels is None:
            return None
        rows = len(self.splits["train"])
        return {"rows": rows, "labelled": rows - self.without_label["train"]}

    def holds_lists(self, role: str) -> bool:
        """Whether the training data has a list in each row of a role's column."""
        column = self.columns["train"].get(role)
        return column is not None and arrow.is_list(arrow.column(self.splits["train"], column))

    def require_labels(self, use: str) -> None:
        """Refuse rows of which none has a label, where nothing can be learnt from them or said of them without.

        Raises:
            UserError: naming the column.
        """
        if self.labels is None or self.without_label.get(use, 0) < len(self.splits.get(use, [1])):
            return
        training = use == "train"
        why = "and no loss reads a teacher, so there is nothing to learn from" if training else "to score it by"
        raise UserError(
            f"no row of the split {use} has a label, {why}",
            key="data.columns.label",
            value=self.columns[use].get("label"),
            hint="add labels, or a loss that reads the teacher (HintonKL)" if training else "name another split",
        )


def read_raw_data(
    task: TextTask,
    source: Mapping[str, Any],
    *,
    mixed: Mapping[str, str] | None = None,
    splits: Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
    validation_fraction: float | None = None,
    train_samples: int | None = None,
    labels: Sequence[Any] | None = None,
    outputs: Callable[[], Outputs | None] = lambda: None,
    join: str | None = None,
) -> RawData:
    """Choose and check the rows of ``source``.

    Args:
        task: Says which columns there must be.
        source: The data set's splits by their own names.
        mixed: Columns whose values are of several kinds -> what is wrong with them.
        splits: Use -> split, as the user has it.
        columns: Role -> column, as the user has it.
        validation_fraction: Share of the training rows for validation.
        train_samples: How many training rows to keep.
        labels: Names of the classes, as the user has them.
        outputs: Finds the classifier that the labels are for (see :func:`~distill.data.labels.read_labels`).
        join: What stands between rows that are pieces of one text.

    Raises:
        UserError: for whatever is wrong with the rows or with what is said of them.
    """
    chosen = {use: source[name] for use, name in find_splits(source, splits, validation_fraction).items()}
    every = list(dict.fromkeys(column for rows in chosen.values() for column in rows.column_names))
    teachers = (columns or {}).get(ROLE)
    given = {role: column for role, column in (columns or {}).items() if role != ROLE}
    found = find_columns(task, every, given, mixed or {})
    if labels is not None and ("label" not in task.columns or "spans" in task.takes):
        raise UserError(f"{task.name} has no classes", key="data.labels", value=list(labels), hint="leave it out")
    joins = join is not None or "document" in found
    if joins and teachers is not None:
        raise idle(f"data.columns.{ROLE}", teachers, "rows joined into texts", "do not join them")
    joined = {use: len(rows) for use, rows in chosen.items() if joins}
    chosen = join_rows(task, chosen, found, join, validation_fraction)
    whole = dict(chosen)
    if validation_fraction is not None:
        together = found.get(task.together or "")
        chosen["train"], chosen["validation"] = hold_out(chosen["train"], validation_fraction, together)
    # The classes are those of all rows: a small choice of them may lack one.
    read = None
    if "label" in found and "spans" in task.takes:
        read = read_spans(whole, found)
    elif "label" in found:
        read = read_labels(task, whole, found["label"], labels, outputs)
    if train_samples is not None:
        chosen["train"] = sample(chosen["train"], train_samples)
    present = {use: check_rows(task, use, rows, found) for use, rows in chosen.items()}
    _refuse_near_names(task, chosen, found, given)
    routes = {} if teachers is None else read_routes(chosen, teachers)
    if teachers is not None:
        present = {use: roles | {ROLE: teachers} for use, roles in present.items()}
    if "tags" in task.takes:
        for use, rows in chosen.items():
            if "label" in present[use]:
                check_tags(use, rows, present[use])
    unknown = read is None or read.missing(chosen["validation"]) == len(chosen["validation"])
    if "label" in task.columns and task.needs_labels and unknown:
        raise UserError(
            f"{task.name} needs labels for validation",
            key="data.columns.label",
            value=found.get("label"),
            hint="name the column of the labels, or another split",
        )
    prose = task.packs and not task.turns & present["train"].keys()
    return RawData(chosen, present, read, joined, routes, prose)


def _refuse_near_names(
    task: TextTask, splits: Mapping[str, Any], found: Mapping[str, str], given: Mapping[str, str]
) -> None:
    """Refuse a split without labels that has another column which would be known for them.

    Raises:
        UserError: naming both.
    """
    column = found.get("label")
    for use, rows in splits.items():
        other = task.find_columns(rows.column_names).get("label")
        if column is None or "label" in given or column in rows.column_names or other is None:
            continue
        problem = f"the split {use} has no such column, and one that is called {other!r}"
        hint = "call it alike in every split; or name it as data.columns.label, where the other is something else"
        raise UserError(problem, key="data.columns.label", value=column, hint=hint)
