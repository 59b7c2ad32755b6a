"""What a run leaves when it ends: the finished student of the best checkpoint, its card, the result, the table."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from torch import nn

from distill.compression.base import hurried
from distill.core import record
from distill.core.utils.files import write
from distill.core.utils.quiet import quiet_lightning
from distill.data.task_file import task_file
from distill.models import saved_student
from distill.run.baseline import find_baseline, learns_alone, scores_of
from distill.run.lineage import lineage
from distill.run.samples import samples_of
from distill.training.evidence import empty_layers
from distill.workflows.card import CARD, card
from distill.workflows.completions import COMPLETIONS, Completions, complete_held_out
from distill.workflows.finish import FinalStudent, final_student
from distill.workflows.job.build import Job
from distill.workflows.job.choosing import chosen_by
from distill.workflows.result import make_result, show_result
from distill.workflows.teacher_check import CHECK

__all__ = ["end_run"]

_log = logging.getLogger(__name__)


def end_run(job: Job, trainer: Trainer, seconds: float) -> None:
    """Save the finished student of the best checkpoint, and show the table.

    Args:
        job: The run's.
        trainer: Its own, whose fit has ended.
        seconds: That the training took, in all of the run's processes.
    """
    steps = trainer.global_step
    ended = final_student(trainer, job.module, lambda anew: _validated(job, trainer, anew))
    student = job.module.unsharded_student()
    if student is None or not trainer.is_global_zero:
        return
    _save(job, ended, student)
    completions = complete_held_out(job, "validation", student)
    if completions is not None and completions.shown:
        write(job.run.folder / COMPLETIONS, completions.jsonl)
    by = chosen_by(job.module.task, trainer.checkpoint_callbacks)
    chosen = {} if by == job.module.task.monitor else {"chosen_by": by}
    times = {"steps": steps, "saved_step": ended.restored.step, "train_seconds": round(seconds, 3)}
    result = _result(job, ended, student, completions, **chosen, **times)
    write(job.run.student / CARD, card(job.config, result, student, job.data).encode())
    job.run.write_result(result)
    show_result(result)
    _say_which(job, ended, steps, by)
    if completions is not None and completions.shown:
        file = Path(job.run.shown) / COMPLETIONS
        print(f"completions of {len(completions.lines)} held-out prompts: {file}", flush=True)
    _warn(ended, steps)


def _validated(job: Job, trainer: Trainer, anew: bool) -> dict[str, float] | None:
    """The validation metrics of the student as it now is, as what is saved is what is scored; nothing where those
    that its checkpoint had hold, unless ``anew``."""
    if not trainer.enable_validation or not (anew or job.module.measures_acceptance):
        return None
    trainer.loggers = []  # the history ends with the training
    with quiet_lightning():
        [scores] = trainer.validate(job.module, datamodule=job.data, verbose=False)
    return {name.removeprefix("val/"): float(value) for name, value in scores.items() if name.startswith("val/")}


def _save(job: Job, ended: FinalStudent, student: nn.Module) -> None:
    """Write ``student/``, but for the card, which has the scores."""
    files: dict[str, str | bytes] = {**task_file(job.data), **ended.files}
    steps = record.steps_of(job.module.student)
    saved_student.save(student, job.run.student, getattr(job.data, "tokenizer", None), steps, files, ended.dtype)


def _result(
    job: Job, ended: FinalStudent, student: nn.Module, completions: Completions | None, **more: Any
) -> dict[str, Any]:
    """What ``result.json`` holds; ``more`` is put in as it is."""
    check = job.run.planned(CHECK)  # of a file that others may have written
    if not ended.scores and isinstance(check, dict):
        more[CHECK] = check
    step, total = ended.restored[:2]
    return make_result(
        job.module,
        ended.scores,
        ended.evidence,
        job.run.student,
        measured={
            "empty_layers": empty_layers(student),
            "hurried": hurried(ended.changed, total, step),
            **_unsteady(check),
        },
        beside=_beside(job),
        completions=None if completions is None else completions.record,
        **lineage(job.config, job.data),
        data=samples_of(job.data),
        name=job.run.name,
        id=job.run.id,
        complete=not ended.unfinished,
        recipe=job.recipe,
        **more,
    )


def _unsteady(check: Any) -> dict[str, str]:
    """Why the student answers the same twice otherwise, if it was seen to before training."""
    doubts = check.get("unsteady") if isinstance(check, dict) else None
    why = doubts.get("student") if isinstance(doubts, dict) else None
    return {"unsteady": why} if isinstance(why, str) else {}


def _beside(job: Job) -> dict[str, Any] | None:
    """The baseline of a student that a teacher has trained, and its scores; an empty name if there is none."""
    if job.module.teacher is None or learns_alone(job.config):
        return None
    folder = job.beside or find_baseline(job.config, samples_of(job.data, ["validation"]))
    scores = None if folder is None else scores_of(folder)
    return {"run": "" if scores is None else str(folder), "scores": scores or {}}


def _say_which(job: Job, ended: FinalStudent, steps: int, by: str) -> None:
    """Print of which step the saved student is, and where it lies."""
    step = ended.restored.step
    chosen = f"the {'next ' if ended.restored.instead else ''}best by {by}"
    which = f"{step} of {steps} ({chosen})" if step != steps else f"{step} (the last)"
    print(f"student of step {which}: {Path(job.run.shown) / 'student'}", flush=True)


def _warn(ended: FinalStudent, steps: int) -> None:
    """Say what is not as it was asked for."""
    if ended.restored.instead:
        _log.warning("%s: the student of step %d is saved in its place", ended.restored.instead, ended.restored.step)
    if ended.unfinished:
        _log.warning(
            "the run ended at step %d of %d, before %s had done what was asked for: the student is larger than that",
            steps,
            ended.restored.total,
            " and ".join(ended.unfinished),
        )
