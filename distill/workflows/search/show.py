"""What a search says in the terminal: what it turns, how far it is, and what it found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from distill.core.utils.console import duration, number, plain_table
from distill.core.utils.visible import visible
from distill.export.summary import megabytes
from distill.workflows.search.knobs import Knob
from distill.workflows.search.measured import Measured
from distill.workflows.search.outcome import Outcome, Point, Tried
from distill.workflows.search.plan import Plan
from distill.workflows.search.target import said

__all__ = ["show_outcome", "show_plan", "show_progress", "values_said"]


def show_plan(plan: Plan, trials: int, console: Console) -> None:
    """What is searched, and how."""
    table = plain_table(f"{plan.folder}: {trials} trials for the least {plan.asked.minimize} at {plan.rule.text}")
    for name in ("knob", "in the recipe", "tried"):
        table.add_column(name, overflow="fold")
    for knob in plan.knobs:
        table.add_row(escape(knob.name), _value(knob.recipe), escape(knob.said) + (" (fixed)" if knob.fixed else ""))
    console.print(table)
    for line in plan.left:
        console.print(f"not searched: {escape(line)}", soft_wrap=True)
    console.print(_rungs(plan), soft_wrap=True)
    for place, values in enumerate(plan.given):
        what = "the recipe itself" if place == 0 else "what a scan of its layers allows"
        varying = [knob for knob in plan.knobs if place == 0 or values[knob.name] != plan.given[0][knob.name]]
        console.print(f"trial {place + 1} is {what}: {values_said(varying, values)}", soft_wrap=True)


def _rungs(plan: Plan) -> str:
    if len(plan.steps) == 1:
        return f"each trial trains for {plan.steps[0]:,} steps"
    parts = ", ".join(f"{steps:,}" for steps in plan.steps)
    shares = ", then ".join(f"one in {b / a:.2g}" for a, b in zip(plan.steps, plan.steps[1:], strict=False))
    return (
        f"rungs: {parts} steps, and {shares} goes on. Each rung is a run of its own from the beginning, "
        "whose schedules (learning rate, pruning, rounding) are fitted to its length"
    )


def values_said(knobs: Sequence[Knob], values: Mapping[str, Any]) -> str:
    """The values of some knobs, in a line."""
    return escape(visible(", ".join(f"{knob.name} {_value(values[knob.name])}" for knob in knobs if not knob.fixed)))


def _value(value: Any) -> str:
    return "" if value is None else number(value) if isinstance(value, float) else str(value)


def show_progress(outcome: Outcome, trial: Tried, trials: int, left: float | None, console: Console) -> None:
    """How a trial ended, and how far the search is."""
    ended = outcome.ended
    if trial.failed:
        console.print(f"trial {trial.number} of {trials} failed: {escape(trial.failed)}", soft_wrap=True)
    else:
        last = trial.rungs[-1]
        target = said(outcome.rule, math.nan if last.teacher is None else last.teacher)
        words = f"rung {len(trial.rungs)}, {outcome.rule.figure} {number(last.value)} ({escape(target)}), {_cost(last)}"
        console.print(f"trial {trial.number} of {trials}: {words}", soft_wrap=True)
    best = outcome.best
    so_far = f"best so far is trial {best.trial}, {_cost(best.measured)}" if best else "none meets the target so far"
    time = "" if left is None or ended >= trials else f"; {trials - ended} trials left, about {duration(left)}"
    console.print(f"{so_far}{time}", soft_wrap=True)


def _cost(one: Measured) -> str:
    size = megabytes(one.bytes) + (f" ({one.teacher_bytes / one.bytes:.1f} x smaller)" if one.teacher_bytes else "")
    if one.latency_ms is None:
        return size
    return f"{size}, {one.latency_ms:.2f} ms" + (f" ({_faster(one)})" if one.teacher_ms else "")


def _faster(one: Measured) -> str:
    assert one.teacher_ms is not None
    assert one.latency_ms is not None
    return f"{one.teacher_ms / one.latency_ms:.1f} x as fast"


def show_outcome(plan: Plan, outcome: Outcome, console: Console) -> None:
    """The table of all trials, those that meet the target first and the cheapest of them at the top."""
    on = {kind: {_at(one) for one in points} for kind, points in outcome.fronts.items()}
    last = {point.trial: point for point in outcome.points}  # the longest run of each
    shown = [one for one in outcome.points if one is last[one.trial] or any(_at(one) in there for there in on.values())]
    knobs = [knob for knob in plan.knobs if not knob.fixed]
    title = f"{plan.folder}: {len(last)} of {len(outcome.trials)} trials, {escape(said(outcome.rule, outcome.teacher))}"
    table = plain_table(title)
    timed = any(point.measured.latency_ms is not None for point in shown)
    columns = ["trial", "rung", outcome.rule.figure, "meets", "size", *(["time"] if timed else []), "front"]
    for name in (*columns, *(knob.name for knob in knobs)):
        table.add_column(escape(name), overflow="fold", justify="right" if name == outcome.rule.figure else "left")
    values = {trial.number: trial.values for trial in outcome.trials}
    for point in sorted(shown, key=lambda one: _rank(outcome, one)):
        fronts = ", ".join(kind for kind, there in on.items() if _at(point) in there)
        cells = [str(point.trial), f"{point.rung} of {len(plan.steps)}", f"{point.measured.value:.5g}"]
        cells += ["yes" if point.margin >= 0 else "", _size(point.measured)]
        cells += [_time(point.measured)] if timed else []
        table.add_row(*cells, fronts, *(escape(_value(values[point.trial][knob.name])) for knob in knobs))
    console.print(table)
    _show_importance(outcome, console)


def _at(point: Point) -> tuple[int, int]:
    return point.trial, point.rung


def _rank(outcome: Outcome, point: Point) -> tuple[bool, float]:
    met = point.margin >= 0
    return not met, point.measured.cost(outcome.minimize) if met else -point.margin


def _size(one: Measured) -> str:
    return megabytes(one.bytes) + (f", {one.teacher_bytes / one.bytes:.1f} x" if one.teacher_bytes else "")


def _time(one: Measured) -> str:
    if one.latency_ms is None:
        return ""
    return f"{one.latency_ms:.2f} ms" + (f", {one.teacher_ms / one.latency_ms:.1f} x" if one.teacher_ms else "")


def _show_importance(outcome: Outcome, console: Console) -> None:
    if outcome.importance is None:
        console.print("importance of the knobs: too few trials to tell (8 are needed)")
    for what, parts in (outcome.importance or {}).items():
        shown = ", ".join(f"{escape(name)} {part:.0%}" for name, part in parts.items())
        at = " at the first rung" if what == "quality" else f" ({outcome.minimize})"
        console.print(f"importance for {what}{at}: {shown}", soft_wrap=True)
