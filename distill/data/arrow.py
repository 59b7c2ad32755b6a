"""Columns of a ``datasets.Dataset`` as Arrow holds them: read and looked through without Python objects."""

from __future__ import annotations

from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

__all__ = ["column", "count_missing", "flat", "is_list", "kind", "unique"]


def column(dataset: Any, name: str) -> Any:
    """The column's chunked array, with a selection of rows applied."""
    return dataset.with_format("arrow")[:][name]


def is_list(values: Any) -> bool:
    """Whether each row is a list."""
    return bool(pa.types.is_list(values.type) or pa.types.is_large_list(values.type))


def flat(values: Any) -> Any:
    """The rows' elements one after the other; rows that are no lists stay as they are."""
    return pc.list_flatten(values) if is_list(values) else values


def kind(values: Any) -> str:
    """What the (flattened) elements are: ``text``, ``float``, ``integer`` or ``other``."""
    element = flat(values).type
    if pa.types.is_string(element) or pa.types.is_large_string(element):
        return "text"
    if pa.types.is_floating(element):
        return "float"
    return "integer" if pa.types.is_integer(element) else "other"


def count_missing(values: Any) -> int:
    """Rows and elements that are null, NaN or infinite."""
    elements = flat(values)
    missing = values.null_count + (elements.null_count if is_list(values) else 0)
    if kind(values) == "float":
        missing += pc.sum(pc.invert(pc.is_finite(elements))).as_py() or 0
    return int(missing)


def unique(values: Any) -> list[Any]:
    """The different elements, in the order in which they come."""
    found: list[Any] = pc.unique(flat(values)).to_pylist()
    return found
