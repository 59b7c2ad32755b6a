"""Files of JSON objects, one a line or in one list: each line accounted for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from distill.core.utils.errors import UserError
from distill.data.reader import ReaderConfig, read_text

__all__ = ["read_json"]

Row = dict[str, Any]

_TURN = ({"role", "content"}, {"role", "tool_calls"}, {"from", "value"})
"""Keys by which a chat's turn is known, in the forms that are about; ``role`` alone may be any table's column."""

_TYPE_WORDS = {bool: "true or false", int: "numbers", float: "numbers", str: "text", list: "lists", dict: "objects"}


def read_json(path: str, key: str, config: ReaderConfig) -> tuple[Any, dict[str, str]]:
    """A table, and why columns are not in it that hold values of several kinds: column -> what is wrong.

    A key that an object lacks is null.

    Raises:
        UserError: naming the line that is no object.
    """
    text = read_text(path, key, config)
    rows = _listed(text, path, key) if text.lstrip()[:1] == "[" else _lines(text, path, key)
    if not rows:
        raise UserError("holds no data", key=key, value=path, hint="check the file")
    rows = _questions(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns, mixed = {}, {}
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            columns[name] = _array(values)
        except (pa.ArrowException, OverflowError, UnicodeError) as error:
            mixed[name] = _why(values) or _too_long(values) or str(error).splitlines()[0]
    return pa.table(columns), mixed


def _array(values: Sequence[Any]) -> Any:
    made = pa.array(values)
    return made.cast(pa.large_string()) if pa.types.is_string(made.type) else made


def _lines(text: str, path: str, key: str) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_once)
        except _Twice as error:
            raise _twice(f"line {number} {error}", path, key) from error
        except (ValueError, RecursionError) as error:
            if not rows and (found := _inside(text, path, key)):
                return found
            raise UserError(f"line {number} is no JSON ({error})", key=key, value=path, hint="correct it") from error
        around = not rows and number == 1 and isinstance(row, dict) and Path(path).suffix.lower() != ".jsonl"
        if around and (found := _inside(text, path, key)):
            return found
        if not isinstance(row, dict):
            hint = 'write an object in each line: {"text": "...", "label": 0}'
            raise UserError(f"line {number} is no object, but {line.strip()[:60]}", key=key, value=path, hint=hint)
        rows.append(row)
    return rows


class _Twice(ValueError):
    """Of an object that names a key twice: of the two values one would be lost."""


def _once(pairs: list[tuple[str, Any]]) -> Row:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(f"names the key {next(n for n in names if names.count(n) > 1)!r} twice in one object")
    return found


def _twice(problem: str, path: str, key: str) -> UserError:
    return UserError(problem, key=key, value=path, hint="keep one of the two, or give them names of their own")


def _inside(text: str, path: str, key: str) -> list[Row] | None:
    """The rows of a file that is one object: those of the one list in it, or else itself, as of a chat's turns."""
    try:
        whole = json.loads(text, object_pairs_hook=_once)
    except _Twice as error:
        raise _twice(str(error), path, key) from error
    except (ValueError, RecursionError):
        return None
    if not isinstance(whole, dict):
        return None
    lists = [value for value in whole.values() if _are_rows(value)]
    one = len(lists) != 1 or all(any(keys <= row.keys() for keys in _TURN) for row in lists[0])
    return [whole] if one else lists[0]


def _questions(rows: list[Row]) -> list[Row]:
    """The rows of SQuAD's own files, whose articles hold paragraphs, and these questions; of any other as they are."""
    if not all(_are_rows(row.get("paragraphs")) for row in rows):
        return rows
    paragraphs = [paragraph | {"title": row.get("title")} for row in rows for paragraph in row["paragraphs"]]
    if not all(_are_rows(one.get("qas") or [{}]) for one in paragraphs):
        return rows
    kept = ("id", "question", "answers")
    return [
        {name: question.get(name) for name in kept} | {name: one.get(name) for name in ("context", "title")}
        for one in paragraphs
        for question in one.get("qas") or ()
    ] or rows


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(row, dict) for row in value)


def _listed(text: str, path: str, key: str) -> list[Row]:
    try:
        rows = json.loads(text, object_pairs_hook=_once)
    except _Twice as error:
        raise _twice(str(error), path, key) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"is no JSON ({error})", key=key, value=path, hint="correct it") from error
    wrong = next((number for number, row in enumerate(rows, start=1) if not isinstance(row, dict)), None)
    if wrong is not None:
        hint = 'write a list of objects: [{"text": "...", "label": 0}, ...]'
        raise UserError(f"row {wrong} is no object", key=key, value=path, hint=hint)
    return list(rows)


def _why(values: Sequence[Any]) -> str | None:
    """The first two values that are not of one kind."""
    there = [(row, value) for row, value in enumerate(values, start=1) if value is not None]
    first, one = there[0]
    for row, other in there:
        if _kind(other) != _kind(one):
            return f"holds {_kind(one)} ({one!r} in row {first}) and {_kind(other)} ({other!r} in row {row})"
    return None


def _too_long(values: Sequence[Any]) -> str | None:
    """The first integer that is more than 64 bits hold."""
    for row, value in enumerate(values, start=1):
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            digits = str(value)
            shown = digits if len(digits) <= 40 else f"a number of {len(digits)} digits"
            return f"holds {shown} in row {row}, more than 64 bits hold; as the name of a class, quote it in every row"
    return None


def _kind(value: Any) -> str:
    return _TYPE_WORDS.get(type(value), type(value).__name__)
