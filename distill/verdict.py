"""What must be said of a run's outcome: a pure function of what was measured. Light: no torch.

The rules, each of which gives one line at most:

* the student predicts one class (or token) for 99 % of the inputs or more, of which fewer labels are;
* its score is that of a constant guess, or worse: no more than one standard error above it;
* the teacher's is, or it is below that of the same student without a teacher;
* of a layer nothing is left, or its outputs are the same wherever one looks;
* a compression has fewer steps than :func:`steps_to_prune` and :func:`steps_to_quantize` say;
* the score is of a part of the data;
* student and teacher, or student and the one without a teacher, differ by less than one standard error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill.kept import number_at
from distill.tables import number

__all__ = ["Verdict", "steps_to_prune", "steps_to_quantize"]

ONE_CLASS = 0.99
"""Share of the predictions from which on they count as one class."""


def steps_to_prune(sparsity: float) -> int:
    """Steps, from the first pruned weight to the run's end, below which so sparse a student seldom recovers.

    40 / (1 - s), from half of the weights on: each halving of what is left doubles it. 80 % takes 200 (with which the
    quickstart's student recovers; 94 left a constant one), 90 % takes 400.
    """
    return round(40 / (1 - sparsity)) if sparsity >= 0.5 else 0


def steps_to_quantize(bits: int) -> int:
    """Steps with rounding on below which so few bits are seldom learned: 400 / bits, 50 for int8 and 100 for int4."""
    return round(400 / bits)


@dataclass(frozen=True)
class Remark:
    """One line.

    Attributes:
        text: As it is printed.
        bad: Whether the outcome is not fit for use; else it is to be read with care.
    """

    text: str
    bad: bool = False


@dataclass(frozen=True)
class Verdict:
    """What must be said, the worst first."""

    remarks: Sequence[Remark] = ()

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Verdict:
        """Judge what a ``result.json`` holds, or as much of it as is known: ``measured``, ``scores``, ``monitor``."""
        return cls(sorted(_remarks(result), key=lambda remark: not remark.bad))

    @classmethod
    def of_file(cls, result: Mapping[str, Any]) -> Verdict:
        """Likewise of a file that may hold other things than ours does: nothing is said of those."""
        try:
            return cls.of(result)
        except (TypeError, KeyError, ValueError, AttributeError, IndexError, OverflowError):
            return cls()

    @property
    def lines(self) -> list[str]:
        return [remark.text for remark in self.remarks]

    @property
    def bad(self) -> list[str]:
        """The lines of an outcome that is not fit for use."""
        return [remark.text for remark in self.remarks if remark.bad]


def _remarks(result: Mapping[str, Any]) -> Iterator[Remark]:
    measured = result.get("measured") or {}
    yield from _constant(measured)
    yield from _scores(result, measured)
    yield from _layers(measured)
    for hurry in measured.get("hurried", ()):
        yield Remark(f"{hurry['what']} in {hurry['steps']:,} steps: fewer than {hurry['needed']:,} are seldom enough")
    seen, every = measured.get("batches") or (0, 0)
    if seen < every:
        yield Remark(f"scored on {seen:,} of {every:,} batches of the data")


def _constant(measured: Mapping[str, Any]) -> Iterator[Remark]:
    most, labels = measured.get("most_predicted"), measured.get("most_labels")
    if not most or not labels:
        return
    if labels["share"] == 1:
        yield Remark(f"all labels are {labels['class']}: no score says anything", bad=True)
    elif most["share"] == 1:
        yield Remark(f"the student predicts {most['class']} for every input", bad=True)
    elif most["share"] >= ONE_CLASS > labels["share"]:
        yield Remark(f"the student predicts {most['class']} for {most['share']:.1%} of the inputs", bad=True)


def _scores(result: Mapping[str, Any], measured: Mapping[str, Any]) -> Iterator[Remark]:
    metric, scores = result.get("monitor"), result.get("scores")
    if not isinstance(metric, str) or not isinstance(scores, dict):
        return
    sign = 1 if result.get("mode") == "max" else -1
    whose = ("student", "teacher", "guess", "alone")
    student, teacher, guess, alone = (number_at(scores, who, metric) for who in whose)
    error = number_at(measured, "standard_error") or 0.0
    constant = (measured.get("most_predicted") or {}).get("share") == 1  # which has been said
    failed = False
    for who, value, what in (
        ("student", student, "it has learned nothing that this data shows"),
        ("teacher", teacher, "it has nothing to teach"),
    ):
        if scores.get(who) and value is None:
            yield Remark(f"the {who}'s {metric} is not defined on this data", bad=True)
        elif value is not None and guess is not None and sign * (value - guess) <= error:
            failed = True
            if who == "student" and constant:
                continue
            how = f"{number(value)}, no better than a constant guess ({number(guess)}{_margin(error)})"
            yield Remark(f"the {who}'s {metric} is {how}: {what}", bad=True)
    if alone is not None and teacher is not None and sign * (alone - teacher) > 0:
        below = f"({number(teacher)}) is below that of the student without it ({number(alone)})"
        yield Remark(f"the teacher's {metric} {below}", bad=True)
    if failed or student is None:
        return
    if alone is not None and sign * (student - alone) <= error:
        beside = f"the same student without a teacher ({number(alone)}{_margin(error)})"
        yield Remark(f"the student's {metric} ({number(student)}) does not beat {beside} by a standard error")
    if teacher is not None and abs(student - teacher) <= error:
        yield Remark(f"student and teacher differ by no more than one standard error of {metric}{_margin(error)}")


def _margin(error: float) -> str:
    return f" ± {number(error)}" if error else ""


def _layers(measured: Mapping[str, Any]) -> Iterator[Remark]:
    if empty := measured.get("empty_layers"):
        yield Remark(f"no weight is left of {_some(empty)}", bad=True)
    if constant := [name for name in measured.get("constant_layers", ()) if name not in (empty or ())]:
        yield Remark(f"the outputs of {_some(constant)} are the same for every input", bad=True)


def _some(names: Sequence[str]) -> str:
    """The first of them, and how many there are besides."""
    shown = ", ".join(names[:2])
    return shown + (f" and {len(names) - 2} other layers" if len(names) > 2 else "")
