from __future__ import annotations

import numpy as np

from distill.core.draws import draw, order, uniform


def test_numbers_are_the_same_on_every_machine_and_version():
    state = 0
    for key in (7, 3):  # SplitMix64 in Python's integers
        state = (state + key + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    assert int(draw(7, 3)[0]) == state


def test_a_number_depends_on_its_keys_and_not_on_its_neighbours():
    grid = uniform(1, 2, np.arange(50)[:, None], np.arange(20)[None])
    assert grid[31, 7] == uniform(1, 2, 31, 7)[0]
    assert len(np.unique(grid)) == grid.size


def test_numbers_are_uniform_and_uncorrelated():
    values = uniform(0, 0, np.arange(200_000))
    counts = np.histogram(values, 20, (0, 1))[0]
    assert abs(counts - 10_000).max() < 500  # five standard deviations
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.01
    assert abs(np.corrcoef(values, uniform(0, 1, np.arange(200_000)))[0, 1]) < 0.01


def test_an_order_holds_every_row_once_and_differs_by_epoch():
    assert sorted(order(1000, 0, 0)) == list(range(1000))
    assert (order(1000, 0, 0) != order(1000, 0, 1)).mean() > 0.99
