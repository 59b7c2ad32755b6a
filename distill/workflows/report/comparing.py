"""What models score, each by itself and beside another: from what they said of the same samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch

from distill.core.retention import kept
from distill.core.task import Guess, Task, TokenTask
from distill.workflows.report.predictions import Options, Predictions
from distill.workflows.report.schema import (
    Calibration,
    Class,
    Compared,
    Difference,
    Estimate,
    LengthBin,
    McNemar,
    Measured,
)
from distill.workflows.report.scoring import Answers
from distill.workflows.report.statistics import (
    Numbers,
    by_class,
    calibration,
    difference,
    estimate,
    length_bins,
    mcnemar,
)

__all__ = ["Judged", "compared", "pairs_of"]


class Judged:
    """What one model scores.

    Args:
        task: Of all models.
        answers: What it said.
        options: How often samples are drawn anew.
    """

    def __init__(self, task: Task, answers: Answers, options: Options) -> None:
        self.task, self.answers, self._options = task, answers, options
        names = answers.scores.names
        if answers.of_text and isinstance(task, TokenTask):
            names = [name for name in names if name in task.of_text]
        self.values = {name: value for name, value in answers.scores.values().items() if name in names}

    @cached_property
    def draws(self) -> Mapping[str, Numbers]:
        """Each metric on samples drawn anew; the same draws for every model."""
        return self.answers.scores.draws(self._options.draws, self._options.seed)

    def scores(self) -> dict[str, Estimate]:
        """Each metric with its interval."""
        return {name: estimate(value, self.draws.get(name)) for name, value in self.values.items()}

    def classes(self) -> tuple[Class, ...]:
        """How each class is predicted; none of tokens and numbers."""
        found = self.answers.found
        if isinstance(self.task, TokenTask) or found is None or found.decisions is None or found.labels is None:
            return ()
        if found.labels.is_floating_point() and found.decisions.dtype is not torch.bool:
            return ()
        labels, decisions = ((of > 0.5 if of.is_floating_point() else of) for of in (found.labels, found.decisions))
        if labels.ndim == 2:
            count = labels.shape[1]
        else:
            width = 0 if found.logits is None else found.logits.shape[-1]
            count = max(width, int(labels.max()) + 1, int(decisions.max()) + 1) if len(labels) else 0
        names = [self.task.class_name(one).strip("'") for one in range(count)]
        return by_class(labels.long().numpy(), decisions.long().numpy(), names) if count else ()

    def lengths(self) -> tuple[LengthBin, ...]:
        """The metric that the task is judged by, by the samples' lengths."""
        found, monitor = self.answers.found, self.task.monitor
        if found is None or found.lengths is None or self.answers.of_text:
            return ()
        if monitor not in self.answers.scores.drawn:
            return ()
        bins = []
        for low, high, chosen in length_bins(found.lengths.numpy()):
            value = self.answers.scores.of(chosen)[monitor]
            draws = self.answers.scores.draws(self._options.draws, self._options.seed, chosen)[monitor]
            bins.append(LengthBin(low, high, int(chosen.sum()), {monitor: estimate(value, draws)}))
        return tuple(bins)

    def calibration(self) -> Calibration | None:
        """How far its confidence is accuracy; ``None`` of tokens, and of what gives no probabilities."""
        found = self.answers.found
        if found is None or found.labels is None or found.decisions is None or found.logits is None:
            return None
        if not len(found.labels) or not bool(found.logits.isfinite().all()):
            return None
        logits = found.logits.double()
        if found.decisions.dtype is torch.bool:
            return calibration(logits.sigmoid().flatten().numpy(), (found.labels > 0.5).long().flatten().numpy())
        if found.labels.is_floating_point() or logits.shape[-1] < 2:
            return None
        return calibration(logits.softmax(-1).numpy(), found.labels.numpy())


def pairs_of(models: Sequence[Measured]) -> Iterator[tuple[Measured, Measured]]:
    """Which models are compared: the teacher with all others; the twin with students; a student with what was made of
    it, an export with the same student in float; the first student with others."""
    students = [one for one in models if one.role in ("distilled", "compressed")]
    for teacher in (one for one in models if one.role == "teacher"):
        yield from ((teacher, one) for one in models if one.role not in ("guess", "teacher"))
    for twin in (one for one in models if one.role == "alone"):
        yield from ((twin, one) for one in students)
    for one in models:
        same = [other for other in models if one.of is not None and (other.key == one.of or other.of == one.of)]
        if one.role == "exported":
            yield from ((other, one) for other in same if other.role != "exported")
        elif one.role == "float":
            yield from ((other, one) for other in same if other.key == one.of)
    yield from ((students[0], one) for one in students[1:])


def compared(
    first: tuple[Measured, Judged], second: tuple[Measured, Judged], task: Task, guess: Guess | None
) -> Compared:
    """Two models on the same samples."""
    (one, ours), (other, theirs) = first, second
    differences: dict[str, Difference] = {}
    for name in ours.values:
        if name in theirs.values:
            draws = (ours.draws[name], theirs.draws[name]) if name in ours.draws and name in theirs.draws else None
            differences[name] = difference(ours.values[name], theirs.values[name], draws)
    found = ours.answers.found, theirs.answers.found
    of_teacher = one.role == "teacher"
    return Compared(
        first=one.key,
        second=other.key,
        differences=differences,
        mcnemar=_mcnemar(*found) if not isinstance(task, TokenTask) else None,
        agreement=_agreement(*found),
        acceptance=theirs.answers.acceptance if of_teacher else None,
        kept_percent=_kept(one, other, task, guess) if of_teacher else None,
    )


def _mcnemar(first: Predictions | None, second: Predictions | None) -> McNemar | None:
    """Where a sample is one prediction, which is a class: of several in a sample one tells of the next."""
    if first is None or second is None or first.labels is None or first.decisions is None or second.decisions is None:
        return None
    labels = first.labels
    if labels.is_floating_point() or labels.dim() > 1 or not len(labels) or int(torch.bincount(first.sample).max()) > 1:
        return None
    right = [(one.decisions == labels).numpy() for one in (first, second) if one.decisions is not None]
    return mcnemar(right[0], right[1])


def _agreement(first: Predictions | None, second: Predictions | None) -> float | None:
    if first is None or second is None or first.decisions is None or second.decisions is None:
        return None
    same = first.decisions == second.decisions
    return float(same.double().mean()) if same.numel() else None


def _kept(teacher: Measured, student: Measured, task: Task, guess: Guess | None) -> float | None:
    """Of what the teacher has above a constant guess, in percent."""
    metric = task.monitor
    if guess is None or metric not in guess.scores:
        return None
    theirs, ours = teacher.scores.get(metric), student.scores.get(metric)
    if theirs is None or ours is None:
        return None
    spread = 0.0 if ours.low is None or ours.high is None else (ours.high - ours.low) / (2 * 1.96)
    error = spread if np.isfinite(spread) else 0.0
    return kept(ours.value, theirs.value, guess.scores[metric], metric=metric, mode=task.mode, error=error)
