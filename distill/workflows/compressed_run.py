"""A run of its own for a student that was compressed without training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.core.utils.files import write
from distill.data.task_file import task_file
from distill.models import saved_student
from distill.run.folder import Run
from distill.run.listing import read_json
from distill.run.samples import samples_of
from distill.workflows.card import CARD, card
from distill.workflows.evaluate import scored
from distill.workflows.job.build import Job
from distill.workflows.result import show_result

__all__ = ["keep"]


def keep(
    new: Run, run: Run, job: Job, scores: Mapping[str, float], how: Mapping[str, Any], *, by: str, folder: str | Path
) -> None:
    """Write the student with its scores, card and result, and show the table.

    Args:
        new: Its run, planned.
        run: Whose student it was.
        job: The run's, with the student as it now is.
        scores: Of that student on the validation data.
        how: What was asked for.
        by: The command, ``quantize`` or ``prune``.
        folder: What it was given.
    """
    before = read_json(run.result_file)[0]
    recipe = f"{before.get('recipe') or f'the run {run.name}'}, then distill {by}"
    read, trained = samples_of(job.data), before.get("data")
    trained = trained if isinstance(trained, dict) else {}
    if read and trained.get("tokenizer") != read["tokenizer"]:
        trained = {}  # of samples read otherwise
    data = trained | read
    student, made = job.module.student, {"made_from": str(folder), "recipe": recipe, by: how, "train_seconds": 0.0}
    with new.made(run.config, made_by=f"distill {by} {folder}") as fresh:
        tokenizer = getattr(job.data, "tokenizer", None)
        saved_student.save(student, fresh.student, tokenizer, files=task_file(job.data))
        result = scored(job, scores, run, fresh.student, name=new.name, id=new.id, data=data, **made)
        write(fresh.student / CARD, card(run.config, result, student, job.data).encode())
        fresh.write_result(result)
    show_result(result)
