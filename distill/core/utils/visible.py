"""What may be shown of a text that others wrote: the names and messages in a run's folder, say. Light."""

from __future__ import annotations

import re

__all__ = ["HIDDEN", "in_line", "visible"]

# Control characters but for tab and line feed; marks that reverse what is written; halves of a character, which stand
# for the bytes of a name that is no text.
HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that a terminal would obey, or cannot write."""

_BREAKS = re.compile(r"[\t\n\u2028\u2029]")


def visible(text: str) -> str:
    r"""``text`` with everything escaped that a terminal would obey instead of showing: ``\x1b[2J`` clears no screen."""
    return HIDDEN.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)


def in_line(text: str) -> str:
    r"""``text`` as :func:`visible` shows it, as a part of one line: what ends a line is escaped too."""
    return _BREAKS.sub(lambda match: match[0].encode("unicode_escape").decode(), visible(text))
