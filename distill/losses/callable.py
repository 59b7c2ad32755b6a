"""A function of one's own between the two models' logits, as a term of the objective."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import loss as torch_losses

from distill.errors import UserError
from distill.losses.base import DistillationLoss, at_least_float32, snake_case
from distill.losses.logits import LogitLoss
from distill.schedules import Schedule
from distill.signals import Batch

__all__ = ["CallableLoss", "as_loss"]

_OF_LOGITS = (torch_losses.MSELoss, torch_losses.L1Loss, torch_losses.SmoothL1Loss, torch_losses.HuberLoss)
_INSTEAD = {"KLDivLoss": "HintonKL", "CrossEntropyLoss": "CrossEntropy or HintonKL", "NLLLoss": "CrossEntropy"}


class CallableLoss(LogitLoss):
    """``function(student_logits, teacher_logits)`` as a term: sum over the N predictions that count.

    The function gets logits ``[N, C]`` of the valid positions alone (padding and what is masked left out), in float32
    or better, and returns one value a prediction ``[N]``, or their mean, a scalar. Where it is a module of torch with
    ``reduction="sum"`` the scalar is the sum. A module's own parameters are trained with the student.

    Args:
        function: The function, or a module.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`; the function's name in snake case if not given.

    Raises:
        UserError: if it cannot be called, is a criterion of torch that takes no logits on its second side, or returns
            anything else.
    """

    def __init__(
        self,
        function: Any,  # no type that a configuration's text could be imported as
        weight: float | Schedule = 1.0,
        name: str | None = None,
    ) -> None:
        called = re.sub(r"\W+", "", getattr(function, "__name__", "") or type(function).__name__)
        super().__init__(weight, name or snake_case(called))
        kind = type(function).__name__
        if not callable(function) or isinstance(function, type):
            rule = "a loss is a DistillationLoss or a function of the student's and the teacher's logits"
            raise UserError(rule, key="function", value=function, mend="pass one of these")
        if isinstance(function, torch_losses._Loss) and not isinstance(function, _OF_LOGITS):
            rule = f"torch's {kind} does not compare logits with logits: one side must be probabilities or labels"
            mend = f"use {_INSTEAD[kind]}" if kind in _INSTEAD else "convert them in a function of your own"
            raise UserError(rule, key="function", value=kind, mend=mend)
        self.function = function

    def summed(self, student_NC: Tensor, teacher_NC: Tensor, batch: Batch) -> Tensor:
        count = len(student_NC)
        if count == 0:
            return at_least_float32(student_NC).sum()  # 0, with a gradient of zero
        value: Any = self.function(at_least_float32(student_NC), at_least_float32(teacher_NC))
        if isinstance(value, Tensor) and value.shape == (count,):
            return at_least_float32(value).sum()
        if isinstance(value, Tensor) and value.dim() == 0:
            return at_least_float32(value) * (1 if getattr(self.function, "reduction", "") == "sum" else count)
        got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise UserError(
            f"of {count} predictions it must return the mean, or one value each, and it returns {got}",
            key=self.name,
            mend="average over the classes, and over the predictions if you like",
        )


def as_loss(loss: Any, index: int) -> DistillationLoss:
    """``loss`` as a term of the objective.

    Args:
        loss: One of ours, or a function of the two models' logits.
        index: Its place in the list.

    Raises:
        UserError: if it is neither.
    """
    if isinstance(loss, DistillationLoss):
        return loss
    named = getattr(loss, "__name__", "<") if not isinstance(loss, nn.Module) else type(loss).__name__
    try:
        return CallableLoss(loss, name=f"loss_{index}" if named.startswith("<") else None)
    except UserError as error:
        raise UserError(error.rule, key=f"model.losses.{index}", value=error.value, mend=error.mend) from None
