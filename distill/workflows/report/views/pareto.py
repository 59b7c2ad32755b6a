"""Which of the models no other beats in both quality and cost."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distill.core.utils.console import number
from distill.core.utils.plots import new_figure
from distill.core.utils.svg import ACCENT, GRID, inline_svg, themed
from distill.workflows.report.views.blocks import Picture

__all__ = ["Point", "front", "letters", "pareto_picture", "spread"]

_FAR = 20
"""The largest cost over the smallest from which on the axis is logarithmic."""


@dataclass(frozen=True)
class Point:
    """A model: its name, what it costs, what it scores, and the interval of that where it is known."""

    name: str
    cost: float
    score: float
    low: float | None = None
    high: float | None = None


def front(points: Sequence[Point], mode: str) -> list[int]:
    """The places of those points that no other beats in cost and score, or equals in one and beats in the other.

    Args:
        points: Less cost is better.
        mode: ``max`` or ``min``: which direction of the score is better.

    Returns:
        By rising cost; of equal points the first.
    """
    sign = 1 if mode == "max" else -1
    found: list[int] = []
    for at in sorted(range(len(points)), key=lambda at: (points[at].cost, -sign * points[at].score)):
        if not found or sign * points[at].score > sign * points[found[-1]].score:
            found.append(at)
    return found


def letters(count: int) -> list[str]:
    """``A`` to ``Z``, then ``AA``."""
    alphabet = string.ascii_uppercase
    return [alphabet[at] if at < 26 else alphabet[at // 26 - 1] + alphabet[at % 26] for at in range(count)]


def spread(places: Sequence[float], least: float) -> list[float]:
    """The places moved apart, so that neighbours are ``least`` apart; their order stays, and about their middle."""
    order = sorted(range(len(places)), key=places.__getitem__)
    groups: list[list[int]] = []
    middles: list[float] = []
    for at in order:
        group, middle = [at], places[at]
        while groups and middle - middles[-1] < least * (len(group) + len(groups[-1])) / 2:
            before = groups.pop()
            middle = (middle * len(group) + middles.pop() * len(before)) / (len(group) + len(before))
            group = before + group
        groups.append(group)
        middles.append(middle)
    moved = [0.0] * len(places)
    for group, middle in zip(groups, middles, strict=True):
        for row, at in enumerate(group):
            moved[at] = middle + (row - (len(group) - 1) / 2) * least
    return moved


def pareto_picture(points: Sequence[Point], metric: str, mode: str, cost: str, name: str) -> Picture:
    """Scores against costs, each point with a letter; the front is drawn, and the legend names the letters.

    Args:
        points: Some.
        metric: What the scores are.
        mode: As of :func:`front`.
        cost: What the costs are, with their unit.
        name: As of :func:`~distill.core.utils.svg.inline_svg`.
    """
    best = front(points, mode)
    named = letters(len(points))
    columns = 2 if len(points) > 4 and max(len(point.name) for point in points) < 24 else 1
    with themed():
        drawn = new_figure(5, 3.4 + 0.2 * -(-len(points) // columns))
        place = drawn.subplots()
        costs, scores = [point.cost for point in points], [point.score for point in points]
        if max(costs) > _FAR * min(costs) > 0:
            place.set_xscale("log")
            ticks = _ticks(min(costs), max(costs))
            place.set_xticks(ticks, [number(tick) for tick in ticks])
            place.set_xticks([], minor=True)
        else:
            place.set_xlim(0, 1.1 * max(costs))
        # Where a point ends what is better than it begins: to the right, and below (above, where less is better).
        place.step([costs[at] for at in best], [scores[at] for at in best], where="post", color=GRID, zorder=1)
        for at, point in enumerate(points):
            if point.low is not None and point.high is not None:
                place.plot([point.cost] * 2, [point.low, point.high], color=GRID, linewidth=1, zorder=1)
            colour = ACCENT if at in best else "C0"
            label = f"{named[at]}  {point.name}"
            place.plot([point.cost], [point.score], "o", color=colour, markersize=6, zorder=3, label=label)
        place.margins(y=0.15)
        drawn.draw_without_rendering()
        _letter(place, points, named)
        place.set_xlabel(cost)
        place.set_ylabel(metric)
        place.grid(alpha=0.5)
        place.spines[["top", "right"]].set_visible(False)
        drawn.legend(loc="outside lower left", ncols=columns, frameon=False, fontsize=10, handletextpad=0.3)
        ahead = ", ".join(points[at].name for at in best)
        svg = inline_svg(drawn, f"{metric} against {cost}; on the front: {ahead}", name)
    better = "higher" if mode == "max" else "lower"
    return Picture(svg, f"{metric} ({better} is better) against {cost}; coloured: those that no other beats in both")


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from ``low`` to ``high``, or the powers alone where these are many."""
    powers = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    found = [step * power for power in powers for step in (1, 2, 5) if 0.9 * low <= step * power <= 1.1 * high]
    return found if len(found) <= 6 else [tick for tick in found if tick in powers]


def _letter(axes: Any, points: Sequence[Point], named: Sequence[str]) -> None:
    """Write each point's letter on its right, as far down or up as those of its neighbours leave room."""
    seen = [axes.transData.transform((point.cost, point.score)) for point in points]
    wide, high = axes.bbox.width, axes.bbox.height
    moved = [y for _, y in seen]
    order = sorted(range(len(points)), key=lambda at: seen[at][0])
    groups: list[list[int]] = []
    for at in order:
        near = groups and seen[at][0] - seen[groups[-1][-1]][0] < 0.06 * wide
        groups[-1].append(at) if near else groups.append([at])
    for group in groups:
        for at, y in zip(group, spread([seen[at][1] for at in group], 0.075 * high), strict=True):
            moved[at] = y
    for letter, point, (_, y), to in zip(named, points, seen, moved, strict=True):
        shift = (6, (to - y) * 72 / axes.figure.dpi)
        place = (point.cost, point.score)
        axes.annotate(letter, place, xytext=shift, textcoords="offset points", fontsize=10, va="center")
