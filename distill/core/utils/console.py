"""How numbers are shown. Light: of other packages it imports nothing but rich."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from distill.core.utils.visible import visible

__all__ = ["clock", "duration", "number", "plain_table", "wide"]


def wide() -> Console:
    """A console that does not fold tables into the 80 columns it takes a file or a pipe to have."""
    console = _Console()
    return console if console.is_terminal else _Console(width=160)


class _Console(Console):
    """Raises what ``print`` does where nobody reads any more; rich's own ends the process with code 1."""

    def on_broken_pipe(self) -> None:
        raise  # what it is called for: a BrokenPipeError


class _Table(Table):
    """Shows what a terminal would obey, in names that others have chosen."""

    def add_column(self, header: Any = "", *more: Any, **settings: Any) -> None:
        super().add_column(_shown(header), *more, **settings)

    def add_row(self, *cells: Any, **settings: Any) -> None:
        super().add_row(*map(_shown, cells), **settings)


def _shown(cell: Any) -> Any:
    return visible(cell) if isinstance(cell, str) else cell


def plain_table(title: str | None = None, **settings: Any) -> Table:
    """An empty table that looks as all of ours do."""
    return _Table(title=_shown(title), title_justify="left", **{"box": SIMPLE_HEAD, "pad_edge": False, **settings})


def number(value: float) -> str:
    """Four significant digits, or all of those before the point."""
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def clock(seconds: float) -> str:
    """The time of day ``seconds`` from now, with the date where that is another day: ``14:05``, ``3 Dec 02:10``."""
    now = datetime.now()
    then = now + timedelta(seconds=seconds)
    return f"{then:%H:%M}" if then.date() == now.date() else f"{then.day} {then:%b %H:%M}"


def duration(seconds: float) -> str:
    """``1 h 02 min``, ``3 min 05 s`` or ``12.3 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
