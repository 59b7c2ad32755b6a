"""What a run says of itself before its first step is true."""

from __future__ import annotations

import pytest

from distill.workflows.opening import samples_a_step


def steps(sizes: list[int], accumulate: int) -> list[int]:
    """The samples of every step of an epoch of these batches, taken one after the other."""
    return [sum(sizes[at : at + accumulate]) for at in range(0, len(sizes), accumulate)]


@pytest.mark.parametrize("accumulate", [1, 2, 3, 8, 30])
@pytest.mark.parametrize("sizes", [[8], [8] * 6, [8] * 7, [8] * 6 + [3], [5], [8, 8, 9]])
def test_the_samples_of_a_step_are_those_that_its_batches_have(sizes: list[int], accumulate: int) -> None:
    fewest, most = samples_a_step(sizes, len(sizes), accumulate)
    orders = [steps(sizes[at:] + sizes[:at], accumulate) for at in range(len(sizes))]  # batches come in any order
    assert fewest == min(map(min, orders))
    assert most == max(map(max, orders))


@pytest.mark.parametrize(
    ("batches", "accumulate", "each"),
    [(1, 8, (8, 8)), (3, 8, (24, 24)), (4, 2, (16, 16)), (5, 2, (8, 16)), (float("inf"), 4, (32, 32))],
)
def test_an_epoch_cut_short_has_no_more_samples_a_step_than_batches(
    batches: float, accumulate: int, each: tuple[int, int]
) -> None:
    assert samples_a_step([8] * 20, batches, accumulate) == each
