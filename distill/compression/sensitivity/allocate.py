"""How much each layer gives so that a model reaches a target at the least cost."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from itertools import pairwise

__all__ = ["allocate", "lower_hull"]

Point = tuple[float, float]
"""What a level saves, and what it costs."""


def lower_hull(points: Sequence[Point]) -> list[int]:
    """Which points lie on the lower convex hull of cost over saving, from the first point on, in their order.

    Args:
        points: By rising saving; the first is that of the layer as it is.
    """
    hull: list[int] = []
    for number, (saving, cost) in enumerate(points):
        while len(hull) > 1 and _slope(points[hull[-2]], points[hull[-1]]) >= _slope(points[hull[-1]], (saving, cost)):
            hull.pop()
        hull.append(number)
    return hull


def _slope(a: Point, b: Point) -> float:
    return (b[1] - a[1]) / max(b[0] - a[0], 1e-12)


def allocate(curves: Mapping[str, Sequence[Point]], target: float) -> dict[str, int]:
    """The level of each layer, where the savings add up to at least ``target`` and the costs to as little as possible.

    Costs of layers are taken to add up. Along the layers' lower hulls the cheapest step (cost per saving) is taken
    first, again and again: of all choices that save as much as this one, none costs less (Shoham & Gersho 1988).

    Args:
        curves: Layer -> what each of its levels saves and costs, by rising saving; level 0 is the layer as it is.
        target: What is to be saved in all.

    Returns:
        Layer -> number of its level.

    Raises:
        ValueError: if all layers at their last levels save less.
    """
    levels = dict.fromkeys(curves, 0)
    saved = sum(curve[0][0] for curve in curves.values())
    if sum(curve[-1][0] for curve in curves.values()) < target - 1e-9:
        raise ValueError(f"the target {target} cannot be reached")
    steps: list[tuple[float, str, int]] = []
    for name, curve in curves.items():
        hull = lower_hull(curve)
        for before, after in pairwise(hull):
            steps.append((_slope(curve[before], curve[after]), name, after))
    heapq.heapify(steps)
    while saved < target - 1e-9:
        _, name, level = heapq.heappop(steps)
        saved += curves[name][level][0] - curves[name][levels[name]][0]
        levels[name] = level
    return levels
