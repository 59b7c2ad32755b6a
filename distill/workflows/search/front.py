"""Which trials nothing else beats in both quality and cost. Pure, light."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["front"]


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The numbers of the points on the Pareto front, by rising cost.

    A point is on it if no other has at least its quality at no more cost, and is better in one of them. Of equal
    points the first is.

    Args:
        points: Quality, more of which is better, and cost, less of which is.
    """
    found: list[int] = []
    best = float("-inf")
    for number in sorted(range(len(points)), key=lambda at: (points[at][1], -points[at][0], at)):
        if points[number][0] > best:
            best = points[number][0]
            found.append(number)
    return found
