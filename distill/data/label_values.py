"""What a label stands for, however it is written; and what a row of several is."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

__all__ = [
    "ABSENT",
    "Value",
    "all_absent",
    "canonical",
    "elsewhere_a_number",
    "folded",
    "half_absent",
    "integral_float",
    "is_hot",
    "may_be_missing",
    "natural",
    "nearly_hot",
    "shown",
]

Value = int | float | str
"""A class's number or name, or a number to regress on."""

ABSENT = frozenset({-1, -100})
"""Numbers that stand for no label: -1 as on the hub, where a test split keeps its labels; -100 as in torch."""

_DIGITS = 300  # a float goes up to 1.8e308, and Python reads no integer of more than 4,300 digits

_WHOLE = re.compile(r"(-?(?:0|[1-9]\d*))(?:\.0+)?")
_NUMBER = re.compile(r"[+-]?(?:\d*\.\d+|\d+\.?)(?:[eE][+-]?\d+)?")
_LEADING_ZERO = re.compile(r"[+-]?0\d")
_MISSING = frozenset({"na", "n/a", "nan", "null", "none", "nil", "missing", "?", "-"})
_ELSEWHERE = re.compile(r"[+-]?(?:\d+,\d+|\d{1,3}(?:[.,']\d{3})+(?:[.,]\d+)?|\d+(?:[.,]\d+)?\s*%)")


def canonical(raw: Any) -> Value | None:
    """What ``raw`` stands for: an integer if it is integral, else a float, a name, or ``None`` for no label.

    Numbers are read off texts too; "007" is a name. What has more digits than a float holds is infinite.
    """
    if isinstance(raw, bool):
        return str(raw)
    if isinstance(raw, str):
        return _of_text(raw.strip())
    if isinstance(raw, float):
        return None if math.isnan(raw) else int(raw) if raw.is_integer() else raw
    return raw  # type: ignore[no-any-return]


def _of_text(text: str) -> Value | None:
    if not text:
        return None
    if (match := _WHOLE.fullmatch(text)) and len(match[1]) <= _DIGITS:
        return int(match[1])
    if _NUMBER.fullmatch(text) and not _LEADING_ZERO.match(text):
        return canonical(float(text))
    return text


def integral_float(raw: Any) -> bool:
    """Whether ``raw`` is a number written with a fraction, be it zero."""
    return isinstance(raw, float) or (isinstance(raw, str) and isinstance(canonical(raw), (int, float)) and "." in raw)


def elsewhere_a_number(raw: Any) -> bool:
    """Whether ``raw`` is a text that is no number here, and one where a comma stands for the point, or for thousands,
    or behind it a per cent sign."""
    text = raw.strip() if isinstance(raw, str) else ""
    return isinstance(canonical(text), str) and _ELSEWHERE.fullmatch(text) is not None


def may_be_missing(raw: Any) -> bool:
    """Whether ``raw`` is a word that may stand for nothing among numbers."""
    return isinstance(raw, str) and raw.strip().casefold() in _MISSING


def shown(raw: Any) -> str:
    """A label as a name."""
    return raw.strip() if isinstance(raw, str) else str(raw)


def folded(name: str) -> str:
    """A name without what an eye passes over: capitals, blanks, signs that are not seen, a point at its end.

    Ways of writing one letter (é) fall together, too.
    """
    seen = "".join(one for one in unicodedata.normalize("NFKC", name) if not _unseen(one))
    return " ".join(seen.casefold().split()).rstrip(".,;:!") or name


def _unseen(sign: str) -> bool:
    """Of formatting, or one that chooses how the sign before it is drawn."""
    return unicodedata.category(sign) == "Cf" or unicodedata.name(sign, "").startswith("VARIATION SELECTOR")


def natural(value: Value) -> tuple[Any, ...]:
    """A key to sort by: names as text, but the numbers in them as numbers."""
    if not isinstance(value, str):
        return (0, value)
    parts = re.split(r"(\d+)", value)
    return (1, [_size(part) if i % 2 else part for i, part in enumerate(parts)], value)


def _size(digits: str) -> tuple[int, str]:
    """Sorts as the integer does, of any number of digits, which may be those of another script."""
    plain = "".join(str(unicodedata.decimal(digit)) for digit in digits).lstrip("0")
    return len(plain), plain


def is_hot(row: Sequence[Any], width: int) -> bool:
    """Whether a row gives a number from 0 to 1 for each of ``width`` classes."""
    numbers = [int(value) if isinstance(value, bool) else canonical(value) for value in row]
    return len(row) == width and all(isinstance(v, (int, float)) and 0 <= v <= 1 for v in numbers)


def all_absent(row: Sequence[Any] | None) -> bool:
    """An empty list has no class, and says so; null, or nothing but stand-ins for a label, says nothing."""
    return row is None or (len(row) > 0 and all(canonical(value) in (None, *ABSENT) for value in row))


def half_absent(row: Sequence[Any] | None) -> bool:
    """Whether a part of a row is no class."""
    return not all_absent(row) and any(canonical(value) in (None, *ABSENT) for value in row or ())


def nearly_hot(row: Sequence[Any] | None) -> bool:
    """Of the classes 0 and 1 one twice: 0 or 1 for every class, rather, among rows that are otherwise."""
    return row is not None and len(set(row)) < len(row) and all(canonical(value) in (0, 1) for value in row)
