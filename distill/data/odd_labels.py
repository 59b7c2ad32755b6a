"""Labels that stand apart from the others, and may be no classes: 255 beside 0 to 9, "unlabeled" among names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distill.core.utils.words import amount
from distill.data.label_values import Value, may_be_missing, natural

__all__ = ["UNLABELLED", "in_order", "none_hint", "odd_lines", "stands_apart"]

UNLABELLED = frozenset(
    {"unlabeled", "unlabelled", "no label", "nolabel", "unknown", "unk", "na", "n/a", "nan", "null", "missing", "?"}
)
"""Words, folded, that may stand for no label where they are names like others. "none" is an answer more often."""

CODES = frozenset({99, 255, 999, 9999, 32767, 65535, -9, -99, -100, -128, -255, -999, -9999, -32768})
"""Numbers that stand for nothing where they are no classes. -1 is a class as often, and others are."""

_FAR = 3
"""Times as many as the classes are is the gap to a number that is none of them."""

_LISTED = 6


def odd_lines(rows: Mapping[Value, int]) -> list[str]:
    """A line on labels that are another kind of thing than the rest, if there are any.

    Args:
        rows: What a label stands for (:func:`~distill.data.label_values.canonical`) -> training rows that have it.
    """
    texts = sorted((value for value in rows if isinstance(value, str)), key=natural)
    numbers = sorted(value for value in rows if isinstance(value, int))
    if texts and len(texts) < len(numbers):
        words = [value for value in texts if may_be_missing(value) or value.casefold() in UNLABELLED]
        return [_doubt(words, rows, "among numbers")] if words else []
    if numbers and texts and {*numbers} <= {*range(len(texts))}:
        listed = f"{_listed(numbers, rows)} beside {', '.join(map(repr, texts[:_LISTED]))}"
        how = f"if they are ids of the names, say in which order: {in_order(len(texts))}"
        return [f"there are numbers among the names, {listed}, which are classes of their own; {how}"]
    words = [value for value in texts if value.casefold() in UNLABELLED]
    if len(words) < len(texts) and words:
        return [_doubt(words, rows, "among names")]
    apart = stands_apart(numbers) if not texts else None
    return [] if apart is None else [_doubt([apart], rows, "far from the others")]


def _doubt(odd: Sequence[Value], rows: Mapping[Value, int], where: str) -> str:
    words = [str(value) for value in odd[:_LISTED]]
    verb = "is a class" if len(odd) == 1 else "are classes"
    return f"{_listed(odd, rows)} {verb} {where}; {none_hint(words)}"


def in_order(count: int) -> str:
    """How a user says which id a name has. Not the names as they are sorted: these would be taken for the answer."""
    return f"data.labels: [the {count} names, in the order of the ids]"


def none_hint(words: Sequence[str]) -> str:
    """How a user says that ``words`` are no labels."""
    subject = "it stands" if len(words) == 1 else "they stand"
    return f"if {subject} for no label, say so: data.reader.na_values: {list(words)} (csv, tsv), or null in their place"


def _listed(values: Sequence[Value], rows: Mapping[Value, int]) -> str:
    shown = ", ".join(f"{value!r} ({amount(rows[value], 'row')})" for value in values[:_LISTED])
    return shown + (", ..." if len(values) > _LISTED else "")


def stands_apart(numbers: Sequence[int]) -> int | None:
    """The one of ``numbers``, sorted, that is one of :data:`CODES` beside consecutive ones from 0 or 1 on.

    These are at least two, and it is far from them: :data:`_FAR` times as many; or below 0.
    """
    if len(numbers) < 3:
        return None
    for odd, others in ((numbers[-1], numbers[:-1]), (numbers[0], numbers[1:])):
        classes = others[0] in (0, 1) and others[-1] - others[0] == len(others) - 1
        if classes and odd in CODES and (odd < 0 or odd - others[-1] >= _FAR * len(others)):
            return odd
    return None
