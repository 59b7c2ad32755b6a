"""The record of what was done to a student, which lies beside its weights: read, and judged before it is followed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distill.errors import UserError, nearest
from distill.json_file import Unreadable, read_mapping

__all__ = ["KINDS", "RECORD", "VERSION", "read_steps"]

RECORD = "compression.json"
VERSION = 1

KINDS: dict[str, str | None] = {
    "layers": None,
    "width": None,
    "sparsity": None,
    "remove": "distill.structure.removal",
    "low_rank": "distill.structure.low_rank",
    "share": "distill.structure.sharing",
    "quantize": "distill.quantize.artifact",
}
"""What a step may be -> the module whose ``rebuild(model, step)`` gives a model of freshly made, or the original,
structure the structure after the step, in place; ``None`` where the model's own configuration tells it."""


def read_steps(folder: str | Path, key: str) -> list[dict[str, Any]]:
    """What was done to the model in ``folder``; nothing where no record lies beside it.

    Raises:
        UserError: if the record is unreadable, or names what this version cannot rebuild.
    """
    try:
        record = read_mapping(Path(folder) / RECORD)
        version, steps = int(record["version"]), [dict(step) for step in record["steps"]]
    except FileNotFoundError:
        return []
    except (Unreadable, ValueError, TypeError, KeyError, OverflowError) as error:
        rule = str(error) if isinstance(error, Unreadable) else f"cannot be read ({error})"
        raise UserError(f"{RECORD} {rule}", key=key, value=str(folder), mend="save it anew") from error
    if version > VERSION:
        rule = f"{RECORD} is of format {version} and this version reads up to {VERSION}"
        raise UserError(rule, key=key, value=str(folder), mend="update lightning-distill")
    for number, step in enumerate(steps):
        kind = str(step.get("kind"))
        if kind not in KINDS:
            rule = f"{RECORD} names {kind!r}, which this version cannot rebuild"
            mend = f"update lightning-distill; {nearest(kind, KINDS)}"
            raise UserError(rule, key=key, value=str(folder), mend=mend)
        for name, right in _PARTS.get(kind, {}).items():
            if not right(step.get(name)):
                rule = f"{RECORD} does not say what was done: steps.{number}.{name} of {kind!r} is missing or wrong"
                raise UserError(rule, key=key, value=str(folder), mend="save it anew")
    return steps


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _mapping(of: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Mapping) and all(map(of, value.values()))


def _list(of: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(of, value))


def _or_nothing(of: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or of(value)


def _units(value: Any) -> bool:
    return _mapping(_list(_count))(value) and all(str(layer).isdecimal() for layer in value)


def _quantized(value: Any) -> bool:
    weights = value.get("weights") if isinstance(value, Mapping) else None
    return isinstance(weights, Mapping) and _count(weights.get("bits"))


_PARTS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "sparsity": {"actual": _or_nothing(_number), "layers": _or_nothing(_mapping(_mapping(_count)))},
    "remove": dict.fromkeys(("heads", "neurons", "hidden"), _or_nothing(_units)),
    "low_rank": {"modules": _mapping(_count)},
    "share": {"groups": _list(_list(_count))},
    "quantize": {"modules": _mapping(_quantized)},
}
"""What is read of a step of each kind, and whether a value can be that."""
