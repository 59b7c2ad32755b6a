"""Where two configurations differ, by the keys that the command line gives them. Light: needs nothing but YAML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Final

from distill.config.files import class_spec

__all__ = ["MISSING", "Missing", "config_diff"]


class Missing(Enum):
    """Stands for the value of a key that a configuration does not hold."""

    MISSING = "not given"

    def __str__(self) -> str:
        return self.value


MISSING: Final = Missing.MISSING


def config_diff(*configs: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """What stands in each configuration, for every key whose values differ: of two, ``(old, new)``.

    Keys are dotted and leave out ``init_args``, as overrides do: ``model.losses.1.temperature``. Where two lists name
    other classes, or the same in another order, their items are told apart by class (``callbacks.LowRank``, and
    ``callbacks.LowRank (2)`` for the second of its kind), and an order that changed is a difference of the list's own
    key: the classes' names.

    Args:
        configs: Two or more.

    Returns:
        The values by key, in the order of the first; :data:`MISSING` where a configuration holds none. A part that
        one of them lacks altogether is one entry.
    """
    return dict(_differences(configs, ""))


_Found = Iterator[tuple[str, tuple[Any, ...]]]


def _differences(values: Sequence[Any], key: str) -> _Found:
    if all(isinstance(value, Mapping) for value in values):
        yield from _by_key([_opened(value) for value in values], key)
    elif all(_specs(value) for value in values):
        yield from _by_class(values, key)
    elif all(_mappings(value) and len(value) == len(values[0]) for value in values):
        yield from _by_key([_numbered(value) for value in values], key)
    elif not all(_same(values[0], value) for value in values[1:]):
        yield key, tuple(values)


def _by_key(values: Sequence[Mapping[str, Any]], key: str) -> _Found:
    for name in dict.fromkeys(name for value in values for name in value):
        yield from _differences([value.get(name, MISSING) for value in values], f"{key}.{name}".lstrip("."))


def _by_class(values: Sequence[Sequence[Any]], key: str) -> _Found:
    labelled = [_labelled(items) for items in values]
    if all(list(items) == list(labelled[0]) for items in labelled):
        yield from _by_key([_numbered(items) for items in values], key)
        return
    common = set.intersection(*(set(items) for items in labelled))
    orders = [[label for label in items if label in common] for items in labelled]
    if any(order != orders[0] for order in orders):
        yield key, tuple(orders)
    yield from _by_key(labelled, key)


def _opened(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """A class's arguments beside its path."""
    if not class_spec(value):
        return value
    return {name: item for name, item in value.items() if name != "init_args"} | (value.get("init_args") or {})


def _numbered(items: Sequence[Any]) -> dict[str, Any]:
    return {str(index): item for index, item in enumerate(items)}


def _labelled(items: Sequence[Any]) -> dict[str, Any]:
    """The items by the name of their class."""
    found: dict[str, Any] = {}
    for item in items:
        name, count = item["class_path"].rpartition(".")[2], 2
        label = name
        while label in found:
            label, count = f"{name} ({count})", count + 1
        found[label] = item
    return found


def _mappings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)


def _specs(value: Any) -> bool:
    return _mappings(value) and all(isinstance(item.get("class_path"), str) for item in value)


def _same(a: Any, b: Any) -> bool:
    # True is 1 in Python but not in a configuration, and no NaN equals another.
    return isinstance(a, bool) is isinstance(b, bool) and (a == b or (a != a and b != b))
