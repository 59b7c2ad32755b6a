"""What to do about a label that is none of the classes."""

from __future__ import annotations

from collections.abc import Sequence

from distill.data.label_values import Value, canonical, folded, may_be_missing, natural
from distill.data.odd_labels import UNLABELLED, in_order, none_hint, stands_apart

__all__ = ["QUOTE", "unknown_hint"]

QUOTE = "YAML reads these words as truth values: quote them in data.labels"

_TRUTHS = frozenset({"yes", "no", "on", "off", "true", "false"})
_MANY = 100
_LISTED = 12


def unknown_hint(
    own: Value, names: list[str], rows: Sequence[Value], every: Sequence[Value], *, many: bool, counted: bool
) -> str:
    """What to do where ``own`` is none of the classes.

    Args:
        own: What the label stands for.
        names: Of the classes.
        rows: What the labels of its split stand for.
        every: What those of all splits stand for; -1 too, where it is among them.
        many: Whether most rows have a label of their own.
        counted: Whether the classes may be those that the labels' number gave, and no name of theirs is known.
    """
    if alike := [name for name in names if folded(name) == folded(str(own)) and name != str(own)]:
        return f"did you mean {alike[0]!a}? capitals, blanks and signs that are not seen tell classes apart"
    same = [name for name in names if canonical(name) == canonical(own)]
    if len(same) > 1:
        return f"the classes {same[0]!r} and {same[1]!r} are one number: write their names in every row, as texts"
    if same and not isinstance(own, str):
        return f"it is the number of the class {same[0]!r}: write both alike, as texts (in data.labels with quotes)"
    if len(names) > _MANY and many:
        return "most rows have a label of their own, as an identifier has: name another column"
    if {*names} == {"False", "True"} and str(own).casefold() in _TRUTHS:
        return QUOTE
    if number := _named_like_an_id(own, names):
        told = f"as a class is called {number!r}, a number is a name here, and no id"
        return f"{told}: write names in every row, or give the classes names that are no numbers"
    if other := _other_way(own, names, rows):
        return other
    hint = "list all classes in data.labels" + _listing(names, [own, *every], counted=counted)
    if _may_be_none(own, names):
        return f"{hint}; {none_hint([str(own)])}"
    if not isinstance(own, str):
        hint += "; or number them from 0 without a gap, or write numbers to regress on as floats"
    return hint


def _listing(names: list[str], values: Sequence[Value], *, counted: bool) -> str:
    """The classes of all splits, if they are few, and what -1 is among them."""
    plain = sorted({v for v in values if v != -1}, key=natural)
    below = any(isinstance(v, int | float) and v < -1 and v != -100 for v in plain)
    if -1 in values and below:
        plain = sorted([*plain, -1], key=natural)
    numbers = {canonical(name) for name in names}
    listing = [*names, *(str(v) for v in plain if v not in numbers and str(v) not in names)]
    if counted and all(canonical(name) == i for i, name in enumerate(names)):
        listing = [str(v) for v in plain]  # the names were only counted
    told = f": {listing}" if len(listing) <= _LISTED else ""
    return told + (" (-1 stands for no label unless it is listed)" if -1 in values else "")


def _named_like_an_id(own: Value, names: list[str]) -> str | None:
    """Where ``own`` could be the id of a class: the name of one, which is another's id."""
    if isinstance(own, int) and own in range(len(names)) and any(not isinstance(canonical(n), int) for n in names):
        return next((name for i, name in enumerate(names) if canonical(name) in {*range(len(names))} - {i}), None)
    return None


def _other_way(own: Value, names: list[str], rows: Sequence[Value]) -> str | None:
    """What to do where one split has names and another their ids, each in every row."""
    values = {canonical(value) for value in rows}
    if not any(isinstance(canonical(name), int) for name in names) and values <= {*range(len(names))}:
        return f"if {own} is the id of a name, say in which order they are numbered: {in_order(len(names))}"
    named = sorted((value for value in values if isinstance(value, str)), key=natural)
    numbered = all(canonical(name) == i for i, name in enumerate(names))
    if numbered and len(named) == len(values) <= len(names):
        return f"if the numbers are ids of names, list them: {in_order(len(names))}"
    return None


def _may_be_none(own: Value, names: list[str]) -> bool:
    """Whether what is none of the classes is a word, or a number, that may stand for no label."""
    value = canonical(own)
    if isinstance(value, str):
        return may_be_missing(value) or value.casefold() in UNLABELLED
    numbers = [canonical(name) for name in names]
    whole = sorted(number for number in [*numbers, value] if isinstance(number, int))
    return len(whole) == len(names) + 1 and stands_apart(whole) == value
