"""How figures are shown. Light: imports nothing but rich."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

__all__ = ["duration", "number", "plain_table", "wide"]


def wide() -> Console:
    """A console that does not fold tables into the 80 columns it takes a file or a pipe to have."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def plain_table(title: str | None = None) -> Table:
    """An empty table that looks as all of ours do."""
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)


def number(value: float) -> str:
    """Four significant digits, or all of those before the point."""
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """``1 h 02 min``, ``3 min 05 s`` or ``12.3 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
