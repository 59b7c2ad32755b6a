"""An exponential moving average of the student's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn

from distill.compression.base import compressions
from distill.core.argument_types import refuse_types
from distill.core.internals.torch import interpolate
from distill.core.schedules import check_when, step_at
from distill.core.step_callback import StepCallback
from distill.core.trained_module import require_student, total_steps
from distill.core.utils.errors import UserError
from distill.core.utils.words import amount

__all__ = ["ExponentialMovingAverage"]


class ExponentialMovingAverage(StepCallback):
    """Average the student's trained weights over optimizer steps; validate and save the average.

    After step t, average = d * average + (1 - d) * weights with d = min(decay, (1 + n) / (10 + n)), n being the
    steps since ``begin``; until ``begin`` the average is the weights. Pruned weights are exactly zero in it, and
    one that comes back begins at zero. Where weights are set anew (a start of quantization) the average begins with
    them. Buffers are the student's own. Training continues from the weights, not from the average. Stands after the
    callbacks that compress.

    Args:
        decay: In [0, 1).
        begin: When averaging begins: a step (integer), or a fraction of the run (float in [0, 1]).

    Raises:
        UserError: if a value is out of range.

    Reference:
        Polyak, Juditsky: Acceleration of Stochastic Approximation by Averaging, 1992.
    """

    needs_unsharded_weights: ClassVar[bool] = True

    def __init__(self, decay: float = 0.999, begin: int | float = 0.0) -> None:
        refuse_types(ExponentialMovingAverage, locals(), "callbacks.ExponentialMovingAverage.")
        if not 0 <= decay < 1:
            key = "callbacks.ExponentialMovingAverage.decay"
            raise UserError("must lie in [0, 1)", key=key, value=decay, hint="write 0.999")
        check_when("callbacks.ExponentialMovingAverage.begin", begin)
        self.decay, self.begin = decay, begin
        self._average: dict[str, Tensor] = {}
        self._swapped = False

    # ------------------------------------------------------------------ the average

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if step_at(self.begin, total := total_steps(pl_module)) >= total:
            problem, key = (
                f"the run ends after {amount(total, 'step')}, before it averages",
                "ExponentialMovingAverage.begin",
            )
            raise UserError(problem, key=f"callbacks.{key}", value=self.begin, hint="begin earlier, or leave it out")
        weights = _trained(pl_module)
        if self._average.keys() != weights.keys():  # not restored from a checkpoint
            self._average = {name: p.detach().clone() for name, p in weights.items()}
        self._average = {name: value.to(weights[name].device) for name, value in self._average.items()}

    @torch.no_grad()
    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        done = self._step - step_at(self.begin, total_steps(pl_module))
        decay = min(self.decay, (1 + done) / (10 + done)) if done > 0 else 0.0
        weights = _trained(pl_module)
        interpolate(self._average.values(), weights.values(), 1 - decay)
        self._mask(trainer, pl_module)

    def _mask(self, trainer: Trainer, pl_module: LightningModule) -> None:
        names = {id(weight): name for name, weight in _trained(pl_module).items()}
        for compression in compressions(trainer):
            for weight, factor in compression.factors():
                average = self._average.get(names.get(id(weight), ""))
                if average is not None:
                    average.mul_(factor.to(average.device))

    def on_weights_set(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._average = {name: p.detach().clone() for name, p in _trained(pl_module).items()}

    # ------------------------------------------------------------------ its use

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mask(trainer, pl_module)  # masks may be younger
        self._swap(pl_module, True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(pl_module, False)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._swap(pl_module, False)

    @torch.no_grad()
    def _swap(self, pl_module: LightningModule, averaged: bool) -> None:
        """Have the student hold the average, or its own weights again."""
        if averaged == self._swapped or not self._average:
            return
        for name, weight in _trained(pl_module).items():
            own = weight.clone()
            weight.copy_(self._average[name])
            self._average[name].copy_(own)
        self._swapped = averaged

    @torch.no_grad()
    def finish(self, student: nn.Module) -> list[dict[str, Any]]:
        """Give the student the average for good."""
        for name, weight in student.named_parameters():
            if name in self._average:
                weight.copy_(self._average[name])
        self._average = {}
        return []

    # ------------------------------------------------------------------ checkpoints

    def state_dict(self) -> dict[str, Any]:
        return dict(self._average)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._average = dict(state_dict)


def _student(pl_module: LightningModule) -> nn.Module:
    return require_student(pl_module, "ExponentialMovingAverage")


def _trained(pl_module: LightningModule) -> dict[str, nn.Parameter]:
    """The student's trained parameters by name."""
    return {name: p for name, p in _student(pl_module).named_parameters() if p.requires_grad}
