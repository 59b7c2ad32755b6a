"""Rows that are judged, and whose texts are among those that are trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

from distill.data import arrow

__all__ = ["repeats"]

_READ = ("text", "text_pair", "prompt", "completion")


def repeats(
    splits: Mapping[str, Any], columns: Mapping[str, Mapping[str, str]], *, prose: bool = False
) -> dict[str, tuple[int, int]]:
    """Use -> rows whose texts are in ``train`` too, and all of its rows.

    Lists of turns are not compared: of those nothing is said; nor of the lines of a language model's text, of which
    headings and refrains are alike wherever they come from. Blank texts are no repeats.

    Args:
        splits: Use -> rows; that of training is among them.
        columns: Use -> role -> column.
        prose: Whether rows are what a language model reads on, documents or lines of them.
    """
    read = [role for role in _READ if role in columns["train"]]
    if not read or any(arrow.fields(arrow.column(splits["train"], columns["train"][one])) for one in read):
        return {}
    found = {}
    trained = _texts(splits["train"], columns["train"])
    if prose and not pc.any(pc.match_substring(pc.utf8_trim_whitespace(trained), "\n")).as_py():
        return {}
    for use in [use for use in ("validation", "test") if use in splits]:
        judged = _texts(splits[use], columns[use])
        # Twice, so that only texts of the smaller split are ever hashed.
        both = pc.unique(trained.filter(pc.is_in(trained, value_set=pc.unique(judged))))
        both = both.filter(pc.not_equal(pc.utf8_trim_whitespace(pc.replace_substring(both, "\0", " ")), ""))
        found[use] = (pc.sum(pc.is_in(judged, value_set=both)).as_py() or 0, len(judged))
    return found


def _texts(dataset: Any, columns: Mapping[str, str]) -> Any:
    """What is read of each row, as one text; a row without one is an empty one's like."""
    parts = []
    for role in [role for role in _READ if role in columns]:
        values = arrow.column(dataset, columns[role])
        parts.append(pc.fill_null(pc.binary_join(values, " ") if arrow.is_list(values) else values, ""))
    joined = [pc.cast(part, pa.large_string()) for part in parts]
    return pc.binary_join_element_wise(*joined, pa.scalar("\0", pa.large_string())) if len(joined) > 1 else joined[0]
