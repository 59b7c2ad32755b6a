"""Figures of a benchmark: collected as rows, printed as tables, written as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

PACKAGES = ("torch", "pytorch-lightning", "transformers", "accelerate", "textbrewer", "torchao")


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        name: What was measured.
        value: The median, or the one value; ``None`` where it was not measured.
        unit: Of the value.
        low: First quartile over the repeats; ``None`` where there is one value.
        high: Third quartile.
        goal: What it should reach, in words.
        met: Whether it does; ``None`` where there is no goal.
        note: What a reader should know.
    """

    name: str
    value: float | None
    unit: str
    low: float | None = None
    high: float | None = None
    goal: str = ""
    met: bool | None = None
    note: str = ""


def row(name: str, values: Sequence[float], unit: str, **more: Any) -> Row:
    """The median of ``values`` with its quartiles.

    Args:
        name: What was measured.
        values: One for each repeat.
        unit: Of the values.
        more: ``note``; ``at_least`` or ``at_most``: the goal.
    """
    middle = median(values)
    low, _, high = quantiles(values, n=4) if len(values) > 1 else (None, None, None)
    goal, met = "", None
    if (least := more.pop("at_least", None)) is not None:
        goal, met = f">= {least:g}", middle >= least
    if (most := more.pop("at_most", None)) is not None:
        goal, met = f"<= {most:g}", middle <= most
    return Row(name, middle, unit, low, high, goal, met, **more)


def machine(threads: int, precision: str) -> dict[str, Any]:
    """What the numbers depend on."""
    flags, model = _processor()
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "bf16_instructions": sorted(flag for flag in flags if "bf16" in flag or flag.startswith("amx")),
        "load_before": round(os.getloadavg()[0], 2),
        "precision": precision,
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _processor() -> tuple[set[str], str]:
    """The processor's flags and name, where the system tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set(), platform.processor()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return set(found.get("flags", found.get("Features", "")).split()), found.get("model name", platform.machine())


def _version(name: str) -> str | None:
    if name == "torch":
        return str(torch.__version__)
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def show(title: str, rows: Sequence[Row], console: Console) -> None:
    """Print one section's table."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in ("median", "quartiles", "goal"):
        table.add_column(column, justify="right")
    table.add_column("")
    for one in rows:
        spread = "" if one.low is None or one.high is None else f"{one.low:,.4g} - {one.high:,.4g}"
        verdict = "" if one.met is None else "  met" if one.met else "  not met"
        value = "" if one.value is None else f"{one.value:,.4g} {one.unit}"
        table.add_row(one.name, value, spread, one.goal + verdict, one.note)
    console.print(table)


def write(path: Path, about: dict[str, Any], settings: dict[str, Any], sections: dict[str, list[Row]]) -> None:
    """Everything as JSON."""
    content = {
        "machine": about,
        "settings": settings,
        "sections": {name: [asdict(one) for one in rows] for name, rows in sections.items()},
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
