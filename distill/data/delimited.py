"""Files of fields between separators (csv, tsv): each line accounted for, each field as text."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from distill.core.utils.errors import UserError
from distill.data.reader import ReaderConfig, read_text

__all__ = ["read_delimited"]

_SEPARATORS = (",", "\t", ";", "|")
_CHUNK = 100_000
_FOR_SPREADSHEETS = re.compile(r"sep=(.)\s*[\r\n]")


@dataclass(frozen=True)
class _Reading:
    """How a text reads under one way of quoting.

    Attributes:
        problem: What is wrong first, and the line; ``None`` where every record has a field for each column.
        joined: The first line of the first record that goes over several lines; 0 where there is none.
    """

    problem: tuple[str, int] | None
    joined: int


def read_delimited(path: str, key: str, config: ReaderConfig) -> tuple[Any, bool]:
    """A table of text, and whether its quotation marks were found to be text, of which nothing was said.

    Values stay as they are written: the words NA, None and null, and empty fields too; null are only ``na_values``.
    A field may stand in quotation marks, unless the lines say that these are mere text: where a file cannot be read
    the first way, or in a tsv where every line by itself has a field for each column.

    Raises:
        UserError: naming the line that does not fit.
    """
    sep = config.sep or ("\t" if path.lower().endswith(".tsv") else ",")
    text = read_text(path, key, config)
    if spreadsheets := _FOR_SPREADSHEETS.match(text):
        problem = f"line 1 tells a spreadsheet program its separator ({spreadsheets[0].strip()}), and is no header"
        also = "" if spreadsheets[1] == sep else f", and name the separator: --data.reader.sep {spreadsheets[1]!r}"
        raise UserError(problem, key=key, value=path, hint=f"remove that line{also}")
    csv.field_size_limit(2**31 - 1)
    quoting = str(config.quoting or "minimal")
    header = list(config.names) if config.names else _header(text, sep, quoting, config, path, key)
    if twice := next((name for name in header if header.count(name) > 1), None):
        raise UserError(f"the column {twice!r} is named twice", key=key, value=path, hint="rename one of them")
    quoted = _check(text, header, sep, quoting, config)
    if config.quoting is None and config.quotechar in text and (quoted.problem or quoted.joined):
        plain = _check(text, header, sep, "none", config)
        if plain.problem is None and (quoted.problem or sep == "\t"):
            _refuse_escaped(text, header, sep, config, path, key)
            quoting, quoted = "none", plain
        elif plain.problem is None:
            raise UserError(
                f"line {quoted.joined} begins a field in quotation marks that continues on the next line, or else the "
                "mark is text: both can be read",
                key=key,
                value=path,
                hint="say which: data.reader.quoting: minimal, or none",
            )
    if quoted.problem:
        problem, line = quoted.problem
        if config.quoting is None:
            _refuse_escaped(text, header, sep, config, path, key)
        hint = "correct the line, or say how to read it: data.reader.sep, data.reader.quoting"
        raise UserError(f"line {line} {problem}", key=key, value=path, hint=hint)
    table = _table(text, header, sep, quoting, config)
    if not len(table):
        raise UserError("holds no data: a header, and no rows", key=key, value=path, hint="check the file")
    return table, config.quoting is None and quoting == "none"


def _refuse_escaped(text: str, header: list[str], sep: str, config: ReaderConfig, path: str, key: str) -> None:
    """Refuse a file that can be read if a backslash makes a quotation mark text, and that is not said."""
    mark = f"\\{config.quotechar}"
    if config.escapechar is not None or mark not in text:
        return
    if _check(text, header, sep, "minimal", replace(config, escapechar="\\")).problem is None:
        line = text[: text.index(mark)].count("\n") + 1
        problem = f"line {line} holds {mark}: the backslash makes the mark text, or else both are text"
        hint = "say which: data.reader.escapechar: '\\', or data.reader.quoting: none"
        raise UserError(problem, key=key, value=path, hint=hint)


def _reader(text: str, sep: str, quoting: str, config: ReaderConfig) -> Any:
    return csv.reader(
        io.StringIO(text, newline=""),
        delimiter=sep,
        quotechar=config.quotechar,
        escapechar=config.escapechar,
        quoting=csv.QUOTE_NONE if quoting == "none" else csv.QUOTE_MINIMAL,
        strict=True,
    )


def _header(text: str, sep: str, quoting: str, config: ReaderConfig, path: str, key: str) -> list[str]:
    names: list[str]
    try:
        names = next(iter(_reader(text, sep, quoting, config)), [])
    except csv.Error:  # a mark that is text
        names = next(iter(_reader(text, sep, "none", config)), [])
    if not names:
        raise UserError("holds no data: its first line is no header", key=key, value=path, hint="check the file")
    if len(names) == 1:
        other = next((one for one in _SEPARATORS if one != sep and one in names[0]), None)
        if other:
            shown = repr(other)  # a shell hands over what stands there
            problem = f"the header is a single column, {names[0]!r}, with {sep!r} as separator"
            hint = (
                f"name the separator: --data.reader.sep {shown}; it is one for all files, so convert those that differ"
            )
            raise UserError(problem, key=key, value=path, hint=hint)
    return [name.strip() or f"Unnamed: {number}" for number, name in enumerate(names)]


def _records(text: str, width: int, sep: str, quoting: str, config: ReaderConfig) -> Iterator[tuple[int, list[str]]]:
    """Every record after the header, with the line at which it begins; blank lines are none, but in a single column."""
    reader = _reader(text, sep, quoting, config)
    if config.names is None:
        next(reader, None)
    begin = reader.line_num + 1
    for record in reader:
        if record or width == 1:
            yield begin, record or [""]
        begin = reader.line_num + 1


def _check(text: str, header: list[str], sep: str, quoting: str, config: ReaderConfig) -> _Reading:
    joined, before, line = 0, 0, 0
    try:
        for line, record in _records(text, len(header), sep, quoting, config):
            if len(record) != len(header):
                problem = f"has {len(record)} fields, and there are {len(header)} columns ({', '.join(header)})"
                return _Reading((problem, line), joined)
            if len(header) > 1 and [value.strip() for value in record] == header:
                again = "data.reader.names are, and so a header" if config.names else "the header again"
                return _Reading((f"is what {again}" if config.names else f"is {again}", line), joined)
            if not joined and any("\n" in value or "\r" in value for value in record):
                joined = line
            before = line
    except csv.Error as error:
        return _Reading((f"or one after it cannot be read ({error})", before + 1), joined)
    return _Reading(None, joined)


def _table(text: str, header: list[str], sep: str, quoting: str, config: ReaderConfig) -> Any:
    nothing = set(config.na_values)
    schema = pa.schema([(name, pa.large_string()) for name in header])
    parts, columns = [], [[] for _ in header]  # type: ignore[var-annotated]
    for _, record in _records(text, len(header), sep, quoting, config):
        for column, value in zip(columns, record, strict=True):
            column.append(None if value in nothing else value)
        if len(columns[0]) == _CHUNK:
            parts.append(pa.table(columns, schema=schema))
            columns = [[] for _ in header]
    return pa.concat_tables([*parts, pa.table(columns, schema=schema)])
