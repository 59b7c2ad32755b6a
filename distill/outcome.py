"""What a run came to: the figures of teacher and student, and how they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from distill.artifact import steps_of, summary
from distill.coverage import coverage_of
from distill.loggers import is_rank_zero
from distill.models import parameter_count
from distill.module import Distillation
from distill.tables import duration, number, plain_table, wide

__all__ = ["LastValidation", "Scores", "kept", "outcome", "show_outcome", "show_scores"]

_PREFIX = "val/"


class Scores(Callback):
    """Keeps every validation's figures, so that those of the best checkpoint are known at the end.

    Args:
        spoken: Print a line for each, where no progress bar shows them.
    """

    def __init__(self, spoken: bool = False) -> None:
        self.spoken = spoken
        self.by_step: dict[int, dict[str, float]] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        scores = {
            n.removeprefix(_PREFIX): float(v) for n, v in trainer.callback_metrics.items() if n.startswith(_PREFIX)
        }
        self.by_step[trainer.global_step] = scores
        if self.spoken and is_rank_zero():
            figures = "  ".join(f"{name} {number(value)}" for name, value in scores.items())
            print(f"step {trainer.global_step}: {figures}", flush=True)

    def state_dict(self) -> dict[str, Any]:
        return {"by_step": self.by_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.by_step = dict(state_dict["by_step"])


class LastValidation(Callback):
    """Has a run that ``max_steps`` ends within an epoch validated at its end; Lightning would just stop."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if 0 < trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True


def kept(student: float, teacher: float, mode: str) -> float | None:
    """How much of the teacher the student kept, in percent: the ratio, inverted where less is better.

    ``None`` where no ratio means anything: a teacher or student at or below 0.
    """
    if student <= 0 or teacher <= 0:
        return None
    return 100 * (student / teacher if mode == "max" else teacher / student)


def outcome(module: Distillation, scores: Mapping[str, float], **more: Any) -> dict[str, Any]:
    """The figures of a finished run, as ``result.json`` holds them.

    Args:
        module: With the student as it is saved.
        scores: The student's, by metric; ``agreement`` among them.
        more: Whatever else is to be recorded.
    """
    monitor, mode = module.task.monitor, module.task.mode
    teacher = module.teacher_scores
    ratio = {n: kept(scores[n], teacher[n], mode) for n in (monitor,) if n in scores and n in teacher}
    result: dict[str, Any] = {
        "monitor": monitor,
        "mode": mode,
        "scores": {"teacher": dict(teacher), "student": dict(scores)},
        "kept_percent": ratio,
        "parameters": {"student": parameter_count(module.student)},
        "compressed": summary(steps_of(module.student)),
    }
    if steps := steps_of(module.student):
        result["coverage"] = coverage_of(module.student, steps).record()
    if module.teacher is not None:
        result["parameters"]["teacher"] = sum(parameter_count(model) for model in module.teacher.models)
    return result | more


def show_outcome(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the final table: teacher and student, their figures, what was kept of a teacher, parameters and time."""
    names = list(result["scores"]["student"])
    taught, compressed = "teacher" in result["parameters"], result.get("compressed")
    table = plain_table(f"{result['name']} {result['id']}")
    table.add_column("")
    more = {"kept": taught, "parameters": True, "compressed": compressed, "train time": True}
    for name in [*names, *(name for name, there in more.items() if there)]:
        table.add_column(name, justify="right", overflow="fold")
    for who in ("teacher", "student") if taught else ("student",):
        scores, cells = result["scores"][who], []
        for name in names:
            cells.append(number(scores[name]) if name in scores else "")
        ratio = result["kept_percent"].get(result["monitor"])
        student = who == "student"
        cells += ["" if not student or ratio is None else f"{ratio:.1f} %"] if taught else []
        cells.append(f"{result['parameters'][who]:,}")
        if compressed:
            cells.append(compressed if student else "")
        cells.append(duration(result["train_seconds"]) if student else "")
        table.add_row(who, *cells)
    (console or wide()).print(table)


def show_scores(title: str, scores: Mapping[str, float], console: Console | None = None) -> None:
    """Print figures, one a line."""
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in scores.items():
        table.add_row(name, number(value))
    (console or wide()).print(table)
