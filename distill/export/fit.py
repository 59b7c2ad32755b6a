"""What keeps a format from holding a student: by the steps of its record, beside the formats that can."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import nn

from distill.core.record import RECORD, steps_of
from distill.core.utils.errors import UserError

__all__ = ["Obstacle", "Unfit"]


class Obstacle(NamedTuple):
    """Why a format cannot hold a student.

    Attributes:
        why: A statement.
        step: The kind of the step of the student's record that brought it; ``None`` where it is the model itself.
        hint: What to do about it besides taking another format.
    """

    why: str
    step: str | None = None
    hint: str = ""


class Unfit(UserError):
    """A student that a format cannot hold.

    Args:
        to: The format's name.
        student: The student.
        obstacles: At least one.
        others: Formats that can hold it.
    """

    def __init__(self, to: str, student: nn.Module, obstacles: Sequence[Obstacle], others: Sequence[str] = ()) -> None:
        self._given = to, student, obstacles
        kinds = [str(step["kind"]) for step in steps_of(student)]
        reasons = dict.fromkeys(one.why + _named(one.step, kinds) for one in obstacles)
        hints = dict.fromkeys(one.hint for one in obstacles if one.hint)
        problem = f"cannot hold this student: {'; '.join(reasons)}"
        super().__init__(problem, key="--to", value=to, hint=", or ".join([*hints, *_instead(others)]))

    def beside(self, others: Sequence[str]) -> Unfit:
        """The same, with the formats that can."""
        return Unfit(*self._given, others)


def _named(step: str | None, kinds: Iterable[str]) -> str:
    """Which steps of the record are of that kind, counted from 0 as they are in the file."""
    found = [f"steps.{number}" for number, kind in enumerate(kinds) if kind == step]
    return f" ({' and '.join(found)} of its {RECORD}: {step})" if found else ""


def _instead(others: Sequence[str]) -> list[str]:
    loaded = "open it in torch, with distill.load"
    return [f"export it with one of --to {', '.join(others)}", loaded] if others else [loaded]
