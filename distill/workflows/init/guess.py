"""What the columns of a data set are, and the task that fits them: by their names, else by what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc  # type: ignore[import-untyped]

from distill.core.column_look import USUAL_LABELS, ColumnLook, label_candidates, longest_text
from distill.core.task import TextTask
from distill.core.utils.errors import UserError
from distill.data import arrow
from distill.data.columns import find_columns
from distill.data.targets import TARGET
from distill.tasks import GUESSED, TASKS

__all__ = ["Guess", "guess"]


@dataclass
class Guess:
    """What is to be trained on what.

    Attributes:
        task: Its name.
        columns: Role -> column.
        notes: On the columns, and what else could be meant, in words.
        doubt: On the task.
    """

    task: str
    columns: dict[str, str]
    notes: list[str] = field(default_factory=list)
    doubt: str = ""


def guess(rows: Any, mixed: Mapping[str, str], task: str | None, given: Mapping[str, str]) -> Guess:
    """The task, and which column is what.

    Args:
        rows: The training data, a ``datasets.Dataset``.
        mixed: Columns that cannot be used -> why.
        task: As the user has it.
        given: Role -> column, as the user has it.

    Raises:
        UserError: if no column holds texts.
    """
    kinds = [_made(TASKS[task])] if task else [_made(kind) for kind in GUESSED]
    for chatting in kinds:
        if turns := _turns(rows, chatting, given):
            return Guess(chatting.name, turns)
    columns = [_look(rows, name) for name in rows.column_names]
    notes = [f"the column {name!r} cannot be used: it {why}" for name, why in mixed.items()]
    _refuse_mixed(mixed, kinds, given)
    found = dict(given)
    kind = next((one for one in kinds if one.suits(columns, found.get("label"))), kinds[-1])
    if "text" not in found:
        found |= kind.recognize(columns, "text") or {"text": _text(columns, kind, found, notes)}
    if TARGET in kind.columns and TARGET not in found:
        found |= kind.recognize(columns, TARGET)
    if "label" in kind.columns and "label" not in found:
        label = kind.recognize(columns, "label").get("label")
        label = label or (_label(columns, kind, found, notes) if kind.needs_labels else None)
        found |= {"label": label} if label else {}
    doubt = ""
    if task is None and "label" not in kind.columns and len(columns) > 1:
        doubt = "no column looks like labels; if one is, name it: --data.columns.label COLUMN; or --task masked-lm"
    if "text_pair" in kind.columns and "text_pair" not in found and len(columns) > 1:
        pair = find_columns(kind, rows.column_names, {"text": found["text"]}, mixed).get("text_pair")
        found |= {"text_pair": pair} if pair else {}
    return Guess(kind.name, {role: found[role] for role in kind.columns if role in found}, notes, doubt)


def _made(kind: Any) -> TextTask:
    """A task to ask, of classes that are not known yet."""
    made: TextTask = kind(["a", "b"])
    return made


def _refuse_mixed(mixed: Mapping[str, str], kinds: list[TextTask], given: Mapping[str, str]) -> None:
    """Refuse columns that would be read, were their values of one kind.

    Raises:
        UserError: naming the first.
    """
    for name, why in mixed.items():
        named = next((role for role, column in given.items() if column == name), None)
        for kind in kinds:
            named = named or next((role for role, known in kind.columns.items() if name.lower() in known), None)
        if named or name.lower() in USUAL_LABELS:
            key = f"data.columns.{named or 'label'}"
            raise UserError(why, key=key, value=name, hint="write all of its values alike")


def _look(rows: Any, name: str) -> ColumnLook:
    values = arrow.column(rows, name)
    listed, kind = arrow.is_list(values), arrow.kind(values)
    elements = arrow.flat(values)
    length = pc.mean(pc.utf8_length(elements)).as_py() if kind == "text" and len(elements) else None
    distinct = 0 if kind == "other" else len(pc.unique(elements))
    return ColumnLook(name, kind, listed, distinct, len(rows), length or 0.0)


def _turns(rows: Any, kind: TextTask, given: Mapping[str, str]) -> dict[str, str]:
    """The columns of chats, or of prompts and completions, where there are such and no labels beside them."""
    found = {**kind.find_columns(rows.column_names), **given}
    form = next((form for form in kind.forms if form <= found.keys() and form & kind.turns), None)
    labels = {"label", "labels"} & {name.lower() for name in rows.column_names}
    if form is None or labels or "text" in given:
        return {}
    if "messages" in form and not arrow.fields(arrow.column(rows, found["messages"])):
        return {}  # a column of texts that is called so
    return {role: found[role] for role in kind.columns if role in found.keys() & (form | {"tools"})}


def _text(columns: list[ColumnLook], task: TextTask, found: Mapping[str, str], notes: list[str]) -> str:
    texts = [
        one for one in columns if one.kind == "text" and one.listed == task.words and one.name not in found.values()
    ]
    chosen = longest_text(texts)
    if chosen is None:
        holds = "lists of words" if task.words else "text"
        names = [one.name for one in columns]
        problem = f"no column holds {holds} (there are {names})"
        raise UserError(problem, key="data.columns.text", hint="name another task by --task, or the columns")
    others = [one.name for one in texts if one.name != chosen and one.length > 20]
    also = f"; also text: {', '.join(map(repr, others))}" if others else ""
    notes.append(f"{chosen!r} is the text, as its values are the longest{also} (data.columns.text)")
    return chosen


def _label(columns: list[ColumnLook], task: TextTask, found: Mapping[str, str], notes: list[str]) -> str | None:
    candidates = label_candidates(columns, bool(task.takes & {"tags", "set"}), found.values())
    if not candidates:
        return None
    chosen = next((name for name in candidates if name.lower() in USUAL_LABELS), candidates[0])
    others = [name for name in candidates if name != chosen]
    also = f"; it may be {' or '.join(map(repr, others))} as well" if others else ""
    notes.append(f"{chosen!r} is the label, as it holds few values{also} (data.columns.label)")
    return chosen
