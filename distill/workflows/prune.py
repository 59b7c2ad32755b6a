"""A run's student, or any trained module, pruned without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distill.compression.pruning import at_once
from distill.compression.pruning.at_once import OneShot
from distill.core import record
from distill.core.lazy_head import logits_request
from distill.core.task import Task
from distill.core.utils.console import number, wide
from distill.core.utils.errors import UserError
from distill.core.utils.progress import track
from distill.core.utils.secrets import scrub_override
from distill.models.unfinished import refuse_unfinished
from distill.run.folder import Run
from distill.tasks.loaders import batches_of, task_of
from distill.training.calibration import first_batches
from distill.workflows.compressed_run import keep
from distill.workflows.evaluate import read_training, refuse_quantized_run, reopen, score

__all__ = ["prune", "prune_run"]


def prune_run(
    folder: str | Path,
    how: OneShot,
    *,
    calibrate: int = 128,
    run_id: str | None = None,
    overrides: Sequence[tuple[str, str]] = (),
    allow: Sequence[str] = (),
) -> Run:
    """Prune a run's student without training it, into a run of its own: a start for recovery by distillation.

    Args:
        folder: The run.
        how: The method, and how much.
        calibrate: Training samples whose inputs it looks at.
        run_id: Id of the new run.
        overrides: As of :func:`~distill.workflows.evaluate.reopen`.
        allow: Likewise.

    Returns:
        A run of its own, ``<name>-pruned/<id>`` beside the run's own folders, that can be scored, exported, and trained
        on from.

    Raises:
        UserError: as :func:`~distill.workflows.evaluate.reopen`, or if the student is quantized, or the settings do not
            fit it.
    """
    _check(calibrate, "--calibrate")
    run, job = reopen(folder, "validate", overrides=overrides, allow=allow, alone=True, heeds=("runs",))
    refuse_quantized_run(job, folder, "prune")
    elsewhere = any(key == "runs" for key, _ in overrides)
    new = Run.plan(job.config["runs"] if elsewhere else run.folder.parents[1], f"{run.name}-pruned", run_id)
    student, task = job.module.student, job.module.task
    _, before = score(job, "validate")
    batches = []
    if how.reads_inputs:
        read_training(run, job)
        batches = first_batches(job.data.train_dataloader(), task, calibrate, torch.device("cpu"))
    step = at_once.prune(
        student,
        how,
        batches,
        lambda model, batch: task.forward(model, batch, logits_request(model)),
        progress=partial(track, what="layers pruned", console=wide()),
    )
    record.note(student, step)
    _, scores = score(job, "validate")
    asked: dict[str, Any] = asdict(how) | {"sparsity": how.target}
    asked |= {"calibrate": calibrate} if how.reads_inputs else {}
    if overrides:
        asked["overrides"] = {key: scrub_override(key, text) for key, text in overrides}
    keep(new, run, job, scores, asked, by="prune", folder=run.folder)
    print(f"{task.monitor} before: {number(before[f'val/{task.monitor}'])}")
    print(f"pruned student: {new.student}")
    return new


def prune(
    student: nn.Module,
    data: Any = None,
    *,
    method: str = "sparsegpt",
    sparsity: float | None = None,
    granularity: str = "unstructured",
    damping: float = 0.01,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    task: str | Task | None = None,
    calibrate: int = 128,
) -> nn.Module:
    """Prune a trained module in place, without training it, as ``distill prune`` does: ``distill.prune``.

    Args:
        student: Trained. It is left in eval mode.
        data: What layers read is looked at on it: a ``DataLoader``, a list of batches, or a data module, whose training
            data is read. Not needed by ``magnitude``.
        method: ``sparsegpt``, ``wanda`` or ``magnitude``.
        sparsity: In [0, 1), of each layer; 0.5 if not given, and 1 - n/m of n:m.
        granularity: ``unstructured``, or n:m such as ``2:4``.
        damping: Of ``sparsegpt``: added to the Hessian's diagonal, as a part of its mean.
        include: Patterns of the layers that are pruned; all but the last if not given.
        exclude: Patterns of layers that are left.
        task: How the student reads a batch; see :func:`distill.export`.
        calibrate: Samples that are looked at.

    Returns:
        ``student``, for :func:`distill.save`, :func:`distill.export`, or to be trained on.

    Raises:
        UserError: if the settings do not fit the module, it is quantized, or there is no data to look at.
    """
    refuse_unfinished(student)
    how = OneShot(method, sparsity, granularity, damping)
    if any(step["kind"] == "quantize" for step in record.steps_of(student)):
        problem, hint = "this module is quantized, and would leave its grids", "prune first, then quantize"
        raise UserError(problem, key="student", value=type(student).__name__, hint=hint)
    _check(calibrate, "calibrate")
    judge = task_of(data, task)
    batches = []
    if how.reads_inputs:
        like = next(student.parameters())
        batches = first_batches(batches_of(data or [], judge, "fit")(), judge, calibrate, like.device)
        if not batches:
            problem, hint = f"{method} looks at what layers read, and there are no batches", "give a DataLoader"
            raise UserError(problem, key="data", value=data, hint=hint)
    step = at_once.prune(
        student,
        how,
        batches,
        lambda model, batch: judge.forward(model, batch, logits_request(model)),
        include=include,
        exclude=exclude,
    )
    record.note(student, step)
    return student


def _check(calibrate: int, key: str) -> None:
    if calibrate < 1:
        raise UserError("must be at least 1", key=key, value=calibrate, hint="128 are usually enough")
