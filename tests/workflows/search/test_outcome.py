"""What a search has found: the cheapest run that meets the target, of equally cheap ones the better."""

from __future__ import annotations

import pytest

from distill.workflows.search.measured import Measured
from distill.workflows.search.outcome import Outcome, Tried
from distill.workflows.search.target import read_target


@pytest.mark.parametrize(
    ("runs", "best"),
    [
        ([(0.80, 10), (0.95, 40), (0.91, 30)], 3),  # the cheapest one misses the target
        ([(0.91, 30), (0.93, 30)], 2),
        ([(0.90, 30)], 1),  # on the bound
        ([(0.89, 10), (0.80, 5)], None),
    ],
)
def test_the_best_is_the_cheapest_that_meets_the_target(runs: list[tuple[float, int]], best: int | None) -> None:
    trials = [
        Tried(number, {}, [Measured(f"run-{number}", 10, value, None, value, size, size)])
        for number, (value, size) in enumerate(runs, 1)
    ]
    found = Outcome(read_target("accuracy >= 0.9"), "bytes", trials).best
    assert (found and found.trial) == best
