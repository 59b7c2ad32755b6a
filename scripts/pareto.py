#!/usr/bin/env python
"""Draw what runs score against what they weigh and how long they take, from their exports.

    python scripts/pareto.py runs/sst2-alone/seed-0 runs/sst2-prune80-int8/seed-0 ... --out pareto.png

Where they had a teacher it is there too. Each run must have been exported (``distill export RUN --to onnx`` or
``onnx-int8``); of two exports the one in integers counts. Latency is a ratio to that of the float teacher (the float
student's, of a run without one), measured in turn with it, so numbers taken at different times compare.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from distill.core.utils.errors import UserError
from distill.core.utils.plots import new_figure, save
from distill.run.folder import Run


@dataclass(frozen=True)
class Exported:
    """One run.

    Attributes:
        name: Of the run, without its id.
        metric: What the run was judged by.
        mode: ``max`` or ``min``: whether more of it is better.
        score: The student's.
        bytes: Of the export's model.
        reference: What the export was timed against: the float teacher, or the float student.
        speed: Times as fast as the reference.
        teacher: What the reference scored and weighs, where it is the teacher.
    """

    name: str
    metric: str
    mode: str
    score: float
    bytes: int
    reference: str
    speed: float
    teacher: tuple[float, int] | None = None

    @classmethod
    def of(cls, folder: str) -> Exported:
        """Read a run.

        Raises:
            UserError: if it was not exported, or timed against nothing.
        """
        run = Run.open(folder)
        reports = [run.folder / "exports" / to / "export.json" for to in ("onnx-int8", "onnx")]
        found = next((path for path in reports if path.is_file()), None)
        if found is None:
            raise UserError("was not exported", key="RUN", value=folder, hint=f"distill export {folder} --to onnx")
        report = json.loads(found.read_text(encoding="utf-8"))
        if "reference" not in report:
            problem = "was exported without a teacher to time it against"
            raise UserError(problem, key="RUN", value=folder, hint="leave it out")
        result, latency, reference = run.result, report["latency_ms"], report["reference"]["name"]
        metric, speed = result["monitor"], latency[reference] / latency["export"]
        score, teacher = result["scores"]["student"][metric], result["scores"].get("teacher", {}).get(metric)
        above = None if teacher is None else (teacher, report["reference"]["bytes"])
        return cls(run.name, metric, result["mode"], score, report["bytes"], reference, speed, above)


def check_alike(found: Sequence[Exported]) -> None:
    """Refuse runs that one picture cannot compare.

    Raises:
        UserError: naming what differs.
    """
    for what in ("metric", "reference"):
        kinds = sorted({getattr(one, what) for one in found})
        if len(kinds) > 1:
            problem = f"these runs differ in their {what}: {' and '.join(kinds)}"
            raise UserError(problem, key="RUN", hint="draw them apart")


def best(points: list[tuple[float, float]], mode: str = "max") -> list[tuple[float, float]]:
    """The points (cost, score) that no other beats in both, by rising cost; ``mode`` min: the lower score is better."""
    sign = 1 if mode == "max" else -1
    front: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if not front or sign * score > sign * front[-1][1]:
            front.append((cost, score))
    return front


def lines_below(points: Sequence[tuple[float, float]]) -> list[int]:
    """How many lines each point's name goes down, so that names of points which (nearly) coincide can be read."""
    wide, high = (0.2 * max(x for x, _ in points), 0.04 * (max(y for _, y in points) - min(y for _, y in points)))
    near = [[abs(x - a) <= wide and abs(y - b) <= high for a, b in points[:i]] for i, (x, y) in enumerate(points)]
    return [sum(before) for before in near]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path("pareto.png"))
    arguments = parser.parse_args()
    found = [Exported.of(folder) for folder in arguments.runs]
    check_alike(found)
    mode, reference = found[0].mode, found[0].reference
    if found[0].teacher is not None:
        score, weight = found[0].teacher
        found.append(Exported("teacher", found[0].metric, mode, score, weight, reference, 1.0))
    table = Table("run", found[0].metric, "MB", f"times as fast as {reference}")
    for one in found:
        table.add_row(one.name, f"{one.score:.4f}", f"{one.bytes / 1e6:.1f}", f"{one.speed:.2f}")
    Console().print(table)

    drawn = new_figure(11, 4.8)
    left, right = drawn.subplots(1, 2, sharey=True)
    for panel, label, costs in (
        (left, "MB on disk", [one.bytes / 1e6 for one in found]),
        (right, f"time of one sample, {reference}'s = 1", [1 / one.speed for one in found]),
    ):
        panel.scatter(costs, [one.score for one in found], s=28, zorder=3)
        front = best([(cost, one.score) for cost, one in zip(costs, found, strict=True)], mode)
        panel.step(*zip(*front, strict=True), where="post", color="0.6", linewidth=1)
        places = [(cost, one.score) for cost, one in zip(costs, found, strict=True)]
        for one, place, lines in zip(found, places, lines_below(places), strict=True):
            right_half = place[0] > max(costs) / 2
            panel.annotate(
                one.name,
                place,
                xytext=(-5 if right_half else 5, 4 - 10 * lines),
                textcoords="offset points",
                fontsize=8,
                ha="right" if right_half else "left",
            )
        panel.set_xlabel(label)
        panel.set_xlim(0, 1.05 * max(costs))
        panel.grid(alpha=0.3)
    left.set_ylabel(found[0].metric)
    save(drawn, arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"pareto: error: {error}")
