"""Parts of units are whole numbers of them: never all, and none is refused."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest

from distill.compression.structure.fractions import Scope, gone, refuse_none, rounded
from distill.core.utils.errors import UserError


def nearest(fraction: float, units: int) -> int:
    """By trying them all, in exact numbers; of two that are as near the larger."""
    exact = Fraction(fraction) * units
    return min(range(units + 1), key=lambda count: (abs(count - exact), -count))


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_nearest_number_goes_and_one_of_each_stays(scope: Scope) -> None:
    for fraction, counts in product((0.01, 0.125, 0.25, 0.5, 0.75, 0.99), ([1], [2], [4, 4, 4], [1, 3, 8])):
        if scope == "layer":
            wanted = [min(nearest(fraction, count), count - 1) for count in counts]
        else:
            wanted = [min(nearest(fraction, sum(counts)), sum(count - 1 for count in counts))]
        assert gone(fraction, counts, scope) == wanted, (fraction, counts)


@pytest.mark.parametrize(
    ("fraction", "counts", "scope"),
    [(0.1, [4], "layer"), (0.5, [1, 1], "layer"), (0.5, [1, 1], "global"), (0.05, [4, 4], "global")],
)
def test_a_part_that_is_no_unit_is_refused_with_how_many_there_are(
    fraction: float, counts: list[int], scope: Scope
) -> None:
    with pytest.raises(UserError, match=rf"there = {fraction}: this is none of {counts[0]} things") as caught:
        refuse_none(fraction, counts, scope, "there", each=" things", hint="more")
    assert caught.value.key == "there"
    refuse_none(0.5, [1, 2], scope, "there", hint="more")


def test_what_is_as_asked_for_is_not_said() -> None:
    assert rounded(0.25, [12, 4], "layer") == ""
    assert "33.3 %" in rounded(0.3, [3], "layer")
    assert "a layer has 2 or 3" in rounded(0.9, [3, 2, 3], "layer")
