"""Labels that stand apart from the others, and may be no classes: 255 beside 0 to 9, "unlabeled" among names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distill.core.utils.words import amount
from distill.data.label_values import Value, natural

__all__ = ["UNLABELLED", "none_hint", "odd_lines", "stands_apart"]

UNLABELLED = frozenset(
    {"unlabeled", "unlabelled", "no label", "nolabel", "unknown", "unk", "na", "n/a", "nan", "null", "missing", "?"}
)
"""Words, folded, that may stand for no label where they are names like others. "none" is an answer more often."""

_LISTED = 6


def odd_lines(rows: Mapping[Value, int]) -> list[str]:
    """A line on labels that are another kind of thing than the rest, if there are any.

    Args:
        rows: What a label stands for (:func:`~distill.data.label_values.canonical`) -> training rows that have it.
    """
    texts = sorted((value for value in rows if isinstance(value, str)), key=natural)
    numbers = sorted(value for value in rows if isinstance(value, int))
    if texts and len(texts) < len(numbers):
        return [_doubt(texts, rows, "among numbers")]
    if numbers and texts and {*numbers} <= {*range(len(texts))}:
        listed = f"{_listed(numbers, rows)} beside {', '.join(map(repr, texts[:_LISTED]))}"
        how = f"if they are ids of the names, say in which order: data.labels: {texts[:_LISTED]}"
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


def none_hint(words: Sequence[str]) -> str:
    """How a user says that ``words`` are no labels."""
    subject = "it stands" if len(words) == 1 else "they stand"
    return f"if {subject} for no label, say so: data.reader.na_values: {list(words)} (csv, tsv), or null in their place"


def _listed(values: Sequence[Value], rows: Mapping[Value, int]) -> str:
    shown = ", ".join(f"{value!r} ({amount(rows[value], 'row')})" for value in values[:_LISTED])
    return shown + (", ..." if len(values) > _LISTED else "")


def stands_apart(numbers: Sequence[int]) -> int | None:
    """The one of ``numbers``, sorted, that is far from all others, which are consecutive and at least two.

    Far is a gap that is longer than the others together; below 0 every gap is.
    """
    if len(numbers) < 3:
        return None
    for odd, others in ((numbers[-1], numbers[:-1]), (numbers[0], numbers[1:])):
        consecutive = others[-1] - others[0] == len(others) - 1
        gap = odd - others[-1] if odd > others[-1] else others[0] - odd
        if consecutive and (gap > len(others) or (gap > 1 and odd < 0 <= others[0])):
            return odd
    return None
