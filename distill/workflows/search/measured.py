"""What a run of a trial came to: its score, and what its export weighs and takes. Light: reads what lies in the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from distill.core.utils.errors import TrainingError
from distill.core.utils.json_file import number_at
from distill.run.folder import Run
from distill.run.listing import read_json

__all__ = ["MINIMIZE", "Measured", "Minimize", "measure"]

Minimize = Literal["bytes", "latency", "gzipped_bytes"]
MINIMIZE: tuple[Minimize, ...] = ("bytes", "latency", "gzipped_bytes")

_TEACHER = "the float teacher"


@dataclass(frozen=True)
class Measured:
    """A finished run of a trial.

    Attributes:
        run: Its id.
        steps: How many it trained.
        value: The student's score by the target's metric.
        teacher: The teacher's, if there is one.
        exported: What the export scored by the task's own metric, on the samples that it was verified on.
        bytes: Of the export's weights.
        gzipped_bytes: What gzip makes of them.
        latency_ms: Of one sample, on one thread, if the format is timed.
        teacher_ms: Of the float teacher, in turns with it.
        teacher_bytes: Of the float teacher, exported.
        train_seconds: That training took.
    """

    run: str
    steps: int
    value: float
    teacher: float | None
    exported: float | None
    bytes: int
    gzipped_bytes: int
    latency_ms: float | None = None
    teacher_ms: float | None = None
    teacher_bytes: int | None = None
    train_seconds: float = 0.0

    def cost(self, minimize: Minimize) -> float:
        """What the search makes small.

        Latency is a part of the float teacher's, timed in turns with it: a machine is not equally fast at all times.
        """
        if minimize == "latency":
            assert self.latency_ms is not None
            return self.latency_ms / self.teacher_ms if self.teacher_ms else self.latency_ms
        return float(getattr(self, minimize))

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def measure(run: Run, metric: str, to: str) -> Measured:
    """Read a run that has finished and was exported.

    Args:
        run: The run.
        metric: Of the target.
        to: The format.

    Raises:
        TrainingError: if something is missing.
    """
    result, report = read_json(run.result_file)[0], read_json(run.folder / "exports" / to / "export.json")[0]
    value, size = number_at(result, "scores", "student", metric), number_at(report, "bytes")
    if value is None or size is None:
        what = f"no {metric} of its student" if value is None else "no export"
        raise TrainingError(f"{run.shown} has {what}: look at its folder, or remove it, and give the command again")
    reference = report.get("reference")
    taught = isinstance(reference, Mapping) and reference.get("name") == _TEACHER
    teacher_bytes = number_at(report, "reference", "bytes") if taught else None
    return Measured(
        run=run.id,
        steps=int(number_at(result, "steps") or 0),
        value=value,
        teacher=number_at(result, "scores", "teacher", metric),
        exported=number_at(report, "verified", "exported"),
        bytes=int(size),
        gzipped_bytes=int(number_at(report, "gzipped_bytes") or size),
        latency_ms=number_at(report, "latency_ms", "export"),
        teacher_ms=number_at(report, "latency_ms", _TEACHER) if taught else None,
        teacher_bytes=None if teacher_bytes is None else int(teacher_bytes),
        train_seconds=number_at(result, "train_seconds") or 0.0,
    )
