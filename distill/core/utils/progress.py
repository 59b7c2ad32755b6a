"""How far long work is: a bar where there is a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from rich import progress
from rich.console import Console

from distill.core.utils.console import duration, wide

__all__ = ["due", "spoken", "stage", "track"]

Item = TypeVar("Item")

SECONDS = 60.0
"""From one line to the next."""

TENTH_SECONDS = 10.0
"""From one line to the next, at least, where a tenth of the work is done; shorter work needs no lines."""


def due(done: int, total: int, seconds: float) -> bool:
    """Whether a line is due, ``seconds`` after the last one: every minute, and at every tenth of the work.

    Args:
        done: Steps of it, the one just done included.
        total: All of them.
        seconds: Since the last line, or the beginning.
    """
    tenth = 10 * done // total > 10 * (done - 1) // total
    return seconds >= (TENTH_SECONDS if tenth else SECONDS)


def stage(what: str, console: Console | None = None) -> None:
    """A line on what is done next, unless ``console`` is a terminal, where something else shows that work is done."""
    if not (console or wide()).is_terminal:
        print(what, flush=True)


def track(items: Sequence[Item], what: str, console: Console) -> Iterator[Item]:
    """``items``, one after the other, while ``console`` shows how many are done and how long the others will take.

    Args:
        items: To be worked on.
        what: They are.
        console: Gets a bar if it is a terminal, else lines.
    """
    if console.is_terminal:
        yield from progress.track(items, what, console=console)
    else:
        yield from spoken(items, what, len(items), console)


def spoken(items: Iterable[Item], what: str, total: int, console: Console, *, bar: bool = False) -> Iterator[Item]:
    """``items``, one after the other, with lines that show how far that is, unless ``console`` is a terminal.

    Args:
        items: To be worked on.
        what: They are.
        total: How many there are.
        console: Gets the lines; a terminal gets none, where something else shows that work is done.
        bar: Whether a terminal gets a bar, which goes when all is done.
    """
    if bar and console.is_terminal:
        yield from progress.track(items, what, total=total, console=console, transient=True)
        return
    started = said = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if not console.is_terminal and due(done, total, now - said):
            said, left = now, (now - started) / done * (total - done)
            far = f"{what} {done:,} of {total:,} ({100 * done // total} %)"
            print(f"{far}, {duration(left)} left", file=console.file, flush=True)
