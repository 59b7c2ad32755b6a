"""Successive halving: short runs of all trials, longer ones of the best. Pure functions, light.

Every trial trains for the length of the first rung. Of those that have ended a rung, the best part goes on to the next
one at once: with runs three times as long, one in three (Li et al. 2018, Hyperband; Li et al. 2020, ASHA).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median

from distill.core.utils.errors import UserError

__all__ = ["gains", "goes_on", "hope", "lengths", "read_rungs"]

KEY = "--rungs"
_HINT = "give shares of the recipe's length, the last one 1: 0.1,0.3,1"


def read_rungs(text: str) -> list[float]:
    """The shares of a recipe's length that the rungs have.

    Raises:
        UserError: if they do not rise to 1.
    """
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError("must be numbers", key=KEY, value=text, hint=_HINT) from None
    if shares[-1] != 1 or not all(0 <= a < b for a, b in pairwise([0, *shares])):
        raise UserError("must rise to 1", key=KEY, value=text, hint=_HINT)
    return shares


def lengths(shares: Sequence[float], total: int) -> list[int]:
    """Optimizer steps of each rung of a recipe of ``total`` steps.

    Raises:
        UserError: if two of them have the same.
    """
    steps = [max(1, round(share * total)) for share in shares]
    if len(set(steps)) < len(steps):
        problem = f"of the recipe's {total} steps two rungs are {min(s for s in steps if steps.count(s) > 1)}"
        raise UserError(problem, key=KEY, value=",".join(f"{s:g}" for s in shares), hint="give fewer rungs")
    return steps


def gains(margins: Sequence[Sequence[float]], rungs: int) -> list[float]:
    """By how much a trial's margin has grown from each rung to the last, at the median; 0 where no trial tells.

    Args:
        margins: Of each trial, by rung, as far as it came.
        rungs: How many there are.
    """
    steps = []
    for rung in range(rungs - 1):
        grown = [one[rung + 1] - one[rung] for one in margins if len(one) > rung + 1]
        steps.append(median(grown) if grown else 0.0)
    return [sum(steps[rung:]) for rung in range(rungs)]


def hope(margins: Sequence[float], gained: Sequence[float]) -> float:
    """The margin that a trial may have at the last rung: that of where it is, and what others gained from there."""
    return margins[-1] + gained[len(margins) - 1]


def goes_on(
    number: int, rung: int, margins: Mapping[int, Sequence[float]], costs: Mapping[int, float], part: float
) -> bool:
    """Whether a trial that has ended a rung is among the best ``part`` of those that have.

    Best are those that may meet the target at the last rung, the cheapest first; then the others, the nearest to the
    target first. Of n the best ⌈n · part⌉ go on, the first one always.

    Args:
        number: Of the trial.
        rung: The one that it has ended; 0 is the first.
        margins: Of all trials, by rung.
        costs: Of all trials.
        part: How many go on, of 1.
    """
    gained = gains(list(margins.values()), max(map(len, margins.values())))
    there = [one for one, reached in margins.items() if len(reached) > rung]

    def rank(one: int) -> tuple[int, float, int]:
        may = margins[one][rung] + gained[rung]
        return (0, costs[one], one) if may >= 0 else (1, -may, one)

    return sorted(there, key=rank).index(number) < math.ceil(len(there) * part - 1e-9)
