"""Settings that do nothing beside another one are refused: whoever wrote them thinks that they do. Light."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from distill.core.utils.errors import UserError

__all__ = ["Idle", "idle", "refuse_idle"]


class Idle(NamedTuple):
    """When a setting does nothing.

    Attributes:
        key: The setting.
        when: Whether that is so now.
        beside: What makes it so.
        hint: What to do about it, besides leaving it out.
    """

    key: str
    when: bool
    beside: str
    hint: str


def idle(key: str, value: object, beside: str, hint: str) -> UserError:
    """What is said of the setting ``key``, which ``beside`` leaves without effect."""
    return UserError(f"has no effect with {beside}", key=key, value=value, hint=f"leave it out, or {hint}")


def refuse_idle(owner: type, given: Mapping[str, Any], rules: Iterable[Idle], place: str = "") -> None:
    """Refuse an argument of ``owner`` that was given another value than its default, and has no effect.

    A default is let through, as whoever leaves an argument out gives it too.

    Args:
        owner: The class whose arguments they are.
        given: Their values.
        rules: When which of them has no effect.
        place: Where they stand, with a dot at its end.

    Raises:
        UserError: naming the first.
    """
    defaults = inspect.signature(owner).parameters
    for rule in rules:
        value, default = given[rule.key], defaults[rule.key].default
        if rule.when and not (value == default and type(value) is type(default)):
            raise idle(f"{place}{rule.key}", value, rule.beside, rule.hint)
