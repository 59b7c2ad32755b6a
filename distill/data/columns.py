"""Which column is what, and whether it holds what it should."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from distill.core.task import TextTask
from distill.core.utils.errors import UserError, nearest
from distill.core.utils.words import amount
from distill.data import arrow
from distill.data.label_values import canonical
from distill.data.targets import TARGET, refuse_empty

__all__ = ["check_images", "check_rows", "check_tags", "check_text", "find_columns"]


_NO_TEXTS = ("label", "tools", "answer_start")
"""Roles that no text has, which a split may lack."""


def find_columns(
    task: TextTask, names: list[str], given: Mapping[str, str] | None, mixed: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Role -> column, as given and else recognized by name, if need be without regard to capitals.

    Args:
        task: Says which roles there are.
        names: The data set's columns.
        given: The user's choice.
        mixed: Further columns, which cannot be used -> what is wrong with them.

    Raises:
        UserError: if a role or column is unknown, or a role that the task needs has no column.
    """
    given, mixed = given or {}, mixed or {}
    every = [*names, *mixed]
    for role, column in given.items():
        if role not in task.columns:
            raise UserError(
                f"{task.name} has no such role", key=f"data.columns.{role}", hint=nearest(role, task.columns)
            )
        if column not in every:
            raise UserError("no such column", key=f"data.columns.{role}", value=column, hint=nearest(column, every))
    found = _recognized(task, every)
    if given.get("text", found.get("text")) != found.get("text"):  # the second of a pair whose first is not read
        found.pop("text_pair", None)
    found |= given
    if task.forms:
        found = _of_one_form(task, found, given, names)
    for role, column in found.items():
        if column in mixed:
            hint = "write all of its values alike"
            raise UserError(mixed[column], key=f"data.columns.{role}", value=column, hint=hint)
    for role in task.columns if not task.forms else ():
        if role not in found and role not in task.optional:
            raise UserError(
                f"{task.name} needs a column for its {role}, and none of {names} is known as one",
                key=f"data.columns.{role}",
                hint=_header(names) or "name it",
            )
    return found


def _of_one_form(
    task: TextTask, found: Mapping[str, str], given: Mapping[str, str], names: list[str]
) -> dict[str, str]:
    """The roles of the first form that the columns fill, among those that the user's choice allows."""
    chosen = given.keys() - task.optional
    full = [form for form in task.forms if form <= found.keys() and chosen <= form]
    if full:
        return {role: column for role, column in found.items() if role in full[0] | task.optional}
    wanted = [" and ".join(sorted(form, reverse=True)) for form in task.forms if chosen <= form]
    if not wanted:
        problem, hint = f"{task.name} reads {_either(task.forms)}", "name columns for one of them"
        raise UserError(problem, key="data.columns", value=dict(given), hint=hint)
    role = next((role for form in task.forms if chosen and chosen <= form for role in form - found.keys()), "text")
    raise UserError(
        f"{task.name} needs a column for its {', or for its '.join(wanted)}, and none of {names} is known as one",
        key=f"data.columns.{role}",
        hint=_header(names) or "name it",
    )


def _either(forms: Sequence[frozenset[str]]) -> str:
    return " or ".join(" and ".join(sorted(form, reverse=True)) for form in forms)


def _header(names: Sequence[str]) -> str:
    """What to do where the columns' names are rather a row than a header."""
    headless = any(not isinstance(canonical(name), str) or name.count(" ") > 1 for name in names)
    return "if this is no header but a row, give data.reader.names" if headless else ""


def _recognized(task: TextTask, names: list[str]) -> dict[str, str]:
    exact = task.find_columns(names)
    folded = {name.casefold(): name for name in reversed(names)}
    others = {role: folded[name] for role, name in task.find_columns(list(folded)).items()}
    if "text" in exact:
        others.pop("text_pair", None)
    return others | exact


def check_rows(task: TextTask, split: str, dataset: Any, columns: Mapping[str, str]) -> dict[str, str]:
    """The roles that this split has, once its rows are found to be sound.

    Raises:
        UserError: if the split is empty, lacks a column, or a text is no text.
    """
    if len(dataset) == 0:
        raise UserError("the split holds no rows", key=f"data.splits.{split}", hint="check the data")
    present = {role: column for role, column in columns.items() if column in dataset.column_names}
    for role, column in columns.items():
        if role not in present and (role not in _NO_TEXTS or role not in task.optional):  # a pair always is one
            raise UserError(
                f"the split {split} lacks this column",
                key=f"data.columns.{role}",
                value=column,
                hint=nearest(column, dataset.column_names),
            )
        if role == "image":
            check_images(f"the split {split}", dataset, column)
        elif (
            role in present
            and role not in ("label", "answer_start")
            and not _are_turns(task, f"the split {split}", dataset, role, column)
        ):
            check_text(task, f"the split {split}", dataset, role, column)
            if role == TARGET:
                refuse_empty(f"the split {split}", dataset, column)
    return present


def _are_turns(task: TextTask, where: str, dataset: Any, role: str, column: str) -> bool:
    """Whether the column holds a chat's turns, or the tools it offers, each row sound.

    Raises:
        UserError: if the turns lack a role or content, a row has none, or a column of messages holds something else.
    """
    values = arrow.column(dataset, column)
    if role == "tools":
        return True
    if role not in task.turns or (role != "messages" and not arrow.is_list(values)):
        return False
    names = arrow.fields(values)
    if not ({"role", "content"} <= names or {"from", "value"} <= names):
        raise UserError(
            f"the column must hold lists of turns, each with role and content, and it holds {values.type}",
            key=f"data.columns.{role}",
            value=column,
            hint='write [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]',
        )
    empty = sum(1 for count in arrow.lengths(values).to_pylist() if not count)
    if empty:
        hint = "fill them in or leave them out"
        raise UserError(
            f"{amount(empty, 'row')} of {where} without a turn", key=f"data.columns.{role}", value=column, hint=hint
        )
    return True


def check_text(task: TextTask, where: str, dataset: Any, role: str, column: str) -> None:
    """Refuse a column that does not hold a text, or for tasks on words a list of them, in every row.

    Args:
        task: Says which.
        where: The rows are, in words.
        dataset: They.
        role: What the column is.
        column: Its name.

    Raises:
        UserError: saying what it holds.
    """
    values = arrow.column(dataset, column)
    if arrow.kind(values) != "null" and (arrow.kind(values) != "text" or arrow.is_list(values) != task.words):
        holds = "lists of words" if task.words else "text"
        raise UserError(
            f"the column must hold {holds}, and it holds {values.type}",
            key=f"data.columns.{role}",
            value=column,
            hint="name another column",
        )
    if missing := arrow.count_missing(values):
        raise UserError(
            f"{amount(missing, 'row')} of {where} without a text",
            key=f"data.columns.{role}",
            value=column,
            hint="fill them in or leave them out",
        )


def check_images(where: str, dataset: Any, column: str) -> None:
    """Refuse a column that holds no pictures: neither paths, nor files, nor what ``datasets`` has of both.

    Raises:
        UserError: saying what it holds.
    """
    kind = arrow.column(dataset, column).type
    struct = pa.types.is_struct(kind) and bool({one.name for one in kind} & {"bytes", "path"})
    plain = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    if not struct and not any(test(kind) for test in plain):
        problem = f"the column must hold paths of pictures, or their files, and in {where} it holds {kind}"
        raise UserError(problem, key="data.columns.image", value=column, hint="name another column")


def check_tags(split: str, dataset: Any, columns: Mapping[str, str]) -> None:
    """Refuse rows that have tags, but not one for each word.

    Raises:
        UserError: naming the first.
    """
    tags, words = arrow.column(dataset, columns["label"]), arrow.column(dataset, columns["text"])
    if not arrow.is_list(tags):  # null in every row
        return
    for row, (given, wanted) in enumerate(
        zip(arrow.lengths(tags).to_pylist(), arrow.lengths(words).to_pylist(), strict=True)
    ):
        if given and given != wanted:
            raise UserError(
                f"each word needs a tag: {wanted} words begin {words[row].as_py()[:4]} and have {given} tags, in row "
                f"{row + 1} of the split {split}",
                key="data.columns.label",
                value=columns["label"],
                hint="correct the row, or name the columns that belong together",
            )
