"""The rows to predict: of a file, with the columns that the model was trained on, or lines of the standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.core.task import TextTask
from distill.core.utils.errors import UserError
from distill.core.utils.paths import at_home
from distill.data import arrow
from distill.data.columns import check_images, check_text, find_columns
from distill.data.files import OWN
from distill.data.reader import ReaderConfig, reader_config
from distill.data.sources import read_file

__all__ = ["Row", "file_rows", "line_rows", "roles_of", "standard_input"]

Row = dict[str, Any]
"""Role (``text``, ``text_pair``) -> a text, or for tasks on words a list of them."""


def roles_of(task: TextTask, columns: Mapping[str, str]) -> list[str]:
    """The roles that a row has.

    Args:
        task: The model's.
        columns: Role -> column, as the model was trained; empty where that is not known.
    """
    if task.forms:  # a language model goes on with a text, or answers one, whatever it was trained on
        return ["text"]
    texts = [role for role in task.columns if role not in task.sought]
    return [role for role in texts if role in columns or role not in task.optional]


def file_rows(
    path: str,
    task: TextTask,
    trained: Mapping[str, str] | None,
    given: Mapping[str, str],
    reader: Mapping[str, Any] | None,
) -> tuple[list[Row], list[str]]:
    """The rows of a file, and what was taken for what, in words.

    Args:
        path: The file; a line of a .txt file is a row.
        task: The model's.
        trained: Role -> column of the data that it was trained on; ``None`` where that is not known.
        given: Role -> column, as the user has it.
        reader: How a file of text is read, as the user has it.

    Raises:
        UserError: if the file cannot be read, is empty, or lacks a column.
    """
    if task.reads == "pictures" and Path(path).suffix.lower() not in (*OWN, ".parquet"):
        if at_home(path).is_dir():
            hint = "give one picture, or the paths of several on standard input: ls FOLDER/* | distill predict RUN -"
            raise UserError("is a folder", key="FILE", value=path, hint=hint)
        if not at_home(path).is_file():
            raise UserError("no such file", key="FILE", value=path, hint="check the path")
        return [{"image": str(at_home(path))}], []
    config: ReaderConfig | None = None if reader is None else reader_config(reader)
    rows, source = read_file(path, "FILE", config)
    roles = None if trained is None else roles_of(task, trained)
    if Path(path).suffix.lower() == ".txt":
        lines = rows["text"]
        return list(line_rows(lines, task, roles_of(task, trained or {}), path)), []
    names = list(rows.column_names)
    found = _columns(task, names, trained, given, source.mixed)
    if roles is None:
        roles = roles_of(task, found)
    if lacking := next((role for role in roles if role not in found), None):
        problem = f"the model was trained on pairs of texts, and none of {names} is known as the second one"
        raise UserError(problem, key=f"data.columns.{lacking}", hint=f"name it: --data.columns.{lacking} COLUMN")
    texts = {role: _texts(task, path, rows, role, found[role]) for role in roles}
    taken = [
        f"{role} is the column {found[role]!r}"
        for role in roles
        if role not in given and (trained or {}).get(role) != found[role]
    ]
    notes = [*source.notes, *([", ".join(taken)] if taken else [])]
    return [dict(zip(texts, row, strict=True)) for row in zip(*texts.values(), strict=True)], notes


def _columns(
    task: TextTask,
    names: list[str],
    trained: Mapping[str, str] | None,
    given: Mapping[str, str],
    mixed: Mapping[str, str],
) -> dict[str, str]:
    """Role -> column: as the user has it, else as the model was trained, else recognized by its name."""
    before = {role: column for role, column in (trained or {}).items() if column in names}
    if "text" in given:  # the others were its companions
        before = {}
    if len(names) == 1 and not given and not mixed and (trained is None or len(trained) < 2):
        return {"text" if task.reads == "tokens" else "image": names[0]}
    found = find_columns(task, names, before | dict(given), mixed)
    if not task.forms or "text" in found:
        return found
    if "prompt" not in found:
        hint = "name a column of texts: --data.columns.text COLUMN"
        raise UserError("a row to answer is one text, and not a chat", key="data.columns.text", hint=hint)
    return {"text": found["prompt"]}


def _texts(task: TextTask, path: str, rows: Any, role: str, column: str) -> list[Any]:
    values = arrow.column(rows, column)
    if task.reads == "pictures":
        check_images(path, rows, column)
        here = at_home(path).absolute().parent
        return [str(here / at_home(one)) if isinstance(one, str) and one else one for one in values.to_pylist()]
    if task.words and arrow.kind(values) == "text" and not arrow.is_list(values) and not values.null_count:
        return [text.split() for text in values.to_pylist()]
    check_text(task, path, rows, role, column)
    found: list[Any] = values.to_pylist()
    return found


def line_rows(lines: Iterable[str], task: TextTask, roles: Sequence[str], where: str) -> Iterator[Row]:
    """A row of every line: two texts have a tab between them, and words a blank.

    Args:
        lines: Without their line breaks.
        task: The model's.
        roles: Of a row.
        where: The lines stand, for an error.

    Raises:
        UserError: naming the line that has no tab, or several.
    """
    for number, line in enumerate(lines, start=1):
        if task.words:
            yield {"text": line.split()}
            continue
        if len(roles) == 1:
            yield {roles[0]: line}
            continue
        texts = line.split("\t")
        if len(texts) != len(roles):
            tabs = len(texts) - 1
            problem = f"line {number} has {tabs} tabs, and the model reads pairs: two texts with one tab between them"
            raise UserError(problem, key="FILE", value=where, hint="correct it, or give a csv or jsonl file")
        yield dict(zip(roles, texts, strict=True))


def standard_input() -> Iterator[str]:
    """The lines of the standard input as they come, without their line breaks.

    Raises:
        UserError: if one is no text, or there is none.
    """
    number = 0
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            hint = "convert it to utf-8, or give a file and its encoding: --data.reader.encoding latin-1"
            raise UserError(f"line {number} is no text in utf-8", key="FILE", value="-", hint=hint) from error
        yield text.removesuffix("\n").removesuffix("\r")
    if not number:
        raise UserError("holds no text", key="FILE", value="-", hint="give a file, or a line for each text")
