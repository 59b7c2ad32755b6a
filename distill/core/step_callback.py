"""The contract of callbacks that act after optimizer steps."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from distill.core.signals import Batch
from distill.core.trained_module import check_steps, ended_elsewhere, several_steps, total_steps
from distill.core.utils.errors import UserError

__all__ = [
    "StepCallback",
    "finish_callback",
    "logged",
    "logs_now",
    "scale_learning_rate",
    "step_callbacks",
    "total_steps",
]

_log = logging.getLogger(__name__)


class StepCallback(Callback):
    """A callback that acts when an optimizer step is done, and not while gradients are accumulated.

    What a run asks of it besides, whatever its class: by how much it multiplies the learning rate, what it shows in
    the time line, what it leaves of the student at the end, and whether it works on a sharded student.
    """

    needs_unsharded_weights: ClassVar[bool] = False
    """Whether it reads or writes weights as wholes: it is then refused under ``trainer.strategy: sharded``, where each
    rank has a part of them. Any other Lightning callback may say so too."""

    writes_files: ClassVar[bool] = False
    """Whether it writes files, and is left out of ``--dry-run``. Any other Lightning callback may say so too."""

    _step: int = 0  # the last one that was acted upon

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        if step_callbacks(trainer)[0] is self:
            check_steps(pl_module)
            scale_learning_rate(trainer, total_steps(pl_module))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:
            return  # gradients are still accumulated
        if trainer.global_step > self._step + 1:
            raise several_steps(pl_module, trainer.global_step - self._step)
        self._step = trainer.global_step
        self.on_step_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if step_callbacks(trainer)[0] is self and trainer.is_global_zero and (said := ended_elsewhere(pl_module)):
            _log.warning("%s", said)

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called after every optimizer step, before validation and checkpoints."""
        return

    def on_weights_set(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called when another callback has given the student's weights other values, not by an optimizer step."""
        return

    def trained_on(self, trainer: Trainer, batch: Batch) -> Batch:
        """The batch that both models of a :class:`~distill.Distillation` read in place of this one of the training.

        What is drawn for it must follow from the batch's number (and the rank), so that a resumed run draws alike.
        """
        return batch

    def learning_rate_factor(self, step: int, total_steps: int) -> float:
        """What the learning rate of optimizer step ``step`` (0 is the first) is multiplied by.

        A pure function: the same factors are applied, logged, and drawn before the run. Those of several callbacks
        multiply.
        """
        return 1.0

    def timeline(self, steps: Iterable[int], total_steps: int) -> Mapping[str, list[float]]:
        """Name -> values at these steps, of what changes during the run; for ``--dry-run`` and the plot."""
        return {}

    def finish(self, student: nn.Module) -> list[dict[str, Any]]:
        """Leave the student as it is saved; called once, when the weights of the best step are back in it.

        Its own state is then that of this step (:meth:`load_state_dict`). Compressions finish last, in their order.

        Returns:
            The steps of ``compression.json``, in the order in which they were done.
        """
        return []


def finish_callback(callback: StepCallback, student: nn.Module) -> list[dict[str, Any]]:
    """What ``callback`` says it did when it finished.

    Raises:
        UserError: if that is no list of steps.
    """
    steps: Any = callback.finish(student)
    if not isinstance(steps, list) or not all(isinstance(step, dict) and "kind" in step for step in steps):
        hint = 'return [{"kind": "my-step", ...}], or []'
        problem = f"finish must return a list of steps, and returns {steps!r:.80}"
        raise UserError(problem, key=type(callback).__name__, hint=hint)
    return steps


def step_callbacks(trainer: Trainer) -> list[StepCallback]:
    """The callbacks of this contract, in their order."""
    return [callback for callback in trainer.callbacks if isinstance(callback, StepCallback)]  # type: ignore[attr-defined]


def logs_now(trainer: Trainer) -> bool:
    """Whether metrics of the step just done are logged."""
    return logged(trainer, trainer.global_step)


def logged(trainer: Trainer, step: int) -> bool:
    """Whether metrics of an optimizer step (the first is 1) are logged: of every so many, and of ``max_steps``.

    At that one Lightning logs whatever it has, which would be those of an earlier step.
    """
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return bool(every) and (step % every == 0 or step == trainer.max_steps)


def scale_learning_rate(trainer: Trainer, total_steps: int) -> None:
    """Have the schedulers multiply the learning rate by the callbacks' factors, so that what is logged is applied.

    Done once: what scales already is left.

    Raises:
        UserError: if a callback scales it and the run has no ``LambdaLR`` that counts optimizer steps.
    """
    plain = StepCallback.learning_rate_factor
    scaling = [one for one in step_callbacks(trainer) if type(one).learning_rate_factor is not plain]
    every_step = [c.scheduler for c in trainer.lr_scheduler_configs if (c.interval, c.frequency) == ("step", 1)]
    schedulers = [scheduler for scheduler in every_step if isinstance(scheduler, LambdaLR)]
    if not schedulers:
        for one in scaling:
            if any(one.learning_rate_factor(step, total_steps) != 1 for step in range(total_steps)):
                problem, name = (
                    "multiplies what a LambdaLR gives for every step, and this run has none",
                    type(one).__name__,
                )
                hint = 'have it leave the learning rate, or bring one with "interval": "step" and "frequency": 1'
                raise UserError(problem, key=f"callbacks.{name}.learning_rate_factor", hint=hint)
    for scheduler in schedulers if scaling else ():
        if any(getattr(factor, "func", None) is _scaled for factor in scheduler.lr_lambdas):
            continue
        scheduler.lr_lambdas = [partial(_scaled, factor, scaling, total_steps) for factor in scheduler.lr_lambdas]
        groups = scheduler.optimizer.param_groups
        for group, peak, factor in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
            group["lr"] = peak * factor(scheduler.last_epoch)


def _scaled(factor: Callable[[int], float], scaling: Sequence[StepCallback], total_steps: int, step: int) -> float:
    return factor(step) * math.prod(one.learning_rate_factor(step, total_steps) for one in scaling)
