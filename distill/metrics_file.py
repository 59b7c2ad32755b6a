"""Reading ``metrics.csv``, the history of a run. Light: no torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

__all__ = ["iterate_rows", "read_rows"]


def iterate_rows(path: Path, size: int | None = None) -> Iterator[dict[str, str]]:
    """The rows in the first ``size`` bytes of the file; none where there is no file.

    The last line is left out until it has an end: a kill may cut it off, and a run that writes may not be done with it.

    Raises:
        ValueError: at the first row that is not whole. A machine that stops may leave nonsense after what was durable.
        KeyError: if the file has no column ``step``.
    """
    if not path.is_file():
        return
    whole, _, _ = path.read_bytes()[:size].rpartition(b"\n")
    for row in csv.DictReader(io.StringIO(whole.decode(errors="replace"), newline="")):
        if None in row or None in row.values() or not (row["step"] == "" or row["step"].isdecimal()):
            raise ValueError(f"{path} holds a row that is not whole")
        yield row


def read_rows(path: Path, size: int | None = None) -> list[dict[str, str]]:
    """The rows of :func:`iterate_rows` up to the first that is not whole."""
    rows = []
    try:
        for row in iterate_rows(path, size):
            rows.append(row)
    except ValueError:
        pass
    return rows
