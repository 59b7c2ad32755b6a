"""What a search has come to: its trials, which meet the target, and the fronts. Light."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from distill.workflows.report.rule import Rule
from distill.workflows.search.front import front
from distill.workflows.search.measured import Measured, Minimize
from distill.workflows.search.target import margin

__all__ = ["Outcome", "Point", "Tried", "beside_the_teacher", "margin_of"]


@dataclass(frozen=True)
class Tried:
    """One trial.

    Attributes:
        number: From 1.
        values: Name of each knob -> its value.
        rungs: What its runs came to, as far as it went.
        failed: Why it has no figures, if so.
        ended: Whether it will not go on.
    """

    number: int
    values: Mapping[str, Any]
    rungs: Sequence[Measured] = ()
    failed: str = ""
    ended: bool = True


def beside_the_teacher(trials: Sequence[Tried]) -> list[Tried]:
    """The trials with the size of the float teacher in all runs, as one tells it whose export was timed beside it."""
    runs = [one for trial in trials for one in trial.rungs]
    size = next((one.teacher_bytes for one in runs if one.teacher_bytes is not None), None)
    return [replace(trial, rungs=[replace(one, teacher_bytes=size) for one in trial.rungs]) for trial in trials]


@dataclass(frozen=True)
class Point:
    """A finished run: of a trial, at a rung (from 1)."""

    trial: int
    rung: int
    measured: Measured
    margin: float


@dataclass(frozen=True)
class Outcome:
    """What is known so far.

    Attributes:
        rule: The target.
        minimize: What is made small.
        trials: All that were begun.
        importance: Of each knob, if enough trials tell.
    """

    rule: Rule
    minimize: Minimize
    trials: Sequence[Tried]
    importance: Mapping[str, Mapping[str, float]] | None = field(default=None)

    @property
    def ended(self) -> int:
        """How many trials will not go on."""
        return sum(trial.ended for trial in self.trials)

    @property
    def points(self) -> list[Point]:
        """Every finished run."""
        return [
            Point(trial.number, rung, one, margin_of(self.rule, one))
            for trial in self.trials
            for rung, one in enumerate(trial.rungs, 1)
        ]

    @property
    def teacher(self) -> float:
        """The teacher's score; NaN where it is not known."""
        return next((one.measured.teacher for one in self.points if one.measured.teacher is not None), math.nan)

    @property
    def best(self) -> Point | None:
        """The cheapest run that meets the target."""
        met = [point for point in self.points if point.margin >= 0]
        return min(met, key=lambda one: (one.measured.cost(self.minimize), -one.margin), default=None)

    def front(self, cost: Minimize) -> list[Point]:
        """The runs that none beats in both quality and this cost, the cheapest first."""
        points = [one for one in self.points if cost != "latency" or one.measured.latency_ms is not None]
        return [points[at] for at in front([(one.margin, one.measured.cost(cost)) for one in points])]

    @property
    def fronts(self) -> dict[Minimize, list[Point]]:
        """That of bytes, that of latency, and that of what is made small."""
        kinds: dict[Minimize, None] = {"bytes": None, "latency": None, self.minimize: None}
        return {kind: self.front(kind) for kind in kinds}


def margin_of(rule: Rule, one: Measured) -> float:
    """By how much a run is on the right side of the target."""
    return margin(rule, one.value, math.nan if one.teacher is None else one.teacher)
