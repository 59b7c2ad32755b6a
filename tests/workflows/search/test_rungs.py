"""Successive halving."""

from __future__ import annotations

import pytest

from distill.core.utils.errors import UserError
from distill.workflows.search.rungs import gains, goes_on, hope, lengths, read_rungs


@pytest.mark.parametrize(("text", "shares"), [("1", [1]), ("0.1,0.3,1", [0.1, 0.3, 1]), (" .5, 1.0", [0.5, 1])])
def test_rungs_are_shares_that_rise_to_the_whole(text: str, shares: list[float]) -> None:
    assert read_rungs(text) == shares


@pytest.mark.parametrize("text", ["", "0.3", "0.3,0.1,1", "1,1", "0,1", "-0.5,1", "0.5,2", "a,1", "nan,1", "0.5,1,"])
def test_other_rungs_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--rungs = .*: must"):
        read_rungs(text)


def test_each_rung_has_its_share_of_the_steps() -> None:
    assert lengths([0.1, 0.3, 1], 70) == [7, 21, 70]
    assert lengths([0.001, 1], 70) == [1, 70]
    with pytest.raises(UserError, match="of the recipe's 3 steps two rungs are 1"):
        lengths([0.1, 0.3, 1], 3)


def test_what_is_gained_is_the_median_of_those_that_went_on() -> None:
    margins = [[-3.0, -1.0, 1.0], [-2.0, -1.0], [-9.0], [-4.0, 0.0]]  # 2, 1, 4 to the second rung; 2 to the third
    assert gains(margins, 3) == [2.0 + 2.0, 2.0, 0.0]
    assert gains([[-1.0]], 3) == [0.0, 0.0, 0.0]
    assert hope([-3.0], [4.0, 2.0, 0.0]) == 1.0
    assert hope([-3.0, -2.5], [4.0, 2.0, 0.0]) == -0.5


def test_one_in_three_goes_on_and_the_first_always() -> None:
    gone = []
    margins: dict[int, list[float]] = {}
    for number, margin in enumerate([-1.0, -2.0, -0.5, -3.0, -0.6, -0.4, -5.0]):
        margins[number] = [margin]
        if goes_on(number, 0, margins, dict.fromkeys(margins, 1.0), 1 / 3):
            gone.append(number)
            margins[number].append(margin)
    # Of 1, 2, 3 one goes on, of 4, 5, 6 two, of 7 three.
    assert gone == [0, 2, 4, 5]


def test_of_those_that_may_meet_the_target_the_cheapest_go_on() -> None:
    margins = {0: [-2.0, 0.0], 1: [-1.0], 2: [-1.5], 3: [-2.5]}  # 2 are gained: all but the last may meet it
    costs = {0: 9.0, 1: 8.0, 2: 3.0, 3: 1.0}
    assert [number for number in margins if goes_on(number, 0, margins, costs, 0.25)] == [2]
    assert [number for number in margins if goes_on(number, 0, margins, costs, 0.5)] == [1, 2]
    assert [number for number in margins if goes_on(number, 0, margins, costs, 1.0)] == [0, 1, 2, 3]
