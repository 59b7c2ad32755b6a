"""Frozen records as JSON, and read back from it. Light: no torch."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = ["read", "to_json"]


def to_json(record: Any) -> str:
    """A dataclass as JSON. What is not finite is ``null`` there."""
    return json.dumps(_plain(asdict(record)), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(kind: Any, value: Any, place: str) -> Any:
    """``value`` as what ``kind`` is; a number that is ``null`` where one has to be is NaN.

    Raises:
        ValueError: if it is something else.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else read(next(part for part in parts if part is not type(None)), value, place)
    if is_dataclass(kind) and isinstance(value, dict):
        hints, known = get_type_hints(kind), {one.name for one in fields(kind)}
        given = {name: read(hints[name], part, f"{place}.{name}") for name, part in value.items() if name in known}
        try:
            return kind(**given)  # type: ignore[operator]
        except TypeError as error:
            raise ValueError(f"{place}: {error}") from error
    if origin is Literal and value in parts:
        return value
    if origin is Mapping and isinstance(value, dict):
        return {name: read(parts[1], part, f"{place}.{name}") for name, part in value.items()}
    if origin is Sequence and isinstance(value, list):
        return tuple(read(parts[0], part, f"{place}.{number}") for number, part in enumerate(value))
    if kind is float and (value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))):
        return math.nan if value is None else float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    raise ValueError(f"{place} is {str(value)[:40]!r}, which is no {getattr(kind, '__name__', kind)}")
