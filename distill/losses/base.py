"""The contract of every loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distill.errors import UserError
from distill.models import ModelSpec
from distill.schedules import Constant, Schedule, as_schedule
from distill.signals import Batch, Needs, Signals

__all__ = ["DistillationLoss", "LossSum", "at_least_float32", "check_positive"]


class LossSum(NamedTuple):
    """A loss summed over what counts, and how much counts.

    Attributes:
        total: Scalar, float32: the *sum* over the valid positions.
        positions: Scalar: the number of valid positions. The module divides the sums of all micro-batches
            and ranks by the sum of their counts, so that short batches weigh no more than their positions.
    """

    total: Tensor
    positions: Tensor


class DistillationLoss(nn.Module, ABC):
    """One term of the objective.

    A subclass gives :attr:`needs` and :meth:`forward`; one with parameters, or with layers to choose,
    also :meth:`bind`. Parameters it owns are trained with the student and saved with the run.

    Args:
        weight: Factor of the term in the objective, 0 or more, or a schedule of it.
        name: Name of the term in the logs; the class name in snake case if none is given.
    """

    def __init__(self, weight: float | Schedule = 1.0, name: str | None = None) -> None:
        super().__init__()
        if not isinstance(weight, Schedule) and weight < 0:
            raise UserError("must be 0 or more", key="weight", value=weight, mend="give a weight of 0 or more")
        self.weight: Schedule = as_schedule(weight)
        self.name = name or snake_case(type(self).__name__)

    @property
    @abstractmethod
    def needs(self) -> Needs:
        """What the loss reads of the student and of the teacher; valid after :meth:`bind`."""

    def bind(self, student: ModelSpec, teacher: ModelSpec | None) -> None:
        """Meet the two models once, before training: resolve layers, make regressors, refuse what cannot work.

        Raises:
            UserError: if the models cannot give what the loss needs.
        """

    @abstractmethod
    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> LossSum:
        """The sum over the batch's valid positions, and their count."""

    def extra_repr(self) -> str:
        weight = self.weight.value if isinstance(self.weight, Constant) else type(self.weight).__name__
        return f"name={self.name!r}, weight={weight}"


def at_least_float32(tensor: Tensor) -> Tensor:
    """``tensor`` in float32, or as it is in float64.

    Softmax, logarithms and sums of half precision lose several percent of the gradient, most of all
    where the student is close to the teacher.
    """
    return tensor if tensor.dtype is torch.float64 else tensor.float()


def check_positive(key: str, value: float | Schedule) -> Schedule:
    """``value`` as a schedule.

    Raises:
        UserError: if it is a number and not greater than 0.
    """
    if not isinstance(value, Schedule) and not value > 0:
        raise UserError("must be greater than 0", key=key, value=value, mend="1.0 leaves the logits as they are")
    return as_schedule(value)


def snake_case(name: str) -> str:
    """``HintonKL`` -> ``hinton_kl``."""
    out = ""
    for i, c in enumerate(name):
        starts_word = c.isupper() and i > 0 and (not name[i - 1].isupper() or name[i + 1 : i + 2].islower())
        out += ("_" if starts_word else "") + c.lower()
    return out
