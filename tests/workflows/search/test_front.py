"""The Pareto front, against an oracle that compares every point with every other."""

from __future__ import annotations

import random

import pytest

from distill.workflows.search.front import front

Point = tuple[float, float]


def beats(one: Point, other: Point) -> bool:
    """At least as good at no more cost, and better in one of them."""
    return one[0] >= other[0] and one[1] <= other[1] and one != other


def by_force(points: list[Point]) -> set[Point]:
    return {point for point in points if not any(beats(other, point) for other in points)}


@pytest.mark.parametrize("seed", range(200))
def test_the_front_is_what_no_other_point_beats(seed: int) -> None:
    draw = random.Random(seed)
    points = [(float(draw.randint(0, 5)), float(draw.randint(0, 5))) for _ in range(draw.randint(0, 12))]  # many equal
    found = [points[at] for at in front(points)]
    assert set(found) == by_force(points)
    assert len(set(found)) == len(found)
    assert [cost for _, cost in found] == sorted(cost for _, cost in found)


def test_of_equal_points_the_first_lies_there() -> None:
    assert front([(1.0, 2.0), (1.0, 2.0)]) == [0]
    assert front([]) == []
