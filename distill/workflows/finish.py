"""The end of a training: the best checkpoint back, compressions finished, the student judged once more."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerStatus
from torch import nn

from distill.callbacks import compressions
from distill.compression.base import Compression, hurried
from distill.core import record
from distill.core.step_callback import finish_callback, step_callbacks
from distill.core.trained_module import student_of
from distill.core.utils.errors import TrainingError, UserError
from distill.core.utils.quiet import quiet_lightning
from distill.core.utils.replacing import check_output
from distill.core.verdict import Verdict
from distill.data.task_file import task_file
from distill.models import saved_student
from distill.training.evidence import empty_layers
from distill.training.lora import merge_adapter
from distill.training.module import Distillation
from distill.workflows.best_student import Restored, restore_best
from distill.workflows.result import outcome

__all__ = ["FinalStudent", "Finished", "final_student", "finish", "finish_callbacks"]

_log = logging.getLogger(__name__)

_finished: weakref.WeakKeyDictionary[Trainer, int] = weakref.WeakKeyDictionary()
"""Trainers whose compressions have finished -> after which step."""


@dataclass(frozen=True)
class FinalStudent:
    """What a training came to.

    Attributes:
        student: Finished; it has all of its weights, unless the run was sharded.
        restored: Whose weights it has.
        changed: The compressions.
        unfinished: Of these, by name, what had not reached its target at that step.
        scores: Of the finished student on the validation data, by metric; empty where there is none.
        evidence: What else that measured.
        files: Name -> content of what lies beside the student.
        dtype: Of the parameters in its file, if it is not their own.
    """

    student: nn.Module
    restored: Restored
    changed: Sequence[Compression]
    unfinished: Sequence[str]
    scores: Mapping[str, float]
    evidence: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Finished:
    """What :func:`finish` gives.

    Attributes:
        student: As it was saved, or can be by :func:`distill.save`: on the CPU, in eval mode, without masks.
        scores: Its metrics on the validation data, by the names under which they are logged; empty where there is none.
        step: The optimizer step whose weights it has: that of the best checkpoint, or the last.
        steps: How many there were.
        compression: What was done to it, as ``compression.json`` says it.
        unfinished: Compressions that had not reached their target at that step, by name.
        verdict: What must be said of the outcome, the worst first (:mod:`distill.core.verdict`); it is logged too.
    """

    student: nn.Module
    scores: Mapping[str, float]
    step: int
    steps: int
    compression: Sequence[Mapping[str, Any]]
    unfinished: Sequence[str]
    verdict: Sequence[str] = ()


def finish(trainer: Trainer, output: str | Path | None = None) -> Finished:
    """End a training that was written in Python as ``distill fit`` ends one: ``distill.finish``.

    The weights of the best checkpoint come back: that of :class:`~distill.callbacks.BestCheckpoint`, or of Lightning's
    own ``ModelCheckpoint`` with a ``monitor`` where every compression had reached its target by then; without either
    the last step's stay. Averages and compressions leave the student as it is shipped: zeros in place and masks gone,
    units removed, weights rounded. That student is validated once more on the data of the fit, as that is what counts.

    Args:
        trainer: Whose ``fit`` has ended. It may have trained a :class:`~distill.Distillation`, or a module of your own
            that names what is compressed.
        output: The folder to save the student in (:func:`distill.save`), with the tokenizer of the data if it has
            one; none if not given. An older student there is replaced.

    Raises:
        UserError: if nothing has been trained, or all was finished before.
        TrainingError: if a compression cannot finish, as no batch came while it observed ranges.
    """
    module = _trained(trainer)
    place = check_output(output)
    data: Any = getattr(trainer, "datamodule", None)
    loaders = None if data is not None else trainer.val_dataloaders
    validates = trainer.enable_validation and (data is not None or loaders is not None)

    def judge(anew: bool) -> Mapping[str, float] | None:
        if not validates:
            return None
        where: dict[str, Any] = {"datamodule": data} if data is not None else {"dataloaders": loaders}
        loggers, trainer.loggers = trainer.loggers, []  # their history ends with the training
        try:
            with quiet_lightning():
                found = trainer.validate(module, verbose=False, **where)
        finally:
            trainer.loggers = loggers
        return {name: float(value) for scores in found for name, value in scores.items()}

    steps = trainer.global_step
    ended = final_student(trainer, module, judge)
    student = ended.student.cpu().eval()
    if place is not None and trainer.is_global_zero:
        files: dict[str, str | bytes] = {**task_file(data), **ended.files}
        saved_student.save(student, place, getattr(data, "tokenizer", None), files=files, dtype=ended.dtype)
    trainer.strategy.barrier()
    if ended.unfinished and trainer.is_global_zero:
        names, step = " and ".join(ended.unfinished), ended.restored.step
        _log.warning("at step %d of %d %s had not done what was asked for", step, ended.restored.total, names)
    verdict = _verdict(module, ended)
    for line in verdict if trainer.is_global_zero else ():
        _log.warning("%s", line)
    done = record.steps_of(student)
    return Finished(student, ended.scores, ended.restored.step, steps, done, ended.unfinished, verdict)


def _verdict(module: LightningModule, ended: FinalStudent) -> list[str]:
    """Of a module of one's own nobody knows what its scores are."""
    step, total = ended.restored[:2]
    measured = {"empty_layers": empty_layers(ended.student), "hurried": hurried(ended.changed, total, step)}
    if not isinstance(module, Distillation):
        return Verdict.of({"measured": measured}).lines
    scores = {name.removeprefix("val/"): value for name, value in ended.scores.items()}
    return Verdict.of(outcome(module, scores, {**ended.evidence, **measured})).lines


def _trained(trainer: Trainer) -> LightningModule:
    """The module that ``trainer`` has trained.

    Raises:
        UserError: if there is none, or it cannot be finished.
    """
    module, hint = trainer.lightning_module, "call trainer.fit(module, ...) first, then this, once"
    problem = ""
    if module is None or not trainer.global_step:
        problem = "has trained nothing yet"
    elif trainer.state.status == TrainerStatus.RUNNING:
        problem = "is still training"
    elif _finished.get(trainer) == trainer.global_step:
        problem = "was finished before"
    elif not isinstance(student := student_of(module), nn.Module):
        problem, hint = f"trained a {type(module).__name__}, which has no student", "name it: see Extending"
    elif any(not one.prepares(student) for one in compressions(trainer)):
        problem = "trained in processes that have ended, which had the masks and ranges"
        hint = "take a strategy that does not spawn: ddp, or one device"
    if problem:
        raise UserError(f"this trainer {problem}", key="trainer", hint=hint)
    return module


def final_student(
    trainer: Trainer, module: LightningModule, judge: Callable[[bool], Mapping[str, float] | None]
) -> FinalStudent:
    """Give the module the student that a run ends with.

    Args:
        trainer: Its own.
        module: As it was trained. Of a :class:`~distill.Distillation` an adapter is merged, and parameters are rounded
            to the type that they are saved in.
        judge: Scores the finished student, or gives nothing where the scores that its checkpoint had hold; it is told
            whether the student has changed since, or had none.
    """
    restored = restore_best(trainer, module)
    changed = compressions(trainer)
    unfinished = [type(c).__name__ for c in changed if not c.target_reached(restored.step, restored.total)]
    student = student_of(module)
    assert student is not None
    _finished[trainer] = trainer.global_step  # from here on the student is no longer what could be finished anew
    finish_callbacks(trainer, student, restored.states)
    files: Mapping[str, bytes] = {}
    dtype, merged, evidence = None, False, restored.evidence
    if isinstance(module, Distillation):
        config = module.student_config
        merged = config is not None and config.lora is not None
        module.student, files = merge_adapter(module.student, config, module.own_base)
        if config and config.save_dtype == "bfloat16":
            dtype = torch.bfloat16
            saved_student.round_parameters(module.student, dtype)
    scores = judge(bool(changed or merged or dtype is not None or not restored.scores))
    if isinstance(module, Distillation):
        student = module.student
        evidence = evidence if scores is None else module.evidence.found
    scores = restored.scores if scores is None else scores
    return FinalStudent(student, restored, changed, unfinished, scores, evidence, files, dtype)


def finish_callbacks(trainer: Trainer, student: nn.Module, states: Mapping[str, Any]) -> None:
    """Have every callback leave the student as it is saved: averages first, as they are what is then compressed.

    Args:
        trainer: Of the callbacks.
        student: With the weights of some step.
        states: Of the callbacks at that step; empty where they have it already.
    """
    changed = compressions(trainer)
    for callback in step_callbacks(trainer):
        if callback.state_key in states:
            callback.load_state_dict(states[callback.state_key])
    done = [step for one in step_callbacks(trainer) if one not in changed for step in finish_callback(one, student)]
    record.recount_zeros(student)
    record.note(student, *done)
    for compression in changed:
        steps = finish_callback(compression, student)
        for kind in {str(step.get("kind")) for step in steps} - record.STEP_KINDS.keys():
            problem = f"{type(compression).__name__}.finish returns a step of kind {kind!r}, which nobody can rebuild"
            hint = "have your module call distill.models.saved_student.register(kind, rebuild), and resume the run"
            raise TrainingError(f"{problem}: {hint}")
        record.note(student, *steps)
