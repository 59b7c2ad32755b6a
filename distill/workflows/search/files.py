"""What a search leaves in its folder: ``search.json``, a configuration for each point of the fronts, their plot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from distill.config.files import dump
from distill.core.utils.console import number
from distill.core.utils.extras import missing
from distill.core.utils.files import write
from distill.export.summary import megabytes
from distill.run.folder import Run
from distill.workflows.search.measured import Minimize
from distill.workflows.search.outcome import Outcome, Point
from distill.workflows.search.plan import Plan
from distill.workflows.search.target import bound

__all__ = ["PICTURE", "draw", "point_file", "write_front", "write_record"]

PICTURE = "front.png"


def write_record(plan: Plan, outcome: Outcome, wanted: int) -> None:
    """Write ``search.json``: what was asked, every trial, the fronts, and what was learned.

    Args:
        plan: The search.
        outcome: What it has come to.
        wanted: How many trials there are to be.
    """
    best = outcome.best
    fresh = plan.record() | {
        "wanted": wanted,
        "teacher": None if outcome.teacher != outcome.teacher else outcome.teacher,
        "bound": None if (limit := bound(plan.rule, outcome.teacher)) != limit else limit,
        "trials": [_trial(outcome, one.number) for one in outcome.trials],
        "best": None if best is None else _named(best),
        "front": {kind: [_named(one) for one in points] for kind, points in outcome.fronts.items()},
        "importance": outcome.importance,
    }
    write(plan.record_file, (json.dumps(fresh, indent=2, allow_nan=False) + "\n").encode())


def _trial(outcome: Outcome, number_: int) -> dict[str, Any]:
    trial = next(one for one in outcome.trials if one.number == number_)
    found = {**asdict(trial), "rungs": [one.record() for one in trial.rungs], "values": dict(trial.values)}
    return found | {"meets": [point.margin >= 0 for point in outcome.points if point.trial == number_]}


def _named(point: Point) -> dict[str, Any]:
    return {"trial": point.trial, "rung": point.rung, "run": point.measured.run, "file": point_file(point)}


def point_file(point: Point) -> str:
    """The configuration of a point, in the search's folder."""
    return f"front/{point.measured.run}.yaml"


def write_front(plan: Plan, outcome: Outcome) -> None:
    """Write the configuration of each point of the fronts, and remove those of points that no longer lie there."""
    kinds: dict[str, list[Minimize]] = {}
    points: dict[str, Point] = {}
    for kind, there in outcome.fronts.items():
        for point in there:
            points[point.measured.run] = point
            kinds.setdefault(point.measured.run, []).append(kind)
    place = plan.folder / "front"
    place.mkdir(exist_ok=True)
    for old in place.glob("trial-*.yaml"):
        if old.stem not in points:
            old.unlink()
    for name, point in points.items():
        config = Run(plan.folder / name).config | {"name": f"{plan.folder.name}-{name}"}
        write(place / f"{name}.yaml", (_head(plan, outcome, point, kinds[name]) + dump(config)).encode())


def _head(plan: Plan, outcome: Outcome, point: Point, kinds: list[Minimize]) -> str:
    one = point.measured
    scores = f"{plan.rule.figure} {number(one.value)}" + (f" (teacher {number(one.teacher)})" if one.teacher else "")
    size = f"{megabytes(one.bytes)} as {plan.to}"
    size += f", {one.teacher_bytes / one.bytes:.2f} times smaller than the teacher" if one.teacher_bytes else ""
    size += f", {one.teacher_ms / one.latency_ms:.2f} times as fast" if one.teacher_ms and one.latency_ms else ""
    meets = "meets" if point.margin >= 0 else "misses"
    return (
        f"# Trial {point.trial} of the search {plan.folder.name}, on the front of {' and '.join(kinds)}.\n"
        f"#   distill fit -c {plan.folder / point_file(point)}\n"
        f"# {scores}, which {meets} {plan.rule.text}; {size}.\n"
    )


def draw(plan: Plan, outcome: Outcome) -> str | None:
    """Draw quality against each cost; the package that is missing for that, if one is."""
    if (lacking := missing("plots")) is not None:
        return lacking
    from distill.core.utils.plots import new_figure, save

    kinds = [kind for kind, points in outcome.fronts.items() if points]
    drawn = new_figure(5.5 * len(kinds), 4.5)
    for place, kind in zip(drawn.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        _panel(place, plan, outcome, kind)
    save(drawn, plan.folder / PICTURE)
    return None


_AXES: Mapping[Minimize, str] = {
    "bytes": "MB of the export",
    "gzipped_bytes": "MB of the export, gzipped",
    "latency": "ms a sample",
}


def _panel(place: Any, plan: Plan, outcome: Outcome, kind: Minimize) -> None:
    points = [one for one in outcome.points if kind != "latency" or one.measured.latency_ms is not None]
    there = outcome.front(kind)
    ratio = kind == "latency" and all(one.measured.teacher_ms for one in points)
    scale = 1.0 if kind == "latency" else 1e-6

    def at(some: list[Point]) -> tuple[list[float], list[float]]:
        return [scale * one.measured.cost(kind) for one in some], [one.measured.value for one in some]

    place.scatter(*at(points), color="0.7", label="runs")
    place.step(*at(there), where="post", color="C0", marker="o", label="front")
    for one in there:
        place.annotate(f"{one.trial}", (scale * one.measured.cost(kind), one.measured.value), fontsize=8)
    limit = bound(plan.rule, outcome.teacher)
    if limit == limit:
        place.axhline(limit, color="C1", linestyle="--", label=plan.rule.text)
    if (best := outcome.best) is not None and best in points:
        place.scatter(*at([best]), s=120, facecolors="none", edgecolors="C1", label="best")
    place.set_xlabel("latency, of the float teacher's" if ratio else _AXES[kind])
    place.set_ylabel(plan.rule.figure)
    place.set_xscale("log")
    place.grid(alpha=0.3)
    place.legend(fontsize=8)
