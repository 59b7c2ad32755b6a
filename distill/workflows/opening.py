"""What a run has understood, in a few lines before its first step: data, models, device and length."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress

import torch
from pytorch_lightning import Trainer
from torch import nn

from distill.compression.base import compressions
from distill.compression.coverage import coverage
from distill.core.expectation import expectation
from distill.core.internals.torch import multiplies_in
from distill.core.model_spec import ModelSpec, megabytes, parameter_count
from distill.core.stacks import STACKS
from distill.core.task import TokenTask
from distill.core.utils.console import number
from distill.core.utils.errors import UserError
from distill.core.utils.visible import visible
from distill.core.utils.words import amount
from distill.data import TextData
from distill.data.language import template_doubts
from distill.run.baseline import find_baseline, scores_of
from distill.run.lineage import lineage
from distill.run.samples import samples_of
from distill.training.module import Distillation
from distill.workflows.job.build import Job
from distill.workflows.teacher_check import TeacherCheck

__all__ = ["described", "opening", "samples_a_step", "steps_an_epoch"]

_HALVES = {"bf16": torch.bfloat16, "16": torch.float16}
"""What Lightning's precisions begin with, where they are of half precision."""


def opening(job: Job, trainer: Trainer, check: TeacherCheck) -> list[str]:
    """The lines, each beginning with what it is about.

    Args:
        job: The run.
        trainer: Its own, about to train.
        check: What the teacher scores.
    """
    module = job.module
    lines = [*getattr(job.data, "account", [])]
    lines += _teachers(module, f"; {check.score}" if check.score else "")
    lines.append(f"student: {described(module.student)}")
    if ours := compressions(trainer):
        lines.append(str(coverage(module.student, {type(one).__name__: one.reached(module.student) for one in ours})))
    if isinstance(module.task, TokenTask):
        whole = module.why_whole()
        lines.append(
            f"logits: {f'computed as a whole: {whole}' if whole else 'computed a block of positions at a time'}"
        )
    lines += [f"loss: {loss.name}: {said}" for loss in module.losses if (said := getattr(loss, "described", ""))]
    if module.on_policy is not None:
        lines.append(f"on policy: {module.on_policy.described}")
    lines += [_device(trainer), _length(job, trainer)]
    if expected := _expected(job, check):
        lines.append(f"to expect: {expected}")
    doubts = [*_least(trainer, module.total_steps), *_unvalidated(job), *check.lines, *_template_doubts(job)]
    return [*map(visible, [*lines, *(f"warning: {line}" for line in doubts)])]


def _teachers(module: Distillation, score: str) -> list[str]:
    """A line for each model that teaches, the first with its ``score``."""
    if module.teacher is None:
        return []
    whole = [f"teacher: {module.teacher.described}"] if module.teacher.described else []
    if module.own_base:  # the model is the student, which has a line of its own
        return [f"{whole[0]}{score}"]
    models = [f"teacher: {described(model)}" for model in module.teacher.models]
    return [*whole, *(f"{line}{'' if place else score}" for place, line in enumerate(models))]


def _template_doubts(job: Job) -> list[str]:
    if job.module.teacher is None or not isinstance(job.data, TextData):
        return []
    return template_doubts(job.data, job.module.teacher.tokenizers)


def _expected(job: Job, check: TeacherCheck) -> str:
    """What is to be expected of the teacher, as far as it is known before the run."""
    found = {"monitor": job.module.task.monitor, **check.found, **lineage(job.config, job.data)}
    if (beside := job.beside or find_baseline(job.config, samples_of(job.data, ["validation"]))) is not None:
        found["scores"] = {**found.get("scores", {}), "alone": scores_of(beside)}
    return expectation(found)


def described(model: nn.Module) -> str:
    """``BertForSequenceClassification, 3 layers, 17.4 M parameters (5.7 M trained), 69.4 MB``."""
    count, trained = parameter_count(model), parameter_count(model, trained_only=True)
    parts = [type(model).__name__]
    with suppress(UserError):  # of a module that does not say
        spec = ModelSpec(model, "model")
        depths = [spec.of(stack).num_layers for stack in (STACKS if spec.has_two_stacks else (None,))]
        parts.append(f"{depths[0]} + {depths[1]} layers" if len(depths) > 1 else amount(depths[0], "layer"))
    some = f" ({_count(trained)} trained)" if 0 < trained < count else ""
    return ", ".join([*parts, f"{_count(count)} parameters{some}", f"{number(megabytes(model))} MB"])


def steps_an_epoch(trainer: Trainer) -> int | None:
    """Optimizer steps of an epoch; ``None`` where the data does not say its end."""
    batches = trainer.num_training_batches
    return math.ceil(batches / trainer.accumulate_grad_batches) if math.isfinite(batches) else None


def _count(parameters: int) -> str:
    return f"{parameters / 1e6:,.1f} M" if parameters >= 1e6 else f"{parameters:,}"


def _share(epochs: float) -> str:
    return f"{epochs:,.0f}" if epochs >= 10 else f"{epochs:.2g}"


def _device(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    count = torch.get_num_threads()
    threads = f", {amount(count, 'thread')}" if device.type == "cpu" else ""
    ranks = f"{trainer.world_size} x " if trainer.world_size > 1 else ""
    slow = _emulated(str(trainer.precision)) if device.type == "cpu" else ""
    return f"device: {ranks}{name}{threads}, precision {trainer.precision}{slow}"


def _emulated(precision: str) -> str:
    """That the host's processor has no instructions for a precision; empty where it has."""
    if multiplies_in(_HALVES.get(precision.partition("-")[0], torch.float32)):
        return ""
    return " (emulated, this processor has no instructions for it: 32-true is faster)"


def _least(trainer: Trainer, total: int) -> Iterator[str]:
    """What asks for a longer run than there is: of two limits the nearer one holds."""
    steps, epochs, epoch = trainer.min_steps or 0, trainer.min_epochs or 0, steps_an_epoch(trainer)
    limits = (f"trainer.{name}" for name in ("max_steps", "max_epochs") if (getattr(trainer, name) or -1) > 0)
    ends = f"the run ends after {total:,} ({', '.join(limits)})"
    if steps > total:
        yield f"trainer.min_steps asks for {amount(steps, 'step')} at least, and {ends}"
    if epoch and epochs * epoch > total and epochs > 1:
        yield f"trainer.min_epochs asks for {amount(epochs * epoch, 'step')} at least, and {ends}"


def _unvalidated(job: Job) -> list[str]:
    zero = job.arguments.get("limit_val_batches") == 0
    return ["trainer.limit_val_batches is 0: nothing will be known of the student"] if zero else []


def _length(job: Job, trainer: Trainer) -> str:
    assert isinstance(trainer.lightning_module, Distillation)
    total, epoch = trainer.lightning_module.total_steps, steps_an_epoch(trainer)
    text = f"steps: {total:,}" + (
        f" ({_share(total / epoch)} epoch{'' if total == epoch else 's'} of {epoch:,})" if epoch else ""
    )
    sizes = _batch_sizes(job, trainer)
    if not sizes:
        return text
    fewest, most = samples_a_step(sizes, trainer.num_training_batches, trainer.accumulate_grad_batches)
    return f"{text}, {'up to ' if fewest < most else ''}{amount(most, 'sample')} each"


def _batch_sizes(job: Job, trainer: Trainer) -> list[int]:
    """Samples of the batches of an epoch, on all ranks together; empty where the data does not say."""
    if isinstance(job.data, TextData):
        return job.data.training_batches().sizes
    batch, batches = getattr(job.data, "batch_size", None), trainer.num_training_batches
    count = batches if math.isfinite(batches) else trainer.accumulate_grad_batches
    return [batch * trainer.world_size] * int(count) if isinstance(batch, int) else []


def samples_a_step(sizes: Sequence[int], batches: float, accumulate: int) -> tuple[int, int]:
    """The fewest and the most samples of an optimizer step, which an epoch's end closes in any case.

    Args:
        sizes: Samples of the batches there are, in any order.
        batches: How many an epoch takes of them; infinite where it has no end.
        accumulate: How many a step takes, if there are as many.
    """
    each = int(min(accumulate, batches))
    last = int(batches % each or each) if math.isfinite(batches) else each
    ordered = sorted(sizes)
    return sum(ordered[:last]), sum(ordered[-each:])
