"""What the columns of a data set are, and the task that fits them: by their names, else by what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc  # type: ignore[import-untyped]

from distill.core.task import TextTask
from distill.core.utils.errors import UserError
from distill.data import arrow
from distill.data.columns import find_columns
from distill.tasks import make_task

__all__ = ["Guess", "guess"]

_FEW = 50  # classes that a column may hold whose name says nothing
_ROWS = 3  # and the fewest rows of each, on average
_USUAL = ("sentiment", "category", "topic", "intent", "rating", "stars", "emotion", "polarity", "tag", "tags", "topics")
_TASKS = ("text-classification", "multi-label-classification", "token-classification", "causal-lm")


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


@dataclass(frozen=True)
class _Column:
    name: str
    kind: str
    listed: bool
    distinct: int
    rows: int
    length: float


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
    if task in (None, "causal-lm") and (turns := _turns(rows, given)):
        return Guess("causal-lm", turns, [], "")
    columns = [_described(rows, name) for name in rows.column_names]
    notes = [f"the column {name!r} cannot be used: it {why}" for name, why in mixed.items()]
    _refuse_mixed(mixed, task, given)
    found = dict(given)
    name = task or _task(columns, found)
    kind = make_task(name, ["a", "b"])
    assert isinstance(kind, TextTask)
    if "text" not in found:
        found |= _known(kind, columns, "text") or {"text": _text(columns, kind, found, notes)}
    if "label" in kind.columns and "label" not in found:
        label = _known(kind, columns, "label").get("label") or _label(columns, kind, found, notes)
        found |= {"label": label} if label else {}
    doubt = ""
    if task is None and name == "causal-lm" and len(columns) > 1:
        doubt = "no column looks like labels; if one is, name it: --data.columns.label COLUMN; or --task masked-lm"
    if "text_pair" in kind.columns and "text_pair" not in found and len(columns) > 1:
        pair = find_columns(kind, rows.column_names, {"text": found["text"]}, mixed).get("text_pair")
        found |= {"text_pair": pair} if pair else {}
    return Guess(name, {role: found[role] for role in kind.columns if role in found}, notes, doubt)


def _refuse_mixed(mixed: Mapping[str, str], task: str | None, given: Mapping[str, str]) -> None:
    """Refuse columns that would be read, were their values of one kind.

    Raises:
        UserError: naming the first.
    """
    for name, why in mixed.items():
        named = next((role for role, column in given.items() if column == name), None)
        for one in [task] if task else _TASKS:
            kind = make_task(one)
            assert isinstance(kind, TextTask)
            named = named or next((role for role, known in kind.columns.items() if name.lower() in known), None)
        if named or name.lower() in _USUAL:
            key = f"data.columns.{named or 'label'}"
            raise UserError(why, key=key, value=name, hint="write all of its values alike")


def _described(rows: Any, name: str) -> _Column:
    values = arrow.column(rows, name)
    listed, kind = arrow.is_list(values), arrow.kind(values)
    elements = arrow.flat(values)
    length = pc.mean(pc.utf8_length(elements)).as_py() if kind == "text" and len(elements) else None
    distinct = 0 if kind == "other" else len(pc.unique(elements))
    return _Column(name, kind, listed, distinct, len(rows), length or 0.0)


def _turns(rows: Any, given: Mapping[str, str]) -> dict[str, str]:
    """The columns of chats, or of prompts and completions, where there are such and no labels beside them."""
    kind = make_task("causal-lm")
    assert isinstance(kind, TextTask)
    found = {**kind.find_columns(rows.column_names), **given}
    form = next((form for form in kind.forms if form <= found.keys() and form & kind.turns), None)
    labels = {"label", "labels"} & {name.lower() for name in rows.column_names}
    if form is None or labels or "text" in given:
        return {}
    if "messages" in form and not arrow.fields(arrow.column(rows, found["messages"])):
        return {}  # a column of texts that is called so
    return {role: found[role] for role in kind.columns if role in found.keys() & (form | {"tools"})}


def _task(columns: list[_Column], given: Mapping[str, str]) -> str:
    """The task whose labels the data has."""
    lists = [one for one in columns if one.listed]
    words = [one for one in lists if one.kind == "text"]
    if words and not any(one.kind == "text" and not one.listed and one.length > 20 for one in columns):
        return "token-classification"
    label = next((one for one in columns if one.name == given.get("label")), None)
    known = make_task("multi-label-classification")
    assert isinstance(known, TextTask)
    names = [_known(known, lists, "label").get("label"), *(one.name for one in lists if one.name.lower() in _USUAL)]
    if (label and label.listed) or (label is None and any(names)):
        return "multi-label-classification"
    single = make_task("text-classification")
    assert isinstance(single, TextTask)
    texts = [one for one in columns if one.kind == "text" and not one.listed]
    has_label = label or _known(single, columns, "label") or _candidates(columns, single, {}, _longest(texts))
    return "text-classification" if has_label else "causal-lm"


def _known(task: TextTask, columns: list[_Column], role: str) -> dict[str, str]:
    """The columns of a role, and of the second text beside the first, whose names are known."""
    names = {one.name.lower(): one.name for one in reversed(columns)}
    found = {known: names[name] for known, name in task.find_columns(list(names)).items()}
    wanted = ("text", "text_pair") if role == "text" else (role,)
    return {known: name for known, name in found.items() if known in wanted} if role in found else {}


def _longest(texts: list[_Column]) -> str | None:
    return max(texts, key=lambda one: one.length).name if texts else None


def _text(columns: list[_Column], task: TextTask, found: Mapping[str, str], notes: list[str]) -> str:
    texts = [
        one for one in columns if one.kind == "text" and one.listed == task.words and one.name not in found.values()
    ]
    chosen = _longest(texts)
    if chosen is None:
        holds = "lists of words" if task.words else "text"
        names = [one.name for one in columns]
        problem = f"no column holds {holds} (there are {names})"
        raise UserError(problem, key="data.columns.text", hint="name another task by --task, or the columns")
    others = [one.name for one in texts if one.name != chosen and one.length > 20]
    also = f"; also text: {', '.join(map(repr, others))}" if others else ""
    notes.append(f"{chosen!r} is the text, as its values are the longest{also} (data.columns.text)")
    return chosen


def _label(columns: list[_Column], task: TextTask, found: Mapping[str, str], notes: list[str]) -> str | None:
    candidates = _candidates(columns, task, found, found.get("text"))
    if not candidates:
        return None
    chosen = next((name for name in candidates if name.lower() in _USUAL), candidates[0])
    others = [name for name in candidates if name != chosen]
    also = f"; it may be {' or '.join(map(repr, others))} as well" if others else ""
    notes.append(f"{chosen!r} is the label, as it holds few values{also} (data.columns.label)")
    return chosen


def _candidates(columns: list[_Column], task: TextTask, found: Mapping[str, str], text: str | None) -> list[str]:
    """Columns that may hold labels: of several values, each in several rows."""
    listed = bool(task.takes & {"tags", "set"})
    return [
        one.name
        for one in columns
        if one.name not in (text, *found.values())
        and one.listed == listed
        and one.kind in ("text", "integer", "boolean")
        and 2 <= one.distinct <= _FEW
        and (listed or one.distinct * _ROWS <= one.rows)
        and one.length <= 40
    ]
