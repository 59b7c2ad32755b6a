"""A function of one's own between the two models' logits, as a term of the objective."""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import loss as torch_losses

from distill.core.internals.torch import TorchLoss, version
from distill.core.numerics import at_least_float32
from distill.core.schedules import Schedule
from distill.core.signals import Batch
from distill.core.signatures import refuse_signatures
from distill.core.utils.errors import UserError
from distill.losses.base import DistillationLoss, snake_case
from distill.losses.logit_loss import LogitLoss

__all__ = ["CallableLoss", "as_loss"]

_log = logging.getLogger(__name__)

_OF_LOGITS = (torch_losses.MSELoss, torch_losses.L1Loss, torch_losses.SmoothL1Loss, torch_losses.HuberLoss)
_INSTEAD = {"KLDivLoss": "HintonKL", "CrossEntropyLoss": "CrossEntropy or HintonKL", "NLLLoss": "CrossEntropy"}


class CallableLoss(LogitLoss):
    """``function(student_logits, teacher_logits)`` as a term: sum over the N predictions that count.

    The function gets logits ``[N, C]`` of the valid positions alone (padding and what is masked left out), in float32
    or better, and returns one value a prediction ``[N]``, or their mean or sum, a scalar: which of the two is found by
    what it gives for the same predictions twice. A module's own parameters are trained with the student.

    Args:
        function: The function, or a module.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`; the function's name in snake case if not given.
        row_wise: Whether a prediction's value depends on no other prediction: see :attr:`DistillationLoss.row_wise`.

    Raises:
        UserError: if it cannot be called, is a criterion of torch that takes no logits on its second side, returns
            anything else or what has no gradient, or changes the teacher's logits.
    """

    def __init__(
        self,
        function: Any,  # no type that a configuration's text could be imported as
        weight: float | Schedule = 1.0,
        name: str | None = None,
        row_wise: bool = False,
    ) -> None:
        called = re.sub(r"\W+", "", getattr(function, "__name__", "") or type(function).__name__)
        super().__init__(weight, name or snake_case(called))
        kind = type(function).__name__
        if not callable(function) or isinstance(function, type):
            problem = "a loss is a DistillationLoss or a function of the student's and the teacher's logits"
            raise UserError(problem, key="function", value=function, hint="pass one of these")
        if isinstance(function, TorchLoss) and not isinstance(function, _OF_LOGITS):
            problem = f"torch's {kind} does not compare logits with logits: one side must be probabilities or labels"
            hint = f"use {_INSTEAD[kind]}" if kind in _INSTEAD else "convert them in a function of your own"
            raise UserError(problem, key="function", value=kind, hint=hint)
        _refuse_arity(function)
        self.function = function
        self.row_wise = row_wise  # type: ignore[misc]
        self._is_sum: bool | None = None

    def summed(self, student_NC: Tensor, teacher_NC: Tensor, batch: Batch) -> Tensor:
        count = len(student_NC)
        if count == 0:
            return at_least_float32(student_NC).sum()  # 0, with a gradient of zero
        student_NC, teacher_NC = at_least_float32(student_NC), at_least_float32(teacher_NC)
        if self._is_sum is None:
            self._try(student_NC.detach(), teacher_NC)
        before = version(teacher_NC)
        value: Any = self.function(student_NC, teacher_NC)
        if version(teacher_NC) != before:
            problem = "it changes the teacher's logits, which other losses read too"
            raise UserError(problem, key=self.name, hint="work on a copy: teacher.clone()")
        if isinstance(value, Tensor) and value.shape in ((count,), ()) and value.is_floating_point():
            if student_NC.requires_grad and torch.is_grad_enabled() and not value.requires_grad:
                problem, hint = (
                    "what it returns has no gradient",
                    "compute it of the student's logits, without detach()",
                )
                raise UserError(problem, key=self.name, hint=hint)
            value = at_least_float32(value)
            total: Tensor = value.sum() if value.dim() or self._is_sum else value * count
            return total
        got = type(value).__name__
        if isinstance(value, Tensor):
            got = f"{list(value.shape)}" if value.is_floating_point() else f"{value.dtype}".removeprefix("torch.")
        raise UserError(
            f"of {count} predictions it must return the mean or the sum, or one value each, and it returns {got}",
            key=self.name,
            hint="average over the classes, and over the predictions if you like",
        )

    @torch.no_grad()
    def _try(self, student_NC: Tensor, teacher_NC: Tensor) -> None:
        """Find whether a scalar is a sum, and warn of a function that is greater where student and teacher agree.

        It is called with copies, and leaves the random numbers as they were: a run that is resumed tries it again.
        """
        function = copy.deepcopy(self.function) if isinstance(self.function, nn.Module) else self.function
        student_NC, teacher_NC = student_NC.clone(), teacher_NC.clone()
        devices = [student_NC.device] if student_NC.is_cuda else []
        with torch.random.fork_rng(devices=devices):
            value: Any = function(student_NC.clone(), teacher_NC.clone())
            if not isinstance(value, Tensor) or value.shape not in ((len(student_NC),), ()):
                return  # refused by the caller
            if not value.is_floating_point() or not bool(value.any()):
                return  # so is this; of zeros nothing can be told
            alike: Any = function(teacher_NC.clone(), teacher_NC.clone())
            if bool(alike.mean() > value.mean() + 1e-4 * value.mean().abs()):
                _log.warning("%s is greater where the student agrees with the teacher: it drives them apart", self.name)
            self._is_sum = value.dim() == 0 and self._doubles(function, value, student_NC, teacher_NC)

    def _doubles(self, function: Any, value: Tensor, student_NC: Tensor, teacher_NC: Tensor) -> bool:
        """Whether the same predictions twice give twice the value."""
        twice: Any = function(torch.cat([student_NC] * 2), torch.cat([teacher_NC] * 2))
        return bool((twice - 2 * value).abs() < 1e-3 * value.abs())


def _refuse_arity(function: Any) -> None:
    """Refuse what cannot be called with two tensors; what does not say what it takes is believed.

    Raises:
        UserError: with what it takes.
    """
    try:
        takes = inspect.signature(function)
    except ValueError:  # of a builtin
        return
    try:
        takes.bind(None, None)
    except TypeError:
        problem = f"a function of logits takes two, (student, teacher), and this one takes {takes}"
        hint = "bind what else it takes by functools.partial; labels are read by a DistillationLoss alone"
        raise UserError(problem, key="function", value=function, hint=hint) from None


def as_loss(loss: Any, index: int) -> DistillationLoss:
    """``loss`` as a term of the objective.

    Args:
        loss: One of ours, or a function of the two models' logits.
        index: Its place in the list.

    Raises:
        UserError: if it is neither, or cannot be called as one.
    """
    if isinstance(loss, DistillationLoss):
        if not hasattr(loss, "weight") or not hasattr(loss, "name"):
            kind, hint = type(loss).__name__, "begin its __init__ with super().__init__(weight, name)"
            raise UserError("was not initialized as a loss", key=f"model.losses.{index}", value=kind, hint=hint)
        refuse_signatures(loss, f"model.losses.{index}")
        return loss
    inner = loss
    while isinstance(inner, functools.partial):
        inner = inner.func
    called = getattr(inner, "__name__", "<") if not isinstance(inner, nn.Module) else type(inner).__name__
    name = f"loss_{index}" if called.startswith("<") else snake_case(re.sub(r"\W+", "", called))
    try:
        made = CallableLoss(loss, name=name)
    except UserError as error:
        raise UserError(error.problem, key=f"model.losses.{index}", value=error.value, hint=error.hint) from None
    if called.startswith("<"):
        _log.warning("model.losses.%d is logged as %s: CallableLoss(function, name=...) gives it a name", index, name)
    return made
