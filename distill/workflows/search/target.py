"""What a student must reach (``--target``): the rule of a report, on a metric of the task, against the teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from distill.core.utils.errors import UserError, nearest
from distill.workflows.report.rule import Rule, exact, holds, parse

__all__ = ["KEY", "bound", "check_rule", "check_teacher", "margin", "read_target", "said"]

KEY = "--target"


def read_target(text: str) -> Rule:
    """The rule that ``text`` is.

    Raises:
        UserError: if it is none, or compares with another model than the teacher.
    """
    rule = parse(text, KEY)
    if rule.role not in (None, "teacher"):
        problem = "a search compares with the teacher alone"
        raise UserError(problem, key=KEY, value=rule.text, hint=f"write '{rule.figure} {rule.sign} 0.99 * teacher'")
    return rule


def check_teacher(rule: Rule, config: Mapping[str, Any]) -> None:
    """Refuse a rule on the teacher of a recipe that has none.

    Raises:
        UserError: saying so.
    """
    model = config.get("model")
    if rule.role == "teacher" and not (isinstance(model, Mapping) and model.get("teacher")):
        hint = f"add --model.teacher FOLDER, or give a number: '{rule.figure} {rule.sign} 0.9'"
        raise UserError("the recipe has no teacher", key=KEY, value=rule.text, hint=hint)


def check_rule(rule: Rule, metrics: Sequence[str], monitor: str, mode: str) -> None:
    """Refuse a figure that the task does not measure, and a bound on the wrong side.

    Args:
        rule: The target.
        metrics: Of the task.
        monitor: The one by which the best student of a run is chosen.
        mode: ``max`` or ``min``: whether more of that is better.

    Raises:
        UserError: naming what there is.
    """
    if rule.figure not in metrics:
        hint = f"{nearest(rule.figure, metrics)} The task's metrics are {', '.join(metrics)}"
        raise UserError("the task has no such metric", key=KEY, value=rule.figure, hint=hint)
    if rule.figure == monitor and (rule.sign[0] == ">") != (mode == "max"):
        better, sign = ("more", ">=") if mode == "max" else ("less", "<=")
        hint = f"write '{rule.text.replace(rule.sign, sign)}'"
        raise UserError(f"of {monitor}, {better} is better", key=KEY, value=rule.text, hint=hint)


def bound(rule: Rule, teacher: float) -> float:
    """What the figure is compared with; NaN where the teacher's is needed and not known."""
    return rule.factor if rule.role is None else rule.factor * teacher


def margin(rule: Rule, value: float, teacher: float) -> float:
    """By how much a value is on the right side of the bound: below 0 it is not."""
    limit = bound(rule, teacher)
    difference = value - limit if rule.sign[0] == ">" else limit - value
    if difference == 0 and not holds(rule, value, limit):
        return -math.ulp(limit)
    return difference


def said(rule: Rule, teacher: float) -> str:
    """The rule with its bound as a number."""
    if rule.role is None or math.isnan(teacher):
        return rule.text
    return f"{rule.text} = {exact(bound(rule, teacher))}"
