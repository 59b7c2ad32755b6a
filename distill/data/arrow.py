"""Columns of a ``datasets.Dataset`` as Arrow holds them: read and looked through without Python objects."""

from __future__ import annotations

from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

__all__ = [
    "column",
    "count_missing",
    "counts",
    "fields",
    "flat",
    "is_bytes",
    "is_list",
    "kind",
    "lengths",
    "plain_texts",
    "unique",
]


def column(dataset: Any, name: str) -> Any:
    """The column's chunked array, with a selection of rows applied; decimals as floats."""
    values = dataset.with_format("arrow")[:][name]
    return pc.cast(values, pa.float64()) if pa.types.is_decimal(values.type) else values


def plain_texts(dataset: Any) -> Any:
    """A ``datasets.Dataset`` whose texts are kept as other files have them, where some are Arrow's ``string_view``."""
    for name, feature in dataset.features.items():
        if (plain := _plain(feature)) != feature:
            dataset = dataset.cast_column(name, plain)
    return dataset


def _plain(feature: Any) -> Any:
    from datasets import List, Value

    if isinstance(feature, Value) and feature.dtype == "string_view":
        return Value("large_string")
    if isinstance(feature, List):
        return List(_plain(feature.feature), length=feature.length)
    return {name: _plain(one) for name, one in feature.items()} if isinstance(feature, dict) else feature


def is_list(values: Any) -> bool:
    """Whether each row is a list."""
    kinds = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list
    return any(is_kind(values.type) for is_kind in kinds)


def is_bytes(values: Any) -> bool:
    """Whether each row is a file's bytes."""
    return bool(pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type))


def flat(values: Any) -> Any:
    """The rows' elements one after the other; rows that are no lists stay as they are."""
    return pc.list_flatten(values) if is_list(values) else values


def lengths(values: Any) -> Any:
    """Elements of each row of lists; null where the row is."""
    return pc.list_value_length(values)


def fields(values: Any) -> set[str]:
    """The names in the (flattened) elements, where these are objects; none where they are not."""
    element = flat(values).type
    return {one.name for one in element} if pa.types.is_struct(element) else set()


def kind(values: Any) -> str:
    """What the (flattened) elements are: ``text``, ``float``, ``integer``, ``boolean``, ``null`` or ``other``."""
    element = flat(values).type
    kinds = {
        "text": (pa.types.is_string, pa.types.is_large_string),
        "float": (pa.types.is_floating,),
        "integer": (pa.types.is_integer,),
        "boolean": (pa.types.is_boolean,),
        "null": (pa.types.is_null,),
    }
    return next((name for name, tests in kinds.items() if any(test(element) for test in tests)), "other")


def count_missing(values: Any) -> int:
    """Rows and elements that are null."""
    return int(values.null_count + (flat(values).null_count if is_list(values) else 0))


def counts(values: Any) -> list[tuple[Any, int]]:
    """The different values, and how often each comes."""
    return [(found["values"], found["counts"]) for found in pc.value_counts(values).to_pylist()]


def unique(values: Any) -> list[Any]:
    """The different elements, in the order in which they come."""
    found: list[Any] = pc.unique(flat(values)).to_pylist()
    return found
