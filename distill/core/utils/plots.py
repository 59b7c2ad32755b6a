"""Pictures of a run, drawn without a display."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from distill.core.utils.console import number
from distill.core.utils.files import replace

__all__ = ["DARK", "Line", "Panel", "draw_panel", "draw_timeline", "new_figure", "save", "smoothed"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Told apart by colour-blind eyes too (Okabe & Ito 2008)."""

_FEW = 60
"""Points up to which they are marked, and more of which are smoothed."""

_PALE = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00")
_INK = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
DARK: dict[str, Any] = {
    **dict.fromkeys(_INK, "#c9d1d9"),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), "#0d1117"),
    "axes.prop_cycle": cycler(color=_PALE),
}
"""Settings of matplotlib for a page with a dark background."""


@dataclass(frozen=True)
class Line:
    """Values over optimizer steps.

    Attributes:
        name: In the legend.
        steps: Where the values are known.
        values: As many.
        noisy: Whether many of them are drawn pale, behind their running mean.
        dashed: Whether it is there to be compared with.
        last: Whether the legend tells its last value.
    """

    name: str
    steps: Sequence[int]
    values: Sequence[float]
    noisy: bool = False
    dashed: bool = False
    last: bool = False


@dataclass(frozen=True)
class Panel:
    """Lines of one scale.

    Attributes:
        title: What it shows.
        lines: One colour each.
        phases: Whether a line says where something is on (1) and off (0), and is drawn as a bar.
        from_zero: Whether the scale begins at 0, or below.
    """

    title: str
    lines: Sequence[Line]
    phases: bool = False
    from_zero: bool = True


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


def smoothed(values: Sequence[float]) -> list[float]:
    """The mean of each value and its neighbours, of a fortieth of all of them together."""
    half = max(1, len(values) // 80)
    windows = (values[max(0, at - half) : at + half + 1] for at in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def draw_timeline(
    panels: Sequence[Panel],
    total_steps: int,
    path: str | Path,
    marks: Mapping[str, int] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """What changes during a run, one panel below the other, over one axis of optimizer steps.

    Args:
        panels: From top to bottom.
        total_steps: Of the run: where the axis ends.
        path: Of the picture.
        marks: What begins -> at which step: a dotted line through all panels.
        settings: Of matplotlib, such as :data:`DARK`.
    """
    chosen: Any = {"font.size": 9, "axes.prop_cycle": cycler(color=COLOURS), **(settings or {})}
    with rc_context(chosen):
        heights = [0.5 + 0.25 * len(panel.lines) if panel.phases else 1.5 for panel in panels]
        drawn = new_figure(9, 0.5 + sum(heights))
        places = drawn.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for place, panel in zip(places, panels, strict=True):
            _draw(place, panel)
            for step in (marks or {}).values():
                place.axvline(step, linestyle=":", linewidth=1, color="0.5", zorder=1)
        for step in sorted(set((marks or {}).values())):
            what = ", ".join(name for name, begins in (marks or {}).items() if begins == step)
            late = step > 0.8 * total_steps
            shift = {"xytext": (-3 if late else 3, -2), "textcoords": "offset points", "fontsize": 8, "color": "0.5"}
            shift |= {"ha": "right" if late else "left", "va": "top"}
            places[0].annotate(f"\u2192 {what}", (step, 1.0), xycoords=("data", "axes fraction"), **shift)
        places[-1].set_xlabel("optimizer step")
        places[-1].set_xlim(0, max(1, total_steps))
        save(drawn, path)


def draw_panel(panel: Panel, total_steps: int, width: float = 5.0) -> Figure:
    """One panel by itself, narrow enough for a phone: its legend is above it.

    Args:
        panel: What is drawn.
        total_steps: Of the run: where the axis ends.
        width: In inches.
    """
    named = not panel.phases and (len(panel.lines) > 1 or panel.lines[0].name != panel.title)
    rows = (len(panel.lines) + 1) // 2 if named else 0
    drawn = new_figure(width, 0.9 + 0.35 * len(panel.lines) if panel.phases else 2.6 + 0.22 * rows)
    place = drawn.subplots()
    _draw(place, panel)
    if (legend := place.get_legend()) is not None:
        legend.remove()
        drawn.legend(*place.get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False, fontsize=10)
    place.set_title("", loc="left")
    place.set_xlabel("optimizer step")
    place.set_xlim(0, max(1, total_steps))
    return drawn


def _draw(place: Axes, panel: Panel) -> None:
    place.set_title(panel.title, loc="left", fontsize=9, fontweight="bold")
    place.spines[["top", "right"]].set_visible(False)
    if panel.phases:
        _bars(place, panel.lines)
        return
    for row, line in enumerate(panel.lines):
        _curve(place, line, f"C{row % len(COLOURS)}")
    if panel.from_zero:
        low, high = place.get_ylim()
        values = [value for line in panel.lines for value in line.values]
        place.set_ylim(min(0.0, low if min(values) < 0 else 0.0), high if any(values) else 1.0)
    place.grid(alpha=0.25)
    if len(panel.lines) > 1 or panel.lines[0].name != panel.title:
        place.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)


def _curve(place: Axes, line: Line, colour: str) -> None:
    values, few = list(line.values), len(line.values) <= _FEW
    if line.noisy and not few:
        place.plot(line.steps, values, color=colour, linewidth=0.8, alpha=0.25)
        values = smoothed(values)
    dots, dashes = "o" if few and not line.dashed else "", "--" if line.dashed else "-"
    name = f"{line.name}, {number(line.values[-1])}" if line.last else line.name
    place.plot(line.steps, values, dashes, color=colour, label=name, marker=dots, markersize=3, clip_on=False, zorder=3)


def _bars(place: Axes, lines: Sequence[Line]) -> None:
    """A row a line, and a bar from each step at which it is on to the next one."""
    for row, line in enumerate(lines):
        on = [(a, b - a) for (a, value), (b, _) in pairwise(zip(line.steps, line.values, strict=True)) if value]
        place.broken_barh(on, (row - 0.35, 0.7), color=f"C{row % len(COLOURS)}", linewidth=0)
    place.set_yticks(range(len(lines)), [line.name for line in lines])
    place.set_ylim(-0.6, len(lines) - 0.4)
    place.invert_yaxis()
