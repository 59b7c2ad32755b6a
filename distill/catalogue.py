"""What a configuration can name: losses, schedules, callbacks, tasks and recipes, read off the classes themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pytorch_lightning import Callback
from rich.console import Console
from rich.table import Table

import distill.callbacks
import distill.losses
import distill.schedules
from distill.config import recipes
from distill.losses import DistillationLoss
from distill.schedules import Schedule
from distill.tables import wide
from distill.tasks import TASKS

__all__ = ["KINDS", "Entry", "catalogue", "show"]

KINDS = ("losses", "schedules", "callbacks", "tasks", "recipes")


class Entry(NamedTuple):
    """One thing that can be named: its name, what it is, and the defaults of its arguments."""

    name: str
    summary: str
    defaults: str


def catalogue() -> dict[str, list[Entry]]:
    """Everything, by kind (:data:`KINDS`)."""
    return {
        "losses": _classes(distill.losses, DistillationLoss),
        "schedules": _classes(distill.schedules, Schedule),
        "callbacks": _classes(distill.callbacks, Callback),
        "tasks": [Entry(name, _summary(task), _task(task)) for name, task in TASKS.items()],
        "recipes": [Entry(name, _comment(path), f"distill fit -c {name}") for name, path in recipes().items()],
    }


def _classes(module: Any, base: type) -> list[Entry]:
    found = (getattr(module, name) for name in module.__all__)
    kept = [c for c in found if inspect.isclass(c) and issubclass(c, base) and not inspect.isabstract(c)]
    return [Entry(c.__name__, _summary(c), _defaults(c)) for c in sorted(kept, key=lambda c: c.__name__)]


def _summary(thing: Any) -> str:
    """The first sentence of the docstring."""
    lines = (inspect.getdoc(thing) or "").split("\n\n")[0].split("\n")
    return " ".join(line.strip() for line in lines)


def _defaults(cls: type) -> str:
    """The arguments with their defaults, as in Python."""
    return ", ".join(_argument(p) for p in inspect.signature(cls).parameters.values())


def _argument(parameter: inspect.Parameter) -> str:
    if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        return f"*{parameter.name}"
    if parameter.default is inspect.Parameter.empty:
        return parameter.name
    return f"{parameter.name}={parameter.default!r}"


def _task(task: Any) -> str:
    columns = getattr(task, "columns", None)
    monitor = getattr(task, "monitor", None)
    parts = [f"columns {', '.join(columns)}"] if columns else []
    return "; ".join(parts + ([f"best by {monitor}"] if isinstance(monitor, str) else []))


def _comment(path: Path) -> str:
    """The first sentence of the comment that opens a recipe."""
    text: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        text.append(line.lstrip("# ").strip())
        if text[-1].endswith("."):
            break
    return " ".join(text)


def show(kinds: Iterable[str] = KINDS, console: Console | None = None) -> None:
    """Print the catalogue."""
    console = console or wide()
    entries = catalogue()
    for kind in kinds:
        table = Table(title=kind, title_justify="left", show_header=False, box=None, pad_edge=False)
        for ratio in (2, 5, 4):
            table.add_column(ratio=ratio, overflow="fold")
        for entry in entries[kind]:
            table.add_row(*entry)
        console.print(table)
        console.print()
