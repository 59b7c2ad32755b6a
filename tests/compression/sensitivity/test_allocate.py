"""The promise of the allocation: nothing that saves as much costs less. The oracle tries every choice."""

from __future__ import annotations

import itertools
import random

import pytest

from distill.compression.sensitivity.allocate import allocate, lower_hull


def curves(seed: int, layers: int = 4, levels: int = 4) -> dict[str, list[tuple[float, float]]]:
    chance = random.Random(seed)
    made = {}
    for layer in range(layers):
        savings = sorted(chance.sample(range(1, 40), levels - 1))
        costs = [chance.random() for _ in savings]
        made[f"layer{layer}"] = [(0.0, 0.0), *zip(map(float, savings), costs, strict=True)]
    return made


@pytest.mark.parametrize("seed", range(20))
def test_no_choice_that_saves_as_much_costs_less(seed: int) -> None:
    given = curves(seed)
    most = sum(curve[-1][0] for curve in given.values())
    chosen = allocate(given, 0.6 * most)
    saved = sum(given[name][level][0] for name, level in chosen.items())
    cost = sum(given[name][level][1] for name, level in chosen.items())
    assert saved >= 0.6 * most
    for levels in itertools.product(range(4), repeat=len(given)):
        points = [given[name][level] for name, level in zip(given, levels, strict=True)]
        if sum(s for s, _ in points) >= saved:
            assert sum(c for _, c in points) >= cost - 1e-12


def test_points_above_the_hull_are_left_out() -> None:
    assert lower_hull([(0, 0), (1, 5), (2, 1), (3, 2.5), (4, 3)]) == [0, 2, 4]


def test_a_target_beyond_reach_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be reached"):
        allocate({"a": [(0, 0), (1, 1)]}, 2)


def test_nothing_is_taken_for_nothing() -> None:
    assert allocate(curves(0), 0) == dict.fromkeys(curves(0), 0)
