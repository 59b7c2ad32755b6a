"""``--fail-below``: a condition on the figures of a report, in a grammar of its own. Light: no torch.

    RULE   = FIGURE OPERATOR BOUND
    BOUND  = NUMBER | ROLE | NUMBER * ROLE | ROLE * NUMBER

FIGURE is a metric of the task or one of :data:`FIGURES`, OPERATOR one of ``>=``, ``>``, ``<=`` and ``<``, ROLE one of
:data:`ROLES_OF_RULES`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from distill.core.utils.console import number
from distill.core.utils.errors import UserError, nearest
from distill.workflows.report.schema import Compared, Measured, Report, Role

__all__ = ["FIGURES", "ROLES_OF_RULES", "Rule", "broken", "exact", "holds", "parse"]

KEY = "--fail-below"

FIGURES = ("bytes", "gzipped_bytes", "parameters", "nonzero", "flops", "latency", "throughput", "ece", "brier", "kept")
"""What can be asked of every model besides the task's metrics: sizes; milliseconds of one sample, on one thread, and
samples a second of a larger batch on all; calibration; and what is kept of the teacher, in percent."""

ROLES_OF_RULES: tuple[Role, ...] = ("teacher", "alone", "distilled", "compressed", "float")
"""What a bound may be a multiple of."""

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RULE = re.compile(
    rf"\s*(?P<figure>\w+)\s*(?P<sign>>=|<=|>|<)\s*"
    rf"(?:(?P<number>{_NUMBER})(?:\s*\*\s*(?P<role>[A-Za-z]\w*))?|(?P<first>[A-Za-z]\w*)(?:\s*\*\s*(?P<factor>{_NUMBER}))?)\s*"
)


@dataclass(frozen=True)
class Rule:
    """A condition.

    Attributes:
        text: As it was given.
        figure: What is judged.
        sign: ``>=``, ``>``, ``<=`` or ``<``.
        factor: The bound, or by what ``role``'s figure is multiplied.
        role: Whose figure the bound is a multiple of.
    """

    text: str
    figure: str
    sign: str
    factor: float
    role: Role | None


def parse(text: str, key: str = KEY) -> Rule:
    """The rule that ``text`` is, given at ``key``.

    Raises:
        UserError: if it is none.
    """
    found = _RULE.fullmatch(text)
    if found is None:
        problem = "is no rule: FIGURE >= NUMBER, or FIGURE >= NUMBER * teacher (or <=, >, <)"
        raise UserError(problem, key=key, value=text, hint="write 'accuracy >= 0.99 * teacher', or 'bytes <= 20e6'")
    given = found["role"] or found["first"]
    role = next((role for role in ROLES_OF_RULES if role == given), None)
    if given is not None and role is None:
        raise UserError("no such model", key=key, value=given, hint=nearest(given, ROLES_OF_RULES))
    return Rule(text.strip(), found["figure"], found["sign"], float(found["number"] or found["factor"] or 1), role)


def check(rules: Iterable[Rule], metrics: Sequence[str], roles: Iterable[str], *, timed: bool = True) -> None:
    """Refuse rules on what the report will not have.

    Args:
        rules: All.
        metrics: Of the task.
        roles: Of the models there are.
        timed: Whether latencies will be measured.

    Raises:
        UserError: naming what there is.
    """
    there = set(roles)
    for rule in rules:
        if rule.figure not in (*metrics, *FIGURES):
            hint = f"{nearest(rule.figure, (*metrics, *FIGURES))} There are {', '.join((*metrics, *FIGURES))}"
            raise UserError("no such figure", key=KEY, value=rule.figure, hint=hint)
        if not timed and rule.figure in ("latency", "throughput"):
            raise UserError("nothing is timed", key=KEY, value=rule.text, hint="leave out --no-timing")
        if rule.role is not None and rule.role not in there:
            hint = f"there are {', '.join(role for role in ROLES_OF_RULES if role in there)}"
            raise UserError("these runs have no such model", key=KEY, value=rule.role, hint=hint)


def broken(rule: Rule, report: Report) -> list[str]:
    """What of the report breaks a rule, a line a model; none where it holds.

    Judged is what is shipped: a run's exports, and its student where there are none. A figure that is not known, or
    no number, breaks the rule.
    """
    return [line for model in shipped(report) if (line := _broken(rule, report, model))]


def shipped(report: Report) -> list[Measured]:
    """The exports of each run that was named, and its student where it has none."""
    students = [one for one in report.models if one.role in ("distilled", "compressed")]
    students = students or report.with_role("alone")
    found: list[Measured] = []
    for student in students:
        exports = [one for one in report.models if one.role == "exported" and one.of == student.key]
        found += exports or [student]
    return found


def _broken(rule: Rule, report: Report, model: Measured) -> str | None:
    value = figure(rule.figure, report, model)
    said = f"{rule.figure} of {model.key} is {'not known' if value is None else exact(value)}"
    bound, what = rule.factor, exact(rule.factor)
    if rule.role is not None:
        theirs = _reference(rule, report, model)
        if theirs is None:
            return f"{said}, and that of {rule.role} is not known"
        bound = rule.factor * theirs
        what = f"{exact(rule.factor)} * {rule.role} ({exact(theirs)}) = {exact(bound)}"
    if value is not None and holds(rule, value, bound):
        return None
    return f"{said}, and must be {rule.sign} {what}"


def holds(rule: Rule, value: float, bound: float) -> bool:
    """Whether a value is on the side of the bound that the rule asks for."""
    return _OPERATORS[rule.sign](value, bound)


def _reference(rule: Rule, report: Report, model: Measured) -> float | None:
    """The figure of the model whose multiple the bound is: of its own run where there are several."""
    others = [one for one in report.models if one.role == rule.role]
    mine = [one for one in others if one.run == model.run]
    for one in (*mine, *others):
        found = figure(rule.figure, report, one, runtime=model.runtime)
        if found is not None:
            return found
    return None


def figure(name: str, report: Report, model: Measured, runtime: str | None = None) -> float | None:
    """A model's figure; ``None`` where it is not known.

    Args:
        name: A metric, or one of :data:`FIGURES`.
        report: Of the model.
        model: The model.
        runtime: In which it is timed; its own if not given.
    """
    if name in model.scores:
        return model.scores[name].value
    if name in ("bytes", "gzipped_bytes", "parameters", "nonzero", "flops"):
        found: int | None = getattr(model.size, name)
        return found
    if name in ("ece", "brier"):
        return None if model.calibration is None else float(getattr(model.calibration, name))
    if name == "kept":
        return next((one.kept_percent for one in _of_teacher(report) if one.second == model.key), None)
    return timed(name, model, runtime or model.runtime)


def _of_teacher(report: Report) -> list[Compared]:
    teachers = {one.key for one in report.with_role("teacher")}
    return [pair for pair in report.pairs if pair.first in teachers]


def timed(name: str, model: Measured, runtime: str) -> float | None:
    """``latency``: the median milliseconds of one sample on one thread; ``throughput``: samples a second of the largest
    batch on the most threads. Of text, of the longest that was timed."""
    calls = [one for one in model.latency if one.runtime == runtime]
    if name == "latency":
        calls = [one for one in calls if one.batch == 1 and one.threads == 1]
        return max(calls, key=lambda one: one.length or 0).p50_ms if calls else None
    if name == "throughput" and calls:
        return max(calls, key=lambda one: (one.batch, one.threads, one.length or 0)).throughput
    return None


def exact(value: float) -> str:
    """A figure that is compared: with more digits than a table has."""
    return number(value) if float(value).is_integer() else f"{value:.6g}"
