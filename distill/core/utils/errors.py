"""The one error for what a user can correct."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches

from distill.core.utils.secrets import HIDDEN, scrub, scrub_override
from distill.core.utils.visible import visible

__all__ = ["Below", "TrainingError", "UserError", "check_choice", "first_line", "nearest", "nearest_part"]


class UserError(Exception):
    """Something in the configuration, the data or a file that the user can correct.

    The command line prints it as one message without a traceback and exits with code 2. A terminal's output is often
    kept, so the message holds no secret: neither a value whose key names one, nor credentials in an address.

    Args:
        problem: What must hold, as a statement ("must be greater than 0").
        key: The configuration key at fault, dotted as in the YAML (``model.losses.0.temperature``).
        value: The value found there.
        hint: What to do about it, as an instruction.
    """

    def __init__(self, problem: str, *, key: str = "", hint: str, value: object = None) -> None:
        self.problem, self.key, self.value, self.hint = problem, key, value, hint
        scrubbed = scrub_override(key, value)
        shown = scrubbed if HIDDEN in repr(scrubbed) else value
        subject = f"{key} = {shown!r}: " if key and value is not None else f"{key}: " if key else ""
        message = subject + "".join(_sentence(part) for part in (problem, hint) if part).rstrip(" ")
        if shown == HIDDEN:  # problem and hint may speak of it too
            message = re.sub(rf"(?<!\w){re.escape(str(value))}(?!\w)", HIDDEN, message)
        super().__init__(visible(scrub(message)))

    def within(self, place: str) -> UserError:
        """The same error with its key below ``place``, unless it already names a place from the top."""
        if self.key.startswith(("model.", "data.", "trainer.", place)):
            return self
        return UserError(
            self.problem, key=f"{place}.{self.key}" if self.key else place, value=self.value, hint=self.hint
        )


def _sentence(text: str) -> str:
    """``text`` with one mark at its end, or a line of its own, and what parts it from the next."""
    if text.endswith("\n"):
        return text
    return f"{text} " if text.endswith(("?", "!")) else f"{text.rstrip('.')}. "


CLOSE = 0.58
"""Likeness from which on a name is taken for a slip of another (``difflib``; pairs in tests/cli/test_hints.py)."""


def nearest(name: str, names: Iterable[str], *, count: int = 3) -> str:
    """Say which of ``names`` come closest to ``name``: ``did you mean 'a' or 'b'?``, or list a few."""
    names = sorted(set(names))
    close = get_close_matches(name, names, n=count, cutoff=CLOSE)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    shown = ", ".join(repr(n) for n in names[:12])
    return f"known are {shown}" + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def nearest_part(pattern: str, names: Iterable[str]) -> str:
    """Likewise of a pattern searched in dotted ``names``: it may be a slip of as many of their parts as it has."""
    names, size = list(names), pattern.count(".") + 1
    split = [name.split(".") for name in names]
    parts = {".".join(one[at : at + size]) for one in split for at in range(len(one) - size + 1)}
    return nearest(pattern, get_close_matches(pattern, {*parts, *names}, cutoff=CLOSE) or names)


def check_choice(key: str, value: str, choices: Collection[str]) -> None:
    """Refuse a ``value`` that is none of ``choices``.

    Raises:
        UserError: with the nearest choice.
    """
    if value not in choices:
        known = " or ".join(repr(choice) for choice in choices)
        raise UserError(f"must be {known}", key=key, value=value, hint=nearest(str(value), choices))


def first_line(error: BaseException) -> str:
    """The first line of what an error says, of at most 200 characters; the name of its class where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


class TrainingError(Exception):
    """Training cannot continue (a loss is no longer finite). One message without secrets, exit code 1."""

    def __init__(self, message: str) -> None:
        super().__init__(visible(scrub(message)))


class Below(Exception):
    """A figure breaks a rule that the user gave. One message without secrets, exit code 3."""

    def __init__(self, message: str) -> None:
        super().__init__(visible(scrub(message)))
