"""Options that say something only beside others: a table for each command, and the one check of all. Light."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable
from typing import NamedTuple

from distill.core.idle_settings import idle

__all__ = ["Need", "given", "refuse_idle_options"]


class Need(NamedTuple):
    """What an option needs so that it has an effect.

    Attributes:
        option: Its name in the namespace (``served_model``).
        met: Whether the other options are so that it has one.
        beside: What leaves it without, where they are not; ``{name}`` stands for another option's value.
        hint: What to do about it, besides leaving it out.
    """

    option: str
    met: Callable[[Namespace], bool]
    beside: str
    hint: str


def given(options: Namespace, name: str) -> bool:
    """Whether an option was typed, whatever its value."""
    value = getattr(options, name)
    return name in vars(options).get("given", {}) or (value is not None and value is not False and value != [])


def refuse_idle_options(options: Namespace, needs: Iterable[Need]) -> None:
    """Refuse an option that was typed and does nothing beside the others.

    Every option of a table must have a default that is none, so that one which was typed can be told.

    Raises:
        UserError: naming the first.
    """
    for need in needs:
        if given(options, need.option) and not need.met(options):
            value = getattr(options, need.option)
            key = f"--{need.option.replace('_', '-')}"
            raise idle(key, None if value is True else value, need.beside.format_map(vars(options)), need.hint)
