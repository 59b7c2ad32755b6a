"""Pictures of a run, drawn without a display."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from distill.core.utils.files import replace

__all__ = ["draw_timeline", "new_figure", "save"]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that no global state knows of."""
    drawn = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn


def save(drawn: Figure, path: str | Path) -> None:
    """Write a figure as its suffix says; a kill leaves the old file or the new one."""
    content = io.BytesIO()
    drawn.savefig(content, dpi=120, format=Path(path).suffix.removeprefix("."))
    replace(Path(path), content.getvalue())


def draw_timeline(steps: Sequence[int], lines: Mapping[str, Sequence[float]], path: str | Path) -> None:
    """What changes during a run, one panel a line, over one axis of optimizer steps.

    Args:
        steps: Where the lines are known.
        lines: Name -> values, as many as ``steps``.
        path: Of the picture.
    """
    drawn = new_figure(8, 0.6 + 1.1 * len(lines))
    panels = drawn.subplots(len(lines), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (name, values) in zip(panels, lines.items(), strict=True):
        panel.plot(steps, values, linewidth=1.6)
        panel.set_title(name, loc="left", fontsize=9)
        panel.set_ylim(bottom=min(0.0, *values), top=max(values) * 1.25 or 1.0)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("optimizer step")
    save(drawn, path)
