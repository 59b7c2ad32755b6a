"""Whether values fit the types of a signature, and both in words. Light.

A configuration is judged by its parser. What is made in Python meets no parser: without this, ``weight="0.5"`` would be
a TypeError of some comparison, and ``include="attention"`` a list of letters.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from distill.core.utils.errors import UserError, nearest

__all__ = ["describe", "is_list", "is_mapping", "kind_of", "options_of", "refuse_type", "refuse_types"]


def refuse_types(owner: type, given: Mapping[str, Any], place: str = "") -> None:
    """Refuse an argument of ``owner`` whose value is of no type that its signature names.

    Args:
        owner: The class.
        given: Argument -> value; what is no argument is passed over.
        place: Where the arguments stand, with a dot at its end.

    Raises:
        UserError: naming the first.
    """
    for name, kind in get_type_hints(vars(owner)["__init__"]).items():
        if name in given:
            refuse_type(kind, given[name], f"{place}{name}")


def refuse_type(kind: Any, value: Any, key: str) -> None:
    """Refuse a ``value`` that is not of the type ``kind``.

    Raises:
        UserError: naming the key of the value, or of what is wrong in it.
    """
    if not _is_of(kind, value):
        for option in options_of(kind):
            if is_mapping(option) and isinstance(value, Mapping):
                for name, item in value.items():
                    refuse_type(get_args(option)[1], item, f"{key}.{name}")
        raise UserError(f"must be {describe(kind)}", key=key, value=value, hint=_hint(options_of(kind), value))


def _hint(options: Sequence[Any], value: Any) -> str:
    """What to write instead of ``value``, if that can be told."""
    if isinstance(value, str):
        choices = [choice for option in options if get_origin(option) is Literal for choice in get_args(option)]
        close = nearest(value, map(str, choices)) if choices else ""
        if close.startswith("did you mean"):
            return close
        if any(is_list(option) for option in options):
            return f"put it in brackets: [{value!r}]"
        if choices:
            return "choose one of these"
    wanted = next((option for option in options if is_dataclass(option)), None)
    if isinstance(value, Mapping) and wanted is not None:
        arguments = ", ".join(f"{name}={item!r}" for name, item in value.items())
        return f"from Python write {getattr(wanted, '__name__', wanted)}({arguments})"
    return f"this is {kind_of(value)}"


def _is_of(kind: Any, value: Any) -> bool:
    """Whether ``value`` is of the type ``kind`` as it stands, integers being numbers and tuples lists."""
    inner = get_args(kind)
    if kind is Any:
        return True
    if len(options := options_of(kind)) > 1:
        return any(_is_of(option, value) for option in options)
    if get_origin(kind) is Literal:
        return value in inner
    if kind in (int, float):
        scalar = getattr(value, "shape", None) == ()  # torch's
        return (scalar or isinstance(value, Integral if kind is int else Real)) and not isinstance(value, bool)
    if is_mapping(kind):
        return isinstance(value, Mapping) and all(_is_of(inner[0], k) and _is_of(inner[1], v) for k, v in value.items())
    if is_list(kind):
        return isinstance(value, (list, tuple)) and all(_is_of(inner[0], item) for item in value)
    return isinstance(value, get_origin(kind) or kind)


def options_of(kind: Any) -> list[Any]:
    """The members of a union; anything else alone."""
    if get_origin(kind) in (Union, types.UnionType):
        return [option for member in get_args(kind) for option in options_of(member)]
    return [kind]


def is_list(kind: Any) -> bool:
    """Whether ``kind`` is a list, a tuple or a set of something."""
    origin = get_origin(kind)
    return bool(get_args(kind)) and inspect.isclass(origin) and issubclass(origin, (list, tuple, set, Sequence))


def is_mapping(kind: Any) -> bool:
    """Whether ``kind`` is a mapping of something to something."""
    origin = get_origin(kind)
    return len(get_args(kind)) == 2 and inspect.isclass(origin) and issubclass(origin, Mapping)


_WORDS: dict[Any, str] = {
    float: "a number",
    int: "an integer",
    bool: "true or false",
    str: "a text",
    dict: "a mapping",
    list: "a list",
    type(None): "null",
    Any: "anything",
}


def describe(kind: Any) -> str:
    """``kind`` in words: ``float | Schedule`` is "a number or a Schedule"."""
    options = options_of(kind)
    if len(options) > 1:
        choices = [choice for option in options if get_origin(option) is Literal for choice in get_args(option)]
        options = [option for option in options if get_origin(option) is not Literal]
        options += [Literal[tuple(choices)]] if choices else []
    if len(options) > 1:
        return " or ".join(dict.fromkeys(describe(option) for option in options))
    kind = options[0]
    if kind in _WORDS:
        return _WORDS[kind]
    if get_origin(kind) is Literal:
        shown = [repr(v) if isinstance(v, str) else str(v) for v in get_args(kind)]
        return "one of " + ", ".join(shown) if len(shown) > 1 else shown[0]
    inner = [a for a in get_args(kind) if a is not Ellipsis]
    if get_origin(kind) is tuple and Ellipsis not in get_args(kind):
        return f"a list of {len(inner)} ({', '.join(describe(a) for a in inner)})"
    if is_list(kind):
        return f"a list, each {describe(inner[0])}"
    if inspect.isclass(get_origin(kind)) and issubclass(get_origin(kind), Mapping):
        return "a mapping"
    name = getattr(kind, "__name__", str(kind))
    return f"{'an' if name[:1] in 'AEIOU' else 'a'} {name}"


def kind_of(value: Any) -> str:
    """What ``value`` is, in the same words."""
    kind = type(value)
    return _WORDS.get(kind, describe(kind)) if value is not None else "null"
