"""Reading ``metrics.csv``, the history of a run, row by row and within bounds. Light: no torch."""

from __future__ import annotations

import csv
import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from distill.core.utils.files import opened

__all__ = ["iterate_rows", "read_rows"]

_MOST = 512 << 20
"""The most bytes of a history: a hundred metrics of every one of half a million steps."""

_LINE = 1 << 20
"""The most bytes of a line."""

_COLUMNS = 10_000

_DIGITS = 18
"""The most of a step."""


def iterate_rows(path: Path, size: int | None = None) -> Iterator[dict[str, str]]:
    """The rows in the first ``size`` bytes of the file; none where there is no file.

    The last line is left out until it has an end: a kill may cut it off, and a run that writes may not be done with it.

    Raises:
        OSError: if it cannot be read, or is larger than any history.
        ValueError: at the first incomplete row. A machine that stops may leave nonsense after what was durable.
        KeyError: if the file has no column ``step``.
    """
    if not path.is_file():
        return
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size > _MOST:
            raise OSError(errno.EFBIG, f"larger than {_MOST >> 20} MiB", str(path))
        lines = _lines(file, _MOST if size is None else size)
        columns = _fields(next(lines, ""))
        if len(columns) > _COLUMNS:
            raise ValueError(f"{path} has more than {_COLUMNS:,} columns")
        for values in filter(None, map(_fields, lines)):
            row = dict(zip(columns, values, strict=False))
            if len(values) != len(columns) or not _is_step(row["step"]):
                raise ValueError(f"{path} holds an incomplete row")
            yield row


def _fields(line: str) -> list[str]:
    """The fields of one line: a quotation that is left open ends with it, so that none takes in the rest of the file.

    Raises:
        ValueError: if it is no line of a table.
    """
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error as error:
        raise ValueError(f"{line[:40]!r} is no line of a table ({error})") from None


def _lines(file: BinaryIO, size: int) -> Iterator[str]:
    """The lines in the first ``size`` bytes that have an end.

    Raises:
        ValueError: at one that is longer than any of ours.
    """
    while line := file.readline(min(size, _LINE)):
        size -= len(line)
        if not line.endswith(b"\n"):
            if len(line) == _LINE:
                raise ValueError(f"a line is longer than {_LINE >> 20} MiB")
            return
        yield line.decode(errors="replace")


def _is_step(text: str) -> bool:
    return text == "" or (text.isdecimal() and len(text) <= _DIGITS)


def read_rows(path: Path, size: int | None = None) -> Iterator[dict[str, str]]:
    """The rows of :func:`iterate_rows` up to the first incomplete one."""
    with suppress(ValueError):
        yield from iterate_rows(path, size)
