"""What the losses on logits share: their needs, their rows, their temperature."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from distill.core.model_spec import ModelSpec
from distill.core.schedules import Schedule
from distill.core.signals import Batch, Needs, OutputKind, Request, Signals
from distill.core.utils.errors import UserError
from distill.losses.base import DistillationLoss, LossSum, aligned_logits, check_positive

__all__ = ["LogitLoss", "SoftenedLoss"]


class LogitLoss(DistillationLoss):
    """A loss that reads both models' logits, position by position. A subclass gives :meth:`summed`."""

    @property
    def needs(self) -> Needs:
        return Needs(student=Request(logits=True), teacher=Request(logits=True))

    def bind(self, student: ModelSpec, teacher: ModelSpec | None) -> None:
        self.require_teacher(teacher)

    @abstractmethod
    def summed(self, student_NC: Tensor, teacher_NC: Tensor, batch: Batch) -> Tensor:
        """The sum over the N positions that count."""

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> LossSum:
        return LossSum(self.summed(*aligned_logits(student, teacher, batch.mask), batch), batch.count)


class SoftenedLoss(LogitLoss):
    """A loss between the two softened distributions softmax(logits / T). A subclass gives :meth:`divergence`.

    Args:
        temperature: T > 0, or a schedule of it.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.
    """

    outputs: ClassVar[OutputKind] = "classes"

    def __init__(
        self, temperature: float | Schedule = 1.0, weight: float | Schedule = 1.0, name: str | None = None
    ) -> None:
        super().__init__(weight, name)
        self.temperature = check_positive("temperature", temperature)

    @abstractmethod
    def divergence(self, student_NC: Tensor, teacher_NC: Tensor, temperature: float) -> Tensor:
        """The divergence, times what keeps its gradient's size at any T (mostly T^2), summed over the N positions."""

    def summed(self, student_NC: Tensor, teacher_NC: Tensor, batch: Batch) -> Tensor:
        if student_NC.shape[-1] == 1 and self.outputs == "classes":
            raise UserError(
                "a head of one output has no distribution to compare", key=self.name, hint="use LogitMSE for regression"
            )
        return self.divergence(student_NC, teacher_NC, self.temperature(batch.step, batch.total_steps))
