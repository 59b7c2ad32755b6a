"""How much of the pruning is done, and how sparse the student is, after each step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from distill.core.schedules import check_when, step_at
from distill.core.utils.errors import UserError
from distill.core.utils.words import amount

__all__ = ["CURVES", "GradualSchedule", "SparsitySchedule", "check_sparsity"]


def _cubic(part: float) -> float:
    return 1 - (1 - part) ** 3


def _linear(part: float) -> float:
    return part


def _one_shot(part: float) -> float:
    return 1.0


CURVES = {"cubic": _cubic, "linear": _linear, "one_shot": _one_shot}
"""Part of the way in time -> part of the way in sparsity, both in [0, 1]."""


def check_sparsity(key: str, value: float) -> None:
    """Refuse what is no sparsity.

    Raises:
        UserError: if it lies outside [0, 1).
    """
    if not 0 <= value < 1:
        raise UserError("a sparsity lies in [0, 1)", key=key, value=value, hint="0.8 prunes 80 % of the weights")


@dataclass(frozen=True, kw_only=True)
class GradualSchedule:
    """How much of the pruning is done, a pure function of the optimizer step t: 0 until ``begin``, 1 from ``end`` on.

    With p = (t - begin) / (end - begin): cubic is 1 - (1 - p)^3, linear is p, and one-shot is 1 from ``begin`` on.
    Between two updates it keeps the value of the first.

    Attributes:
        begin: When the first update comes: a step (integer), or a fraction of the run (float in [0, 1]).
        end: When all is done, likewise; ``begin`` where it is one-shot.
        every: Steps from one update to the next. If not given, a fiftieth of the run, and at least 20, but no more
            than a tenth of the way from ``begin`` to ``end``.
        freeze: When the last update comes, likewise; ``end`` if not given.
        curve: ``cubic``, ``linear`` or ``one_shot``.

    Raises:
        UserError: if a value is out of its range, or begin, end and freeze are in no order.
    """

    begin: int | float = 0.0
    end: int | float = 0.6
    every: int | None = None
    freeze: int | float | None = None
    curve: Literal["cubic", "linear", "one_shot"] = "cubic"

    def __post_init__(self) -> None:
        if self.curve == "one_shot":
            self._set(end=self.begin)
        for key in ("begin", "end"):
            check_when(key, getattr(self, key))
        if self.freeze is not None:
            check_when("freeze", self.freeze)
        if self.every is not None and self.every < 1:
            raise UserError("must be at least 1", key="every_n_steps", value=self.every, hint="give a number of steps")
        for earlier, later in (("begin", "end"), ("end", "freeze")):
            self._check_order(earlier, later)

    def _set(self, **values: float) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)  # frozen, and still under construction

    def _check_order(self, earlier: str, later: str, total_steps: int | None = None) -> None:
        first, then = getattr(self, earlier), getattr(self, later)
        if then is None or (total_steps is None and type(first) is not type(then)):
            return
        steps = [first, then] if total_steps is None else [step_at(first, total_steps), step_at(then, total_steps)]
        if steps[0] > steps[1]:
            problem = f"must not lie after {later!r}"
            raise UserError(problem, key=earlier, value=first, hint=f"{later} is {then}")

    def check(self, total_steps: int) -> None:
        """Refuse a begin, end or freeze that is in no order, or too late, in a run of ``total_steps``.

        Raises:
            UserError: naming the key.
        """
        for earlier, later in (("begin", "end"), ("end", "freeze")):
            self._check_order(earlier, later, total_steps)
        if self.last_step(total_steps) > total_steps:
            key = "end" if self.freeze is None else "freeze"
            problem = f"the run ends after {amount(total_steps, 'step')}, before pruning does"
            raise UserError(problem, key=key, value=getattr(self, key), hint="let it end earlier, or train longer")

    def end_step(self, total_steps: int) -> int:
        """The step at which ``final`` is reached."""
        return step_at(self.end, total_steps)

    def last_step(self, total_steps: int) -> int:
        """The step of the last update."""
        return self.end_step(total_steps) if self.freeze is None else step_at(self.freeze, total_steps)

    def last_update(self, step: int, total_steps: int) -> int | None:
        """The step of the last update up to ``step``; ``None`` before the first."""
        begin, end = step_at(self.begin, total_steps), self.end_step(total_steps)
        step = min(step, self.last_step(total_steps))
        if step < begin:
            return None
        every = self.every or max(1, min(max(20, total_steps // 50), (end - begin) // 10))
        latest = begin + (step - begin) // every * every
        return max(latest, end) if step >= end else latest

    def updates_at(self, step: int, total_steps: int) -> bool:
        """Whether there is an update after ``step``."""
        return self.last_update(step, total_steps) == step

    def progress(self, step: int, total_steps: int) -> float:
        """How much is done after ``step`` of ``total_steps`` optimizer steps, in [0, 1]."""
        update = self.last_update(step, total_steps)
        if update is None:
            return 0.0
        begin, end = step_at(self.begin, total_steps), self.end_step(total_steps)
        return 1.0 if update >= end else CURVES[self.curve]((update - begin) / (end - begin))


@dataclass(frozen=True, kw_only=True)
class SparsitySchedule(GradualSchedule):
    """Sparsity: ``initial`` at ``begin`` and ``final`` from ``end`` on, 0 before ``begin``.

    With the :meth:`progress` c it is initial + (final - initial) c; for the cubic this is
    final + (initial - final) (1 - p)^3.

    Attributes:
        final: In [0, 1), of the original number of weights.
        initial: Likewise, not above ``final``.
        table: When -> sparsity from then on, instead of a curve; the other values follow from it.

    Raises:
        UserError: if a value is out of its range, or begin, end and freeze are in no order.

    Reference:
        Zhu, Gupta: To prune, or not to prune, 2017.
    """

    final: float
    initial: float = 0.0
    table: Mapping[int | float, float] | None = None

    def __post_init__(self) -> None:
        if self.table is not None:
            self._read_table(self.table)
        for key in ("final", "initial"):
            check_sparsity(f"{key}_sparsity", getattr(self, key))
        if self.initial > self.final:
            hint = f"final_sparsity is {self.final}"
            raise UserError("must not be above the final one", key="initial_sparsity", value=self.initial, hint=hint)
        super().__post_init__()

    def _read_table(self, table: Mapping[int | float, float]) -> None:
        if not table:
            problem, hint = "is empty", "write steps and sparsities, or cubic"
            raise UserError(problem, key="schedule", value=dict(table), hint=hint)
        for when, sparsity in table.items():
            check_when("schedule", when)
            check_sparsity(f"schedule.{when}", sparsity)
        if len({type(when) for when in table}) > 1:
            problem = "its keys must all be steps (integers), or all fractions of the run (floats)"
            raise UserError(problem, key="schedule", value=dict(table), hint="write 0.0 and 1.0 for the run's ends")
        milestones = sorted(table)
        values = [table[when] for when in milestones]
        if values != sorted(values):
            hint = "let it rise"
            raise UserError("sparsity must not fall again", key="schedule", value=dict(table), hint=hint)
        self._set(begin=milestones[0], end=milestones[-1], initial=values[0], final=values[-1])

    def last_update(self, step: int, total_steps: int) -> int | None:
        if self.table is None:
            return super().last_update(step, total_steps)
        past = [at for when in self.table if (at := step_at(when, total_steps)) <= step]
        return max(past, default=None)

    def __call__(self, step: int, total_steps: int) -> float:
        """The sparsity after ``step`` of ``total_steps`` optimizer steps."""
        update = self.last_update(step, total_steps)
        if update is None:
            return 0.0
        if self.table is not None:
            # Of milestones that fall on one step the last one counts.
            return max(value for when, value in self.table.items() if step_at(when, total_steps) <= update)
        progress = self.progress(step, total_steps)
        return self.final if progress == 1 else self.initial + (self.final - self.initial) * progress
