"""What the losses against labels share: no teacher, and the rows that count."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from distill.core.signals import Batch, Needs, Request, Signals
from distill.core.utils.errors import UserError
from distill.losses.base import DistillationLoss, LossSum

__all__ = ["LabelLoss"]


class LabelLoss(DistillationLoss):
    """A loss of the student's logits against the labels. A subclass gives :meth:`summed`."""

    reads_labels: ClassVar[bool] = True

    @property
    def needs(self) -> Needs:
        return Needs(student=Request(logits=True))

    @abstractmethod
    def summed(self, logits: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
        """The sum over the positions that ``mask`` keeps."""

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> LossSum:
        if batch.labels is None:
            problem, hint = f"{type(self).__name__} needs labels", "add labels to the data, or drop the loss"
            raise UserError(problem, key=self.name, hint=hint)
        if student.logits is None:
            raise RuntimeError("logits were not requested of this forward pass")
        return LossSum(self.summed(student.logits, batch.labels, batch.mask), batch.count)
