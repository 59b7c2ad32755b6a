"""Paints a run's pictures once: matplotlib takes about half of the time of a run of two steps.

Every picture is composed. One whose axes have the titles and lines of an earlier one is not laid out and painted again;
its file gets the earlier one's bytes. Tests that look at what is painted have the fixture ``painted``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any


def paint_once(folder: Path) -> Any:
    """Have ``save`` look in a folder for what was painted before, and give the one that paints."""
    from distill.core.utils import plots

    paint = plots.save

    def save(drawn: Any, path: str | Path) -> None:
        shown = [(a.get_title(loc="left"), [_name(line) for line in a.lines], len(a.collections)) for a in drawn.axes]
        key = hashlib.sha256(repr((shown, tuple(drawn.get_size_inches()), Path(path).suffix)).encode()).hexdigest()
        if (known := folder / key).is_file():
            plots.replace(Path(path), known.read_bytes())
            return
        paint(drawn, path)
        plots.replace(known, Path(path).read_bytes())

    plots.save = save
    return paint


def _name(line: Any) -> str:
    return str(line.get_label()).split(",")[0]  # without its last value
