"""What must be said of a run's outcome: a pure function of what was measured. Light: no torch.

The rules, each of which gives one line at most:

* nothing was scored, or validated at all, or all labels are the same;
* outputs of the student are NaN;
* the student predicts one class, token or set of classes for 99 % of the inputs or more, of which fewer labels are, or
  numbers that spread by a hundredth of what the labels do or less;
* it never predicts some classes that are among the labels;
* classes have a few labels only, so that a score of one says nothing, or none at all;
* samples that are scored are in the training data too, one in a hundred or more;
* its score is that of a constant guess, or worse: no more than one standard error above it;
* the teacher's is, or it is more than one standard error below that of the same student without a teacher;
* what the student answers depends on chance, or on the other samples of its batch;
* of a layer nothing is left, or its outputs are the same wherever one looks;
* a compression has fewer steps than :func:`steps_to_prune` and :func:`steps_to_quantize` say;
* the score is of a part of the data;
* student and teacher, or either and the student without a teacher, differ by no more than one standard error of the
  difference (:mod:`distill.core.difference`);
* the student is better than its teacher by more than that, and nothing else that was said explains it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill.core.difference import error_apart, error_paired, within
from distill.core.utils.console import number
from distill.core.utils.json_file import number_at
from distill.core.utils.visible import visible
from distill.core.utils.words import amount

__all__ = ["ENOUGH", "UNSTEADY", "Verdict", "few_classes", "slower_integers", "steps_to_prune", "steps_to_quantize"]

ONE_CLASS = 0.99
"""Share of the predictions from which on they count as one class."""

ONE_NUMBER = 0.01
"""Spread of predicted numbers, as a part of the labels', up to which they count as one number."""

SLOWER = 1.05
"""How much longer integers may take than floats: less is noise."""

LEARNED = 0.01
"""Share of the scored texts that training has seen from which on it is said: fewer move a score by less."""

FEW, ENOUGH = 3, 20
"""Labels of a class up to which its own scores tell nothing, and labels in all from which on that is said."""

UNSTEADY = {
    "random": "gives other answers to the same inputs in evaluation (dropout without training=..., or noise?)",
    "mixes": "answers otherwise where a sample is alone in its batch (does it compute over the batch?)",
}
"""What is said of a model whose answer is no function of a sample (:mod:`~distill.core.steadiness`), after its name."""

_SAME = 1e-9


def few_classes(counts: Sequence[int]) -> list[int]:
    """The classes that have labels, but no more than :data:`FEW`; those of the fewest first."""
    return sorted((i for i, count in enumerate(counts) if 0 < count <= FEW), key=lambda i: counts[i])


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
    def of_teacher(cls, found: Mapping[str, Any]) -> Verdict:
        """Judge a teacher before training, by what it scored on some samples (``teacher_check.py``)."""
        metric, measured = found.get("monitor"), found.get("measured") or {}
        if not isinstance(metric, str):
            return cls()
        seen, every = found["samples"]
        where = f" on {seen:,} of {every:,} validation samples" if seen < every else ""
        if void := _void(measured):
            return cls([Remark(f"the teacher is not judged before training: {void}{where and ',' + where}")])
        if undefined := measured.get("undefined"):
            of = f"{undefined:,} of {measured['predictions']:,} predictions{where}"
            return cls([Remark(f"outputs of the teacher are NaN in {of}", bad=True)])
        value, guess = (number_at(found["scores"], who, metric) for who in ("teacher", "guess"))
        error = number_at(measured, "standard_error") or 0.0
        remark = _no_better("teacher", value, guess, _sign(found), error, metric, _margin(error), where)
        return cls([remark] if remark else [])

    @classmethod
    def of_file(cls, result: Mapping[str, Any]) -> Verdict:
        """Likewise of a file that may hold other things than ours does: nothing is said of those."""
        try:
            return cls.of(result)
        except (TypeError, KeyError, ValueError, AttributeError, IndexError, OverflowError):
            return cls()

    @property
    def lines(self) -> list[str]:
        return [visible(remark.text) for remark in self.remarks]

    @property
    def bad(self) -> list[str]:
        """The lines of an outcome that is not fit for use."""
        return [visible(remark.text) for remark in self.remarks if remark.bad]


def _remarks(result: Mapping[str, Any]) -> Iterator[Remark]:
    measured = result.get("measured") or {}
    if void := _unvalidated(result, measured) or _void(measured):
        yield Remark(void, bad=True)
    else:
        constant = _constant(measured)
        yield from [Remark(constant, bad=True)] if constant else _never(measured)
        yield from _scores(result, measured, said=constant is not None)
        yield from _little(measured)
    if (unsteady := measured.get("unsteady")) in UNSTEADY:
        yield Remark(f"the student {UNSTEADY[unsteady]}: its scores are of no model that runs alone", bad=True)
    yield from _layers(measured)
    for hurry in measured.get("hurried", ()):
        yield Remark(
            f"{hurry['what']} in {amount(hurry['steps'], 'step')}: fewer than {hurry['needed']:,} are seldom enough"
            + (f" (saved is step {hurry['saved']:,} of {hurry['of']:,})" if "saved" in hurry else "")
        )
    seen, every = measured.get("batches") or (0, 0)
    if seen < every:
        yield Remark(f"scored on {seen:,} of {every:,} batches of the data")


def _unvalidated(result: Mapping[str, Any], measured: Mapping[str, Any]) -> str | None:
    """What is said of a student that no validation has seen."""
    scores = result.get("scores")
    if not isinstance(scores, Mapping) or "student" not in scores or "predictions" in measured:
        return None
    scored = result.get("monitor") in scores["student"]
    return None if scored else "no validation was made: nothing is known of the student"


def _void(measured: Mapping[str, Any]) -> str | None:
    """Why no score says anything."""
    if measured.get("predictions") == 0:
        return "the data that was scored has no labels: nothing is known of the student"
    labels, numbers = measured.get("most_labels"), measured.get("numbers")
    if labels and labels["share"] == 1:
        return f"all labels are {labels['class']}: no score says anything"
    if numbers and numbers["labels"]["deviation"] <= _SAME * abs(numbers["labels"]["mean"]):
        return f"all labels are {number(numbers['labels']['mean'])}: no score says anything"
    return None


def _constant(measured: Mapping[str, Any]) -> str | None:
    """What of a student's answers shows that it does not read its inputs."""
    if undefined := measured.get("undefined"):
        return f"outputs of the student are NaN in {undefined:,} of {measured['predictions']:,} predictions"
    most, labels, numbers = (measured.get(key) for key in ("most_predicted", "most_labels", "numbers"))
    if most and most["share"] == 1:
        return f"the student predicts {most['class']} for every input"
    if most and labels and most["share"] >= ONE_CLASS > labels["share"]:
        share = math.floor(1000 * most["share"]) / 1000
        return f"the student predicts {most['class']} for {share:.1%} of the inputs or more"
    if numbers and numbers["predicted"]["deviation"] <= ONE_NUMBER * numbers["labels"]["deviation"]:
        mine, theirs = (f"{number(n['mean'])} ± {number(n['deviation'])}" for n in _both(numbers))
        return f"the student predicts {mine} for every input, where the labels are {theirs}"
    return None


def _never(measured: Mapping[str, Any]) -> Iterator[Remark]:
    """What is said of classes that are no answer of the student's: their labels are few, and a score may hide them."""
    if never := measured.get("never_predicted"):
        labels = amount(never["labels"], "label")
        yield Remark(f"the student never predicts {never['class']} ({labels} of {measured['predictions']:,})")


def _little(measured: Mapping[str, Any]) -> Iterator[Remark]:
    """What is said of labels and texts by which a score says less than it seems to."""
    if few := measured.get("few_labels"):
        of = f"{amount(few['labels'], 'label')} of {measured['predictions']:,}"
        yield Remark(f"there is little of {few['class']} ({of}): scores of so few say nothing of a class")
    if none := measured.get("no_label_of"):
        yield Remark(f"no label of {none} was scored: no score tells of it")
    seen, every = measured.get("in_train") or (0, 0)
    if seen and seen >= LEARNED * every:
        yield Remark(
            f"{seen:,} of {every:,} samples of the split that was scored are in the training data too: learned by heart"
        )


def _both(numbers: Mapping[str, Any]) -> tuple[Any, Any]:
    return numbers["predicted"], numbers["labels"]


def _scores(result: Mapping[str, Any], measured: Mapping[str, Any], said: bool) -> Iterator[Remark]:
    """What the scores show.

    Args:
        result: The run's.
        measured: Of it.
        said: Whether it has been said that the student does not read its inputs.
    """
    metric, scores = result.get("monitor"), result.get("scores")
    if not isinstance(metric, str) or not isinstance(scores, dict):
        return
    sign = _sign(result)
    whose = ("student", "teacher", "guess", "alone")
    student, teacher, guess, alone = (number_at(scores, who, metric) for who in whose)
    # The student's: it stands for the teacher's, which was not measured, and is not printed as if it were that.
    error = number_at(measured, "standard_error") or 0.0
    failed = said
    for who, value in (("student", student), ("teacher", teacher)):
        shown = _margin(error) if who == "student" else ""
        remark = _no_better(who, value, guess, sign, error, metric, shown) if scores.get(who) else None
        failed = failed or remark is not None
        if remark is not None and not (who == "student" and said):
            yield remark
    count = measured.get("predictions") or 0
    weak = alone is not None and teacher is not None and sign * (alone - teacher) > 0
    if weak and alone is not None and teacher is not None:
        apart = error_apart(error, student, teacher, alone, metric=metric, predictions=count)
        clear = not within(alone - teacher, apart)
        below = f"({number(teacher)}) is below that of the student without it ({number(alone)})"
        by = "" if clear else f", by no more than one {_DIFFERENCE}{_margin(apart)}"
        yield Remark(f"the teacher's {metric} {below}{by}", bad=clear)
    if failed or student is None:
        return
    if alone is not None:
        apart = error_apart(error, student, student, alone, metric=metric, predictions=count)
        if sign * (student - alone) <= 0 or within(student - alone, apart):
            beside = f"the same student without a teacher ({number(alone)}) by a {_DIFFERENCE}{_margin(apart)}"
            yield Remark(f"the student's {metric} ({number(student)}) does not beat {beside}")
    if teacher is None:
        return
    apart = error_apart(error, student, student, teacher, metric=metric, predictions=count)
    agreement = number_at(scores, "student", "agreement")
    if metric == "accuracy" and agreement is not None and count:
        apart = error_paired(error, student, agreement, count)
    if within(student - teacher, apart):
        yield Remark(f"student and teacher differ by no more than one {_DIFFERENCE} in {metric}{_margin(apart)}")
    elif apart and not weak and sign * (student - teacher) > 0:
        above = f"the student's {metric} ({number(student)}) is better than its teacher's ({number(teacher)})"
        why = "the teacher knows less of this data than its student, and had little to teach: train it longer"
        yield Remark(f"{above} by more than one {_DIFFERENCE}{_margin(apart)}: {why}, or take a better one")


_DIFFERENCE = "standard error of the difference"


def _sign(result: Mapping[str, Any]) -> int:
    """1 where more is better, else -1."""
    return 1 if result.get("mode") == "max" else -1


_SHOWS = {"student": "it has learned nothing that this data shows", "teacher": "it has nothing to teach"}


def _no_better(
    who: str,
    value: float | None,
    guess: float | None,
    sign: int,
    error: float,
    metric: str,
    shown: str,
    where: str = "",
) -> Remark | None:
    """What is said of a score that is not a standard error above the guess.

    Args:
        who: ``student`` or ``teacher``.
        value: Its score.
        guess: The guess's; ``None`` where there is none.
        sign: 1 where more is better, else -1.
        error: The standard error.
        metric: Which score it is.
        shown: How the error is printed.
        where: What it was scored on, if not on all there is.
    """
    if value is None:
        return Remark(f"the {who}'s {metric} is not defined on this data", bad=True)
    if guess is None or sign * (value - guess) > error:
        return None
    how = f"{number(value)}{where}, no better than a constant guess ({number(guess)}{shown})"
    return Remark(f"the {who}'s {metric} is {how}: {_SHOWS[who]}", bad=True)


def slower_integers(latency_ms: Mapping[int, Mapping[str, float] | None], student: str) -> list[str]:
    """What to say of batches in which integers take longer than the same student's floats.

    A runtime may lack operators for them.

    Args:
        latency_ms: Size of the batch -> milliseconds of ``export`` and of other files; ``None`` where it was not timed.
        student: What the float file of the student is called.
    """
    said = []
    for batch, times in latency_ms.items():
        if times is None or student not in times or times["export"] <= SLOWER * times[student]:
            continue
        both = f"{times['export']:.2f} ms against {times[student]:.2f} ms"
        said.append(f"the integers are slower here than the same student in float32 (batch {batch}: {both})")
    return [*said[:-1], f"{said[-1]}; --to onnx writes that one"] if said else []


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
    return shown + (f" and {amount(len(names) - 2, 'other layer')}" if len(names) > 2 else "")
