"""Values that change during a run: pure functions of the optimizer step.

They hold no state, so a resumed run needs none restored.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable

from distill.core.argument_types import refuse_type
from distill.core.utils.errors import UserError
from distill.core.utils.words import amount

__all__ = [
    "Constant",
    "Cosine",
    "Linear",
    "Schedule",
    "WarmUp",
    "as_schedule",
    "check_schedule",
    "check_schedules",
    "check_when",
    "never",
    "step_at",
    "values_of",
]


class Schedule(ABC):
    """A value as a function of the step."""

    @abstractmethod
    def __call__(self, step: int, total_steps: int) -> float:
        """The value after ``step`` of ``total_steps`` optimizer steps."""


class Constant(Schedule):
    """The same value at every step."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, step: int, total_steps: int) -> float:
        return self.value


def check_when(key: str, value: int | float) -> None:
    """Refuse what is neither a step nor a fraction of the run.

    Raises:
        UserError: if it is no step and no fraction of the run.
    """
    refuse_type(int | float, value, key)
    if not value >= 0 or (isinstance(value, float) and value > 1):
        problem = "must be a step (integer, 0 or more) or a fraction of the run (float in [0, 1])"
        raise UserError(problem, key=key, value=value, hint="write 100 or 0.1")


def step_at(when: int | float, total_steps: int) -> int:
    """The optimizer step that ``when`` means: an integer is the step, a float a fraction of the run (halves up)."""
    return when if isinstance(when, int) else math.floor(when * total_steps + 0.5)


class Ramp(Schedule):
    """From ``start`` to ``end`` between two steps; constant before and after.

    Args:
        start: Value until ``begin``.
        end: Value from ``until`` on.
        begin: When the change begins: a step (integer), or a fraction of the run (float in [0, 1]).
        until: When it is complete, likewise.
    """

    def __init__(self, start: float, end: float, begin: int | float = 0.0, until: int | float = 1.0) -> None:
        refuse_type(float, start, "start")
        refuse_type(float, end, "end")
        check_when("begin", begin)
        check_when("until", until)
        if type(begin) is type(until) and begin > until:
            raise UserError("must not lie after 'until'", key="begin", value=begin, hint=f"until is {until}")
        self.start, self.end, self.begin, self.until = start, end, begin, until

    def progress(self, step: int, total_steps: int) -> float:
        """How much of the change is done, in [0, 1]."""
        begin, until = (m * total_steps if isinstance(m, float) else m for m in (self.begin, self.until))
        if step >= until:
            return 1.0
        return 0.0 if step <= begin else (step - begin) / (until - begin)

    def shape(self, progress: float) -> float:
        """The curve: [0, 1] to [0, 1]."""
        return progress

    def __call__(self, step: int, total_steps: int) -> float:
        return self.start + (self.end - self.start) * self.shape(self.progress(step, total_steps))


class Linear(Ramp):
    """start + (end - start) * p, with p the part of the way from ``begin`` to ``until``."""


class Cosine(Ramp):
    """start + (end - start) * (1 - cos(pi * p)) / 2, with p the part of the way from ``begin`` to ``until``."""

    def shape(self, progress: float) -> float:
        return (1 - math.cos(math.pi * progress)) / 2


class WarmUp(Linear):
    """From 0 to ``value`` over the first ``steps`` (a number of steps, or a fraction of the run)."""

    def __init__(self, value: float, steps: int | float = 0.1) -> None:
        check_when("steps", steps)
        super().__init__(0.0, value, begin=0 if isinstance(steps, int) else 0.0, until=steps)


def values_of(value: float | Schedule) -> list[float]:
    """The numbers that a value can be seen to take: its ends, for a schedule that has some."""
    if isinstance(value, Ramp):
        return [value.start, value.end]
    if isinstance(value, Constant):
        return [value.value]
    return [] if isinstance(value, Schedule) else [value]


def check_schedules(losses: Iterable[object], total_steps: int) -> None:
    """Refuse a change that does not come to its end in a run of ``total_steps``, or ends before it begins.

    Args:
        losses: In the order of the configuration.
        total_steps: Of the run.

    Raises:
        UserError: naming the key.
    """
    for place, loss in enumerate(losses):
        for name in ("weight", "temperature"):
            value = getattr(loss, name, None)
            if isinstance(value, Schedule):
                check_schedule(value, total_steps, f"model.losses.{place}.{name}")


def check_schedule(value: Schedule, total_steps: int, key: str) -> None:
    """As :func:`check_schedules`, of one."""
    if not isinstance(value, Ramp):
        return
    begin, until = step_at(value.begin, total_steps), step_at(value.until, total_steps)
    end = "steps" if isinstance(value, WarmUp) else "until"
    if begin > until:
        raise UserError(
            f"must not lie after {end!r}", key=f"{key}.begin", value=value.begin, hint=f"it is {value.until}"
        )
    if until > total_steps:
        problem = f"the run ends after {amount(total_steps, 'step')}, before the change does"
        raise UserError(problem, key=f"{key}.{end}", value=value.until, hint="let it end earlier, or train longer")


def never(schedule: Schedule) -> bool:
    """Whether a weight is 0 at every step, as far as its class says."""
    ends = values_of(schedule)
    return bool(ends) and all(end == 0 for end in ends)


def as_schedule(value: float | Schedule) -> Schedule:
    """A number as a constant schedule; a schedule as itself."""
    return value if isinstance(value, Schedule) else Constant(float(value))
