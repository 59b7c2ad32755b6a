"""What callbacks ask of the Lightning module that is trained: a ``Distillation``, or one of one's own.

A module of one's own names what is compressed: an ``nn.Module`` called ``student``, or what its method
``compressed_module()`` returns. All else is asked for where it is there.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from distill.core.internals.torch import tensors_in
from distill.core.model_call import call
from distill.core.signals import Batch, Needs, Request, Signals
from distill.core.task import Task
from distill.core.utils.errors import UserError
from distill.core.utils.words import amount

__all__ = [
    "average_gradients",
    "batch_of",
    "check_steps",
    "count_steps",
    "ended_elsewhere",
    "forward_of",
    "most_steps",
    "prefix_of",
    "refuse_too_many",
    "require_student",
    "several_steps",
    "student_of",
    "task_of",
    "total_steps",
]


def student_of(pl_module: LightningModule) -> nn.Module | None:
    """The part of a Lightning module that is compressed: what ``compressed_module()`` returns, or its ``student``."""
    named = getattr(pl_module, "compressed_module", None)
    found = named() if callable(named) else getattr(pl_module, "student", None)
    return found if isinstance(found, nn.Module) else None


def require_student(pl_module: LightningModule, callback: str) -> nn.Module:
    """The same, which must be there.

    Args:
        pl_module: The module that is trained.
        callback: What asks, for the error's message.

    Raises:
        UserError: if it names none, or itself.
    """
    student, name = student_of(pl_module), type(pl_module).__name__
    if student is None:
        problem = f"{callback} works on the student of a Distillation, and {name} has none"
        hint = (
            "name what is compressed: self.student = ..., or a method compressed_module() that returns it; or pair the "
            "model by Distillation, whose teacher may be left out"
        )
        raise UserError(problem, key="callbacks", hint=hint)
    if student is pl_module or all(student is not module for module in pl_module.modules()):
        which = "the LightningModule itself" if student is pl_module else "no part of the LightningModule"
        problem = f"{callback} is given {which}, which is neither trained nor saved as a student"
        raise UserError(problem, key="callbacks", value=name, hint="name a module in it, as self.net is")
    return student


def prefix_of(pl_module: LightningModule, student: nn.Module) -> str:
    """What the student's names begin with among those of the module: ``student.``."""
    return next(f"{name}." for name, module in pl_module.named_modules() if module is student)


def task_of(pl_module: LightningModule) -> Task | None:
    """The task by which the module reads its batches, if it has one."""
    task = getattr(pl_module, "task", None)
    return task if isinstance(task, Task) else None


def batch_of(pl_module: LightningModule, raw: Any) -> Batch:
    """What a loader yields, as the module's task reads it; without a task, what can be seen of it.

    That are the tensors of a mapping, but for its labels, and of anything else the first one. Where an attention mask
    says so, some positions hold no token.
    """
    task = task_of(pl_module)
    if task is not None:
        return task.batch(raw)
    if isinstance(raw, Batch):
        return raw
    if isinstance(raw, Mapping):
        inputs = {str(k): v for k, v in raw.items() if isinstance(v, Tensor) and k not in ("label", "labels")}
        mask = inputs.get("attention_mask")
        return Batch(inputs, tokens=mask.bool() if mask is not None and mask.dim() == 2 else None)
    tensors = tensors_in(raw)
    return Batch({"input": tensors[0]} if tensors else {})


def forward_of(pl_module: LightningModule, student: nn.Module, batch: Batch) -> Signals:
    """One pass of the student, as the module's task reads it; without a task, what it gives for the batch's inputs."""
    task = task_of(pl_module)
    if task is None:
        found = tensors_in(call(student, batch.inputs, {}))
        return Signals(taps={str(index): tensor for index, tensor in enumerate(found)})
    needs = getattr(pl_module, "needs", Needs())
    return task.forward(student, batch, needs.student | Request(logits=True))


def average_gradients(pl_module: LightningModule, optimizer: Optimizer) -> None:
    """Have gradients be those of the mean, where the module sums first; Lightning's own are already."""
    average = getattr(pl_module, "average_gradients", None)
    if callable(average):
        average(optimizer)


def total_steps(pl_module: LightningModule) -> int:
    """How many optimizer steps the run has: what the module says, or else Lightning's estimate.

    Raises:
        UserError: if it says no whole number above 0, or the run has no end.
    """
    said: Any = getattr(pl_module, "total_steps", None)
    if said is None:
        return _estimate(pl_module.trainer)
    if isinstance(said, bool) or not isinstance(said, int) or said < 1:
        hint = "give how many optimizer steps the run has, or leave total_steps out"
        raise UserError("must be a whole number above 0", key="total_steps", value=said, hint=hint)
    return said


_estimates: weakref.WeakKeyDictionary[Trainer, tuple[object, int]] = weakref.WeakKeyDictionary()


def _estimate(trainer: Trainer) -> int:
    """Lightning's own, counted once for a run: it goes through the loaders each time."""
    asked = trainer.max_epochs, trainer.max_steps
    if trainer not in _estimates or _estimates[trainer][0] != asked:
        _estimates[trainer] = asked, count_steps(trainer)
    return _estimates[trainer][1]


def count_steps(trainer: Trainer) -> int:
    """How many optimizer steps a run has.

    Raises:
        UserError: if it has no end.
    """
    total = trainer.estimated_stepping_batches
    if total == float("inf"):
        raise UserError("a run needs an end", key="trainer.max_epochs", value=-1, hint="set max_epochs or max_steps")
    return int(total)


def check_steps(pl_module: LightningModule) -> None:
    """Refuse a module whose steps are not those by which masks, rounding, weights and temperatures go.

    A module of one's own may step by hand: with one optimizer, and where it says in ``total_steps`` how many steps
    there are, of which Lightning then knows nothing.

    Raises:
        UserError: saying what it has instead.
    """
    optimizers, name = pl_module.trainer.optimizers, type(pl_module).__name__
    hint = "return one optimizer from configure_optimizers, with a parameter group for each setting"
    if not optimizers or not optimizers[0].param_groups:
        found = "no optimizer"
    elif pl_module.automatic_optimization:
        refuse_too_many(pl_module)
        return  # Lightning takes one at the most
    elif len(optimizers) > 1:
        found = f"{len(optimizers)} optimizers"
    elif not hasattr(pl_module, "average_gradients") and hasattr(pl_module, "total_steps"):
        refuse_too_many(pl_module)
        return
    else:
        found = "manual optimization"
        hint = "let Lightning step; a module that is no Distillation may say how many steps there are: self.total_steps"
    problem = f"{name} has {found}, and what is scheduled over a run goes by the true steps of one"
    raise UserError(problem, key="model", hint=hint)


def refuse_too_many(pl_module: LightningModule) -> None:
    """Refuse a ``total_steps`` that the run cannot reach, with one optimizer step a batch at the most.

    Raises:
        UserError: saying how many there can be.
    """
    said, most = total_steps(pl_module), most_steps(pl_module.trainer)
    if said > most:
        taken = amount(int(most), "optimizer step")
        problem = f"the run takes {taken} at the most, and what is scheduled would not reach its end"
        hint = "say how many steps there are, counting accumulation, or train longer"
        raise UserError(problem, key="total_steps", value=said, hint=hint)


def most_steps(trainer: Trainer) -> int | float:
    """How many optimizer steps a run can have of which no batch takes two: infinite where nothing ends it.

    min(batches an epoch * ``max_epochs``, ``max_steps``), each where it is known.
    """
    epochs, steps = trainer.max_epochs, trainer.max_steps
    counted = epochs is not None and epochs >= 0 and not trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined]
    batches = trainer.num_training_batches * (epochs or 0) if counted else math.inf
    return min(batches, math.inf if steps < 0 else steps)


def ended_elsewhere(pl_module: LightningModule) -> str:
    """Where the schedules were as a run came to its end, if they were not at theirs; else nothing.

    A run that something has stopped, as early stopping does, has said so.
    """
    trainer = pl_module.trainer
    took, said = trainer.global_step, total_steps(pl_module)
    if took == said or trainer.should_stop:
        return ""
    what = "as self.total_steps says" if not pl_module.automatic_optimization else "as was to be expected"
    steps = f"the run took {amount(took, 'optimizer step')}, and not {said:,}, {what}"
    if took < said:
        return f"{steps}: what is scheduled over it ended at step {took:,} of {said:,}"
    return f"{steps}: what is scheduled over it was at its end from step {said:,} on"


def several_steps(pl_module: LightningModule, steps: int) -> UserError:
    """What to say where a batch was followed by several optimizer steps."""
    name = type(pl_module).__name__
    problem = f"{name} takes {amount(steps, 'optimizer step')} in one batch, and what is scheduled acts after each"
    return UserError(problem, key="model", hint="step at most once in a training_step")
